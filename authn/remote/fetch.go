package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
)

// What one request to the issuer may take.
const (
	fetchTimeout = 5 * time.Second
	maxRedirects = 3
	maxConns     = 64 // of the Verifier's own client
)

// newClient returns a copy of c, or a client of our own, that follows redirects
// of a GET within one host only; and what closes its idle connections if they
// are our own.
func newClient(c *http.Client) (client *http.Client, idle func()) {
	idle = func() {}
	if c == nil {
		t := &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true,
			MaxConnsPerHost: maxConns, MaxIdleConnsPerHost: maxConns, IdleConnTimeout: 90 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		}
		c, idle = &http.Client{Transport: t}, t.CloseIdleConnections
	}
	own := *c
	own.Jar = nil
	own.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		from := via[0]
		switch {
		case from.Method != http.MethodGet: // it would carry the token and the key along
			return http.ErrUseLastResponse
		case len(via) > maxRedirects:
			return fmt.Errorf("more than %d redirects", maxRedirects)
		case req.URL.Scheme != from.URL.Scheme || req.URL.Host != from.URL.Host:
			return errors.New("a redirect to another host or scheme is not followed")
		}
		return nil
	}
	return &own, idle
}

// fetch returns the header and body of an answer that is 200, JSON, and at most
// limit bytes.
func fetch(client *http.Client, req *http.Request, limit int64) (http.Header, []byte, error) {
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	where := req.Method + " " + req.URL.String()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("%s: status %d, want 200", where, resp.StatusCode)
	}
	if !isJSON(resp.Header.Values("Content-Type")) {
		return nil, nil, fmt.Errorf("%s: the answer's Content-Type is not application/json", where)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("%s: %w", where, err)
	case int64(len(b)) > limit:
		return nil, nil, fmt.Errorf("%s: the answer is longer than %d bytes", where, limit)
	}
	return resp.Header, b, nil
}

// isJSON accepts application/json and its kin (application/jwk-set+json).
func isJSON(lines []string) bool {
	if len(lines) != 1 {
		return false
	}
	t, _, err := mime.ParseMediaType(lines[0])
	return err == nil && (t == "application/json" || strings.HasPrefix(t, "application/") && strings.HasSuffix(t, "+json"))
}

// withContext makes an error of a context whose time is over readable: the
// cause is the issuer's silence, or our end.
func withContext(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("no complete answer in time: %w", err)
	case ctx.Err() != nil:
		return errClosed
	}
	return err
}
