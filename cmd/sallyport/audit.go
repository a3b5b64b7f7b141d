package main

import (
	"bufio"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
)

type auditCmd struct {
	Tail   auditTailCmd   `cmd:"" help:"Show the last events, and go on with what happens."`
	Search auditSearchCmd `cmd:"" help:"Find events, newest first."`
	Export auditExportCmd `cmd:"" help:"Write events to standard output, oldest first, as lines of JSON or as CSV."`
	Verify auditVerifyCmd `cmd:"" help:"Read the whole log, and name what was changed, removed or inserted. Exits 1 if anything was."`
	Head   auditHeadCmd   `cmd:"" help:"Print the signed end of the log: kept elsewhere, it shows later that nothing was cut off."`
}

// auditMistakes returns what is wrong with where events go where single keys are
// well.
func (s settings) auditMistakes(wrong map[string]bool) (errs []error) {
	if wrong["audit.webhook"] || wrong["audit.webhook_secret"] {
		return nil
	}
	address, secret := s["audit.webhook"], s["audit.webhook_secret"]
	switch {
	case address.text != "" && secret.text == "":
		errs = append(errs, fmt.Errorf("audit.webhook = (not shown) (from %s): audit.webhook_secret is not set, and nobody could tell whether a delivery is genuine. Make one with: openssl rand -hex 32", address.source))
	case address.text == "" && secret.text != "":
		errs = append(errs, fmt.Errorf("audit.webhook_secret = (not shown) (from %s): audit.webhook is not set, and nothing would be signed. Set it, or leave both out", secret.source))
	}
	return errs
}

// auditFilter are the flags that say which events are wanted.
type auditFilter struct {
	Action     string `help:"What was done, for example session.started." placeholder:"NAME"`
	Actor      string `help:"Who did it: an id, or the name of an operator." placeholder:"ID"`
	Target     string `help:"What it was done to: an id or a name." placeholder:"ID"`
	Result     string `help:"How it ended: success, failure or denied." placeholder:"RESULT"`
	Address    string `help:"The client's IP address." placeholder:"IP"`
	RequestID  string `name:"request-id" help:"X-Request-Id of the request." placeholder:"ID"`
	DecisionID string `name:"decision-id" help:"decision_id of a refusal." placeholder:"ID"`
	Since      string `help:"From this time on: 2026-11-22T14:00:00Z, or how long ago: 24h." placeholder:"TIME"`
	Until      string `help:"Before this time." placeholder:"TIME"`
}

func (f auditFilter) filter(now time.Time) (audit.Filter, error) {
	out := audit.Filter{
		Action: f.Action, Actor: f.Actor, Target: f.Target, Result: audit.Result(f.Result),
		Address: f.Address, RequestID: f.RequestID, DecisionID: f.DecisionID,
	}
	for _, t := range []struct {
		flag, text string
		into       *time.Time
	}{{"--since", f.Since, &out.Since}, {"--until", f.Until, &out.Until}} {
		if t.text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, t.text)
		if err != nil {
			ago, notAgo := time.ParseDuration(t.text)
			if notAgo != nil || ago < 0 {
				return out, &errUsage{fmt.Errorf("%s: write a time as 2026-11-22T14:00:00Z, or how long ago it was as 90s, 15m or 24h", t.flag)}
			}
			at = now.Add(-ago)
		}
		*t.into = at
	}
	if err := out.Check(); err != nil {
		var said []string
		if e, ok := errors.AsType[*sallyport.Error](err); ok {
			for _, f := range e.Fields {
				said = append(said, strings.Replace(f.Pointer, "?", "--", 1)+": "+f.Detail)
			}
		}
		return out, &errUsage{errors.New(strings.Join(said, " "))}
	}
	return out, nil
}

// eventRow is an event on one line, for people.
func eventRow(r audit.Record) string {
	dash := func(s string) string {
		if s == "" {
			return "-"
		}
		return audit.Printable(s)
	}
	return strings.Join([]string{
		r.At.UTC().Format("2006-01-02T15:04:05.000Z"), dash(r.Action), dash(string(r.Result)), dash(r.Actor), dash(r.Target), dash(r.Address), dash(r.Reason),
	}, "\t")
}

const eventHead = "TIME\tACTION\tRESULT\tACTOR\tTARGET\tADDRESS\tREASON"

type auditSearchCmd struct {
	auditFilter
	Limit int `help:"How many at most; 0 is all." default:"50" placeholder:"N"`
}

func (c auditSearchCmd) Run(a *app) error {
	f, err := c.filter(time.Now())
	if err != nil {
		return err
	}
	if c.Limit < 0 {
		return &errUsage{errors.New("--limit: write a number from 0 on")}
	}
	return a.with(func(o *opened) error {
		found := []audit.Record{}
		for cursor := ""; ; {
			size := 200
			if c.Limit > 0 {
				size = min(size, c.Limit-len(found))
			}
			some, next, err := o.Audit.List(a.ctx, f, cursor, size)
			if err != nil {
				return err
			}
			found = append(found, some...)
			if cursor = next; next == "" || len(found) == c.Limit {
				break
			}
		}
		return a.answer("audit_events/v1", found, func(w io.Writer) {
			fmt.Fprintln(w, eventHead)
			for _, r := range found {
				fmt.Fprintln(w, eventRow(r))
			}
		})
	})
}

type auditTailCmd struct {
	Lines    int  `short:"n" help:"How many of the past to begin with." default:"10" placeholder:"N"`
	NoFollow bool `name:"no-follow" help:"End there."`
}

// tailPause is how often it is looked whether something was sealed.
const tailPause = 200 * time.Millisecond

func (c auditTailCmd) Run(a *app) error {
	if c.Lines < 0 {
		return &errUsage{errors.New("--lines: write a number from 0 on")}
	}
	return a.with(func(o *opened) error {
		// What is sealed behind this is new: no event is missed, and one that is not
		// sealed yet may come twice.
		from := int64(0)
		if h, found, err := o.Chain.Head(a.ctx); err != nil {
			return err
		} else if found {
			from = h.Number
		}
		var past []audit.Record
		if c.Lines > 0 {
			var err error
			if past, _, err = o.Audit.List(a.ctx, audit.Filter{}, "", c.Lines); err != nil {
				return err
			}
		}
		slices.Reverse(past)
		seen := map[string]bool{}
		show := func(r audit.Record) error {
			var err error
			if a.g.JSON {
				_, err = a.stdout.Write(audit.Line(r))
			} else {
				_, err = fmt.Fprintln(a.stdout, strings.ReplaceAll(eventRow(r), "\t", "  "))
			}
			return err
		}
		for _, r := range past {
			seen[r.ID] = true
			if err := show(r); err != nil {
				return err
			}
		}
		if c.NoFollow {
			return nil
		}
		for {
			next, events, err := o.Chain.After(a.ctx, from)
			if err != nil {
				return err
			}
			for _, r := range events {
				if seen[r.ID] {
					continue
				}
				if err := show(r); err != nil {
					return err
				}
			}
			if next > from {
				from = next
				continue
			}
			select {
			case <-a.ctx.Done():
				return a.ctx.Err()
			case <-time.After(tailPause):
			}
		}
	})
}

type auditExportCmd struct {
	auditFilter
	Format string `help:"ndjson: a JSON object on each line; csv." enum:"ndjson,csv" default:"ndjson" placeholder:"FORMAT"`
	Sealed bool   `help:"With the seals, so that verify --file can tell without the database whether somebody has changed the file."`
}

func (c auditExportCmd) Run(a *app) error {
	f, err := c.filter(time.Now())
	if err != nil {
		return err
	}
	if c.Sealed {
		if c.Format == "csv" || f != (audit.Filter{Since: f.Since}) {
			return &errUsage{errors.New("--sealed: a seal is for all of its events, as lines of JSON. Give no filter but --since, and no other --format")}
		}
		return c.sealed(a, f.Since)
	}
	return a.with(func(o *opened) error {
		out := bufio.NewWriterSize(a.stdout, 64<<10)
		n := 0
		write, end := func(r audit.Record) error {
			_, err := out.Write(audit.Line(r))
			return err
		}, out.Flush
		if c.Format == "csv" {
			w := csv.NewWriter(out)
			if err := w.Write(audit.CSVHeader()); err != nil {
				return err
			}
			write = func(r audit.Record) error { return w.Write(r.CSV()) }
			end = func() error {
				w.Flush()
				return errors.Join(w.Error(), out.Flush())
			}
		}
		err := o.Audit.Each(a.ctx, f, func(r audit.Record) error {
			n++
			return write(r)
		})
		if err = errors.Join(err, end()); err != nil {
			return err
		}
		a.info("%d events", n)
		return nil
	})
}

func (c auditExportCmd) sealed(a *app, since time.Time) error {
	return a.with(func(o *opened) error {
		out := bufio.NewWriterSize(a.stdout, 64<<10)
		n, err := o.Chain.Export(a.ctx, since, out)
		if err = errors.Join(err, out.Flush()); err != nil {
			return err
		}
		a.info("%d events. Verify them with the public key, which goes another way than the file: %s", n, base64.StdEncoding.EncodeToString(o.Chain.Key()))
		return nil
	})
}

type auditHeadCmd struct{}

// auditHead is what head prints with --json, and verify reads.
const auditHead = "audit_head/v1"

func (auditHeadCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		h, found, err := o.Chain.Head(a.ctx)
		if err != nil {
			return err
		}
		if !found {
			return &sallyport.Error{Status: 404, Code: "not_found", Message: "Nothing was sealed yet: the audit log is empty."}
		}
		a.g.JSON = true // it is for programs: one of them is verify
		return a.answer(auditHead, h, nil)
	})
}

type auditVerifyCmd struct {
	Head []string `help:"File with a head that was kept: the output of “sallyport audit head”, or several on lines of their own; may be repeated." placeholder:"FILE"`
	File string   `help:"A sealed export to verify in place of the database, which is not needed; “-” reads standard input." placeholder:"FILE"`
	Key  string   `help:"The server's public key, for --file: public_key of a head. Default: that of --head." placeholder:"BASE64"`
}

func (c auditVerifyCmd) Run(a *app) error {
	var kept []audit.Head
	for _, file := range c.Head {
		heads, err := readHeads(file)
		if err != nil {
			return &errUsage{err}
		}
		kept = append(kept, heads...)
	}
	if c.File != "" {
		return c.offline(a, kept)
	}
	if c.Key != "" {
		return &errUsage{errors.New("--key is for --file: the database is verified with the key of its server")}
	}
	return a.with(func(o *opened) error {
		v, err := o.Chain.Verify(a.ctx, kept...)
		if err != nil {
			return err
		}
		return verdict(a, v, len(kept), false)
	})
}

// offline verifies a file. The key comes from elsewhere: who has made a file can have
// written any key into it.
func (c auditVerifyCmd) offline(a *app, kept []audit.Head) error {
	key, err := base64.StdEncoding.DecodeString(c.Key)
	if err != nil || c.Key != "" && len(key) != ed25519.PublicKeySize {
		return &errUsage{errors.New("--key: it is not the 32 bytes of a public key in base64, which are public_key of “sallyport audit head”")}
	}
	if c.Key == "" {
		if len(kept) == 0 {
			return &errUsage{errors.New("--file: give the server's public key with --key, or a head that was kept with --head. A file that was made up has a key of its own in it")}
		}
		if key = kept[0].Key; len(key) != ed25519.PublicKeySize {
			return &errUsage{errors.New("--head: the head has no public key. Give the server's with --key")}
		}
	}
	var in io.Reader = a.stdin
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return &errUsage{err}
		}
		defer f.Close()
		in = f
	}
	v, err := audit.VerifyExport(in, key, kept...)
	switch {
	case errors.Is(err, audit.ErrNotSealed):
		return &errUsage{fmt.Errorf("%s: %w, and nothing in it can be verified. “sallyport audit export --sealed” makes one", c.File, err)}
	case errors.Is(err, bufio.ErrTooLong):
		return &errUsage{fmt.Errorf("%s: %w: no line of a sealed export is so long", c.File, err)}
	case err != nil:
		return fmt.Errorf("%s: %w", c.File, err)
	}
	return verdict(a, v, len(kept), true)
}

// verdict says what verifying has found.
func verdict(a *app, v audit.Verdict, kept int, file bool) error {
	if err := a.answer("audit_verdict/v1", v, func(w io.Writer) { showVerdict(w, v, kept, file) }); err != nil || v.Whole {
		return err
	}
	a.info("sallyport: the audit log is not as it was recorded")
	return errSilent
}

func showVerdict(w io.Writer, v audit.Verdict, kept int, file bool) {
	state := "whole"
	if !v.Whole {
		state = "NOT WHOLE"
	}
	fmt.Fprintf(w, "audit log\t%s\n", state)
	waiting := fmt.Sprintf("; %d wait to be sealed", v.Waiting)
	if file {
		waiting = ""
	}
	fmt.Fprintf(w, "events\t%d in %d seals%s\n", v.Events, v.Seals, waiting)
	if v.Erased > 0 {
		fmt.Fprintf(w, "erased\t%d, of accounts that were deleted\n", v.Erased)
	}
	switch {
	case v.Cut > 0 && file:
		fmt.Fprintf(w, "before\t%d, which are not in the file\n", v.Cut)
	case v.Cut > 0:
		fmt.Fprintf(w, "deleted\t%d before them, by retention\n", v.Cut)
	}
	if v.Head != nil {
		fmt.Fprintf(w, "head\tseal %d, position %d, %s\n", v.Head.Number, v.Head.Position, v.Head.SealedAt.Format(time.RFC3339))
		fmt.Fprintf(w, "key\t%s\n", audit.KeyName(v.Head.Key))
	}
	if kept == 0 {
		fmt.Fprintln(w, "end\tnot compared: without --head nobody can tell whether something was cut off the end")
	} else {
		fmt.Fprintf(w, "end\tcompared with %d heads\n", kept)
	}
	for _, f := range v.Findings {
		where := ""
		if f.Position > 0 {
			where = fmt.Sprintf(" position %d (seal %d)", f.Position, f.Seal)
		}
		if f.ID != "" {
			where += " event " + audit.Printable(f.ID)
		}
		if f.At != nil {
			where += " of " + f.At.Format(time.RFC3339Nano)
		}
		fmt.Fprintf(w, "%s\t%s: %s\n", f.Damage, strings.TrimSpace(where), f.What)
	}
	if v.More > 0 {
		fmt.Fprintf(w, "…\tand %d more\n", v.More)
	}
}

// readHeads reads what “audit head” has printed, or lines of a sink.
func readHeads(file string) (out []audit.Head, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	dec := json.NewDecoder(f)
	for {
		var h struct {
			Schema string `json:"schema"`
			audit.Head
		}
		err := dec.Decode(&h)
		switch {
		case errors.Is(err, io.EOF):
			if out == nil {
				return nil, fmt.Errorf("%s holds no head. “sallyport audit head > %[1]s” makes one", file)
			}
			return out, nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return nil, fmt.Errorf("%s: the last line is torn: it was not written to its end. Take it out (sed '$d'), or wait if the server is just writing it", file)
		case err != nil:
			return nil, fmt.Errorf("%s: it is not JSON behind byte %d: %w. If a crash has torn that line, take it out", file, dec.InputOffset(), err)
		case h.Schema == "sallyport."+auditHead:
			out = append(out, h.Head)
		}
	}
}
