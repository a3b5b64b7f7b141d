package main

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"
)

// TestHoldNew: a connection that was made and not accepted yet is accepted, and a
// new one is neither made nor refused.
func TestHoldNew(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := listen(addr)
		if err != nil {
			if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
				continue // no IPv6 here
			}
			t.Fatal(err)
		}
		defer ln.Close()
		waits, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer waits.Close()
		if err := holdNew(ln.(*net.TCPListener)); err != nil {
			t.Fatal(err)
		}
		// What is promised is that it is not refused, however long one waits.
		if c, err := net.DialTimeout("tcp", ln.Addr().String(), 300*time.Millisecond); !timedOut(err) {
			t.Errorf("%s: a new connection: %v, %v; want a timeout", addr, c, err)
		}
		got := make(chan error, 1)
		go func() {
			c, err := ln.Accept()
			if err == nil {
				_, err = c.Write([]byte("yes"))
				c.Close()
			}
			got <- err
		}()
		b := make([]byte, 3)
		if _, err := waits.Read(b); err != nil || string(b) != "yes" {
			t.Errorf("%s: the one before: %q, %v", addr, b, err)
		}
		if err := <-got; err != nil {
			t.Error(err)
		}
		ln.Close()
		if _, err := net.DialTimeout("tcp", ln.Addr().String(), 10*time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: closed: %v, want that it is refused", addr, err)
		}
	}
}

func timedOut(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}
