// Package telemetry tells others how a server does: in the format of Prometheus
// and OpenMetrics what it counts, and to an OpenTelemetry tracer what requests
// were about.
//
// It is apart from package server so that a program which wants neither carries
// neither. It decides nothing and stores nothing: what there is to tell is
// server.Server.Metrics, and docs/observability.md explains each name.
//
// Begin with Handler, and with Trace for server.Config.Trace.
package telemetry

import (
	"context"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sallyport/sallyport/internal/measure"
	"github.com/sallyport/sallyport/server"
)

// Collector is a server's metrics, for a registry of your own. What a server
// counts is read when the registry is gathered.
func Collector(s *server.Server) prometheus.Collector { return collector{s} }

type collector struct{ s *server.Server }

// Describe sends nothing: which metrics there are is known when they are read.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	for _, f := range c.s.Metrics(context.Background()) {
		desc := prometheus.NewDesc(f.Name, f.Help, f.Labels, nil)
		for _, p := range f.Points {
			m, err := metric(desc, f.Kind, p)
			if err != nil {
				m = prometheus.NewInvalidMetric(desc, err)
			}
			out <- m
		}
	}
}

func metric(desc *prometheus.Desc, kind measure.Kind, p measure.Point) (prometheus.Metric, error) {
	switch kind {
	case measure.Histogram:
		buckets := map[float64]uint64{}
		for i, bound := range p.Spread.Bounds {
			buckets[bound] = p.Spread.Counts[i]
		}
		return prometheus.NewConstHistogram(desc, p.Spread.Count, p.Spread.Sum, buckets, p.Labels...)
	case measure.Counter:
		return prometheus.NewConstMetric(desc, prometheus.CounterValue, p.Value, p.Labels...)
	}
	return prometheus.NewConstMetric(desc, prometheus.GaugeValue, p.Value, p.Labels...)
}

// maxScrapes bounds how many read at once: each asks the database three questions.
const maxScrapes = 4

// Handler answers GET /metrics with a server's metrics and those of the Go runtime
// and the process, as OpenMetrics or in the older text format, whichever is asked
// for. It asks for no credential: put it on a listener of its own, which only the
// monitoring reaches.
//
// A browser's page cannot read it, whatever name it has been led to this address
// by: what a script asks for is refused, and what a person looks at is sandboxed.
func Handler(s *server.Server) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(Collector(s), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	metrics := promhttp.HandlerFor(r, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: maxScrapes, ErrorHandling: promhttp.ContinueOnError})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" && mode != "navigate" {
			http.Error(w, "Metrics are not for scripts of pages.", http.StatusForbidden)
			return
		}
		metrics.ServeHTTP(w, r)
	})
	return mux
}
