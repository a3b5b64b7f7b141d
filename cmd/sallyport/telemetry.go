package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/telemetry"
)

// metricsDoor listens for whoever reads the metrics, if that is configured.
func metricsDoor(s settings, o *opened, log *slog.Logger) (*door, error) {
	ln, err := listen(s.text("metrics.listen"))
	if err != nil {
		return nil, &errConfig{[]error{fmt.Errorf("metrics.listen = %q: %w. Give another address, or end what listens there", s.text("metrics.listen"), err)}}
	}
	d := &door{Listener: ln}
	d.attach(server.HTTPServer(telemetry.Handler(o.Server), log))
	if a, err := netip.ParseAddrPort(ln.Addr().String()); err == nil && !a.Addr().Unmap().IsLoopback() {
		log.Warn("metrics are told to everybody who reaches their listener, without a credential: see that only the monitoring does", "address", ln.Addr().String())
	}
	return d, nil
}

// checkSample checks a share.
func checkSample(s string) error {
	if f, err := strconv.ParseFloat(s, 64); err != nil || !(f >= 0 && f <= 1) {
		return errors.New("it is not a number from 0 to 1. Write 0.05 for one request in twenty")
	}
	return nil
}

// checkOTLP checks where traces are sent to.
func checkOTLP(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("it is not the address of a receiver. Write it as http://127.0.0.1:4318 or https://user:password@host/v1/traces")
	}
	return nil
}

// traces is how requests are followed, if that is configured.
type traces struct {
	provider *sdktrace.TracerProvider
	hook     func(*http.Request, bool) (context.Context, func(string, int))
}

// newTraces returns nil if no receiver is configured.
func newTraces(s settings, log *slog.Logger) (*traces, error) {
	to := s.text("telemetry.otlp")
	if to == "" {
		return nil, nil
	}
	exporter, err := newExporter(to, log)
	if err != nil {
		return nil, err
	}
	share, _ := strconv.ParseFloat(s.text("telemetry.sample"), 64) // checked
	p := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter, sdktrace.WithBatchTimeout(exportEvery), sdktrace.WithExportTimeout(exportTimeout)),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(share))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "sallyport"), attribute.String("service.version", version),
		)),
		sdktrace.WithRawSpanLimits(sdktrace.SpanLimits{AttributeCountLimit: 8, AttributeValueLengthLimit: 256, EventCountLimit: 0, LinkCountLimit: 0}),
	)
	return &traces{p, telemetry.Trace(p.Tracer("github.com/sallyport/sallyport"), s.bool("telemetry.parents"))}, nil
}

// end sends what is left.
func (t *traces) end() {
	ctx, cancel := context.WithTimeout(context.Background(), exportTimeout)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // what is lost has been logged
}

const (
	exportEvery   = time.Second
	exportTimeout = 5 * time.Second
	// exportComplain is how often it is logged that traces are lost.
	exportComplain = time.Minute
)

// exporter sends spans as OTLP over HTTP, in protobuf (OTLP 1.x, 4.2). The
// project's own exporter brings gRPC with it, which is larger than this program.
//
// What a receiver does not take is lost: traces are no record of anything, and
// keeping them must not cost the server memory.
type exporter struct {
	url    string
	auth   *url.Userinfo
	client *http.Client
	log    *slog.Logger

	mu   sync.Mutex
	last time.Time // when a loss was logged
	lost int
}

func newExporter(to string, log *slog.Logger) (*exporter, error) {
	u, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = "/v1/traces"
	}
	auth := u.User
	u.User = nil
	return &exporter{url: u.String(), auth: auth, log: log, client: &http.Client{
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true},
		// Wherever a receiver leads to was not configured.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// ExportSpans implements sdktrace.SpanExporter.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := e.send(ctx, spans); err != nil {
		e.complain(len(spans), err)
	}
	return nil
}

// Shutdown implements sdktrace.SpanExporter.
func (e *exporter) Shutdown(context.Context) error {
	e.client.CloseIdleConnections()
	return nil
}

func (e *exporter) complain(n int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lost += n
	if time.Since(e.last) < exportComplain {
		return
	}
	e.log.Warn("traces could not be sent, and are lost", "spans", e.lost, "error", err)
	e.last, e.lost = time.Now(), 0
}

func (e *exporter) send(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	message, err := proto.Marshal(tracesOf(spans))
	if err != nil {
		return err
	}
	var body bytes.Buffer
	z := gzip.NewWriter(&body)
	if _, err := z.Write(message); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, &body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("Content-Encoding", "gzip")
	req.Header.Set("User-Agent", "sallyport/"+version)
	if e.auth != nil {
		password, _ := e.auth.Password()
		req.SetBasicAuth(e.auth.Username(), password)
	}
	res, err := e.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10) // so that the connection can be used again
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("the receiver answers %s", res.Status)
	}
	return nil
}

// tracesOf returns the message of some spans. On the wire it is an
// ExportTraceServiceRequest, whose only field has the same number.
func tracesOf(spans []sdktrace.ReadOnlySpan) *tracepb.TracesData {
	if len(spans) == 0 {
		return &tracepb.TracesData{}
	}
	scope := &tracepb.ScopeSpans{Scope: &commonpb.InstrumentationScope{Name: spans[0].InstrumentationScope().Name}}
	for _, s := range spans {
		scope.Spans = append(scope.Spans, spanOf(s))
	}
	return &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{
		Resource:   &resourcepb.Resource{Attributes: attributesOf(spans[0].Resource().Attributes())},
		ScopeSpans: []*tracepb.ScopeSpans{scope},
	}}}
}

func spanOf(s sdktrace.ReadOnlySpan) *tracepb.Span {
	traceID, id := s.SpanContext().TraceID(), s.SpanContext().SpanID()
	out := &tracepb.Span{
		TraceId: traceID[:], SpanId: id[:], Name: s.Name(), Kind: tracepb.Span_SPAN_KIND_INTERNAL,
		StartTimeUnixNano: uint64(s.StartTime().UnixNano()), EndTimeUnixNano: uint64(s.EndTime().UnixNano()),
		Attributes: attributesOf(s.Attributes()), Flags: uint32(s.SpanContext().TraceFlags()),
	}
	if s.SpanKind() == trace.SpanKindServer {
		out.Kind = tracepb.Span_SPAN_KIND_SERVER
	}
	if parent := s.Parent(); parent.SpanID().IsValid() {
		id := parent.SpanID()
		out.ParentSpanId = id[:]
	}
	if s.Status().Code == codes.Error {
		out.Status = new(tracepb.Status)
		out.Status.Code, out.Status.Message = tracepb.Status_STATUS_CODE_ERROR, s.Status().Description
	}
	return out
}

func attributesOf(all []attribute.KeyValue) (out []*commonpb.KeyValue) {
	for _, a := range all {
		v := &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: a.Value.String()}}
		if a.Value.Type() == attribute.INT64 {
			v = &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: a.Value.AsInt64()}}
		}
		out = append(out, &commonpb.KeyValue{Key: string(a.Key), Value: v})
	}
	return out
}
