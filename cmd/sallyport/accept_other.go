//go:build !linux

package main

import (
	"errors"
	"net"
)

// holdNew cannot be done here: see accept_linux.go.
func holdNew(*net.TCPListener) error { return errors.ErrUnsupported }
