package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"
)

// answer prints data: as JSON with a versioned schema, or as text.
func (a *app) answer(schema string, v any, text func(w io.Writer)) error {
	if !a.g.JSON {
		w := tabwriter.NewWriter(a.stdout, 0, 4, 2, ' ', 0)
		text(w)
		return w.Flush()
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(b, &members) != nil {
		members = map[string]json.RawMessage{"items": b}
	}
	members["schema"] = json.RawMessage(fmt.Sprintf("%q", "sallyport."+schema))
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(members)
}

// data prints what a command did for programs; people are told by done.
func (a *app) data(schema string, v any) error {
	if !a.g.JSON {
		return nil
	}
	return a.answer(schema, v, nil)
}

// done tells what was done, or would have been.
func (a *app) done(format string, args ...any) {
	if a.g.DryRun {
		format = "dry run, nothing was changed: " + format
	}
	a.info(format, args...)
}

// confirm asks before something that cannot be undone.
func (a *app) confirm(what string) error {
	if a.g.Yes || a.g.DryRun {
		return nil
	}
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return &errUsage{fmt.Errorf("%s cannot be undone, and nobody is there to ask: add --yes", what)}
	}
	fmt.Fprintf(a.stderr, "%s cannot be undone. Go on? [y/N] ", what)
	line, err := a.typed(f, func() (string, error) { return bufio.NewReader(f).ReadString('\n') })
	if errors.Is(err, io.EOF) {
		fmt.Fprintln(a.stderr)
	} else if err != nil {
		return err
	}
	if s := strings.ToLower(strings.TrimSpace(line)); s != "y" && s != "yes" {
		return errors.New("not confirmed; nothing was changed")
	}
	return nil
}

// maxSecret bounds what is read as a password, in bytes.
const maxSecret = 8 << 10

// secret reads a password: from standard input with --password-stdin, by a
// prompt that does not show it otherwise. Never from an argument, which
// everybody on the machine can see.
func (a *app) secret(fromStdin bool, prompt string) (string, error) {
	f, isFile := a.stdin.(*os.File)
	if !fromStdin && isFile && term.IsTerminal(int(f.Fd())) {
		first, err := a.hidden(f, prompt+": ")
		if err != nil {
			return "", err
		}
		second, err := a.hidden(f, prompt+", once more: ")
		if err != nil {
			return "", err
		}
		if first != second {
			return "", &errUsage{errors.New("the two are not the same; nothing was changed")}
		}
		return first, nil
	}
	if !fromStdin {
		return "", &errUsage{errors.New("a password is needed and there is no terminal to ask on: pipe it in with --password-stdin")}
	}
	b, err := io.ReadAll(io.LimitReader(a.stdin, maxSecret+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxSecret {
		return "", &errUsage{fmt.Errorf("standard input holds more than %d bytes, which is no password", maxSecret)}
	}
	s := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if s == "" {
		return "", &errUsage{errors.New("standard input is empty: pipe the password in")}
	}
	return s, nil
}

func (a *app) hidden(f *os.File, prompt string) (string, error) {
	fmt.Fprint(a.stderr, prompt)
	s, err := a.typed(f, func() (string, error) {
		b, err := term.ReadPassword(int(f.Fd()))
		return string(b), err
	})
	fmt.Fprintln(a.stderr)
	return s, err
}

// typed waits for what is typed, or for an interruption: then the terminal is
// as it was.
func (a *app) typed(f *os.File, read func() (string, error)) (string, error) {
	before, err := term.GetState(int(f.Fd()))
	if err != nil {
		return "", err
	}
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		s, err := read()
		done <- result{s, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-a.ctx.Done():
		return "", errors.Join(a.ctx.Err(), term.Restore(int(f.Fd()), before))
	}
}

// printable makes text from the database fit for a terminal: no control
// characters, which could move the cursor or rewrite what was printed.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '�'
		}
		return r
	}, s)
}

// printableLines does the same for text of several lines: a path or an argument
// in an error may hold anything.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = printable(line)
	}
	return strings.Join(lines, "\n")
}

func deref(s *string) string {
	if s == nil {
		return "-"
	}
	return printable(*s)
}
