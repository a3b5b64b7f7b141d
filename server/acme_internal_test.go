package server

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/acme/autocert"

	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/internal/testkit"
)

const testDirectory = "https://ca.example.test/dir"

func ring(t *testing.T, d *db.DB, m *seal.Master) *keyring.Ring {
	t.Helper()
	k, err := keyring.Open(t.Context(), keyring.Config{DB: d, Master: m, Grace: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestCertificateCache(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		d.Rerun()
		ctx, m, now := t.Context(), seal.Generate(), time.Now()
		var log bytes.Buffer
		keys := ring(t, d, m)
		c := certificateCache{keys, d, testDirectory, slog.New(slog.NewTextHandler(&log, nil)), func() time.Time { return now }, new(sync.Map)}
		want := func(c certificateCache, name, text string) {
			t.Helper()
			got, err := c.Get(ctx, name)
			if text == "" && err != autocert.ErrCacheMiss || text != "" && (err != nil || string(got) != text) {
				t.Errorf("%s: %q, %v; want %q", name, got, err, text)
			}
		}
		put := func(name, text string) {
			t.Helper()
			if err := c.Put(ctx, name, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		want(c, "a.example", "")
		put("a.example", "one")
		put("a.example", "two")
		put("b.example", "other")
		want(c, "a.example", "two")
		if err := c.Delete(ctx, "b.example"); err != nil {
			t.Fatal(err)
		}
		if err := c.Delete(ctx, "never.example"); err != nil {
			t.Fatal(err)
		}
		want(c, "b.example", "")

		// Another authority's are others, and a row cannot be passed off as another.
		elsewhere := c
		elsewhere.directory = "https://other.example.test/dir"
		want(elsewhere, "a.example", "")
		exec := func(f func(tx *db.Tx) error) {
			t.Helper()
			if err := d.Write(ctx, f); err != nil {
				t.Fatal(err)
			}
		}
		exec(func(tx *db.Tx) error {
			_, err := tx.Exec("INSERT INTO sp_certificates SELECT directory, $1, sealed, transient, updated_at FROM sp_certificates WHERE name = $2", "moved.example", "a.example")
			return err
		})
		want(c, "moved.example", "")

		// Challenges that a crash left go; certificates stay.
		put("token+http-01", "x")
		put("a.example+token", "x")
		put("c.example", "x")
		exec(func(tx *db.Tx) error {
			_, err := deleteChallenges(tx, now.Add(time.Second), 500)
			return err
		})
		want(c, "token+http-01", "")
		want(c, "a.example+token", "")
		want(c, "a.example", "two")

		// A new master key: sealed anew, and what cannot be goes.
		next := seal.Generate()
		if err := keys.Rewrap(ctx, next, resealCertificates); err != nil {
			t.Fatal(err)
		}
		want(c, "a.example", "two")
		want(c, "c.example", "x")
		if _, found, err := sealedCertificate(d.View(ctx), testDirectory, "moved.example"); found || err != nil {
			t.Errorf("what cannot be opened was kept (%v)", err)
		}
		sealed, _, err := sealedCertificate(d.View(ctx), testDirectory, "a.example")
		if err != nil {
			t.Fatal(err)
		}
		if text, err := next.Open(certificatePurpose(testDirectory, "a.example"), sealed); err != nil || string(text) != "two" {
			t.Errorf("under the new key: %q, %v", text, err)
		}

		// Sealed under a key that is lost: asked for anew, and said.
		log.Reset()
		exec(func(tx *db.Tx) error {
			return putCertificate(tx, testDirectory, "a.example", m.Seal(certificatePurpose(testDirectory, "a.example"), []byte("two")), false, now)
		})
		want(c, "a.example", "")
		if !strings.Contains(log.String(), "a new one is asked for") {
			t.Errorf("logged: %s", &log)
		}

		// But if the database was moved on to a key that this process has not, then
		// nothing is asked for or stored.
		third := seal.Generate()
		if err := ring(t, d, next).Rewrap(ctx, third, resealCertificates); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"c.example"} {
			if _, err := c.Get(ctx, name); !errors.Is(err, keyring.ErrMasterKey) {
				t.Errorf("%s with the old master key: %v", name, err)
			}
		}
		if err := c.Put(ctx, "token+http-01", []byte("x")); !errors.Is(err, keyring.ErrMasterKey) {
			t.Errorf("stored under the old master key: %v", err)
		}
		// A certificate is not let go of, and stored when it can be.
		put("d.example", "y")
		want(c, "d.example", "y")
		if _, found, err := sealedCertificate(d.View(ctx), testDirectory, "d.example"); found || err != nil {
			t.Errorf("stored under the old master key (%v)", err)
		}
		if c.storeAgain(ctx, "d.example"); !strings.Contains(log.String(), "could not be stored") {
			t.Errorf("logged: %s", &log)
		}
		c.keys = ring(t, d, third)
		want(c, "c.example", "x")
		c.storeAgain(ctx, "d.example")
		c.unstored = new(sync.Map) // another process
		want(c, "d.example", "y")

		// Without the database it is an error, and not a reason to order.
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := c.Get(gone, "c.example"); err == nil || errors.Is(err, autocert.ErrCacheMiss) {
			t.Errorf("without the database: %v", err)
		}
		if _, err := c.Get(gone, "token+http-01"); err != autocert.ErrCacheMiss {
			t.Errorf("a stranger is told: %v", err)
		}
	})
}

// A turn belongs to one node, until it gives it back or its time is over.
func TestTurns(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		now := time.Now()
		take := func(host, node string) (ours bool) {
			t.Helper()
			if err := d.Write(t.Context(), func(tx *db.Tx) (err error) {
				ours, err = takeTurn(tx, testDirectory, host, node, now, now.Add(turnLength))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return ours
		}
		end := func(host, node string) {
			t.Helper()
			if err := d.Write(t.Context(), func(tx *db.Tx) error { return endTurn(tx, testDirectory, host, node) }); err != nil {
				t.Fatal(err)
			}
		}
		if !take("a", "one") || take("a", "two") || !take("a", "one") || !take("b", "two") {
			t.Error("a turn is not one node's")
		}
		end("a", "two")
		if take("a", "two") {
			t.Error("another node ended the turn")
		}
		end("a", "one")
		if !take("a", "two") {
			t.Error("a turn that was given back is not free")
		}
		now = now.Add(turnLength - time.Microsecond)
		if take("a", "one") {
			t.Error("a turn was taken before its time was over")
		}
		now = now.Add(time.Microsecond)
		if !take("a", "one") {
			t.Error("a turn whose time is over is not free")
		}

		// A failure holds everybody off, and is counted until there is a certificate.
		attempts := func(want int64) {
			t.Helper()
			if o, err := orderOf(d.View(t.Context()), testDirectory, "a"); err != nil || o.attempts != want {
				t.Errorf("%d attempts (%v), want %d", o.attempts, err, want)
			}
		}
		if attempts(2); !take("a", "one") {
			t.Error("a turn is not kept")
		}
		attempts(2)
		fail := func(node string) {
			t.Helper()
			if err := d.Write(t.Context(), func(tx *db.Tx) error {
				return failTurn(tx, testDirectory, "a", node, now.Add(retryAfter(2)))
			}); err != nil {
				t.Fatal(err)
			}
		}
		if fail("two"); !take("a", "one") {
			t.Error("another node made the turn fail")
		}
		if fail("one"); take("a", "one") || take("a", "two") {
			t.Error("after a failure somebody asks at once")
		}
		now = now.Add(retryAfter(2))
		if !take("a", "one") {
			t.Error("after a failure nobody asks again")
		}
		attempts(3)
		end("a", "one")
		attempts(0)
	})
}

func TestRetryAfter(t *testing.T) {
	for attempts, want := range []time.Duration{firstRetry, firstRetry, 260 * time.Second, lastRetry, lastRetry} {
		if got := retryAfter(int64(attempts)); got != want {
			t.Errorf("after %d attempts: %v, want %v", attempts, got, want)
		}
	}
	if got := retryAfter(1 << 40); got != lastRetry {
		t.Errorf("after very many: %v", got)
	}
}

func TestComplaints(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		want   string
	}{
		{200, `{"status":"valid","challenges":[{"type":"http-01","status":"valid"}]}`, ""},
		{200, `{"status":"pending","challenges":[{"type":"http-01","status":"pending"}]}`, ""},
		{200, `{"newNonce":"x","meta":{"termsOfService":"y"}}`, ""},
		{400, `{"type":"urn:ietf:params:acme:error:badNonce","detail":"try again"}`, ""},
		{429, `{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many"}`, "[{ urn:ietf:params:acme:error:rateLimited too many}]"},
		{200, `{"status":"invalid","challenges":[{"type":"tls-alpn-01","status":"invalid","error":{"type":"urn:ietf:params:acme:error:connection","detail":"refused"}},{"type":"http-01","status":"pending"}]}`, "[{tls-alpn-01 urn:ietf:params:acme:error:connection refused}]"},
		{500, `<html>`, ""},
		{200, `[1]`, ""},
	} {
		got := complaints(tt.status, []byte(tt.body))
		if text := fmt.Sprint(got); len(got) > 0 && text != tt.want || (len(got) == 0) != (tt.want == "") {
			t.Errorf("%d %s: %s, want %q", tt.status, tt.body, text, tt.want)
		}
	}
}

func FuzzComplaints(f *testing.F) {
	f.Add(400, []byte(`{"type":"x","detail":"y","challenges":[{"type":"a","status":"invalid","error":{"detail":"z"}}]}`))
	f.Add(200, []byte(`{"challenges":null}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if n := len(complaints(status, body)); n > len(body)+1 {
			t.Errorf("%d complaints in %d bytes", n, len(body))
		}
	})
}

func FuzzChallengeToken(f *testing.F) {
	for _, s := range []string{"", "abc", "a/b", "..", "a+b", "a%2fb", "é", strings.Repeat("a", 129)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if isChallengeToken(s) && (filepath.Base(s) != s || strings.ContainsAny(s, "+./\\ %") || len(s) > 128) {
			t.Errorf("%q passes for a token", s)
		}
	})
}

func TestLate(t *testing.T) {
	day := 24 * time.Hour
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct{ life, before, want time.Duration }{ // want: before the end
		{90 * day, 0, 20 * day}, {365 * day, 0, 20 * day}, {6 * day, 0, 32 * time.Hour}, {90 * day, 3 * day, 2 * day},
	} {
		leaf := &x509.Certificate{NotBefore: begin, NotAfter: begin.Add(tt.life)}
		if got := leaf.NotAfter.Sub(late(leaf, tt.before)); got != tt.want {
			t.Errorf("%v, renewed %v before: late %v before its end, want %v", tt.life, tt.before, got, tt.want)
		}
	}
}
