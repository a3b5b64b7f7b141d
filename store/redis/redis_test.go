package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/sallyport/sallyport/guard/ratelimit"
	"github.com/sallyport/sallyport/internal/testkit"
)

// small starts a Redis in this process.
func small(t testing.TB) *miniredis.Miniredis {
	t.Helper()
	m := miniredis.NewMiniRedis()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func open(t testing.TB, url string, o Options) *Client {
	t.Helper()
	c, err := Open(url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestOpenRefuses(t *testing.T) {
	for _, tt := range []struct{ url, why string }{
		{"", "scheme"},
		{"localhost:6379", "scheme"},
		{"http://h:6379", "scheme"},
		{"redis-sentinel://h:26379/mymaster", "scheme"},
		{"redis://", "names no host"},
		{"redis:h:6379", "names no host"},
		{"redis:///0", "names no host"},
		{"redis://:planted@/0", "names no host"},
		{"redis://user:planted", "cannot be parsed"},
		{"redis://user:pl?anted@h", "cannot be parsed"},
		{"redis://user:planted@h:6379/%zz", "cannot be parsed"},
		{"redis://user:planted@h:x", "cannot be parsed"},
		{"redis://user:planted@h/db", "path"},
		{"redis://user:planted@h/-1", "path"},
		{"redis://user:planted@h/01", "path"},
		{"redis://user:planted@h/0/1", "path"},
		{"redis://user:planted@h/0#x", "fragment"},
		{"redis://h/0?timeout=5s", "not known"},
		{"redis://h/0?planted=x", "not known"},
		{"rediss://h/0?skip_verify=true", "not known"},
		{"redis://h/0?client_cache=1", "not known"},
		{"redis://h/0?db=1", "option db"},
		{"redis://h/0?addr=planted", "option addr"},
		{"redis://h/0?master_set=", "option master_set"},
		{"redis://h/0?master_set=a&master_set=b", "twice"},
		{"redis://h/0?protocol=4", "option protocol"},
		{"redis://h/0?client_name=a%20b", "option client_name"},
		{"redis://h/0?x=%zz", "options cannot be read"},
		{"unix://", "names no socket"},
		{"unix://run/redis.sock", "names no socket"},
		{"unix:///run/redis.sock?addr=h:1", "option addr"},
	} {
		c, err := Open(tt.url, Options{})
		e, ok := errors.AsType[*OpenError](err)
		if !ok || c != nil || !strings.Contains(e.Why, tt.why) || e.What == "" || e.Fix == "" {
			t.Errorf("%s: %v, want %q", tt.url, err, tt.why)
			continue
		}
		if strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: the error repeats it: %v", tt.url, err)
		}
	}
}

func TestOpenReportsEverything(t *testing.T) {
	_, err := Open("redis://h/0?a=1&protocol=9", Options{Prefix: "{x}", Secret: []byte("short"), Timeout: time.Hour})
	if errs, ok := err.(interface{ Unwrap() []error }); !ok || len(errs.Unwrap()) != 5 {
		t.Errorf("%v", err)
	}
	m := small(t)
	if _, err := Open("redis://"+m.Addr(), Options{TLS: &tls.Config{MinVersion: tls.VersionTLS13}}); err == nil || !strings.Contains(err.Error(), "TLS") {
		t.Errorf("TLS over redis://: %v", err)
	}
	c := open(t, "redis://"+m.Addr()+"/", Options{Prefix: "x:", Secret: make([]byte, 16), Timeout: time.Second})
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	for _, u := range []string{"/0", "/3?client_name=sallyport", "?protocol=2", "?addr=" + m.Addr()} {
		open(t, "redis://"+m.Addr()+u, Options{})
	}
	open(t, "valkey://"+m.Addr(), Options{})
}

// What a server says about a password is told, the password is not.
func TestOpenTellsWhatToDo(t *testing.T) {
	m := small(t)
	m.RequireAuth("planted-right")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := l.Addr().String()
	l.Close()
	for _, tt := range []struct{ url, want string }{
		{"redis://:planted-wrong@" + m.Addr(), "Check the user and password"},
		{"redis://" + m.Addr(), "Check the user and password"},
		{"redis://:planted-right@" + gone, "Check that Redis runs there"},
		{"unix:///nowhere/redis.sock", "Check that Redis runs there"},
		{"rediss://:planted-right@" + m.Addr(), "Check that Redis runs there"},
	} {
		c, err := Open(tt.url, Options{})
		e, ok := errors.AsType[*OpenError](err)
		if !ok || c != nil || !strings.Contains(e.Fix, tt.want) || e.Err == nil {
			t.Errorf("%s: %v, want %q", tt.url, err, tt.want)
			continue
		}
		for err := error(e); err != nil; err = errors.Unwrap(err) {
			if strings.Contains(err.Error(), "planted") {
				t.Errorf("%s: the error repeats the password: %v", tt.url, err)
			}
		}
	}
	open(t, "redis://:planted-right@"+m.Addr(), Options{})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"redis://u:planted@h:6379/0", "rediss://:planted@h?addr=a:1&master_set=m", "unix://u:planted@/run/s?db=3", "redis://u:pl#anted@h", "redis://planted@[::1]:1/", "valkeys://h//"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, name, errs := parse(s)
		for _, err := range errs {
			e, ok := err.(*OpenError)
			if !ok || e.What == "" || e.Why == "" || e.Fix == "" {
				t.Fatalf("%q: %#v", s, err)
			}
		}
		if len(errs) == 0 && (len(o.InitAddress) == 0 || o.TLSConfig != nil && o.TLSConfig.InsecureSkipVerify || name == "") {
			t.Fatalf("%q: %+v %q", s, o, name)
		}
		if strings.Contains(s, ":planted@") && strings.Contains(name, "planted") && strings.Count(s, "planted") == 1 {
			t.Fatalf("%q is called %q", s, name)
		}
	})
}

// A user needs no more rights than docs/limits.md says, and less is refused
// with what to do.
func TestLeastRights(t *testing.T) {
	raw, prefix := testkit.Redis(t)
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	admin, user := open(t, raw, Options{}), strings.TrimSuffix(prefix, ":")
	u.User = url.UserPassword(user, "planted")
	acl := func(args ...string) {
		t.Helper()
		if err := admin.redis.Do(context.Background(), admin.redis.B().Arbitrary("ACL").Args(args...).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { acl("DELUSER", user) })
	acl("SETUSER", user, "on", ">planted", "~"+prefix+"*")
	if _, err := Open(u.String(), Options{}); err == nil || strings.Contains(err.Error(), "planted") || !strings.Contains(err.Error(), "ACL LIST") {
		t.Errorf("without rights: %v", err)
	}
	acl("SETUSER", user, "+eval", "+evalsha", "+get", "+set", "+time", "+ping")
	c := open(t, u.String(), Options{Prefix: prefix, Timeout: time.Second})
	if d := take(t, c.Limits(), "ada", 1, ratelimit.Rate{Count: 1, Per: time.Second}); !d.Allowed {
		t.Error("refused")
	}
	if _, err := open(t, u.String(), Options{Prefix: "other:"}).Limits().Take(t.Context(), "ada", 1, ratelimit.Rate{Count: 1, Per: time.Second}); err == nil || strings.Contains(err.Error(), "planted") {
		t.Errorf("a key outside: %v", err)
	}
}

func TestRealRedis(t *testing.T) {
	url, prefix := testkit.Redis(t)
	c := open(t, url, Options{Prefix: prefix})
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	c.Close()
	if err := c.Ping(t.Context()); err == nil {
		t.Error("a closed client answers")
	}
}
