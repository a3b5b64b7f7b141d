package audit_test

import (
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/reqctx"
	"github.com/sallyport/sallyport/internal/testkit"
)

func TestAnEventStandsOrFallsWithItsChange(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		ctx := reqctx.AsOperator(t.Context(), "cli:root")
		boom := errors.New("boom")
		for _, fails := range []bool{true, false} {
			err := d.Write(ctx, func(tx *db.Tx) error {
				if err := audit.Append(ctx, tx, audit.Event{Action: "x.done", Target: "t", Detail: map[string]string{"k": "v"}}); err != nil {
					return err
				}
				if fails {
					return boom
				}
				return nil
			})
			if fails != (err == boom) {
				t.Fatal(err)
			}
		}
		events, err := audit.Latest(d.View(ctx), 10)
		if err != nil || len(events) != 1 {
			t.Fatalf("%v %v", events, err)
		}
		e := events[0]
		if e.Action != "x.done" || e.Result != audit.Success || e.Actor != "cli:root" || e.ActorKind != "operator" || e.Detail["k"] != "v" || e.ID == "" {
			t.Errorf("%+v", e)
		}
	})
}

// Callers may share a map of details, and record side by side.
func TestDetailsStayTheirCallers(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		const long = 40 << 10 // beyond what is stored of a detail
		shared := map[string]string{"k": strings.Repeat("x", long)}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := d.Write(t.Context(), func(tx *db.Tx) error {
					return audit.Append(t.Context(), tx, audit.Event{Action: "x.done", Target: "t", Detail: shared})
				}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := len(shared["k"]); n != long || len(shared) != 1 {
			t.Errorf("the caller's map has %d keys and %d bytes now", len(shared), n)
		}
		events, err := audit.Latest(d.View(t.Context()), 10)
		if err != nil || len(events) != 8 || len(events[0].Detail["k"]) >= long || events[0].Detail["k"] == "" {
			t.Errorf("%d events, %v: stored it must be, and shorter", len(events), err)
		}
	})
}

// A flood of refusals is bounded, counted, and written by the time Close
// returns.
func TestRefusalsAreBoundedAndCounted(t *testing.T) {
	d := testkit.SQLite(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	r := audit.NewRefusals(d, slog.New(slog.DiscardHandler))
	const sent = 5000
	for range sent {
		r.Note(t.Context(), audit.Event{Action: "credential.refused", Result: audit.Failure, Reason: strings.Repeat("x", 10_000)})
	}
	for range sent {
		r.Note(t.Context(), audit.Event{Action: "refresh.refused", Result: audit.Failure})
	}
	r.Note(t.Context(), audit.Event{Action: audit.SignInRefused, Result: audit.Failure})
	r.Close()
	r.Close() // again is no harm
	events, err := audit.Latest(d.View(t.Context()), sent)
	if err != nil {
		t.Fatal(err)
	}
	dropped, guess := false, false
	for _, e := range events {
		dropped = dropped || e.Action == "audit.dropped" && e.Detail["events"] != ""
		guess = guess || e.Action == "signin.refused"
		if len(e.Reason) > 256 {
			t.Fatalf("a text of %d bytes was kept", len(e.Reason))
		}
	}
	if !guess {
		t.Error("a flood of nonsense hid a guess")
	}
	if !dropped || len(events) > 400 || len(events) < 2 {
		t.Errorf("%d events of %d, dropped counted: %v", len(events), sent, dropped)
	}
}

// U. Nobody hides what they were refused behind requests that are allowed, or behind
// questions.
func TestU_WhatIsAllowedHidesNoRefusal(t *testing.T) {
	d := testkit.SQLite(t)
	for _, action := range []string{audit.AccessAllowed, audit.PolicyChecked} {
		r := audit.NewRefusals(d, slog.New(slog.DiscardHandler))
		for range 5000 {
			r.Note(t.Context(), audit.Event{Action: action, Actor: "ada", ActorKind: "user"})
		}
		r.Note(t.Context(), audit.Event{Action: audit.AccessDenied, Result: audit.Denied, Actor: "ada", ActorKind: "user", Target: action})
		r.Close()
		events, err := audit.Latest(d.View(t.Context()), 5000)
		if err != nil {
			t.Fatal(err)
		}
		dropped, denied := false, false
		for _, e := range events {
			dropped = dropped || e.Action == "audit.dropped"
			denied = denied || e.Action == audit.AccessDenied && e.Target == action
		}
		if !dropped || !denied {
			t.Errorf("%s: dropped %v, denied %v", action, dropped, denied)
		}
	}
}

// U. No text makes a formula of a cell, whatever separates cells where it is read.
func TestU_NoCellIsAFormula(t *testing.T) {
	for text, want := range map[string]string{
		"=1": "'=1", "@x": "'@x", "＝1": "'＝1", "a;=1": "a;'=1", "a; \"+1": "a; \"'+1", "a|-1": "a|'-1", " =1": " '=1",
		"a-b;c=d": "a-b;c=d", "a=b": "a=b", "": "", "\t=1": "'\\u0009=1", "a\t=1": "a\\u0009'=1",
	} {
		if got := (audit.Record{Reason: text}).CSV()[7]; got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := (audit.Record{Detail: map[string]string{"k": ";=1"}}).CSV()[13]; got != `{"k":";'=1"}` {
		t.Error(got)
	}
}
