package main

import (
	"net"
	"syscall"
)

// holdNew makes the system overlook new connections to a listener, while those
// that clients believe to have are still accepted. Closing it would reset them, and
// whoever has sent a request on one, such as a balancer, cannot tell that it was not
// read. Whoever is overlooked asks again a second later, or goes elsewhere.
func holdNew(ln *net.TCPListener) error {
	raw, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	// The first segment of a connection has SYN (2) and not ACK (16) in the byte of
	// flags, the fourteenth of its header.
	overlook := []syscall.SockFilter{
		filterStep(syscall.BPF_LD|syscall.BPF_B|syscall.BPF_ABS, 13, 0),
		filterStep(syscall.BPF_ALU|syscall.BPF_AND|syscall.BPF_K, 16|2, 0),
		filterStep(syscall.BPF_JMP|syscall.BPF_JEQ|syscall.BPF_K, 2, 1), // another: one step on
		filterStep(syscall.BPF_RET|syscall.BPF_K, 0, 0),                 // nothing of it
		filterStep(syscall.BPF_RET|syscall.BPF_K, 0xffffffff, 0),        // all of it
	}
	if cerr := raw.Control(func(fd uintptr) {
		//lint:ignore SA1019 x/net/bpf assembles filters and attaches them to packets' sockets only
		err = syscall.AttachLsf(int(fd), overlook)
	}); cerr != nil {
		return cerr
	}
	return err
}

func filterStep(operation uint16, operand uint32, ifNot uint8) (f syscall.SockFilter) {
	f.Code, f.K, f.Jf = operation, operand, ifNot
	return f
}
