// Command barehash computes password hashes and nothing else, with the
// parameters that the server has by default: what sign-ins are measured
// against. It prints hashes per second and processor microseconds per hash.
package main

import (
	"flag"
	"fmt"
	"log"
	"syscall"
	"time"

	"golang.org/x/crypto/argon2"
)

func main() {
	memory := flag.Uint("memory", 19456, "KiB")
	passes := flag.Uint("time", 2, "passes")
	length := flag.Duration("for", 3*time.Second, "how long")
	flag.Parse()
	pw, salt := []byte("violet-anchor-97-marmalade"), make([]byte, 16)
	hash := func() { argon2.IDKey(pw, salt, uint32(*passes), uint32(*memory), 1, 32) }
	hash()
	n, cpu, began := 0, processorTime(), time.Now()
	for time.Since(began) < *length {
		hash()
		n++
	}
	fmt.Printf("%.3f %.1f\n", float64(n)/time.Since(began).Seconds(), float64((processorTime()-cpu).Microseconds())/float64(n))
}

// processorTime is what this process has used, in user and system mode.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		log.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
