package main

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// receiver takes traces by OTLP over HTTP, as a collector does.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	spans  []*tracepb.Span
	auth   map[string]bool
	from   map[string]bool // service.name service.version
	all    strings.Builder // everything that came, as text
	status int             // of answers; 0: 200
}

func newReceiver(t *testing.T) *receiver {
	rc := &receiver{auth: map[string]bool{}, from: map[string]bool{}}
	rc.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := rc.take(r); err != nil {
			t.Errorf("what came is not OTLP: %v", err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if rc.status != 0 {
			w.WriteHeader(rc.status)
		}
	}))
	t.Cleanup(rc.Close)
	return rc
}

func (rc *receiver) take(r *http.Request) error {
	if r.Method != "POST" || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" || r.Header.Get("Content-Encoding") != "gzip" {
		return fmt.Errorf("%s %s %v", r.Method, r.URL.Path, r.Header)
	}
	z, err := gzip.NewReader(r.Body)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(z)
	if err != nil {
		return err
	}
	var message tracepb.TracesData // ExportTraceServiceRequest, on the wire
	if err := proto.Unmarshal(body, &message); err != nil {
		return err
	}
	rc.mu.Lock()
	defer rc.mu.Unlock()
	user, password, _ := r.BasicAuth()
	rc.auth[user+":"+password] = true
	for _, resource := range message.ResourceSpans {
		rc.from[attributesIn(resource.Resource.Attributes)["service.name"]] = true
		for _, scope := range resource.ScopeSpans {
			rc.spans = append(rc.spans, scope.Spans...)
		}
	}
	fmt.Fprintln(&rc.all, message.String())
	return nil
}

func attributesIn(all []*commonpb.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range all {
		if v, ok := kv.Value.Value.(*commonpb.AnyValue_IntValue); ok {
			out[kv.Key] = fmt.Sprint(v.IntValue)
		} else {
			out[kv.Key] = kv.Value.GetStringValue()
		}
	}
	return out
}

// named returns the spans of a name so far.
func (rc *receiver) named(name string) (out []*tracepb.Span) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	for _, s := range rc.spans {
		if s.Name == name {
			out = append(out, s)
		}
	}
	return out
}

const strangersTrace = "4bf92f3577b34da6a3ce929d0e0e4736"

// traced sends a request with a traceparent that says “record this”.
func (r *running) traced(t *testing.T, path, token string) {
	t.Helper()
	req, err := http.NewRequest("GET", r.base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Traceparent", "00-"+strangersTrace+"-00f067aa0ba902b7-01")
	req.Header.Set("Baggage", "planted=baggage")
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
}

func TestTraces(t *testing.T) {
	t.Parallel()
	p, rc := newPlace(t), newReceiver(t)
	to := strings.Replace(rc.URL, "http://", "http://collector:its-password@", 1)
	p.env = append(p.env, "SALLYPORT_TELEMETRY_OTLP="+to)
	r := p.serve(t, "--set", "telemetry.sample=1")
	id, tk := r.register(t, "ermintrude")
	r.traced(t, "/users/me?token=planted-in-the-query", tk.access)
	r.traced(t, "/planted-in-the-path", tk.access)
	r.terminate(t) // and sends what is left

	signIn := rc.named("POST /token")
	if len(signIn) != 1 {
		t.Fatalf("%d spans of the sign-in", len(signIn))
	}
	a := attributesIn(signIn[0].Attributes)
	if a["http.route"] != "/token" || a["http.response.status_code"] != "200" || a["http.request.method"] != "POST" || signIn[0].Kind != tracepb.Span_SPAN_KIND_SERVER {
		t.Errorf("the sign-in is %v", signIn[0])
	}
	within := func(name string) (n int) {
		for _, s := range rc.named(name) {
			if string(s.TraceId) == string(signIn[0].TraceId) {
				n++
				if string(s.ParentSpanId) != string(signIn[0].SpanId) || s.StartTimeUnixNano < signIn[0].StartTimeUnixNano || s.EndTimeUnixNano > signIn[0].EndTimeUnixNano || s.EndTimeUnixNano <= s.StartTimeUnixNano {
					t.Errorf("%s is not within the sign-in: %v", name, s)
				}
			}
		}
		return n
	}
	if n := within("password hash"); n != 1 {
		t.Errorf("%d hashes in the sign-in, want 1", n)
	}
	if n := within("database write"); n == 0 {
		t.Error("the sign-in wrote nothing")
	}
	if n := len(rc.named("GET /readyz")); n > 0 { // which was asked until the server was ready
		t.Errorf("%d health checks are traced", n)
	}
	me := rc.named("GET /users/me")
	if len(me) != 1 {
		t.Fatalf("%d spans of /users/me", len(me))
	}
	if got := hex.EncodeToString(me[0].TraceId); got == strangersTrace || len(me[0].ParentSpanId) != 0 {
		t.Errorf("a stranger chose the trace: %s", got)
	}
	rc.mu.Lock()
	defer rc.mu.Unlock()
	if !rc.auth["collector:its-password"] || len(rc.auth) != 1 || !rc.from["sallyport"] || len(rc.from) != 1 {
		t.Errorf("signed in as %v, from %v", rc.auth, rc.from)
	}
	for _, secret := range []string{"planted", "ermintrude", id, tk.access, tk.refresh, testPassword, "127.0.0.1", "its-password"} {
		if strings.Contains(rc.all.String(), secret) {
			t.Errorf("the traces hold %q", secret)
		}
	}
	if strings.Contains(r.output(t), "its-password") {
		t.Error("the log holds the receiver's password")
	}
}

// Whoever writes traceparent decides whether a request is recorded. So a declared
// proxy's is believed where the operator says that the proxy writes it, and nobody
// else's ever.
func TestTracesBelongToWhom(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		flags []string
		want  int // spans, of a trace that its sender wants to be recorded
	}{
		{"a stranger", nil, 0},
		{"a stranger, and parents are believed", []string{"--set", "telemetry.parents=true"}, 0},
		{"a proxy", []string{"--set", "proxy.trusted=127.0.0.1"}, 0},
		{"a proxy whose parents are believed", []string{"--set", "proxy.trusted=127.0.0.1", "--set", "telemetry.parents=true"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, rc := newPlace(t), newReceiver(t)
			r := p.serve(t, append(tt.flags, "--set", "telemetry.sample=0", "--set", "telemetry.otlp="+rc.URL)...)
			r.traced(t, "/docs/page.css", "")
			r.terminate(t)
			rc.mu.Lock()
			defer rc.mu.Unlock()
			if len(rc.spans) != tt.want {
				t.Fatalf("%d spans, want %d", len(rc.spans), tt.want)
			}
			for _, s := range rc.spans {
				if hex.EncodeToString(s.TraceId) != strangersTrace || hex.EncodeToString(s.ParentSpanId) != "00f067aa0ba902b7" {
					t.Errorf("%v does not go on with the proxy's trace", s)
				}
			}
		})
	}
}

// A receiver that is away, or refuses, costs nothing but the traces, and one line
// of the log.
func TestTracesAreLostQuietly(t *testing.T) {
	t.Parallel()
	rc := newReceiver(t)
	rc.status = http.StatusServiceUnavailable
	for name, to := range map[string]string{"away": "http://127.0.0.1:1", "refuses": rc.URL} {
		t.Run(name, func(t *testing.T) {
			r := newPlace(t).serve(t, "--set", "telemetry.sample=1", "--set", "telemetry.otlp="+to)
			_, tk := r.register(t, "ada")
			r.until(t, soon, "the loss is logged", func() bool {
				return r.get(t, "/users/me", tk) == http.StatusOK && strings.Contains(r.output(t), "traces could not be sent")
			})
			r.terminate(t)
			if n := strings.Count(r.output(t), "traces could not be sent"); n != 1 {
				t.Errorf("logged %d times", n)
			}
		})
	}
}

var metricsLine = regexp.MustCompile(`Metrics +(http://\S+)`)

// metrics reads a node's metrics.
func (r *running) metrics(t *testing.T) string {
	t.Helper()
	m := metricsLine.FindStringSubmatch(r.output(t))
	if m == nil {
		t.Fatal("the server does not say where its metrics are")
	}
	res, err := r.client.Get(m[1])
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%d %v", res.StatusCode, err)
	}
	return string(b)
}

// There is no listener unless it is asked for, and what it answers is not answered
// where clients are.
func TestMetricsListener(t *testing.T) {
	t.Parallel()
	off := newPlace(t).serve(t)
	if m := metricsLine.FindString(off.output(t)); m != "" {
		t.Errorf("without being asked: %s", m)
	}
	on := newPlace(t).serve(t, "--set", "metrics.listen=127.0.0.1:0")
	on.register(t, "ada")
	for _, line := range []string{
		`sallyport_http_requests_total{class="2xx",route="POST /token"} 1`,
		`sallyport_sign_ins_total{method="password",result="success"} 1`,
		`sallyport_database_up 1`, `go_goroutines `, `process_open_fds `,
	} {
		if text := on.metrics(t); !strings.Contains(text, "\n"+line) {
			t.Errorf("no line %q", line)
		}
	}
	for _, r := range []*running{off, on} {
		if got := r.get(t, "/metrics", tokens{}); got != http.StatusNotFound {
			t.Errorf("GET /metrics where clients are: %d", got)
		}
	}
	if strings.Contains(on.output(t), "told to everybody") {
		t.Error("a warning of a listener on the loopback interface")
	}
	open := newPlace(t).serve(t, "--set", "metrics.listen=0.0.0.0:0")
	if !strings.Contains(open.output(t), "told to everybody") {
		t.Error("no warning of a listener that others reach")
	}
	on.terminate(t)
}
