package server_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/sallyport/sallyport/guard/ratelimit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/measure"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/telemetry"
)

// scrape is what a Prometheus reads: values by name and labels, as they are
// written.
type scrape struct {
	text   string
	values map[string]float64
}

// openMetrics is what Prometheus asks for.
const openMetrics = "application/openmetrics-text; version=1.0.0"

// scrape reads a server's metrics over HTTP.
func (w *world) scrape(accept string) scrape {
	w.t.Helper()
	front := httptest.NewServer(telemetry.Handler(w.sv))
	defer front.Close()
	req, err := http.NewRequestWithContext(w.t.Context(), "GET", front.URL+"/metrics", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	r := w.send(req)
	r.want(w.t, 200, "")
	if accept == openMetrics && (!strings.HasPrefix(r.header.Get("Content-Type"), openMetrics) || !bytes.HasSuffix(r.body, []byte("# EOF\n"))) {
		w.t.Fatalf("not OpenMetrics: %s", r.header.Get("Content-Type"))
	}
	s := scrape{string(r.body), map[string]float64{}}
	for line := range strings.Lines(s.text) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			w.t.Fatalf("%q: %v", line, err)
		}
		s.values[line[:at]] = v
	}
	return s
}

func (s scrape) want(t *testing.T, series string, value float64) {
	t.Helper()
	if got, ok := s.values[series]; !ok || got != value {
		t.Errorf("%s is %v (there: %v), want %v", series, got, ok, value)
	}
}

func TestMetricsTellWhatHappened(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var box mailbox
		w := newWorld(t, d, nil, withMail(&box), noLockout, func(c *server.Config) {
			c.Metrics, c.MailSignIn = true, true
			c.Limits = server.Limits{Default: "1000000/second", Login: "1000/minute", Register: "2/hour", Guesses: "1000/minute"}
		})
		w.scrape(openMetrics) // before anything has happened
		id, tk := w.user("ermintrude")
		w.register("zebedee")
		w.do("POST", "/auth/register", "", map[string]any{"username": "cyd", "email": "cyd@example.com", "password": goodPassword}).want(t, 429, "")
		for _, name := range []string{"ermintrude", "nobody-has-this-name"} {
			w.form("/token", "grant_type", "password", "username", name, "password", "not-the-password-1").want(t, 401, "")
		}
		w.events("signin.refused", 2)
		for range 5 {
			w.do("GET", "/users/me", tk.access, nil).want(t, 200, "")
		}
		const planted = "a-secret-in-the-path"
		for i := range 300 {
			w.do("GET", fmt.Sprintf("/%s-%d?token=%s", planted, i, planted), "", nil).want(t, 404, "")
		}
		w.do(planted[:8], "/users/me", "", nil)
		w.do("GET", "/users/"+id, tk.access, nil).want(t, 403, "")

		w.do("POST", "/auth/link", "", map[string]string{"token": "not-one-of-ours"}).want(t, 401, "")

		s := w.scrape(openMetrics)
		s.want(t, `sallyport_sign_ins_total{method="password",result="success"}`, 1)
		s.want(t, `sallyport_sign_ins_total{method="mail",result="refused"}`, 1)
		s.want(t, `sallyport_sign_ins_total{method="password",result="refused"}`, 2)
		s.want(t, `sallyport_limit_refusals_total{limit="register"}`, 1)
		s.want(t, `sallyport_http_requests_total{class="2xx",route="GET /users/me"}`, 5)
		s.want(t, `sallyport_http_requests_total{class="4xx",route="GET /users/{id}"}`, 1)
		s.want(t, `sallyport_http_request_seconds_count{route="GET /users/me"}`, 5)
		s.want(t, `sallyport_credential_cache_lookups_total{result="miss"}`, 1)
		s.want(t, `sallyport_credential_cache_lookups_total{result="hit"}`, 5)
		s.want(t, `sallyport_credential_cache_entries`, 1)
		s.want(t, `sallyport_password_hash_seconds_count`, 5)
		s.want(t, `sallyport_password_permits`, 4)
		s.want(t, `sallyport_password_permits_used`, 0)
		if got := s.values[`sallyport_audit_events_total{action="signin.refused",result="failure"}`]; got < 2 {
			t.Errorf("%v refused sign-ins were written", got)
		}
		s.want(t, `sallyport_audit_events_total{action="account.registered",result="success"}`, 2)
		s.want(t, `sallyport_signing_keys{state="active"}`, 1)
		s.want(t, `sallyport_database_up`, 1)
		s.want(t, `sallyport_draining`, 0)
		if lag := s.values["sallyport_feed_lag_seconds"]; lag <= 0 || math.IsInf(lag, 0) {
			t.Errorf("the lag of the feed is %v", lag)
		}
		if age, ok := s.values["sallyport_signing_key_age_seconds"]; !ok || age < 0 || age > 600 {
			t.Errorf("the signing key is %v s old", age)
		}
		if got := s.values[`sallyport_http_requests_total{class="4xx",route="(none)"}`]; got < 300 {
			t.Errorf("%v requests of no route", got)
		}

		// Nothing of anybody is in it, and a caller makes no series.
		for _, secret := range []string{planted, "ermintrude", "nobody-has", "zebedee", id, tk.access, tk.refresh, goodPassword, "not-the-password", "127.0.0.1", "example.com"} {
			if i := strings.Index(s.text, secret); i >= 0 {
				t.Errorf("the metrics hold %q: %.200s", secret, s.text[max(0, i-100):])
			}
		}
		n := 0
		for series := range s.values {
			if strings.HasPrefix(series, "sallyport_http_request_seconds_count") {
				n++
			}
		}
		if n > 12 {
			t.Errorf("%d routes after 300 made-up paths", n)
		}

		problems, err := promlint.New(strings.NewReader(w.scrape("text/plain").text)).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("promlint: %s: %s", p.Metric, p.Text)
		}

		w.sv.Drain()
		if _, err := w.sv.Keys.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		s = w.scrape(openMetrics)
		s.want(t, `sallyport_draining`, 1)
		s.want(t, `sallyport_signing_keys{state="retiring"}`, 1)
	})
}

// What was undone did not happen: newWorld has SQLite run every transaction three
// times, the first two in vain.
func TestMetricsCountWhatWasCommitted(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, nil)
		_ = d.Write(t.Context(), func(tx *db.Tx) error {
			tx.Happened(db.Event{Action: "test.undone", Result: "success"})
			return fmt.Errorf("undone")
		})
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			tx.Happened(db.Event{Action: "test.done", Result: "success"})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		s := w.scrape(openMetrics)
		s.want(t, `sallyport_audit_events_total{action="test.done",result="success"}`, 1)
		if strings.Contains(s.text, "test.undone") {
			t.Error("what was undone is counted")
		}
	})
}

// With the database away what is known here is told all the same.
func TestMetricsWithoutTheDatabase(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	w.scrape(openMetrics).want(t, "sallyport_database_up", 1)
	if err := w.db.Close(); err != nil {
		t.Fatal(err)
	}
	s := w.scrape(openMetrics)
	s.want(t, "sallyport_database_up", 0)
	if _, ok := s.values["sallyport_password_permits"]; !ok {
		t.Error("what needs no database is left out")
	}
	if _, ok := s.values["sallyport_signing_key_age_seconds"]; ok {
		t.Error("the age of the key is told, and cannot be known")
	}
}

// A page that was led to the listener's address, whatever its name, cannot read it.
func TestMetricsAreNotForPages(t *testing.T) {
	w := newWorld(t, testkit.SQLite(t), nil)
	front := httptest.NewServer(telemetry.Handler(w.sv))
	defer front.Close()
	for _, tt := range []struct {
		method, path, mode string
		want               int
	}{
		{"GET", "/metrics", "", 200},
		{"GET", "/metrics", "navigate", 200},
		{"GET", "/metrics", "cors", 403},
		{"GET", "/metrics", "no-cors", 403},
		{"GET", "/metrics", "same-origin", 403},
		{"POST", "/metrics", "", 405},
		{"GET", "/users/me", "", 404},
		{"GET", "/debug/pprof/", "", 404},
		{"GET", "/", "", 404},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, front.URL+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.mode != "" {
			req.Header.Set("Sec-Fetch-Mode", tt.mode)
		}
		r := w.send(req)
		if r.status != tt.want || (tt.want == 200) != bytes.Contains(r.body, []byte("sallyport_build_info")) {
			t.Errorf("%s %s with %q: %d, want %d", tt.method, tt.path, tt.mode, r.status, tt.want)
		}
		if csp := r.header.Get("Content-Security-Policy"); tt.want == 200 && !strings.Contains(csp, "sandbox") {
			t.Errorf("its policy is %q", csp)
		}
	}
	if r := w.do("GET", "/metrics", "", nil); r.status != 404 {
		t.Errorf("GET /metrics where clients are: %d", r.status)
	}
}

// What a request costs more that is counted and timed, and one whose trace is not
// sampled. Must not get worse: 150 ns for the one, most of it the clock, which is
// read anyway where requests are logged, and no allocation.
func BenchmarkMetrics(b *testing.B) {
	handler := func(change func(*server.Config)) func(int) {
		sv, h, ada := benchServer(b, weakHashes, noLimits, change)
		tk, err := sv.SignIn.Password(b.Context(), ada)
		if err != nil {
			b.Fatal(err)
		}
		req := httptest.NewRequest("GET", "http://127.0.0.1/items", nil)
		req.Header.Set("Authorization", "Bearer "+tk.Access)
		w := &discard{header: http.Header{}}
		return func(int) {
			if h.ServeHTTP(w, req); w.status >= 300 {
				b.Fatal(w.status)
			}
		}
	}
	off := handler(func(*server.Config) {})
	b.Run("counted", func(b *testing.B) {
		inTurns(b, off, handler(func(c *server.Config) { c.Metrics = true }))
	})
	b.Run("traced", func(b *testing.B) {
		inTurns(b, off, handler(func(c *server.Config) { c.Trace = telemetry.Trace(noop.NewTracerProvider().Tracer("test"), false) }))
	})
}

// expressions returns what the alert rules and the dashboard ask, and by which labels
// the dashboard's lines are named.
func expressions(t *testing.T) (all []string, legends map[string][]string) {
	t.Helper()
	var rules []struct {
		Alert, Expr         string
		Labels, Annotations map[string]string
	}
	if err := testkit.Check(t, &rules, "", "rules", "prometheus/alerts.yaml"); err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		if s := r.Labels["severity"]; s != "page" && s != "ticket" || r.Annotations["summary"] == "" || len(r.Annotations["description"]) < 40 {
			t.Errorf("%s does not say how bad it is, what it is and what to do", r.Alert)
		}
		all = append(all, r.Expr)
	}
	var board struct {
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
		Templating struct{ List []struct{ Definition string } }
	}
	text, err := os.ReadFile("../deploy/prometheus/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	legends = map[string][]string{}
	seen := map[int]bool{}
	for _, p := range board.Panels {
		if seen[p.ID] {
			t.Errorf("two panels have the number %d", p.ID)
		}
		seen[p.ID] = true
		for _, target := range p.Targets {
			expr := strings.ReplaceAll(target.Expr, "$instance", ".*")
			all = append(all, expr)
			for _, m := range regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				legends[expr] = append(legends[expr], m[1])
			}
		}
	}
	if len(rules) < 15 || len(all) < len(rules)+40 {
		t.Errorf("only %d rules and %d expressions were found", len(rules), len(all))
	}
	return all, legends
}

// Every metric and label that an alert or the dashboard asks for is told by a
// server that has seen traffic; a value that a label is compared with is told, too,
// or explained.
func TestMetricsThatAreAskedFor(t *testing.T) {
	exprs, legends := expressions(t)
	var box mailbox
	w := newWorld(t, testkit.SQLite(t), nil, withMail(&box), noLockout, func(c *server.Config) {
		c.Metrics = true
		c.Limits = server.Limits{Default: "1000000/second", Login: "1000/minute", Register: "1/hour", Guesses: "1000/minute"}
		c.Limits.Share = func([]byte) (ratelimit.Store, error) { return ratelimit.NewMemory(ratelimit.MemoryConfig{}) }
	})
	_, tk := w.user("ermintrude")
	w.do("POST", "/auth/register", "", "{}").want(t, 429, "")
	w.form("/token", "grant_type", "password", "username", "ermintrude", "password", "not-the-password-1").want(t, 401, "")
	for range 3 {
		w.do("GET", "/users/me", tk.access, nil).want(t, 200, "")
	}
	w.do("POST", "/2fa/setup", tk.access, "{}").want(t, 200, "")
	w.do("POST", "/2fa/verify", tk.access, map[string]string{"code": "000000"}).want(t, 400, "")
	w.events("signin.refused", 1)
	w.cleanUp()
	w.sv.ShowCertificates(someCertificates)
	s := w.scrape(openMetrics)

	// The labels of each metric, and their values.
	labels := map[string]map[string]map[string]bool{}
	series := regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:{(.*)})?$`)
	pair := regexp.MustCompile(`(\w+)="((?:[^"\\]|\\.)*)"`)
	for name := range s.values {
		m := series.FindStringSubmatch(name)
		if m == nil {
			t.Fatalf("a series %q", name)
		}
		of := labels[m[1]]
		if of == nil {
			of = map[string]map[string]bool{"instance": {}, "job": {"sallyport": true}} // Prometheus' own
			labels[m[1]] = of
		}
		for _, p := range pair.FindAllStringSubmatch(m[2], -1) {
			if of[p[1]] == nil {
				of[p[1]] = map[string]bool{}
			}
			of[p[1]][p[2]] = true
		}
	}
	labels["up"] = map[string]map[string]bool{"instance": {}, "job": {"sallyport": true}}
	explained := ""
	for _, page := range []string{"observability.md", "audit.md"} {
		text, err := os.ReadFile("../docs/" + page)
		if err != nil {
			t.Fatal(err)
		}
		explained += string(text)
	}
	type query struct {
		Expr      string
		Selectors []struct {
			Metric string
			Labels []string
			Equal  map[string]string
		}
		Grouped []string
	}
	problems := func(queries []query) (found []string) {
		for _, q := range queries {
			has := map[string]bool{}
			for _, sel := range q.Selectors {
				of, told := labels[sel.Metric]
				if !told {
					found = append(found, fmt.Sprintf("%s: there is no metric %q", q.Expr, sel.Metric))
					continue
				}
				for name := range of {
					has[name] = true
				}
				for _, name := range sel.Labels {
					if of[name] == nil {
						found = append(found, fmt.Sprintf("%s: %s has no label %s", q.Expr, sel.Metric, name))
					}
				}
				for name, value := range sel.Equal {
					if of[name] != nil && !of[name][value] && !strings.Contains(explained, "`"+value+"`") && !(name == "class" && value == "5xx") {
						found = append(found, fmt.Sprintf("%s: no %s is %q", q.Expr, name, value))
					}
				}
			}
			named := has
			if len(q.Grouped) > 0 && !strings.Contains(q.Expr, "ignoring") {
				named = map[string]bool{}
			}
			for _, name := range q.Grouped {
				if !has[name] {
					found = append(found, fmt.Sprintf("%s: grouped by %s, which nothing has", q.Expr, name))
				}
				named[name] = true
			}
			for _, name := range legends[q.Expr] {
				if !named[name] {
					found = append(found, fmt.Sprintf("%s: its line is named by %s, which it does not keep", q.Expr, name))
				}
			}
		}
		return found
	}
	read := func(exprs ...string) (queries []query) {
		if err := testkit.Check(t, &queries, strings.Join(exprs, "\n"), "queries"); err != nil {
			t.Fatal(err)
		}
		return queries
	}
	for _, p := range problems(read(exprs...)) {
		t.Error(p)
	}
	wrong := []string{
		`rate(sallyport_no_such_thing_total[5m])`, `sallyport_sign_ins_total{user="x"}`, `sallyport_sign_ins_total{result="sucess"}`, `sum by (address) (sallyport_sign_ins_total)`,
	}
	if got := problems(read(wrong...)); len(got) != len(wrong) {
		t.Errorf("of %d wrong queries these are noticed: %q", len(wrong), got)
	}
	var none []query
	if err := testkit.Check(t, &none, "rate(sallyport_sign_ins_total)", "queries"); err == nil {
		t.Error("what is no query is read as one")
	}
}

// someCertificates are those of a listener: two for one name, as for two kinds of key,
// one for an address, and one of an old form.
func someCertificates() []*x509.Certificate {
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	return []*x509.Certificate{
		{DNSNames: []string{"id.example.com", "www.example.com"}, NotAfter: at(2_000_000_000)},
		{DNSNames: []string{"id.example.com"}, NotAfter: at(1_900_000_000)},
		{IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}, NotAfter: at(1_800_000_000)},
		{Subject: pkix.Name{CommonName: "old.example.com"}, NotAfter: at(1_700_000_000)},
	}
}

func TestMetricsOfCertificates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.SQLite(t), nil)
	const name = "sallyport_certificate_expires_timestamp_seconds"
	if s := w.scrape(openMetrics); strings.Contains(s.text, name) {
		t.Error("a server without HTTPS tells when its certificate expires")
	}
	w.sv.ShowCertificates(someCertificates)
	s := w.scrape(openMetrics)
	s.want(t, name+`{name="id.example.com"}`, 1_900_000_000)
	s.want(t, name+`{name="192.0.2.1"}`, 1_800_000_000)
	s.want(t, name+`{name="old.example.com"}`, 1_700_000_000)
	if n := strings.Count(s.text, name+"{"); n != 3 {
		t.Errorf("%d series, want 3", n)
	}
}

var updateMetrics = flag.Bool("update-metrics", false, "write the table of docs/observability.md")

// The page has a line for every metric, and no other:
//
//	go test ./server -run TestMetricsPage -update-metrics
func TestMetricsPage(t *testing.T) {
	var box mailbox
	w := newWorld(t, testkit.SQLite(t), nil, withMail(&box), func(c *server.Config) {
		c.Metrics = true
		c.Limits.Share = func([]byte) (ratelimit.Store, error) { return ratelimit.NewMemory(ratelimit.MemoryConfig{}) }
	})
	var table strings.Builder
	table.WriteString("| Name | Type | Unit | Labels | What it tells |\n|---|---|---|---|---|\n")
	w.sv.ShowCertificates(someCertificates)
	all := w.sv.Metrics(t.Context())
	slices.SortFunc(all, func(a, b measure.Family) int { return strings.Compare(a.Name, b.Name) })
	for i, f := range all {
		if i > 0 && all[i-1].Name == f.Name {
			t.Errorf("%s is told twice", f.Name)
		}
		unit, labels := "–", "–"
		if strings.HasSuffix(strings.TrimSuffix(f.Name, "_total"), "_seconds") {
			unit = "seconds"
		}
		if len(f.Labels) > 0 {
			labels = "`" + strings.Join(f.Labels, "`, `") + "`"
		}
		if !strings.HasPrefix(f.Name, "sallyport_") || !strings.HasSuffix(f.Help, ".") || strings.HasSuffix(f.Name, "_total") != (f.Kind == measure.Counter) {
			t.Errorf("%s: not named or explained as the others are", f.Name)
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s | %s |\n", f.Name, f.Kind, unit, labels, f.Help)
	}
	const page = "../docs/observability.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	between := regexp.MustCompile(`(?s)(<!-- metrics: [^\n]*-->\n\n).*?(\n<!-- end of metrics -->)`)
	if !between.Match(text) {
		t.Fatal("docs/observability.md has no place for the table of metrics")
	}
	want := between.ReplaceAll(text, []byte("${1}"+strings.ReplaceAll(table.String(), "$", "$$")+"${2}"))
	if *updateMetrics {
		if err := os.WriteFile(page, want, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(text, want) {
		t.Error("docs/observability.md does not say what is measured. Write it with: go test ./server -run TestMetricsPage -update-metrics")
	}
}
