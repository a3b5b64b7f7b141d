package audit

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport"
)

// CheckSyslog returns what is wrong with the address of a syslog server.
func CheckSyslog(s string) error {
	u, err := url.Parse(s)
	ok := err == nil && u.User == nil && u.RawQuery == "" && u.Fragment == ""
	switch {
	case ok && (u.Scheme == "udp" || u.Scheme == "tcp") && u.Hostname() != "" && u.Path == "":
		if n, err := strconv.Atoi(u.Port()); err == nil && n > 0 && n < 65536 {
			return nil
		}
	case ok && u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		return nil
	}
	return sallyport.Mistake("audit.syslog", s, "it is not the address of a syslog server", "Write udp://host:514, tcp://host:601 or unix:///dev/log.")
}

// syslog sends events by RFC 5424: over TCP with their length before them (RFC 6587,
// 3.4.1), over UDP and to a Unix socket one a datagram. Nobody acknowledges them:
// what a server has taken and lost is lost.
type syslog struct {
	network, address string
	conn             net.Conn
	host             string
}

// maxDatagram is what goes into a datagram, in bytes. A longer event goes without
// its detail.
const maxDatagram = 32 << 10

func newSyslog(address string) *syslog {
	u, err := url.Parse(address)
	if err != nil {
		panic(err) // CheckSyslog has looked
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "-"
	}
	s := &syslog{network: u.Scheme, address: u.Host, host: syslogName(host, 255)}
	if s.network == "unix" {
		s.network, s.address = "unixgram", u.Path
	}
	return s
}

func (s *syslog) close() {
	if s.conn != nil {
		_ = s.conn.Close() // there is nothing to do about it
		s.conn = nil
	}
}

func (s *syslog) deliver(ctx context.Context, b batch) error {
	if s.conn == nil {
		var d net.Dialer
		conn, err := d.DialContext(ctx, s.network, s.address)
		if err != nil {
			return err
		}
		s.conn = conn
	}
	deadline, _ := ctx.Deadline()
	err := s.conn.SetWriteDeadline(deadline)
	for _, r := range b.events {
		if err != nil {
			break
		}
		err = s.send(s.message(r))
	}
	if err != nil {
		s.close() // a server that was started anew has another connection
	}
	return err
}

func (s *syslog) send(m string) error {
	if s.network == "tcp" {
		m = strconv.Itoa(len(m)) + " " + m
	}
	_, err := s.conn.Write([]byte(m))
	return err
}

// message is an event as RFC 5424 has it: facility 10 (security), and a severity by
// the result.
func (s *syslog) message(r Record) string {
	severity := map[Result]int{Success: 6, Failure: 5, Denied: 4}[r.Result]
	text := strings.TrimSuffix(string(Line(r)), "\n")
	if s.network != "tcp" && len(text) > maxDatagram {
		r.Detail = map[string]string{"omitted": "yes"}
		text = strings.TrimSuffix(string(Line(r)), "\n")
	}
	return fmt.Sprintf("<%d>1 %s %s sallyport %d %s - %s", 10*8+severity, r.At.UTC().Format("2006-01-02T15:04:05.000000Z07:00"), s.host, os.Getpid(), syslogName(r.Action, 32), text)
}

// syslogName makes a text fit for a field of the header.
func syslogName(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < 33 || r > 126 {
			return '_'
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s[:min(len(s), limit)]
}
