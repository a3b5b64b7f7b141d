package server

import (
	"context"
	"crypto/x509"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/measure"
)

// metricsTimeout bounds what a reading waits for the database.
const metricsTimeout = 2 * time.Second

// Metrics returns what is known of this process, for whoever watches it: package
// telemetry makes it readable for Prometheus. No label names a user, an address or
// a path. What must be asked of the database is left out while that is away.
func (s *Server) Metrics(ctx context.Context) []measure.Family {
	ctx, cancel := context.WithTimeout(ctx, metricsTimeout)
	defer cancel()
	began := time.Now()
	up := s.DB.Ping(ctx) == nil
	answered := time.Since(began)
	all := []measure.Family{
		{
			Name: "sallyport_build_info", Help: "1, for the version that runs.", Kind: measure.Gauge, Labels: []string{"version", "go_version", "database"},
			Points: []measure.Point{{Labels: []string{s.cfg.Version, runtime.Version(), string(s.DB.Dialect())}, Value: 1}},
		},
		measure.One("sallyport_draining", "1 once a shutdown has begun (/readyz answers 503), otherwise 0.", measure.Gauge, measure.Bool(s.draining.Load())),
		measure.One("sallyport_database_up", "1 if the database answered this reading within 2 s, otherwise 0.", measure.Gauge, measure.Bool(up)),
		measure.One("sallyport_database_ping_seconds", "How long the database took to answer this reading.", measure.Gauge, answered.Seconds()),
		{
			Name: "sallyport_limit_refusals_total", Help: "Requests that a limit refused, by its name: all, sign-in, register, guesses, and those of routes.",
			Kind: measure.Counter, Labels: []string{"limit"}, Points: s.wall.limits.counts.Points(),
		},
		{
			Name: "sallyport_limits_shared", Help: "1 if nodes count together, 0 while they cannot and each counts for itself. Absent where they are not meant to (redis).", Kind: measure.Gauge,
			Points: s.wall.limits.sharing(),
		},
	}
	if s.cfg.Metrics {
		all = append(all, s.requests.Families("sallyport_http_requests_total", "sallyport_http_request_seconds")...)
	}
	all = slices.Concat(all, s.SignIn.Measure(), s.passwords.Measure(), s.live.Measure(), s.Refusals.Measure(), s.Chain.Measure(), s.DB.Measure())
	if s.sinks != nil {
		all = append(all, s.sinks.Measure()...)
	}
	var rd db.Reader
	if up {
		rd = s.DB.View(ctx)
		all = slices.Concat(all, s.measureKeys(ctx), s.Mail.Measure(ctx))
	}
	all = append(all, s.cleaner.Measure(rd)...)
	return append(all, s.measureCertificates()...)
}

// ShowCertificates has Metrics tell when the certificates of a listener expire. leaves
// returns those that are served now. The ones of ACME are known without it.
func (s *Server) ShowCertificates(leaves func() []*x509.Certificate) {
	s.showExpiries(func(until func(name string, at time.Time)) {
		for _, leaf := range leaves() {
			name := leaf.Subject.CommonName
			switch {
			case len(leaf.DNSNames) > 0:
				name = leaf.DNSNames[0]
			case len(leaf.IPAddresses) > 0:
				name = leaf.IPAddresses[0].String()
			}
			until(name, leaf.NotAfter)
		}
	})
}

// expiries calls until for each certificate; the zero time is one that is not there.
type expiries func(until func(name string, at time.Time))

func (s *Server) showExpiries(e expiries) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.certificates = append(s.certificates, e)
}

// measureCertificates tells when certificates expire; of several for one name the
// first that does. Nothing, if this process serves no HTTPS.
func (s *Server) measureCertificates() []measure.Family {
	s.mu.Lock()
	all := slices.Clone(s.certificates)
	s.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	first := map[string]float64{}
	for _, each := range all {
		each(func(name string, at time.Time) {
			seconds := 0.0
			if !at.IsZero() {
				seconds = float64(at.Unix())
			}
			if before, twice := first[name]; !twice || seconds < before {
				first[name] = seconds
			}
		})
	}
	f := measure.Family{Name: "sallyport_certificate_expires_timestamp_seconds", Help: "When the certificate that this process serves for a name expires, in Unix seconds; 0: tls.acme has none yet. Absent where a proxy ends TLS.", Kind: measure.Gauge, Labels: []string{"name"}}
	for _, name := range slices.Sorted(maps.Keys(first)) {
		f.Points = append(f.Points, measure.Point{Labels: []string{name}, Value: first[name]})
	}
	return []measure.Family{f}
}

// measureKeys tells how old the key is that signs. Nothing, if the keys cannot be
// read.
func (s *Server) measureKeys(ctx context.Context) []measure.Family {
	keys, err := s.Keys.List(ctx)
	if err != nil {
		return nil
	}
	states, ages := map[keyring.State]float64{}, []measure.Point(nil)
	for _, k := range keys {
		states[k.State]++
		if k.State == keyring.Active && k.Activated != nil {
			ages = []measure.Point{{Value: s.cfg.Now().Sub(*k.Activated).Seconds()}}
		}
	}
	count := measure.Family{Name: "sallyport_signing_keys", Help: "Signing keys, by state.", Kind: measure.Gauge, Labels: []string{"state"}}
	for _, state := range []keyring.State{keyring.Next, keyring.Active, keyring.Retiring} {
		count.Points = append(count.Points, measure.Point{Labels: []string{string(state)}, Value: states[state]})
	}
	return []measure.Family{
		{Name: "sallyport_signing_key_age_seconds", Help: "For how long the active signing key has been signing.", Kind: measure.Gauge, Points: ages}, count,
	}
}

// sharing is a point if the limits are meant to be shared.
func (l *limits) sharing() []measure.Point {
	if l.shared == nil {
		return nil
	}
	f, ok := l.shared.(interface{ Down() bool })
	return []measure.Point{{Value: measure.Bool(!ok || !f.Down())}}
}
