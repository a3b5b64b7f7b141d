package audit_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// exported returns a sealed export.
func exported(t testing.TB, c *audit.Chain, since time.Time, events int64) string {
	t.Helper()
	var b bytes.Buffer
	n, err := c.Export(t.Context(), since, &b)
	if err != nil || n != events {
		t.Fatalf("%d events, want %d: %v", n, events, err)
	}
	return b.String()
}

func verdict(t testing.TB, file string, key ed25519.PublicKey, kept ...audit.Head) audit.Verdict {
	t.Helper()
	v, err := audit.VerifyExport(strings.NewReader(file), key, kept...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A sealed export is verified with the public key alone, and says as much as the
// database: whatever the texts in it are, and from whenever on.
func TestSealedExport(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c := brief(t, d)
		if text := exported(t, c, time.Time{}, 0); text != "" {
			t.Errorf("an empty log: %q", text)
		}
		if _, err := audit.VerifyExport(strings.NewReader(""), c.Key()); !errors.Is(err, audit.ErrNotSealed) {
			t.Errorf("an empty file: %v", err)
		}
		appendEvents(t, d, 3, audit.Event{Action: "x.done", Target: "\x1b[31m\u202e<evil>&\nline", Reason: "because", Detail: map[string]string{"k": "\u2028v", "a": "\t"}})
		sealed(t, c)
		first := head(t, c)
		between := time.Now()
		appendEvents(t, d, 2, audit.Event{Action: "x.denied", Result: audit.Denied, Actor: uuid.NewString(), DecisionID: "d"})
		sealed(t, c)
		appendEvents(t, d, 1, audit.Event{Action: "x.waits"})

		file := exported(t, c, time.Time{}, 5)
		v := verdict(t, file, c.Key(), first, head(t, c))
		if !v.Whole || v.Events != 5 || v.Seals != 2 || v.Cut != 0 || v.Head == nil || fmt.Sprint(*v.Head) != fmt.Sprint(head(t, c)) {
			t.Errorf("%+v", v)
		}
		if strings.ContainsAny(file, "\x1b\u202e\u2028") {
			t.Error("what could move a cursor or turn text around is not escaped")
		}
		// Each line of an event is one for readers of a plain export, too.
		got, heads := targets(t, []byte(withoutSeals(file)))
		if len(got) != 5 || heads != 1 || !strings.Contains(got[0], "<evil>") {
			t.Errorf("%q, %d heads", got, heads)
		}
		later := exported(t, c, between, 2)
		if v := verdict(t, later, c.Key(), first, head(t, c)); !v.Whole || v.Events != 2 || v.Cut != 3 {
			t.Errorf("%+v", v)
		}
		if text := exported(t, c, time.Now().Add(time.Hour), 0); text != "" {
			t.Errorf("from later on: %q", text)
		}
	})
}

// What retention deletes meanwhile is no hole in a file that verifies: the export fails,
// or begins behind it.
func TestSealedExportBesideRetention(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c := brief(t, d)
		for range 3 {
			appendEvents(t, d, 2, audit.Event{Action: "x.done"})
			sealed(t, c)
		}
		n, err := c.Export(t.Context(), time.Time{}, writer(func(b []byte) (int, error) {
			_, err := c.Trim(t.Context(), time.Now().Add(time.Hour))
			return len(b), err
		}))
		if err == nil || !strings.Contains(err.Error(), "Export again") || n != 2 {
			t.Errorf("%d events, %v", n, err)
		}
		appendEvents(t, d, 2, audit.Event{Action: "x.done"})
		sealed(t, c)
		var b bytes.Buffer
		if n, err = c.Export(t.Context(), time.Time{}, &b); err != nil || n == 0 {
			t.Fatal(n, err)
		}
		if v := verdict(t, b.String(), c.Key(), head(t, c)); !v.Whole || v.Cut < 4 || v.Events != n {
			t.Errorf("%+v", v)
		}
	})
}

type writer func(b []byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

func withoutSeals(file string) string {
	var out strings.Builder
	for line := range strings.Lines(file) {
		if !strings.Contains(line, "audit_seal/v1") {
			out.WriteString(line)
		}
	}
	return out.String()
}

// What is erased stays verifiable; what is empty without a deletion does not.
func TestSealedExportOfErasedEvents(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c := brief(t, d)
		ada := uuid.NewString()
		appendEvents(t, d, 3, audit.Event{Action: "x.done", Actor: ada, ActorKind: "user", Reason: "private"})
		sealed(t, c)
		before := exported(t, c, time.Time{}, 3)
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			if err := audit.Append(t.Context(), tx, audit.Event{Action: "account.deleted", Actor: ada, ActorKind: "user", Target: ada}); err != nil {
				return err
			}
			return audit.Erase(tx, ada)
		}); err != nil {
			t.Fatal(err)
		}
		// The deletion waits, and has to be in the file that shows what it erased.
		file := exported(t, c, time.Time{}, 4)
		if v := verdict(t, file, c.Key()); !v.Whole || v.Erased != 4 || strings.Contains(file, "private") {
			t.Errorf("%+v", v)
		}
		if v := verdict(t, before, c.Key()); !v.Whole || v.Erased != 0 || !strings.Contains(before, "private") {
			t.Errorf("%+v", v)
		}
		bob := uuid.NewString()
		appendEvents(t, d, 1, audit.Event{Action: "x.done", Actor: bob, ActorKind: "user", Reason: "private"})
		sealed(t, c)
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("UPDATE sp_audit SET reason = '', session = '', address = '', user_agent = '', request_id = '', decision_id = '', detail = '{}', salt = $2 WHERE actor = $1", bob, []byte{})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		v := verdict(t, exported(t, c, time.Time{}, 5), c.Key())
		if len(v.Findings) != 1 || v.Findings[0].Damage != audit.Erased || v.Findings[0].Position != 5 {
			t.Errorf("%+v", v)
		}
	})
}

// U. Whatever somebody does to the file who has not the server's key is found, and the
// first line that it was done to is named.
func TestU_WhateverIsChangedInAnExportIsFound(t *testing.T) {
	t.Parallel()
	d := testkit.SQLite(t)
	c := brief(t, d)
	var old audit.Head
	for i := range 3 {
		appendEvents(t, d, 4, audit.Event{Action: "x.done", Target: "somebody", Reason: "because", Detail: map[string]string{"k": "v"}})
		sealed(t, c)
		if i == 1 {
			old = head(t, c)
		}
	}
	kept := head(t, c)
	file := exported(t, c, time.Time{}, 12)
	lines := slices.Collect(strings.Lines(file)) // a seal and four events, three times, and a head
	if v := verdict(t, file, c.Key(), old, kept); !v.Whole || v.Events != 12 || len(lines) != 16 {
		t.Fatalf("%d lines: %+v", len(lines), v)
	}
	join := func(of ...[]string) string { return strings.Join(slices.Concat(of...), "") }
	edit := func(n int, old, new string) string {
		t.Helper()
		if !strings.Contains(lines[n-1], old) {
			t.Fatalf("line %d has no %s: %s", n, old, lines[n-1])
		}
		return join(lines[:n-1], []string{strings.Replace(lines[n-1], old, new, 1)}, lines[n:])
	}
	salt := func(n int) string {
		var e struct{ Salt string }
		if err := json.Unmarshal([]byte(lines[n-1]), &e); err != nil || e.Salt == "" {
			t.Fatal(err)
		}
		return `"salt":"` + e.Salt + `"`
	}
	var headOf1 audit.Head // which anybody can make of the line of a seal
	var seal1 struct {
		Number, First   int64
		SealedAt        time.Time `json:"sealed_at"`
		Hash, Signature []byte
		Key             []byte `json:"public_key"`
		Events          []byte
	}
	if err := json.Unmarshal([]byte(lines[0]), &seal1); err != nil {
		t.Fatal(err)
	}
	headOf1 = audit.Head{Number: 1, Position: 4, SealedAt: seal1.SealedAt, Hash: seal1.Hash, Key: seal1.Key, Signature: seal1.Signature}
	end, err := json.Marshal(struct {
		Schema string `json:"schema"`
		audit.Head
	}{"sallyport.audit_head/v1", headOf1})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, file string
		damage     audit.Damage
		position   int64
		says       string
	}{
		{"a text", edit(8, `"somebody"`, `"anybody"`), audit.Changed, 6, "line 8"},
		{"the time", edit(8, `"at":"20`, `"at":"19`), audit.Changed, 6, "line 8"},
		{"a column that can be erased", edit(8, `"because"`, `"forgiven"`), audit.Changed, 6, "or their salt"},
		{"the detail", edit(8, `"v"`, `"w"`), audit.Changed, 6, "or their salt"},
		{"the salt of another", edit(8, salt(8), salt(9)), audit.Changed, 6, "or their salt"},
		{"a member twice", edit(8, `"action":`, `"action":"y.done","action":`), audit.Changed, 6, "as the program writes it"},
		{"a member by another case", edit(8, `"action":`, `"Action":`), audit.Changed, 6, "as the program writes it"},
		{"a member more", edit(8, `{"schema"`, `{"note":"approved","schema"`), audit.Changed, 6, "as the program writes it"},
		{"bytes beside what they say", edit(8, `"commitment"`, `"bytes":{"target":"c29tZWJvZHk="},"commitment"`), audit.Changed, 6, "as the program writes it"},
		{"bytes in place of what they say", edit(8, `"target":"somebody"`, `"target":"anybody","bytes":{"target":"c29tZWJvZHk="}`), audit.Changed, 6, "as the program writes it"},
		{"a line removed", join(lines[:7], lines[8:]), audit.Removed, 6, "not in the file"},
		{"the last line of a seal removed", join(lines[:9], lines[10:]), audit.Removed, 8, "not in the file"},
		{"a line twice", join(lines[:8], lines[7:]), audit.Inserted, 0, "line 9"},
		{"a line moved to another seal", join(lines[:7], lines[8:12], lines[7:8], lines[12:]), audit.Removed, 6, "not in the file"},
		{"two lines exchanged", join(lines[:7], lines[8:9], lines[7:8], lines[9:]), audit.Removed, 6, "not in the file"},
		{"a line of something else", join(lines[:7], []string{`{"schema":"x"}` + "\n"}, lines[7:]), audit.Inserted, 6, "line 8"},
		{"a line that is empty", join(lines[:7], []string{"\n"}, lines[7:]), audit.Changed, 6, "line 8"},
		{"a seal removed, with its events", join(lines[:5], lines[10:]), audit.Removed, 5, "seals 2 to 2"},
		{"two seals exchanged", join(lines[:5], lines[10:15], lines[5:10], lines[15:]), audit.Removed, 5, "seals 2 to 2"},
		{"a seal twice", join(lines[:10], lines[5:]), audit.Broken, 5, "it came before"},
		{"the node of a seal", edit(6, `"node":"`, `"node":"x`), audit.Broken, 5, "not what was signed"},
		{"the time of a seal", edit(6, `"sealed_at":"20`, `"sealed_at":"19`), audit.Broken, 5, "not what was signed"},
		{"the place of a seal", edit(6, `"first":5`, `"first":6`), audit.Broken, 6, "not what was signed"},
		{"cut off behind a seal", join(lines[:10]), audit.Truncated, 8, "no last line"},
		{"cut off within a line", file[:len(file)-len(lines[15])-20], audit.Changed, 12, "not JSON"},
		{"cut off before the last end of a line", strings.TrimSuffix(file, "\n"), audit.Changed, 13, "not that of the last seal"},
		{"cut off, with a head that fits", join(lines[:5]) + string(end) + "\n", audit.Truncated, 8, "ends at position 4"},
		{"more behind the head", file + lines[14], audit.Inserted, 13, "behind the head"},
		{"an event before the first seal", lines[1] + file, audit.Inserted, 0, "before the first seal"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := verdict(t, tt.file, c.Key(), old)
			if v.Whole || len(v.Findings) == 0 {
				t.Fatalf("not found: %+v", v)
			}
			if !slices.ContainsFunc(v.Findings, func(f audit.Finding) bool {
				return f.Damage == tt.damage && f.Position == tt.position && strings.Contains(f.What, tt.says)
			}) {
				t.Errorf("%+v, want %s at %d: %s", v.Findings, tt.damage, tt.position, tt.says)
			}
		})
	}

	// Any byte of a file with one seal.
	another := testkit.SQLite(t)
	small := brief(t, another)
	appendEvents(t, another, 2, audit.Event{Action: "x.done", Target: "somebody", Reason: "because", Detail: map[string]string{"k": "v"}})
	sealed(t, small)
	short := exported(t, small, time.Time{}, 2)
	for i := range short {
		b := []byte(short)
		b[i] ^= 1
		if v, err := audit.VerifyExport(bytes.NewReader(b), c.Key()); err == nil && v.Whole {
			t.Fatalf("byte %d: …%s… for …%s… is not found", i, b[max(0, i-20):min(len(b), i+20)], short[max(0, i-20):min(len(b), i+20)])
		}
	}

	// Another key, another's log, and heads of it.
	other := audit.NewChain(audit.ChainConfig{DB: testkit.SQLite(t), Seed: bytes.Repeat([]byte{8}, ed25519.SeedSize)})
	t.Cleanup(other.Close)
	if v := verdict(t, file, other.Key()); v.Whole || v.Findings[0].Damage != audit.Broken {
		t.Errorf("another key: %+v", v)
	}
	strange := kept
	strange.Hash = bytes.Repeat([]byte{1}, 32)
	if v := verdict(t, file, c.Key(), strange); v.Whole || !strings.Contains(v.Findings[0].What, "not signed with this key") {
		t.Errorf("a head that was changed: %+v", v)
	}

	// What was changed in the database before it was exported shows in the file.
	if err := d.Write(t.Context(), func(tx *db.Tx) error {
		if _, err := tx.Exec("UPDATE sp_audit SET reason = 'forgiven', detail = '{\"k\": \"v\"}', target = CAST(X'FF6E6F' AS TEXT), at = 300000000000000000 WHERE id = (SELECT id FROM sp_audit ORDER BY id LIMIT 1 OFFSET 5)"); err != nil {
			return err
		}
		_, err := tx.Exec("DELETE FROM sp_audit WHERE id = (SELECT id FROM sp_audit ORDER BY id LIMIT 1 OFFSET 8)")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	// A time that JSON cannot say stops nobody from reading the rest.
	all, err := audit.Latest(d.View(t.Context()), 20)
	if err != nil || len(all) != 11 || !json.Valid(audit.Line(all[0])) || !bytes.Contains(audit.Line(all[0]), []byte(`"at":"9999-`)) {
		t.Errorf("%d events, %v: %+v", len(all), err, all[0])
	}
	if v, err := c.Verify(t.Context()); err != nil {
		t.Error(err)
	} else if _, err := json.Marshal(v); err != nil || len(v.Findings) != 2 {
		t.Errorf("%+v: %v", v.Findings, err)
	}
	v := verdict(t, exported(t, c, time.Time{}, 11), c.Key(), kept)
	if len(v.Findings) != 2 || v.Findings[0].Damage != audit.Changed || v.Findings[0].Position != 6 || v.Findings[1].Damage != audit.Removed || v.Findings[1].Position != 9 {
		t.Errorf("%+v", v.Findings)
	}
}
