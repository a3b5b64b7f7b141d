package audit_test

import (
	"crypto/sha256"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/signin"
)

// cpu is the processor time of this process so far.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}

// What the chain adds to refreshes and sign-ins: slices of work with it and without
// it in turns, each with its events sealed at its end. “wall” and “cpu” are the
// median of the turns, with over without.
//
// Must not get worse: 1.10.
func BenchmarkChained(b *testing.B) {
	for _, c := range []struct {
		name  string
		open  func(b *testing.B) *db.DB
		hash  password.Config
		slice int // how many
		users int // at once
		work  func(b *testing.B, sv *server.Server, h http.Handler, ada signin.Attempt) func()
	}{
		{"refresh/sqlite", func(b *testing.B) *db.DB { return testkit.SQLite(b) }, password.Config{Memory: 64, Time: 1, Threads: 1, DangerouslyWeak: true}, 3000, 64, refreshes},
		{"refresh/postgres", func(b *testing.B) *db.DB { return testkit.Postgres(b) }, password.Config{Memory: 64, Time: 1, Threads: 1, DangerouslyWeak: true}, 3000, 64, refreshes},
		{"signin/sqlite", func(b *testing.B) *db.DB { return testkit.SQLite(b) }, password.Config{}, 60, 2, signIns},
	} {
		b.Run(c.name, func(b *testing.B) {
			sv, err := server.New(b.Context(), server.Config{
				DB: c.open(b), BaseURL: "http://sallyport.test", MasterKeyFile: filepath.Join(b.TempDir(), "master.key"), Password: c.hash,
				Hosts: []string{"example.com"}, Limits: server.Limits{Default: server.LimitOff, Login: server.LimitOff}, NoLockout: true,
			})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(sv.Close)
			name := "ada"
			if _, err := sv.Accounts.Register(b.Context(), account.NewUser{Username: &name, Email: "ada@example.com", Password: "violet-anchor-97-marmalade"}); err != nil {
				b.Fatal(err)
			}
			defer audit.Unchained(false)
			op := c.work(b, sv, sv.Guard(sv.Routes()), signin.Attempt{Login: name, Password: "violet-anchor-97-marmalade", Client: session.FirstParty})
			var wall, used []float64
			b.ResetTimer()
			for range b.N {
				var took, burnt [2]float64
				for i, unchained := range []bool{true, false} {
					audit.Unchained(unchained)
					began, before := time.Now(), cpu()
					var left atomic.Int64
					left.Store(int64(c.slice))
					var all sync.WaitGroup
					for range c.users {
						all.Go(func() {
							for left.Add(-1) >= 0 {
								op()
							}
						})
					}
					all.Wait()
					if err := sv.Chain.Seal(b.Context()); err != nil {
						b.Fatal(err)
					}
					took[i], burnt[i] = time.Since(began).Seconds(), (cpu() - before).Seconds()
				}
				wall, used = append(wall, took[1]/took[0]), append(used, burnt[1]/burnt[0])
			}
			b.ReportMetric(median(wall), "wall")
			b.ReportMetric(median(used), "cpu")
		})
	}
}

func refreshes(b *testing.B, sv *server.Server, h http.Handler, ada signin.Attempt) func() {
	tokens := make(chan string, 64)
	for range cap(tokens) {
		tk, err := sv.SignIn.Password(b.Context(), ada)
		if err != nil {
			b.Fatal(err)
		}
		tokens <- tk.Refresh
	}
	return func() {
		r := httptest.NewRequestWithContext(b.Context(), "POST", "/token/refresh", strings.NewReader(`{"refresh_token":"`+<-tokens+`"}`))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		_, rest, _ := strings.Cut(w.Body.String(), `"refresh_token":"`)
		next, _, _ := strings.Cut(rest, `"`)
		tokens <- next
		if w.Code != 200 {
			b.Errorf("status %d: %s", w.Code, w.Body)
		}
	}
}

func signIns(b *testing.B, sv *server.Server, _ http.Handler, ada signin.Attempt) func() {
	return func() {
		if _, err := sv.SignIn.Password(b.Context(), ada); err != nil {
			b.Error(err)
		}
	}
}

// Verifying a log, beside a bare reading of the same columns that hashes the same
// bytes: “of-scan” is the share of its rate.
//
// Must not get worse: 0.3, and the same for ten times as many events (linear).
func BenchmarkVerify(b *testing.B) {
	for name, n := range map[string]int{"20000": 20_000, "200000": 200_000} {
		b.Run(name, func(b *testing.B) {
			d := testkit.SQLite(b)
			appendEvents(b, d, n, audit.Event{Action: "session.refreshed", Target: "01a203c0-c6fe-73d0-986f-f6c1c3719e72", Reason: "because", Detail: map[string]string{"client": "first-party"}})
			c := audit.NewChain(audit.ChainConfig{DB: d, Seed: seed, Log: slog.New(slog.DiscardHandler)})
			sealed(b, c)
			var ratios []float64
			b.ResetTimer()
			for range b.N {
				began := time.Now()
				if err := audit.BareScan(b.Context(), d, sha256.New()); err != nil {
					b.Fatal(err)
				}
				bare := time.Since(began)
				began = time.Now()
				whole(b, c, int64(n))
				ratios = append(ratios, bare.Seconds()/time.Since(began).Seconds())
			}
			b.ReportMetric(median(ratios), "of-scan")
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/float64(n)*1e6, "µs/event")
		})
	}
}
