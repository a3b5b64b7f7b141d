package netfault

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// message is one of PostgreSQL's from the server.
func message(kind byte, text string) []byte {
	n := len(text) + 4
	return append([]byte{kind, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, text...)
}

// TestWithoutNotifications cuts a stream at every place: what is left of it are the
// other messages, whole.
func TestWithoutNotifications(t *testing.T) {
	notice, empty := message('A', "sallyport"), message('A', "")
	rows, ready := message('D', strings.Repeat("A", 300)), message('Z', "I")
	stream := bytes.Join([][]byte{ready, notice, rows, empty, notice, ready}, nil)
	want := bytes.Join([][]byte{ready, rows, ready}, nil)
	for at := range stream {
		var m messages
		var kept atomic.Int64
		got := append(m.without(stream[:at], true, &kept), m.without(stream[at:], true, &kept)...)
		if !bytes.Equal(got, want) || kept.Load() != 3 {
			t.Fatalf("cut at %d: %q, %d kept back", at, got, kept.Load())
		}
		m = messages{}
		if all := append(m.without(stream[:at], false, &kept), m.without(stream[at:], false, &kept)...); !bytes.Equal(all, stream) {
			t.Fatalf("cut at %d, nothing is to be kept back: %q", at, all)
		}
	}
}

func TestProxy(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() { // answers what it reads, as messages of the server
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
	x, err := New(server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", x.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	echo := message('D', "hello")
	// ask sends and tells whether the answer comes within a time.
	ask := func(c net.Conn, send []byte, within time.Duration) bool {
		t.Helper()
		_ = c.SetDeadline(time.Now().Add(within))
		if _, err := c.Write(send); err != nil {
			return false
		}
		got := make([]byte, len(echo))
		_, err := io.ReadFull(c, got)
		return err == nil && bytes.Equal(got, echo)
	}
	const soon, never = 10 * time.Second, 50 * time.Millisecond
	c := dial()
	if !ask(c, echo, soon) {
		t.Fatal("nothing is passed on")
	}
	x.Mute(true)
	if !ask(c, append(message('A', "changed"), echo...), soon) || x.Muted() != 1 {
		t.Errorf("muted, %d notifications were kept back, or more than those", x.Muted())
	}
	x.Mute(false)
	x.Delay(100 * time.Millisecond)
	began := time.Now()
	if !ask(c, echo, soon) || time.Since(began) < 100*time.Millisecond {
		t.Errorf("delayed by 100 ms, the answer came after %v, or not at all", time.Since(began))
	}
	x.Delay(0)
	x.Hold()
	if ask(c, echo, never) {
		t.Error("what was to be held was passed on")
	}
	x.Forward()
	_ = c.SetDeadline(time.Now().Add(soon))
	if _, err := io.ReadFull(c, make([]byte, len(echo))); err != nil {
		t.Errorf("what was held did not come: %v", err)
	}
	x.Hold()
	x.ForwardNew()
	if ask(c, echo, never) {
		t.Error("a lost connection works")
	}
	c = dial()
	if !ask(c, echo, soon) {
		t.Error("a new connection does not work")
	}
	x.Deafen(true)
	if ask(c, []byte("LISTEN sallyport"), soon) || x.Deafened() != 1 {
		t.Errorf("deafened, %d connections were cut off", x.Deafened())
	}
	x.Deafen(false)
	c = dial()
	x.Refuse()
	if ask(c, echo, soon) {
		t.Error("refusing, it passes on")
	}
	x.Forward()
	if !ask(dial(), echo, soon) {
		t.Error("it does not come back")
	}
}

// A statement is run where it is bound or sent as text, not where it is prepared.
func TestPrepared(t *testing.T) {
	const begin = "begin isolation level serializable"
	var p prepared
	for _, c := range []struct {
		sent, statement string
		runs            bool
	}{
		{"B\x00\x00\x00F\x00stmtcache_9505\x00\x00\x00", "commit", false}, // not known yet
		{"P\x00\x00\x00dstmtcache_a25b\x00" + begin + "\x00\x00\x00D\x00\x00\x00@Sstmtcache_a25b\x00P\x00\x00\x00pstmtcache_9505\x00commit\x00\x00\x00D\x00\x00\x00@Sstmtcache_9505\x00", "commit", false},
		{"B\x00\x00\x00F\x00stmtcache_9505\x00\x00\x00", "commit", true},
		{"B\x00\x00\x00F\x00stmtcache_9505\x00\x00\x00", begin, false},
		{"B\x00\x00\x00F\x00stmtcache_a25b\x00\x00\x00", begin, true},
		{"Q\x00\x00\x00\vcommit\x00", "commit", true},
	} {
		if got := p.in([]byte(c.sent), c.statement); got != c.runs {
			t.Errorf("%q runs %s: %v", c.sent, c.statement, got)
		}
	}
}
