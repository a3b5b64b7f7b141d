package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/testkit"
)

// TestChaos is the short form of make chaos.
func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	if lacks := missing(); lacks != nil {
		testkit.Missing(t, "not here: %v", lacks)
	}
	if os.Getenv(testkit.PostgresEnv) == "" { // without it, PostgreSQL may not be here
		testkit.Missing(t, "%s is not set: run scripts/postgres, or make test", testkit.PostgresEnv)
	}
	t.Parallel()
	o := short
	o.say = t.Logf
	outcomes, err := o.run()
	if err != nil {
		t.Fatal(err)
	}
	var all counts
	for _, got := range outcomes {
		all.add(got.counts)
		if got.bad() {
			t.Errorf("%s, %s: %d lost, %d resurrected, %d wrong:\n%s", got.what, got.database, got.lost, got.resurrected, got.wrong, strings.Join(got.failures, "\n"))
		}
		// Without these there was nothing to lose, or nothing happened to it.
		if got.acknowledged < 50 || got.endings == 0 || got.faults == 0 && !strings.Contains(got.what, "alone") {
			t.Errorf("%s, %s: that is no test: %+v", got.what, got.database, got.counts)
		}
	}
	if all.unknown == 0 {
		t.Error("no request failed in all of it: there were no faults")
	}
}

// TestLedgerFinds shows that each kind of failure is found, in a service that has
// only that one; and that none is in one which has none.
func TestLedgerFinds(t *testing.T) {
	t.Parallel()
	now := time.Now()
	const (
		honest     = ""
		ofSession  = "a session"
		ended      = "an ending"
		role       = "a role taken"
		ofPassword = "a password"
		successor  = "a successor"
		crash      = "how to fail"
	)
	for _, what := range []string{honest, ofSession, ended, role, ofPassword, successor, crash} {
		t.Run("forgets "+what, func(t *testing.T) {
			t.Parallel()
			var refreshes atomic.Int64
			var crashed atomic.Bool
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				status, body := http.StatusOK, `{}`
				_ = r.ParseForm()
				switch {
				case r.URL.Path == "/users":
					if what != role {
						status = http.StatusForbidden
					}
				case r.PostForm.Get("grant_type") == "refresh_token":
					if refreshes.Add(1) == 1 || what != successor {
						body = `{"access_token": "a", "refresh_token": "b"}`
					} else {
						body = `{"access_token": "a", "refresh_token": "c"}`
					}
				case r.PostForm.Get("grant_type") == "password":
					if what == ofPassword {
						status = http.StatusUnauthorized
					}
				case r.Header.Get("Authorization") == "Bearer ended":
					if what != ended {
						status = http.StatusUnauthorized
					}
				case r.Header.Get("Authorization") == "Bearer live":
					switch what {
					case ofSession:
						status = http.StatusUnauthorized
					case crash:
						if !crashed.Swap(true) { // it is asked again
							status = http.StatusInternalServerError
						}
					}
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(status)
				_, _ = w.Write([]byte(body))
			}))
			defer srv.Close()
			n := &node{name: "liar", base: srv.URL}
			s := &service{nodes: []*node{n}, lease: time.Second}
			l := &ledger{
				accounts: []*account{{id: "1", name: "ada", password: "x", sessions: []*session{{"live", "r"}}}},
				ended:    []ending{{"a session of bob", me("ended"), now, n}},
			}
			s.audit(l, true)
			want := counts{}
			switch what {
			case ofSession, ofPassword, successor:
				want.lost = 1
			case ended, role:
				want.resurrected = 1
			case crash:
				want.wrong = 1
			}
			if got := l.counts; got.lost != want.lost || got.resurrected != want.resurrected || got.wrong != want.wrong {
				t.Errorf("%d lost, %d resurrected, %d wrong; want %d, %d, %d\n%s", got.lost, got.resurrected, got.wrong, want.lost, want.resurrected, want.wrong, strings.Join(l.failures, "\n"))
			}
		})
	}
}

// TestJudgeKnowsTheLease: another node may be late by the lease, the same one not.
func TestJudgeKnowsTheLease(t *testing.T) {
	here, there := &node{name: "here"}, &node{name: "there"}
	s := &service{lease: time.Second}
	at := time.Now()
	for _, tt := range []struct {
		name        string
		by          *node
		after       time.Duration
		status      int
		resurrected int
		wrong       int
	}{
		{"the same node", here, time.Millisecond, 200, 1, 0},
		{"another, within the lease", there, 900 * time.Millisecond, 200, 0, 0},
		{"another, after it", there, 1100 * time.Millisecond, 200, 1, 0},
		{"refused", here, time.Millisecond, 401, 0, 0},
		{"nobody can tell", here, time.Millisecond, 503, 0, 0},
		{"something else", here, time.Millisecond, 404, 0, 1},
	} {
		l := &ledger{}
		s.judge(l, ending{"a session", me("x"), at, tt.by}, answer{at: here, sent: at.Add(tt.after), status: tt.status})
		if l.counts.resurrected != tt.resurrected || l.counts.wrong != tt.wrong {
			t.Errorf("%s: %+v", tt.name, l.counts)
		}
	}
}

func TestReport(t *testing.T) {
	var b strings.Builder
	report(&b, []outcome{{what: "kill", database: "SQLite", counts: counts{faults: 3, operations: 10, acknowledged: 8, unknown: 2, slowest: 1234 * time.Millisecond}}})
	if want := "| kill | SQLite | 3 | 10 | 8 | 2 | 0 | 0 | 0 | 0 | 1.23 s |\n"; !strings.Contains(b.String(), want) {
		t.Errorf("want the line %q in\n%s", want, &b)
	}
	for _, o := range []outcome{{counts: counts{lost: 1}}, {counts: counts{resurrected: 1}}, {counts: counts{wrong: 1}}} {
		if !o.bad() {
			t.Errorf("%+v passes", o.counts)
		}
	}
	if (outcome{counts: counts{operations: 10, unknown: 10}}).bad() {
		t.Error("what is not known is held against the service")
	}
}

func TestEnvironment(t *testing.T) {
	set := func(values map[string]string) (options, error) {
		o := long
		err := o.environment(func(name string) string { return values[name] })
		return o, err
	}
	if o, err := set(map[string]string{"CHAOS_KILLS": "200", "CHAOS_SOAK": "10m"}); err != nil || o.kills != 200 || o.soaks != 10*time.Minute {
		t.Errorf("%+v, %v", o, err)
	}
	for name, value := range map[string]string{"CHAOS_KILLS": "many", "CHAOS_SOAK": "10"} {
		if _, err := set(map[string]string{name: value}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s = %q: %v", name, value, err)
		}
	}
	o := options{only: []string{"nothing"}}
	if _, err := o.run(); err == nil || !strings.Contains(err.Error(), "rolling") {
		t.Errorf("a scenario that is not there: %v", err)
	}
}
