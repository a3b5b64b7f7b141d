package server

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/forward"
	"github.com/sallyport/sallyport/guard/clientip"
)

// forwardRoutes registers what proxies of other services ask.
func (s *Server) forwardRoutes() error {
	page := ""
	if !s.cfg.NoPortal {
		page = s.path("/account/sign-in")
	}
	door, err := forward.New(forward.Config{
		Ask: s.gate.Ask, FromProxy: s.wall.clients.FromProxy,
		Undeclared: func(r *http.Request) {
			seen := s.wall.clients.Resolve(r)
			seen.Ignored = cmp.Or(seen.Ignored, string(clientip.XForwardedFor)) // it asks as a proxy does
			s.wall.proxies.note(r, seen, s.cfg.Log)
		},
		Person: s.person, Keys: s.Keys.Set, Issuer: s.cfg.BaseURL, SignIn: page, Refusals: s.Refusals, Log: s.cfg.Log, Now: s.cfg.Now,
	})
	if err != nil {
		return err
	}
	door.Routes(s.mux)
	return nil
}

// person returns an account's name, and its address if it is known to be the
// person's. An address that anybody may have registered with names nobody.
func (s *Server) person(ctx context.Context, id string) (username, email string, err error) {
	u, err := s.Accounts.Get(ctx, id)
	if e, ok := errors.AsType[*sallyport.Error](err); ok && e.Status == http.StatusNotFound {
		return "", "", nil // a key of the configuration
	}
	if err != nil {
		return "", "", err
	}
	if u.Username != nil {
		username = *u.Username
	}
	if u.EmailVerified {
		email = u.Email
	}
	return username, email, nil
}

// asksForward reports whether a request is a proxy's question, and which proxy's.
func (w *wall) asksForward(r *http.Request) (proxy string, ok bool) {
	return strings.CutPrefix(r.URL.EscapedPath(), w.forward) // as the Mux reads it: /forward-auth%2f is no folder
}

// StatusHeader has the status of an answer that a proxy is told in another way.
const StatusHeader = "X-Sallyport-Status"

// toProxy is the writer for a proxy's question. Some answers of the wall and of the
// Mux mean something else there, or nothing: nginx takes 401 and 403 for a refusal and
// everything but 2xx for a fault of ours, which its clients would see as one of its
// own; and a redirect to the plain form of an address would lead a browser to this
// server's. They become 403, and the status that was meant stands in a header.
type toProxy struct {
	http.ResponseWriter
	nginx   bool
	dropped bool // the body, which was about a redirect
}

func (p *toProxy) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func (p *toProxy) WriteHeader(status int) {
	switch status {
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		p.dropped = true
		h := p.Header()
		h.Del("Location")
		h.Set(StatusHeader, strconv.Itoa(status))
		sallyport.WriteError(p.ResponseWriter, &sallyport.Error{
			Status: http.StatusForbidden, Code: "bad_target",
			Message: "The request that the proxy asks about is refused: its path is not in its plain form, or it did not come over HTTPS as far as the proxy says. The proxy must send X-Forwarded-Proto.",
		})
		return
	}
	if p.nginx && status >= 300 && status != http.StatusUnauthorized && status != http.StatusForbidden {
		p.Header().Set(StatusHeader, strconv.Itoa(status))
		status = http.StatusForbidden
	}
	p.ResponseWriter.WriteHeader(status)
}

func (p *toProxy) Write(b []byte) (int, error) {
	if p.dropped {
		return len(b), nil
	}
	return p.ResponseWriter.Write(b)
}
