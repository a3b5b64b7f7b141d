package audit_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/reqctx"
	"github.com/sallyport/sallyport/internal/testkit"
)

var seed = bytes.Repeat([]byte{7}, ed25519.SeedSize)

// brief returns a chain that seals when it is told to.
func brief(t testing.TB, d *db.DB) *audit.Chain {
	t.Helper()
	c := audit.NewChain(audit.ChainConfig{DB: d, Seed: seed, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(c.Close)
	return c
}

func appendEvents(t testing.TB, d *db.DB, n int, e audit.Event) {
	t.Helper()
	ctx := reqctx.AsOperator(t.Context(), "cli:root")
	for n > 0 {
		some := min(n, 500)
		n -= some
		if err := d.Write(ctx, func(tx *db.Tx) error {
			for range some {
				if err := audit.Append(ctx, tx, e); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func sealed(t testing.TB, c *audit.Chain) {
	t.Helper()
	if err := c.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// whole fails unless the log is as it was recorded.
func whole(t testing.TB, c *audit.Chain, events int64, kept ...audit.Head) audit.Verdict {
	t.Helper()
	v, err := c.Verify(t.Context(), kept...)
	if err != nil {
		t.Fatal(err)
	}
	if !v.Whole || v.Events != events || len(v.Findings) > 0 {
		t.Fatalf("%d events, want %d: %+v", v.Events, events, v.Findings)
	}
	return v
}

func head(t testing.TB, c *audit.Chain) audit.Head {
	t.Helper()
	h, found, err := c.Head(t.Context())
	if err != nil || !found {
		t.Fatal(found, err)
	}
	return h
}

var errUndo = errors.New("undone")

// U. Whatever somebody does to the log who can write the database and has not the
// master key: the first row that it was done to is named.
func TestU_WhateverIsChangedIsFound(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c := brief(t, d)
		for range 3 { // three seals, of ten events each
			appendEvents(t, d, 10, audit.Event{Action: "x.done", Target: "somebody", Reason: "because", Detail: map[string]string{"k": "v"}})
			sealed(t, c)
		}
		kept := head(t, c)
		whole(t, c, 30, kept)
		appendEvents(t, d, 1, audit.Event{Action: "x.waits"})
		all, err := audit.Latest(d.View(t.Context()), 31)
		if err != nil {
			t.Fatal(err)
		}
		waits := all[0].ID
		slices.Reverse(all)
		at := func(position int) string { return all[position-1].ID }
		other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, ed25519.SeedSize))
		exec := func(n int64, err error) error {
			if err == nil && n == 0 {
				t.Error("nothing was changed")
			}
			return err
		}
		type want struct {
			damage   audit.Damage
			seal     int64
			position int64
			id       string
		}
		row := func(damage audit.Damage, position int) want {
			return want{damage, int64(position+9) / 10, int64(position), at(position)}
		}
		for _, tt := range []struct {
			name string
			do   func(tx *db.Tx) error
			want want
		}{
			{"id", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit SET id = '00000000-0000-7000-8000-000000000000' WHERE id = $1", at(12)))
			}, row(audit.Removed, 12)},
			{"at", func(tx *db.Tx) error { return exec(tx.Exec("UPDATE sp_audit SET at = at + 1 WHERE id = $1", at(12))) }, row(audit.Changed, 12)},
			{"action", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit SET action = 'y.done' WHERE id = $1", at(12)))
			}, row(audit.Changed, 12)},
			{"result", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit SET result = 'denied' WHERE id = $1", at(12)))
			}, row(audit.Changed, 12)},
			{"actor", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit SET actor = 'cli:eve' WHERE id = $1", at(12)))
			}, row(audit.Changed, 12)},
			{"actor_kind", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit SET actor_kind = 'user' WHERE id = $1", at(12)))
			}, row(audit.Changed, 12)},
			{"target", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit SET target = '' WHERE id = $1", at(12)))
			}, row(audit.Changed, 12)},
			{"reason", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit SET reason = 'becaus' WHERE id = $1", at(12)))
			}, row(audit.Changed, 12)},
			{"session", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit SET session = 's' WHERE id = $1", at(12)))
			}, row(audit.Changed, 12)},
			{"address", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit SET address = '192.0.2.1' WHERE id = $1", at(12)))
			}, row(audit.Changed, 12)},
			{"user_agent", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit SET user_agent = 'x' WHERE id = $1", at(12)))
			}, row(audit.Changed, 12)},
			{"request_id", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit SET request_id = 'x' WHERE id = $1", at(12)))
			}, row(audit.Changed, 12)},
			{"decision_id", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit SET decision_id = 'x' WHERE id = $1", at(12)))
			}, row(audit.Changed, 12)},
			{"detail", func(tx *db.Tx) error {
				return exec(tx.Exec(`UPDATE sp_audit SET detail = '{"k": "v"}' WHERE id = $1`, at(12)))
			}, row(audit.Changed, 12)},
			{"salt", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit SET salt = $2 WHERE id = $1", at(12), []byte("0123456789abcdef")))
			}, row(audit.Changed, 12)},
			{"commitment", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit SET commitment = $2 WHERE id = $1", at(12), []byte("x")))
			}, row(audit.Changed, 12)},
			{"emptied as if the account had been deleted", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit SET reason = '', detail = '{}', salt = $2 WHERE id = $1", at(12), []byte{}))
			}, row(audit.Erased, 12)},
			{"emptied, but for the salt", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit SET reason = '', detail = '{}' WHERE id = $1", at(12)))
			}, row(audit.Changed, 12)},
			{"two that were exchanged", func(tx *db.Tx) error {
				return errors.Join(
					exec(tx.Exec("UPDATE sp_audit SET id = 'x' WHERE id = $1", at(5))),
					exec(tx.Exec("UPDATE sp_audit SET id = $1 WHERE id = $2", at(5), at(25))),
					exec(tx.Exec("UPDATE sp_audit SET id = $1 WHERE id = 'x'", at(25))))
			}, row(audit.Changed, 5)},
			{"one removed", func(tx *db.Tx) error { return exec(tx.Exec("DELETE FROM sp_audit WHERE id = $1", at(12))) }, row(audit.Removed, 12)},
			{"the first removed", func(tx *db.Tx) error { return exec(tx.Exec("DELETE FROM sp_audit WHERE id = $1", at(1))) }, row(audit.Removed, 1)},
			{"all removed", func(tx *db.Tx) error { return exec(tx.Exec("DELETE FROM sp_audit")) }, row(audit.Removed, 1)},
			{"one inserted", func(tx *db.Tx) error {
				return exec(tx.Exec(`INSERT INTO sp_audit (id, at, action, result, actor, actor_kind, target, reason, address, request_id, detail)
					SELECT '00000000-0000-7000-8000-000000000000', at, action, result, actor, actor_kind, target, reason, address, request_id, detail FROM sp_audit WHERE id = $1`, at(12)))
			}, want{audit.Inserted, 0, 0, "00000000-0000-7000-8000-000000000000"}},
			{"one without an id inserted", func(tx *db.Tx) error {
				return exec(tx.Exec(`INSERT INTO sp_audit (id, at, action, result, actor, actor_kind, target, reason, address, request_id, detail)
					SELECT '', at, action, result, actor, actor_kind, target, reason, address, request_id, detail FROM sp_audit WHERE id = $1`, at(12)))
			}, want{audit.Inserted, 0, 0, ""}},
			{"one with an odd id inserted", func(tx *db.Tx) error {
				return exec(tx.Exec(`INSERT INTO sp_audit (id, at, action, result, actor, actor_kind, target, reason, address, request_id, detail)
					SELECT '~', at, action, result, actor, actor_kind, target, reason, address, request_id, detail FROM sp_audit WHERE id = $1`, at(12)))
			}, want{audit.Inserted, 0, 0, "~"}},
			{"one that waits hidden from the sealer", func(tx *db.Tx) error { return exec(tx.Exec("DELETE FROM sp_audit_waiting")) }, want{audit.Inserted, 0, 0, waits}},

			{"seal: number", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit_seals SET number = 9 WHERE number = 3"))
			}, want{audit.Removed, 3, 21, ""}},
			{"seal: first", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit_seals SET first = first + 1 WHERE number = 2"))
			}, want{audit.Broken, 2, 12, ""}},
			{"seal: events", func(tx *db.Tx) error {
				var b []byte
				if _, err := tx.Row("SELECT events FROM sp_audit_seals WHERE number = 2", nil, &b); err != nil {
					return err
				}
				one, two := slices.Clone(b[:48]), slices.Clone(b[48:96])
				return exec(tx.Exec("UPDATE sp_audit_seals SET events = $1 WHERE number = 2", slices.Concat(two, one, b[96:])))
			}, want{audit.Broken, 2, 11, ""}},
			{"seal: events cut short", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit_seals SET events = $1 WHERE number = 2", []byte("x")))
			}, want{audit.Broken, 2, 11, ""}},
			{"seal: sealed_at", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit_seals SET sealed_at = sealed_at + 1 WHERE number = 2"))
			}, want{audit.Broken, 2, 11, ""}},
			{"seal: node", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit_seals SET node = 'x' WHERE number = 2"))
			}, want{audit.Broken, 2, 11, ""}},
			{"seal: hash", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit_seals SET hash = signature WHERE number = 2"))
			}, want{audit.Broken, 2, 11, ""}},
			{"seal: signature", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit_seals SET signature = hash WHERE number = 2"))
			}, want{audit.Broken, 2, 11, ""}},
			{"seal: signature of another key", func(tx *db.Tx) error {
				return exec(tx.Exec("UPDATE sp_audit_seals SET signature = $1 WHERE number = 2", ed25519.Sign(other, []byte("x"))))
			}, want{audit.Broken, 2, 11, ""}},
			{"two seals exchanged", func(tx *db.Tx) error {
				return errors.Join(
					exec(tx.Exec("UPDATE sp_audit_seals SET number = 9 WHERE number = 2")),
					exec(tx.Exec("UPDATE sp_audit_seals SET number = 2 WHERE number = 3")),
					exec(tx.Exec("UPDATE sp_audit_seals SET number = 3 WHERE number = 9")))
			}, want{audit.Broken, 2, 21, ""}},
			{"a seal removed", func(tx *db.Tx) error { return exec(tx.Exec("DELETE FROM sp_audit_seals WHERE number = 2")) }, want{audit.Removed, 2, 11, ""}},
			{"the first seal removed", func(tx *db.Tx) error { return exec(tx.Exec("DELETE FROM sp_audit_seals WHERE number = 1")) }, want{audit.Removed, 1, 1, ""}},
			{"the beginning removed, with a cut of another key", func(tx *db.Tx) error {
				return errors.Join(
					exec(tx.Exec("INSERT INTO sp_audit_cuts (id, number, position, sealed_at, hash, signature) SELECT 1, number, 10, sealed_at, hash, signature FROM sp_audit_seals WHERE number = 1")),
					exec(tx.Exec("DELETE FROM sp_audit_seals WHERE number = 1")),
					exec(tx.Exec("DELETE FROM sp_audit WHERE id <= $1", at(10))))
			}, want{audit.Broken, 1, 10, ""}},
			{"the last seal removed", func(tx *db.Tx) error { return exec(tx.Exec("DELETE FROM sp_audit_seals WHERE number = 3")) }, want{audit.Truncated, 3, 30, ""}},
			{"the end removed whole", func(tx *db.Tx) error {
				return errors.Join(
					exec(tx.Exec("DELETE FROM sp_audit_seals WHERE number = 3")),
					exec(tx.Exec("DELETE FROM sp_audit_waiting")),
					exec(tx.Exec("DELETE FROM sp_audit WHERE id > $1", at(20))))
			}, want{audit.Truncated, 3, 30, ""}},
			{"everything removed", func(tx *db.Tx) error {
				return errors.Join(
					exec(tx.Exec("DELETE FROM sp_audit_seals")),
					exec(tx.Exec("DELETE FROM sp_audit_waiting")),
					exec(tx.Exec("DELETE FROM sp_audit")))
			}, want{audit.Truncated, 3, 30, ""}},
		} {
			var v audit.Verdict
			err := d.Write(t.Context(), func(tx *db.Tx) (err error) {
				if err := tt.do(tx); err != nil {
					return err
				}
				if v, err = audit.VerifyIn(t.Context(), tx, c.Key(), kept); err != nil {
					return err
				}
				return errUndo
			})
			if !errors.Is(err, errUndo) {
				t.Errorf("%s: %v", tt.name, err)
				continue
			}
			if v.Whole || len(v.Findings) == 0 {
				t.Errorf("%s was not found", tt.name)
				continue
			}
			f := v.Findings[0]
			if got := (want{f.Damage, f.Seal, f.Position, f.ID}); got != tt.want || f.What == "" {
				t.Errorf("%s: %+v, want %+v", tt.name, f, tt.want)
			}
		}
		// And as it is, it is whole.
		if v := whole(t, c, 30, kept); v.Waiting != 1 || v.Seals != 3 || v.Head.Position != 30 {
			t.Errorf("%+v", v)
		}
		// Another key is not this server's.
		if v, err := audit.VerifyIn(t.Context(), d.View(t.Context()), other.Public().(ed25519.PublicKey)); err != nil || v.Whole || v.Findings[0].Damage != audit.Broken || v.Findings[0].Seal != 1 {
			t.Errorf("with another key: %+v %v", v, err)
		}
		forged := kept
		forged.Position++
		if v, err := c.Verify(t.Context(), forged); err != nil || v.Whole || v.Findings[0].Damage != audit.Broken {
			t.Errorf("a head that was changed: %+v %v", v, err)
		}
	})
}

// Every column is in the test above.
func TestU_EveryColumnIsTried(t *testing.T) {
	d := testkit.SQLite(t)
	tried := "id at action result actor actor_kind target reason address request_id detail session user_agent decision_id salt commitment; number first events sealed_at node hash signature; id number position hash sealed_at signature"
	var have []string
	for _, q := range []func(each func(db.Scan) error) error{
		func(each func(db.Scan) error) error {
			return d.View(t.Context()).Rows("SELECT name FROM pragma_table_info('sp_audit') ORDER BY cid", nil, each)
		},
		func(each func(db.Scan) error) error {
			return d.View(t.Context()).Rows("SELECT name FROM pragma_table_info('sp_audit_seals') ORDER BY cid", nil, each)
		},
		func(each func(db.Scan) error) error {
			return d.View(t.Context()).Rows("SELECT name FROM pragma_table_info('sp_audit_cuts') ORDER BY cid", nil, each)
		},
	} {
		var names []string
		if err := q(func(scan db.Scan) error {
			var name string
			err := scan(&name)
			names = append(names, name)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		have = append(have, strings.Join(names, " "))
	}
	if got := strings.Join(have, "; "); got != tried {
		t.Errorf("columns are\n%s\nand tried are\n%s: add them to the chain and to the test", got, tried)
	}
}

// Who cuts the log back and lets it go on is found by a head that was kept.
func TestU_AChainThatWasRewritten(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c := brief(t, d)
		appendEvents(t, d, 3, audit.Event{Action: "x.done"})
		sealed(t, c)
		early := head(t, c)
		appendEvents(t, d, 3, audit.Event{Action: "x.done"})
		sealed(t, c)
		kept := head(t, c)
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("DELETE FROM sp_audit_seals WHERE number = 2")
			if err == nil {
				_, err = tx.Exec("DELETE FROM sp_audit WHERE id NOT IN (SELECT id FROM sp_audit ORDER BY id LIMIT 3)")
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		appendEvents(t, d, 3, audit.Event{Action: "y.done"})
		sealed(t, c)
		whole(t, c, 6, early) // without the later head nothing shows
		v, err := c.Verify(t.Context(), early, kept)
		if err != nil || v.Whole || v.Findings[0].Damage != audit.Rewritten || v.Findings[0].Seal != 2 {
			t.Errorf("%+v %v", v, err)
		}
	})
}

// Many nodes record and seal at once; one chain comes of it, with each event once.
func TestManyNodesMakeOneChain(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var chains []*audit.Chain
		nodes := []*db.DB{d, testkit.Again(t, d), testkit.Again(t, d)}
		for _, n := range nodes {
			chains = append(chains, brief(t, n))
			chains[len(chains)-1].Run(false)
		}
		const each = 600
		done := make(chan error, 4*len(nodes))
		for range 4 {
			for _, n := range nodes {
				go func() {
					var err error
					for i := 0; i < each/4 && err == nil; i += 5 {
						err = n.Write(context.Background(), func(tx *db.Tx) error {
							for range 5 {
								if err := audit.Append(context.Background(), tx, audit.Event{Action: "x.done", Target: fmt.Sprint(i)}); err != nil {
									return err
								}
							}
							return nil
						})
					}
					done <- err
				}()
			}
		}
		verified := 0
		for range 4 * len(nodes) {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			v, err := chains[0].Verify(t.Context()) // while others write and seal
			if err != nil || !v.Whole {
				t.Fatalf("%+v %v", v, err)
			}
			verified++
		}
		for _, c := range chains {
			c.Close()
		}
		if v := whole(t, brief(t, d), int64(each*len(nodes))); v.Waiting != 0 || v.Head.Position != int64(each*len(nodes)) {
			t.Errorf("%+v", v)
		}
	})
}

// What a process could not seal any more, the next one does; and what was recorded
// before there was a chain.
func TestWhatWaitsIsSealedByTheNext(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		appendEvents(t, d, 2*audit.SealSize, audit.Event{Action: "x.done", Reason: "why"}) // nobody seals: a crash
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("UPDATE sp_audit SET salt = $1, commitment = $1", []byte{}) // an older release's
			return err
		}); err != nil {
			t.Fatal(err)
		}
		c := brief(t, d)
		c.Run(false)
		c.Close() // the first thing that it does
		v := whole(t, c, 2*audit.SealSize)
		if v.Seals != 2 || v.Waiting != 0 || v.Erased != 0 {
			t.Errorf("%+v", v)
		}
	})
}

// Somebody who puts into the list of what waits what is not there, or is sealed
// already, does not stop the sealer, and what is not there is found.
func TestU_TheListOfWhatWaits(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c := brief(t, d)
		appendEvents(t, d, 2, audit.Event{Action: "x.done"})
		sealed(t, c)
		all, err := audit.Latest(d.View(t.Context()), 2)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			for _, id := range []string{"", "~", "nonsense", strings.ToUpper(all[0].ID), "00000000-0000-7000-8000-000000000000", all[0].ID} {
				if _, err := tx.Exec("INSERT INTO sp_audit_waiting (id, more) VALUES ($1, '')", id); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		appendEvents(t, d, 1, audit.Event{Action: "y.done"})
		sealed(t, c)
		v, err := c.Verify(t.Context())
		if err != nil || v.Waiting != 0 || v.Whole || len(v.Findings) != 1 || v.Seals != 2 || v.Head.Position != 5 {
			t.Fatalf("%+v %v", v, err)
		}
		if f := v.Findings[0]; f.Damage != audit.Removed || f.ID != "00000000-0000-7000-8000-000000000000" {
			t.Errorf("%+v", f)
		}
	})
}

// A deletion of an account erases its events, and the log stays whole.
func TestErasureKeepsTheChain(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c := brief(t, d)
		ada := uuid.NewString()
		appendEvents(t, d, 3, audit.Event{Action: "x.done", Actor: ada, ActorKind: "user", Reason: "private", Detail: map[string]string{"k": "private"}})
		appendEvents(t, d, 3, audit.Event{Action: "x.done", Reason: "kept"})
		sealed(t, c)
		appendEvents(t, d, 2, audit.Event{Action: "x.done", Actor: ada, ActorKind: "user", Reason: "private"}) // not sealed yet
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			if err := audit.Append(t.Context(), tx, audit.Event{Action: "account.deleted", Actor: ada, ActorKind: "user", Target: ada}); err != nil {
				return err
			}
			return audit.Erase(tx, ada)
		}); err != nil {
			t.Fatal(err)
		}
		if v := whole(t, c, 6); v.Erased != 3 || v.Waiting != 3 { // the deletion itself waits
			t.Errorf("%+v", v)
		}
		sealed(t, c)
		if err := audit.EraseNext(t.Context(), d, func() time.Time { return time.Now().Add(time.Hour) }); err != nil {
			t.Fatal(err)
		}
		if v := whole(t, c, 9); v.Erased != 6 {
			t.Errorf("%+v", v)
		}
		all, err := audit.Latest(d.View(t.Context()), 20)
		if err != nil {
			t.Fatal(err)
		}
		if text := fmt.Sprintf("%+v", all); strings.Contains(text, "private") || strings.Count(text, "kept") != 3 {
			t.Error(text)
		}
	})
}

// U. SQLite keeps a value of any type in any column, where it reads the same and no
// filter finds it. Verifying does.
func TestU_AValueOfAnotherTypeIsFound(t *testing.T) {
	d := testkit.SQLite(t)
	c := brief(t, d)
	for range 3 {
		appendEvents(t, d, 3, audit.Event{Action: "x.done", Target: "somebody", Reason: "because"})
		sealed(t, c)
	}
	kept := head(t, c)
	whole(t, c, 9, kept)
	all, err := audit.Latest(d.View(t.Context()), 9)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(all)
	id := all[4].ID // position 5, in seal 2
	for _, tt := range []struct {
		column string
		do     func(tx *db.Tx) (int64, error)
		damage audit.Damage
	}{
		{"sp_audit.id", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit SET id = CAST(id AS BLOB) WHERE id = $1", id)
		}, audit.Removed},
		{"sp_audit.id (NULL)", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit SET id = NULL WHERE id = $1", id)
		}, audit.Removed},
		{"sp_audit.at", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit SET at = CAST(CAST(at AS TEXT) AS BLOB) WHERE id = $1", id)
		}, audit.Changed},
		{"sp_audit.action", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit SET action = CAST(CAST(action AS TEXT) AS BLOB) WHERE id = $1", id)
		}, audit.Changed},
		{"sp_audit.result", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit SET result = CAST(CAST(result AS TEXT) AS BLOB) WHERE id = $1", id)
		}, audit.Changed},
		{"sp_audit.actor", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit SET actor = CAST(CAST(actor AS TEXT) AS BLOB) WHERE id = $1", id)
		}, audit.Changed},
		{"sp_audit.actor_kind", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit SET actor_kind = CAST(CAST(actor_kind AS TEXT) AS BLOB) WHERE id = $1", id)
		}, audit.Changed},
		{"sp_audit.target", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit SET target = CAST(CAST(target AS TEXT) AS BLOB) WHERE id = $1", id)
		}, audit.Changed},
		{"sp_audit.reason", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit SET reason = CAST(CAST(reason AS TEXT) AS BLOB) WHERE id = $1", id)
		}, audit.Changed},
		{"sp_audit.session", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit SET session = CAST(CAST(session AS TEXT) AS BLOB) WHERE id = $1", id)
		}, audit.Changed},
		{"sp_audit.address", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit SET address = CAST(CAST(address AS TEXT) AS BLOB) WHERE id = $1", id)
		}, audit.Changed},
		{"sp_audit.user_agent", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit SET user_agent = CAST(CAST(user_agent AS TEXT) AS BLOB) WHERE id = $1", id)
		}, audit.Changed},
		{"sp_audit.request_id", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit SET request_id = CAST(CAST(request_id AS TEXT) AS BLOB) WHERE id = $1", id)
		}, audit.Changed},
		{"sp_audit.decision_id", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit SET decision_id = CAST(CAST(decision_id AS TEXT) AS BLOB) WHERE id = $1", id)
		}, audit.Changed},
		{"sp_audit.detail", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit SET detail = CAST(CAST(detail AS TEXT) AS BLOB) WHERE id = $1", id)
		}, audit.Changed},
		{"sp_audit.salt", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit SET salt = CAST(salt AS TEXT) WHERE id = $1", id)
		}, audit.Changed},
		{"sp_audit.commitment", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit SET commitment = CAST(commitment AS TEXT) WHERE id = $1", id)
		}, audit.Changed},
		{"sp_audit_seals.first", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit_seals SET first = CAST(CAST(first AS TEXT) AS BLOB) WHERE number = 2")
		}, audit.Broken},
		{"sp_audit_seals.sealed_at", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit_seals SET sealed_at = CAST(CAST(sealed_at AS TEXT) AS BLOB) WHERE number = 2")
		}, audit.Broken},
		{"sp_audit_seals.node", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit_seals SET node = CAST(CAST(node AS TEXT) AS BLOB) WHERE number = 2")
		}, audit.Broken},
		{"sp_audit_seals.number", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit_seals SET number = CAST('2' AS BLOB) WHERE number = 2")
		}, audit.Broken},
		{"sp_audit_seals.number (last)", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit_seals SET number = CAST('3' AS BLOB) WHERE number = 3")
		}, audit.Broken},
		{"sp_audit_seals.events", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit_seals SET events = CAST(events AS TEXT) WHERE number = 2")
		}, audit.Broken},
		{"sp_audit_seals.hash", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit_seals SET hash = CAST(hash AS TEXT) WHERE number = 2")
		}, audit.Broken},
		{"sp_audit_seals.signature", func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit_seals SET signature = CAST(signature AS TEXT) WHERE number = 2")
		}, audit.Broken},
	} {
		var v audit.Verdict
		err := d.Write(t.Context(), func(tx *db.Tx) (err error) {
			n, err := tt.do(tx)
			if err == nil && n != 1 {
				t.Errorf("%s: nothing was changed", tt.column)
			}
			if err == nil {
				v, err = audit.VerifyIn(t.Context(), tx, c.Key(), kept)
			}
			return cmp.Or(err, errUndo)
		})
		if !errors.Is(err, errUndo) {
			t.Errorf("%s: %v", tt.column, err)
		} else if v.Whole || v.Findings[0].Damage != tt.damage {
			t.Errorf("%s: %+v", tt.column, v.Findings)
		}
	}
	whole(t, c, 9, kept)

	// The cut, which retention makes, and more ids than are read at once.
	if _, err := c.Trim(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	appendEvents(t, d, 2100, audit.Event{Action: "x.done"})
	sealed(t, c)
	whole(t, c, 2101)
	for _, do := range []func(tx *db.Tx) (int64, error){
		func(tx *db.Tx) (int64, error) {
			return tx.Exec("UPDATE sp_audit_cuts SET sealed_at = CAST(CAST(sealed_at AS TEXT) AS BLOB)")
		},
		func(tx *db.Tx) (int64, error) { return tx.Exec("UPDATE sp_audit SET id = CAST(id AS BLOB)") },
	} {
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			if n, err := do(tx); err != nil || n == 0 {
				t.Error(n, err)
			}
			if v, err := audit.VerifyIn(t.Context(), tx, c.Key()); err != nil || v.Whole {
				t.Errorf("%+v %v", v, err)
			}
			return errUndo
		}); !errors.Is(err, errUndo) {
			t.Error(err)
		}
	}
}

// U. Nobody can empty events by making up that an account was deleted: not those of
// an operator, of an account that is there, or of nobody.
func TestU_ADeletionThatIsMadeUp(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c := brief(t, d)
		there := uuid.NewString()
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("INSERT INTO sp_subjects (id, kind, disabled, version, created_at) VALUES ($1, 'user', FALSE, 1, 1)", there)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		subjects := []string{"cli:root", there}
		for _, actor := range subjects {
			appendEvents(t, d, 1, audit.Event{Action: "x.done", Actor: actor, Reason: "private"})
		}
		appendEvents(t, d, 1, audit.Event{Action: "x.done", Target: "somebody", Reason: "private"})
		sealed(t, c)
		empty := func(id string) {
			t.Helper()
			if err := d.Write(t.Context(), func(tx *db.Tx) error {
				n, err := tx.Exec("UPDATE sp_audit SET reason = '', session = '', address = '', user_agent = '', request_id = '', decision_id = '', detail = '{}', salt = $2 WHERE actor = $1 AND action = 'x.done'", id, []byte{})
				if n == 0 {
					t.Error("nothing was changed")
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		for i, id := range subjects {
			appendEvents(t, d, 1, audit.Event{Action: "account.deleted", Target: id}) // the server seals what is put there
			sealed(t, c)
			whole(t, c, int64(4+i))
		}
		for i, id := range subjects {
			empty(id)
			v, err := c.Verify(t.Context())
			if err != nil || len(v.Findings) != i+1 || v.Findings[i].Damage != audit.Erased || v.Findings[i].Position != int64(i+1) {
				t.Errorf("%s: %+v %v", id, v, err)
			}
		}
	})
}

// U. Behind what retention has deleted an account's last events may be empty without
// a deletion. No event of that time lets the later ones be emptied.
func TestU_AnEmptyEventExcusesNoOther(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c := brief(t, d)
		appendEvents(t, d, 1, audit.Event{Action: "x.done"})
		sealed(t, c)
		if _, err := c.Trim(t.Context(), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		ada, blank := uuid.NewString(), []byte{}
		write := func(do func(tx *db.Tx) error) {
			t.Helper()
			if err := d.Write(t.Context(), do); err != nil {
				t.Fatal(err)
			}
		}
		appendEvents(t, d, 2, audit.Event{Action: "x.done", Actor: ada, Reason: "r"})
		write(func(tx *db.Tx) error { // one long ago, and one in an hour, before they are sealed
			if _, err := tx.Exec("UPDATE sp_audit SET at = at + $2 WHERE actor = $1", ada, time.Hour.Microseconds()); err != nil {
				return err
			}
			_, err := tx.Exec("UPDATE sp_audit SET at = 0, reason = '', detail = '{}', salt = $2 WHERE id = (SELECT MIN(id) FROM sp_audit WHERE actor = $1)", ada, blank)
			return err
		})
		sealed(t, brief(t, testkit.Again(t, d))) // by one that has not recorded them
		whole(t, c, 3)
		write(func(tx *db.Tx) error {
			_, err := tx.Exec("UPDATE sp_audit SET reason = '', detail = '{}', salt = $2 WHERE actor = $1", ada, blank)
			return err
		})
		if v, err := c.Verify(t.Context()); err != nil || len(v.Findings) != 1 || v.Findings[0].Damage != audit.Erased || v.Findings[0].At.Before(time.Now()) {
			t.Errorf("%+v %v", v, err)
		}
	})
}

// U. What a process has recorded it seals as it was recorded, whatever somebody does to
// the row before; and reads nothing for it. What others have recorded it reads.
func TestU_SealedAsItWasRecorded(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c := brief(t, d)
		write := func(do string) {
			t.Helper()
			if err := d.Write(t.Context(), func(tx *db.Tx) error {
				var err error
				switch do {
				case "change":
					_, err = tx.Exec("UPDATE sp_audit SET target = 'x' WHERE action = 'x.change'")
				case "remove":
					_, err = tx.Exec("DELETE FROM sp_audit WHERE action = 'x.remove'")
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		// Enough for the digests to be forgotten in between, and for the control.
		for range 3 {
			appendEvents(t, d, 3, audit.Event{Action: "x.done"})
			sealed(t, c)
		}
		sealed(t, c)
		sealed(t, c)
		whole(t, c, 9)
		appendEvents(t, d, 1, audit.Event{Action: "x.change"})
		appendEvents(t, d, 1, audit.Event{Action: "x.remove"})
		write("change")
		write("remove")
		sealed(t, c)
		v, err := c.Verify(t.Context())
		if err != nil || len(v.Findings) != 2 || v.Findings[0].Damage != audit.Changed || v.Findings[0].Position != 10 || v.Findings[1].Damage != audit.Removed || v.Findings[1].Position != 11 {
			t.Errorf("%+v %v", v, err)
		}
	})
}

// U. A server that has seen the chain does not seal on without a word behind one that
// was cut back and changed; what other nodes and retention do is nothing to tell.
func TestU_ASealerRemembersTheChain(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var logged testkit.Buffer
		c := audit.NewChain(audit.ChainConfig{DB: d, Seed: seed, Log: slog.New(slog.NewTextHandler(&logged, nil))})
		t.Cleanup(c.Close)
		other := brief(t, testkit.Again(t, d))
		more := func(x *audit.Chain) {
			t.Helper()
			appendEvents(t, d, 2, audit.Event{Action: "x.done", Reason: "r"})
			sealed(t, x)
		}
		trim := func() {
			t.Helper()
			if _, err := other.Trim(t.Context(), time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		more(c)
		more(c)
		more(other)
		more(c)
		trim()
		more(c)
		more(other)
		trim() // beyond what c has seen
		more(c)
		if text := logged.String(); text != "" {
			t.Error(text)
		}
		again := func(seals int) {
			t.Helper()
			if err := d.Write(t.Context(), func(tx *db.Tx) error {
				_, err := tx.Exec("DELETE FROM sp_audit_seals WHERE number > (SELECT MAX(number) FROM sp_audit_seals) - $1", seals)
				if err == nil {
					_, err = tx.Exec("UPDATE sp_audit SET target = target || 'x' WHERE action = 'x.done'")
				}
				if err == nil {
					_, err = tx.Exec("INSERT INTO sp_audit_waiting (id, more) SELECT id, '' FROM sp_audit WHERE 1 = 1 ON CONFLICT DO NOTHING")
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		for i, by := range []*audit.Chain{c, other} { // who seals anew
			more(c)
			more(c)
			again(1 + i) // so that with the other the chain is as long as c knew it
			sealed(t, by)
			more(other)
			more(c)
			if n := strings.Count(logged.String(), "level=ERROR"); n != i+1 {
				t.Errorf("told %d times: %s", n, logged.String())
			}
		}
	})
}
