package remote_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/remote"
	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/internal/testkit"
)

// eventually waits for what happens in the background.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 1000 {
		if f() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal(what + " did not happen")
}

func (is *issuer) fetched(what string, want int64) {
	is.t.Helper()
	if n := is.fetches.Load(); n != want {
		is.t.Errorf("%s: %d fetches, want %d", what, n, want)
	}
}

func down(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }

func TestKeysAreFetchedWhenTheyAreNeeded(t *testing.T) {
	is := newIssuer(t)
	v := is.verifier(nil)
	is.fetched("at New", 0)
	call(t, v, sallyport.Public(), "/").want(t, "nobody", 200, "[  ]")
	for _, nonsense := range []string{"", "x", "a.b.c", strings.Repeat("a", 9000), "at_x", "eyJhbGciOiJub25lIn0.e30."} {
		get(t, v, sallyport.SignedIn(), nonsense).want(t, "nonsense", 401, "invalid_token")
	}
	is.fetched("by what is no token", 0)
	get(t, v, sallyport.SignedIn(), is.issue(nil)).want(t, "a token", 200, letIn)
	is.fetched("by the first token", 1)
	get(t, v, sallyport.SignedIn(), is.issue(nil)).want(t, "another", 200, letIn)
	is.clock.forth(4 * time.Minute)
	get(t, v, sallyport.SignedIn(), is.issue(nil)).want(t, "within the age", 200, letIn)
	is.fetched("later", 1)
}

func TestRefreshFetchesAtOnce(t *testing.T) {
	is := newIssuer(t)
	v := is.verifier(nil)
	for i := range int64(3) {
		if err := v.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		is.fetched("by Refresh", i+1)
	}
	get(t, v, sallyport.SignedIn(), is.issue(nil)).want(t, "a token", 200, letIn)
	is.fetched("by a token after Refresh", 3)
	is.with(func(is *issuer) { is.keys = down })
	if err := v.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "status 502") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := v.Refresh(ctx); err == nil {
		t.Error("Refresh with an ended context succeeded")
	}
}

// Past their age keys are fetched anew, behind the request that asked.
func TestKeysAreRefreshedInTheBackground(t *testing.T) {
	is := newIssuer(t)
	release := make(chan struct{})
	v := is.verifier(nil)
	get(t, v, sallyport.SignedIn(), is.issue(nil)).want(t, "first", 200, letIn)
	is.with(func(is *issuer) {
		is.keys = func(w http.ResponseWriter, _ *http.Request) {
			<-release
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(is.set.JWKS())
		}
	})
	is.clock.forth(5 * time.Minute)
	for range 10 {
		get(t, v, sallyport.SignedIn(), is.issue(nil)).want(t, "while it is fetched", 200, letIn)
	}
	eventually(t, "the second fetch", func() bool { return is.fetches.Load() == 2 })
	close(release)
	is.clock.forth(time.Minute)
	get(t, v, sallyport.SignedIn(), is.issue(nil)).want(t, "afterwards", 200, letIn)
	is.fetched("in all", 2)
}

// What the issuer does not publish any more is not trusted, also if nobody
// asked for a long time; and the wait is for one request, not for all, if the
// issuer is away.
func TestRetiredKeyAfterAQuietTime(t *testing.T) {
	is := newIssuer(t)
	v := is.verifier(nil)
	long := func(c *token.Claims) { c.Expires = c.IssuedAt.Add(24 * time.Hour) }
	old := is.issue(long)
	get(t, v, sallyport.SignedIn(), old).want(t, "before", 200, letIn)
	is.with(func(is *issuer) { is.set = setOf(t, token.EdDSA) })
	is.clock.forth(time.Hour)
	get(t, v, sallyport.SignedIn(), old).want(t, "retired", 401, "invalid_token")
	get(t, v, sallyport.SignedIn(), is.issue(long)).want(t, "its successor", 200, letIn)
	is.fetched("in all", 2)
}

func TestCacheControlOfTheIssuer(t *testing.T) {
	is := newIssuer(t)
	is.with(func(is *issuer) {
		is.keys = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Cache-Control", "public, max-age=1800")
			_, _ = w.Write(is.set.JWKS())
		}
	})
	v := is.verifier(nil)
	get(t, v, sallyport.SignedIn(), is.issue(nil)).want(t, "first", 200, letIn)
	is.clock.forth(29 * time.Minute)
	get(t, v, sallyport.SignedIn(), is.issue(nil)).want(t, "within its age", 200, letIn)
	is.fetched("within its age", 1)
	is.clock.forth(time.Minute)
	get(t, v, sallyport.SignedIn(), is.issue(nil)).want(t, "past its age", 200, letIn)
	eventually(t, "the second fetch", func() bool { return is.fetches.Load() == 2 })
}

// A new key is found at once, and once for everybody who waits.
func TestRotation(t *testing.T) {
	is := newIssuer(t)
	v := is.verifier(nil)
	first := is.issue(nil)
	get(t, v, sallyport.SignedIn(), first).want(t, "the first key", 200, letIn)
	old := is.set.Active()
	for i, alg := range []token.Alg{token.ES256, token.EdDSA, token.RS256} {
		next, err := token.Generate(alg)
		if err != nil {
			t.Fatal(err)
		}
		set, err := token.NewSet(next, old)
		if err != nil {
			t.Fatal(err)
		}
		is.with(func(is *issuer) { is.set = set })
		is.clock.forth(11 * time.Second)
		access := is.issue(nil)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { get(t, v, sallyport.SignedIn(), access).want(t, "the new key", 200, letIn) })
		}
		wg.Wait()
		get(t, v, sallyport.SignedIn(), first).want(t, "the first key, still published", 200, letIn)
		is.fetched(string(alg), int64(i+2))
	}
	// Retired: at the next fetch at the latest, from memory or not.
	is.with(func(is *issuer) { is.set = setOf(t, token.EdDSA) })
	is.clock.forth(11 * time.Second)
	get(t, v, sallyport.SignedIn(), is.issue(nil)).want(t, "the last key", 200, letIn)
	get(t, v, sallyport.SignedIn(), first).want(t, "a retired key", 401, "invalid_token")
}

// However many unknown kids come, the issuer is asked once in ten seconds.
func TestFloodOfUnknownKeys(t *testing.T) {
	is := newIssuer(t)
	v := is.verifier(nil)
	good := is.issue(nil)
	parts := strings.Split(good, ".")
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 1250 {
				header := part(map[string]any{"alg": "EdDSA", "typ": "at+jwt", "kid": fmt.Sprintf("kid-%d-%d", worker, i)})
				get(t, v, sallyport.SignedIn(), header+"."+parts[1]+"."+parts[2]).want(t, "an unknown kid", 401, "invalid_token")
			}
		})
	}
	wg.Wait()
	if n := is.fetches.Load(); n > 2 {
		t.Errorf("%d fetches for 10,000 unknown kids, want at most 2", n)
	}
	get(t, v, sallyport.SignedIn(), good).want(t, "a good token meanwhile", 200, letIn)
	before := is.fetches.Load()
	is.clock.forth(10 * time.Second)
	for i := range 100 {
		header := part(map[string]any{"alg": "EdDSA", "typ": "at+jwt", "kid": fmt.Sprint(i)})
		get(t, v, sallyport.SignedIn(), header+"."+parts[1]+"."+parts[2]).want(t, "an unknown kid", 401, "invalid_token")
	}
	is.fetched("ten seconds later", before+1)
	if tokens, _ := v.Held(); tokens != 1 {
		t.Errorf("%d tokens are remembered, want 1", tokens)
	}
}

// Every way in which keys can fail to come. None lets anything in, and none
// costs the keys that are there.
func TestIssuerFails(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	slow := make(chan struct{})
	defer close(slow)
	json := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(body))
		}
	}
	for _, tt := range []struct {
		what, want string // part of Refresh's error
		keys       http.HandlerFunc
	}{
		{"502", "status 502", down},
		{"404", "status 404", http.NotFound},
		{"204", "status 204", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }},
		{"another type", "Content-Type", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte(`{"keys":[]}`))
		}},
		{"no type", "Content-Type", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			_, _ = w.Write([]byte(`{"keys":[]}`))
		}},
		{"bad JSON", "JWKS", json(`{"keys":[`)},
		{"members twice", "duplicate_member", json(`{"keys":[],"keys":[]}`)},
		{"a secret", "no place in a JWKS", json(`{"keys":[{"kty":"oct","kid":"a","alg":"HS256"}]}`)},
		{"huge", "longer than 65536 bytes", json(`{"keys":[` + strings.Repeat(" ", 1<<20) + `]}`)},
		{"endless", "longer than 65536 bytes", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 4096)); err != nil {
					return
				}
			}
		}},
		{"cut off", "EOF", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte(`{"keys":[`))
		}},
		{"slow to begin", "in time", func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-slow:
			case <-r.Context().Done():
			}
		}},
		{"slow to end", "in time", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"keys":[`))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-slow:
			case <-r.Context().Done():
			}
		}},
		{"a redirect elsewhere", "another host", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+"/.well-known/jwks.json", http.StatusFound)
		}},
		{"a redirect without an end", "more than 3 redirects", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		}},
		{"closed", "EOF", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
	} {
		t.Run(tt.what, func(t *testing.T) {
			is := newIssuer(t)
			v := is.verifier(nil)
			if strings.HasPrefix(tt.what, "slow") {
				v.SetTimeout(50 * time.Millisecond)
			} else {
				v.SetTimeout(time.Minute)
			}
			access := is.issue(func(c *token.Claims) { c.Expires = c.IssuedAt.Add(72 * time.Hour) })
			is.with(func(is *issuer) { is.keys = tt.keys })

			r := get(t, v, sallyport.SignedIn(), access)
			r.want(t, "without keys", 503, "unavailable")
			if r.header.Get("Retry-After") != "1" || r.header.Get("Www-Authenticate") != "" || strings.Contains(r.body, "database") {
				t.Errorf("%v %s", r.header, r.body)
			}
			get(t, v, sallyport.Public(), access).want(t, "on a public route", 503, "unavailable")
			call(t, v, sallyport.Public(), "/").want(t, "without a token", 200, "[  ]")
			if err := v.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Refresh: %v, want %q", err, tt.want)
			}

			// A second later it is there again, and the keys come.
			is.with(func(is *issuer) { is.keys = nil })
			is.clock.forth(time.Second)
			get(t, v, sallyport.SignedIn(), access).want(t, "with keys", 200, letIn)

			// From then on it is away, for a day.
			is.with(func(is *issuer) { is.keys = tt.keys })
			for _, d := range []time.Duration{time.Hour, 22 * time.Hour, 59 * time.Minute} {
				is.clock.forth(d)
				get(t, v, sallyport.SignedIn(), access).want(t, "with stale keys", 200, letIn)
			}
			unknown := part(map[string]any{"alg": "EdDSA", "typ": "at+jwt", "kid": "new"}) + access[strings.IndexByte(access, '.'):]
			get(t, v, sallyport.SignedIn(), unknown).want(t, "a key that nobody can look up", 503, "unavailable")
			is.clock.forth(time.Minute)
			get(t, v, sallyport.SignedIn(), access).want(t, "after a day", 503, "unavailable")

			is.with(func(is *issuer) { is.keys = nil })
			is.clock.forth(time.Second)
			eventually(t, "recovery", func() bool { is.clock.forth(time.Second); return get(t, v, sallyport.SignedIn(), access).status == 200 })
		})
	}
	if elsewhere.Load() != 0 {
		t.Error("a redirect to another host was followed")
	}
}

// A redirect within the host is followed.
func TestRedirectWithinTheHost(t *testing.T) {
	is := newIssuer(t)
	is.with(func(is *issuer) {
		is.keys = func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery == "" {
				http.Redirect(w, r, "/.well-known/jwks.json?v=2", http.StatusFound)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(is.set.JWKS())
		}
	})
	get(t, is.verifier(nil), sallyport.SignedIn(), is.issue(nil)).want(t, "after a redirect", 200, letIn)
}

// A set without usable keys drops the old ones, and is not the caller's fault.
func TestEmptySet(t *testing.T) {
	is := newIssuer(t)
	v := is.verifier(nil)
	access := is.issue(nil)
	get(t, v, sallyport.SignedIn(), access).want(t, "before", 200, letIn)
	good := is.set
	is.with(func(is *issuer) { is.set = setOf(t, token.HS256) })
	if err := v.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "HS256") {
		t.Errorf("%v", err)
	}
	get(t, v, sallyport.SignedIn(), access).want(t, "with no keys", 503, "unavailable")
	get(t, v, sallyport.SignedIn(), is.issue(nil)).want(t, "with a secret", 503, "unavailable")
	is.with(func(is *issuer) { is.set = good })
	is.clock.forth(10 * time.Second)
	get(t, v, sallyport.SignedIn(), access).want(t, "again", 200, letIn)
}

// A caller who leaves does not end the fetch for others.
func TestWaitingEndsWithTheRequest(t *testing.T) {
	is := newIssuer(t)
	began, release := make(chan struct{}, 1), make(chan struct{})
	is.with(func(is *issuer) {
		is.keys = func(w http.ResponseWriter, _ *http.Request) {
			began <- struct{}{}
			<-release
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(is.set.JWKS())
		}
	})
	v := is.verifier(nil)
	access := is.issue(nil)
	ctx, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
		r.Header.Set("Authorization", "Bearer "+access)
		w := httptest.NewRecorder()
		v.Require(sallyport.SignedIn())(http.NotFoundHandler()).ServeHTTP(w, r)
		if w.Code != 503 {
			t.Errorf("who left got %d", w.Code)
		}
	})
	<-began
	wg.Go(func() { get(t, v, sallyport.SignedIn(), access).want(t, "who stayed", 200, letIn) })
	leave()
	close(release)
	wg.Wait()
	is.fetched("in all", 1)
}

// Close ends everything, in the middle of a fetch too.
func TestCloseLeavesNothing(t *testing.T) {
	is := newIssuer(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent()) // the issuer stays, without connections
	is.with(func(is *issuer) { is.introspect = func(string) any { return active("bearer") } })
	idle := is.verifier(nil)
	if err := idle.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = idle.Close()
	v := is.verifier(introspecting)
	access := is.issue(nil)
	get(t, v, sallyport.SignedIn(), access).want(t, "before", 200, letIn)
	began := make(chan struct{})
	is.with(func(is *issuer) {
		is.keys = func(_ http.ResponseWriter, r *http.Request) { close(began); <-r.Context().Done() }
	})
	done := make(chan error)
	go func() { done <- v.Refresh(context.Background()) }()
	<-began
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("Refresh: %v", err)
	}
	if err := v.Refresh(t.Context()); err == nil {
		t.Error("Refresh after Close succeeded")
	}
	get(t, v, sallyport.SignedIn(), is.issue(func(c *token.Claims) { c.ID = "2" })).want(t, "afterwards", 503, "unavailable")
	_ = v.Close()
}

func TestCloseWaits(t *testing.T) {
	is := newIssuer(t)
	began := make(chan struct{})
	var ended atomic.Bool
	v := is.verifier(func(c *remote.Config) {
		c.Client = &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			close(began)
			<-r.Context().Done()
			time.Sleep(20 * time.Millisecond)
			ended.Store(true)
			return nil, r.Context().Err()
		})}
	})
	go func() { _ = v.Refresh(context.Background()) }()
	<-began
	_ = v.Close()
	if !ended.Load() {
		t.Error("Close did not wait for a fetch")
	}
}

// Requests, rotations and a clock, all at once.
func TestConcurrently(t *testing.T) {
	is := newIssuer(t)
	is.with(func(is *issuer) { is.introspect = func(string) any { return active("bearer") } })
	alone, asking := is.verifier(nil), is.verifier(introspecting)
	stop := make(chan struct{})
	var moving, wg sync.WaitGroup
	moving.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				next, _ := token.Generate(token.EdDSA)
				set, _ := token.NewSet(next, is.set.Active())
				is.with(func(is *issuer) { is.set = set })
				is.clock.forth(20 * time.Second)
			}
		}
	})
	for range 8 {
		wg.Go(func() {
			for i := range 50 {
				for _, v := range []*remote.Verifier{alone, asking} {
					r := get(t, v, sallyport.SignedIn(), is.issue(nil))
					if r.status != 200 && r.code != "invalid_token" || i == 0 && r.status == 503 {
						t.Errorf("%d %s", r.status, r.body)
					}
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	moving.Wait()
}

// The log says what is wrong, once a second, and no token.
func TestLog(t *testing.T) {
	is := newIssuer(t)
	var b testkit.Buffer
	v := is.verifier(func(c *remote.Config) { c.Log = slog.New(slog.NewTextHandler(&b, nil)) })
	is.with(func(is *issuer) { is.keys = down })
	access := is.issue(scoped("a"))
	for range 50 {
		get(t, v, sallyport.SignedIn(), access).want(t, "down", 503, "unavailable")
	}
	is.with(func(is *issuer) { is.keys = nil })
	is.clock.forth(time.Second)
	get(t, v, sallyport.Permission("b"), access).want(t, "denied", 403, "insufficient_scope")
	get(t, v, sallyport.SignedIn(), access+"x").want(t, "refused", 401, "invalid_token")
	text := b.String()
	for _, want := range []string{"status 502", "could not be checked", "access denied", "rule=permission(b)", "principal.id=ada", "reason=bad_signature"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log does not say %q:\n%s", want, text)
		}
	}
	if n := strings.Count(text, "could not be checked"); n != 1 {
		t.Errorf("%d lines for one second", n)
	}
	for piece := range strings.SplitSeq(access, ".") {
		if strings.Contains(text, piece) {
			t.Error("the log holds a part of a token")
		}
	}
}
