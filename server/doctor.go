package server

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/guard/clientip"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// ReadServer is the permission to see what GET /doctor tells.
const ReadServer = "read:server"

// View is what the server sees of a request: for “sallyport doctor”, which
// compares it with what was sent.
type View struct {
	Address    string    `json:"address" doc:"Where the request came from, as limits, lockout and the log have it; empty if it came over no network"`
	Peer       string    `json:"peer" doc:"The IP address at the other end of the connection"`
	PeerPort   uint16    `json:"peer_port" doc:"Its port there"`
	Forwarded  string    `json:"forwarded" enum:"none,believed,ignored" doc:"What became of forwarded headers: there were none, they came from a declared proxy, or from a peer that is not declared"`
	Ignored    string    `json:"ignored_header,omitempty" doc:"The forwarded header that was ignored"`
	Received   string    `json:"received,omitempty" doc:"The header of declared proxies as it arrived, at most 512 bytes of its end"`
	HTTPS      bool      `json:"https" doc:"Whether the request came over HTTPS, as far as the server can tell"`
	BaseURL    string    `json:"base_url" doc:"Where clients are said to reach the server"`
	Hosts      []string  `json:"hosts" doc:"Names under which it may be addressed"`
	Cookie     string    `json:"cookie" doc:"Name of the session cookie"`
	Cookies    bool      `json:"cookies" doc:"Whether browsers keep it under this base URL"`
	Limits     LimitView `json:"limits"`
	Undeclared string    `json:"undeclared_proxy,omitempty" doc:"The last peer that sent forwarded headers and is not a declared proxy"`
	Time       time.Time `json:"time" doc:"The server's clock"`
}

// LimitView says which limits hold.
type LimitView struct {
	Default string `json:"default" doc:"Of all requests of a client address, or off"`
	Login   string `json:"login" doc:"Of sign-ins with a password of a client address, or off"`
	Lockout bool   `json:"lockout" doc:"Whether wrong passwords lock"`
	Shared  string `json:"shared" enum:"no,yes,away" doc:"Whether nodes count together; away: the store does not answer, and each counts for itself"`
	Nodes   int    `json:"nodes" doc:"Among how many a limit is divided where each counts for itself"`
}

const maxReceived = 512

func (s *Server) doctorRoutes() {
	s.api.Raw(huma.Operation{
		Method: http.MethodGet, Path: "/doctor", Tags: []string{"Health"}, Summary: "What the server sees of this request",
		Description: "The client address, the proxy, HTTPS, hosts, limits and clock as the server has them, for sallyport doctor.",
		Responses:   map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{"application/json": {Schema: api.Schema[View](s.api)}}}},
	}, sallyport.Permission(ReadServer), func(w http.ResponseWriter, r *http.Request) {
		b, err := json.Marshal(s.view(r))
		if err != nil {
			panic(err) // strings, booleans and a time always marshal
		}
		w.Header().Set("Cache-Control", "no-store")
		api.WriteJSON(w, append(b, '\n'))
	})
}

func (s *Server) view(r *http.Request) View {
	seen := s.wall.clients.Resolve(r)
	v := View{
		Address: reqctx.From(r.Context()).Address(), Forwarded: "none", Ignored: seen.Ignored, HTTPS: seen.HTTPS,
		BaseURL: s.cfg.BaseURL, Hosts: s.wall.names, Cookie: s.cookie.Name(), Cookies: s.cookie.CheckKept() == nil,
		Limits: s.wall.limits.view(!s.cfg.NoLockout), Time: s.cfg.Now().UTC(),
	}
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		v.Peer, v.PeerPort = peer.Addr().Unmap().WithZone("").String(), peer.Port()
	}
	v.Received = strings.Join(r.Header.Values(string(cmp.Or(s.cfg.ProxyHeader, clientip.XForwardedFor))), ", ")
	v.Received = strings.ToValidUTF8(v.Received[max(0, len(v.Received)-maxReceived):], "")
	switch {
	case seen.Ignored != "":
		v.Forwarded = "ignored"
	case v.Address != v.Peer:
		v.Forwarded = "believed"
	}
	if p := s.wall.proxies.last.Load(); p != nil {
		v.Undeclared = p.String()
	}
	return v
}
