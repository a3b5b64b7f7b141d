package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authn/password"
)

type hashCmd struct {
	Generate  hashGenerateCmd  `cmd:"" help:"Hash a password."`
	Verify    hashVerifyCmd    `cmd:"" help:"Check a password against a hash."`
	Identify  hashIdentifyCmd  `cmd:"" help:"Say what a hash is."`
	Calibrate hashCalibrateCmd `cmd:"" help:"Measure what a hash costs on this machine."`
}

func (a *app) hasher() (*password.Hasher, error) {
	s, err := a.settings()
	if err != nil {
		return nil, err
	}
	return password.New(passwordConfig(s))
}

type hashGenerateCmd struct {
	PasswordStdin bool `help:"Read the password from standard input."`
}

func (c hashGenerateCmd) Run(a *app) error {
	h, err := a.hasher()
	if err != nil {
		return err
	}
	pw, err := a.secret(c.PasswordStdin, "Password")
	if err != nil {
		return err
	}
	hash, err := h.Hash(a.ctx, pw)
	if err != nil {
		return err
	}
	return a.answer("hash/v1", map[string]string{"hash": hash}, func(w io.Writer) { fmt.Fprintln(w, hash) })
}

type hashArg struct {
	HashFile string `help:"File with the hash; “-” is the first line of standard input." default:"-" placeholder:"FILE"`
}

type hashVerifyCmd struct {
	HashFile      string `help:"File with the hash." required:"" placeholder:"FILE"`
	PasswordStdin bool   `help:"Read the password from standard input."`
}

func (c hashVerifyCmd) Run(a *app) error {
	h, err := a.hasher()
	if err != nil {
		return err
	}
	stored, err := readLineOf(c.HashFile)
	if err != nil {
		return &errUsage{err}
	}
	if _, err := password.Identify(stored); err != nil {
		return &errUsage{err}
	}
	pw, err := a.secret(c.PasswordStdin, "Password")
	if err != nil {
		return err
	}
	res, err := h.Verify(a.ctx, stored, pw)
	if err != nil {
		return err
	}
	if err := a.answer("hash_verification/v1", map[string]bool{"ok": res.OK, "upgrade": res.Upgrade}, func(w io.Writer) {
		switch {
		case !res.OK:
			fmt.Fprintln(w, "no: another password")
		case res.Upgrade:
			fmt.Fprintln(w, "yes; the hash would be upgraded at the next sign-in")
		default:
			fmt.Fprintln(w, "yes")
		}
	}); err != nil {
		return err
	}
	if !res.OK {
		return errSilent
	}
	return nil
}

type hashIdentifyCmd struct{ hashArg }

func (c hashIdentifyCmd) Run(a *app) error {
	stored, err := a.lineOf(c.HashFile)
	if err != nil {
		return &errUsage{err}
	}
	info, err := password.Identify(stored)
	if err != nil {
		return &errUsage{err}
	}
	return a.answer("hash_info/v1", info, func(w io.Writer) {
		fmt.Fprintf(w, "format\t%s\n", info.Format)
		fmt.Fprintf(w, "parameters\t%s\n", info.Params)
		fmt.Fprintf(w, "current\t%v\n", info.Current)
	})
}

type hashCalibrateCmd struct{}

// calibrations is how many hashes the median is of.
const calibrations = 5

func (hashCalibrateCmd) Run(a *app) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	type row struct {
		Memory int   `json:"memory_kib"`
		Time   int   `json:"time"`
		Micros int64 `json:"micros"`
	}
	rows := []row{}
	for _, r := range []row{{Memory: 19456, Time: 2}, {Memory: 47104, Time: 1}, {Memory: 65536, Time: 3}, {Memory: s.int("password.memory"), Time: s.int("password.time")}} {
		h, err := password.New(password.Config{Memory: uint32(r.Memory), Time: uint32(r.Time), Permits: 1})
		if err != nil {
			return err
		}
		best := time.Duration(1 << 62)
		for range calibrations {
			began := time.Now()
			if _, err := h.Hash(a.ctx, "calibration, not a secret"); err != nil {
				return err
			}
			best = min(best, time.Since(began))
		}
		r.Micros = best.Microseconds()
		rows = append(rows, r)
	}
	return a.answer("hash_calibration/v1", rows, func(w io.Writer) {
		fmt.Fprintln(w, "MEMORY (KiB)\tTIME\tONE HASH\tSIGN-INS A SECOND AND CORE")
		for i, r := range rows {
			mark := ""
			if i == len(rows)-1 {
				mark = "\t(as configured)"
			}
			fmt.Fprintf(w, "%d\t%d\t%.1f ms\t%.0f%s\n", r.Memory, r.Time, float64(r.Micros)/1000, 1e6/float64(r.Micros), mark)
		}
	})
}

func firstLine(b []byte) (string, error) {
	line, _, _ := strings.Cut(string(b), "\n")
	if line = strings.TrimSpace(line); line == "" {
		return "", errors.New("there is no hash: its first line is empty")
	}
	return line, nil
}
