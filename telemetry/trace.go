package telemetry

import (
	"context"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/sallyport/sallyport/internal/measure"
)

// Trace returns what server.Config.Trace takes: a span for each request, with
// spans of its password hashes and writes to the database within it.
//
// A span has the method, the pattern of the route and the status. It has no path,
// query, header, address or name of anybody, so that nothing which was put in the
// wrong place ends up in another system.
//
// Each request begins a trace of its own. With parents, one that a declared proxy
// hands over goes on with the trace of its traceparent header (W3C Trace Context):
// only for proxies that write that header themselves, for whoever writes it decides
// whether the request is recorded, and under which trace. tracestate and baggage
// are not read.
func Trace(t trace.Tracer, parents bool) func(*http.Request, bool) (context.Context, func(string, int)) {
	return func(r *http.Request, fromProxy bool) (context.Context, func(string, int)) {
		ctx := r.Context()
		if lines := r.Header["Traceparent"]; parents && fromProxy && len(lines) == 1 {
			ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": lines[0]})
		}
		method := methodOf(r.Method)
		ctx, span := t.Start(ctx, method, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attribute.String("http.request.method", method)))
		if span.IsRecording() {
			ctx = within(ctx, t)
		}
		return ctx, func(route string, status int) { end(span, method, route, status) }
	}
}

// within has what is done for a request marked as spans of it.
func within(ctx context.Context, t trace.Tracer) context.Context {
	parent := trace.ContextWithSpan(context.Background(), trace.SpanFromContext(ctx))
	return measure.WithSpans(ctx, func(name string) func() {
		_, span := t.Start(parent, name)
		return func() { span.End() }
	})
}

func end(span trace.Span, method, route string, status int) {
	defer span.End()
	if !span.IsRecording() {
		return
	}
	if route != "" {
		_, path, found := strings.Cut(route, " ") // without the method
		if !found {
			path = route
		}
		span.SetName(method + " " + path)
		span.SetAttributes(attribute.String("http.route", path))
	}
	if status == 0 {
		span.SetStatus(codes.Error, "nothing was answered")
		return
	}
	span.SetAttributes(attribute.Int("http.response.status_code", status))
	if status >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, "")
	}
}

// methodOf returns a method that is a word of the protocol: others are a caller's
// invention.
func methodOf(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodConnect, http.MethodTrace:
		return method
	}
	return "_OTHER"
}
