package apikey

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/db"
)

// DefaultHeader is where a key stands.
const DefaultHeader = "X-API-Key"

var (
	_ authn.Scheme     = (*Service)(nil)
	_ authn.Restricted = (*Service)(nil)
)

// Kind implements authn.Scheme.
func (*Service) Kind() sallyport.Kind { return sallyport.KindAPIKey }

// Read implements authn.Scheme. A key stands in the header, or in a cookie or a
// query parameter where the configuration names one. A key anywhere in the query
// is refused otherwise: it is in logs and histories by now.
func (s *Service) Read(r *http.Request) (cred string, found bool, err error) {
	if r.URL.RawQuery != "" {
		if cred, found, err = s.readQuery(r.URL.RawQuery); err != nil {
			return "", false, err
		}
	}
	if values := r.Header[s.header]; len(values) > 0 {
		if found || len(values) > 1 {
			return "", false, severalKeys()
		}
		cred, found = values[0], true
	}
	if s.cfg.Cookie != "" && r.Header["Cookie"] != nil {
		if cookies := r.CookiesNamed(s.cfg.Cookie); len(cookies) > 0 {
			if found || len(cookies) > 1 {
				return "", false, severalKeys()
			}
			cred, found = cookies[0].Value, true
		}
	}
	return cred, found, nil
}

func (s *Service) readQuery(raw string) (cred string, found bool, err error) {
	for part := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(part, "=")
		name, value = unescaped(name), unescaped(value)
		switch {
		case s.cfg.Query != "" && name == s.cfg.Query:
			if found {
				return "", false, severalKeys()
			}
			cred, found = value, true
		case holdsKey(name), holdsKey(value), len(value) >= Length/2 && strings.HasPrefix(value, Prefix) && s.namesKey(name):
			return "", false, &sallyport.Error{
				Status: http.StatusBadRequest, Code: "credential_in_query",
				Message: "An API key in the address ends up in logs and histories: it must be taken as known to others. Delete that key, make another, and send it in the header " + s.cfg.Header + ".",
			}
		}
	}
	return cred, found, nil
}

// namesKey reports whether a parameter is called as keys are.
func (s *Service) namesKey(name string) bool {
	plain := func(s string) string { return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(s)) }
	name = plain(name)
	return name == "key" || strings.HasSuffix(name, "apikey") || name == plain(s.cfg.Header)
}

func unescaped(s string) string {
	if t, err := url.QueryUnescape(s); err == nil {
		return t
	}
	return s
}

func severalKeys() error {
	return &sallyport.Error{
		Status: http.StatusBadRequest, Code: "several_credentials",
		Message: "The request carries more than one API key. Send exactly one.",
	}
}

// Restrict implements authn.Restricted: a cookie is sent by a browser without
// being asked, so what another site's page asks for is not done with it.
func (s *Service) Restrict(r *http.Request) error {
	if s.cfg.Cookie == "" || r.Header["Cookie"] == nil || len(r.CookiesNamed(s.cfg.Cookie)) == 0 {
		return nil
	}
	return s.cfg.Origin.Restrict(r)
}

const unknownKey = "the API key does not exist"

// Verify implements authn.Scheme. A key is found by its digest: how far a wrong
// one agrees with a right one shows in no comparison, since digests that are
// close say nothing about texts that are.
func (s *Service) Verify(ctx context.Context, cred string) (authn.Verified, error) {
	key, err := Parse(cred)
	if err != nil {
		return authn.Verified{}, &authn.Refused{Reason: err.Error(), Guess: true}
	}
	digest := key.Digest()
	if st, ok := s.static[digest]; ok {
		return st.verified(), nil
	}
	f, ok, err := readByDigest(s.cfg.DB.View(ctx), digest[:])
	if err != nil {
		return authn.Verified{}, err
	}
	if !ok {
		return authn.Verified{}, &authn.Refused{Reason: unknownKey, Guess: true}
	}
	id, err := uuid.Parse(f.id)
	if err != nil {
		return authn.Verified{}, fmt.Errorf("the API key %q has an id that is no UUID: %w", f.id, err)
	}
	return authn.Verified{
		Claims: sallyport.Claims{
			Subject: f.owner, Key: f.id, Kind: sallyport.KindAPIKey,
			Scoped: true, Scopes: sallyport.NewSet(strings.Fields(f.scopes)...), Expires: timeOrNone(f.expires),
		},
		Unit: id,
	}, nil
}

func (s Static) verified() authn.Verified {
	name := StaticPrefix + s.Name
	return authn.Verified{
		Claims: sallyport.Claims{Subject: name, Key: name, Kind: sallyport.KindAPIKey, Scoped: true, Scopes: sallyport.NewSet(s.Scopes...)},
		Static: sallyport.NewGrants(nil, s.Scopes),
	}
}

// digest returns the bytes of a digest that CheckStatics has found nothing
// wrong with.
func (s Static) digest() (d [32]byte, ok bool) {
	b, err := hex.DecodeString(s.Digest)
	return d, err == nil && copy(d[:], b) == len(d) && len(b) == len(d)
}

// Confirm implements authn.Scheme. It notes the use of the key, unless it is
// asked inside a transaction, which may run twice and has noted it at its
// request.
func (s *Service) Confirm(rd db.Reader, v authn.Verified) (authn.State, error) {
	now := s.cfg.Now()
	st, expires, good, err := readState(rd, v.Key, v.Subject, now)
	if err == nil && !good {
		var reason string
		if reason, err = whyRefused(rd, v.Key, now); err == nil {
			err = &authn.Refused{Reason: reason, Subject: v.Subject}
		}
	}
	if err != nil {
		return authn.State{}, err
	}
	st.Until = now.Add(lookAgain)
	if at := timeOrNone(expires); expires != 0 && at.Before(st.Until) {
		st.Until = at
	}
	if _, outside := rd.(db.View); outside {
		s.touches.Note(v.Key, now)
		if s.cfg.Used != nil {
			s.cfg.Used(v.Subject)
		}
	}
	return st, nil
}

// Challenge implements authn.Scheme. It stands beside refusals that a key would
// mend, and not where a person must sign in again. Like Basic and Bearer it is a
// scheme with parameters (RFC 9110, 11.6.1); it is not registered.
func (s *Service) Challenge(e *sallyport.Error) string {
	if e.Status != http.StatusUnauthorized || e.Code != "unauthenticated" && e.Code != "invalid_token" {
		return ""
	}
	return `ApiKey realm="sallyport", header="` + s.cfg.Header + `"`
}

// taken are names of headers, cookies and parameters that mean something else.
var (
	takenHeaders = []string{
		"Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Cookie", "Date",
		"Expect", "Forwarded", "Host", "If-Match", "If-None-Match", "Origin", "Proxy-Authorization", "Range", "Referer", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"User-Agent", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "X-Request-Id",
	}
	takenCookies    = []string{authn.CookieName, authn.InsecureCookieName} // browsers' sessions
	takenParameters = []string{"access_token", "cursor", "disabled", "limit", "mode", "q", "role", "token", "verbose"}
)

// CheckHeader returns what is wrong with the name of a header for keys.
func CheckHeader(name string) error {
	switch {
	case !isToken(name):
		return fmt.Errorf("it is not the name of a header")
	case slices.Contains(takenHeaders, http.CanonicalHeaderKey(name)) || strings.HasPrefix(http.CanonicalHeaderKey(name), "Sec-"):
		return fmt.Errorf("that header means something else")
	}
	return nil
}

// CheckCookie returns what is wrong with the name of a cookie for keys.
func CheckCookie(name string) error {
	switch {
	case !isToken(name):
		return fmt.Errorf("it is not the name of a cookie")
	case slices.Contains(takenCookies, name):
		return fmt.Errorf("that cookie means something else")
	}
	return nil
}

// CheckQuery returns what is wrong with the name of a query parameter for keys.
func CheckQuery(name string) error {
	switch {
	case !isToken(name) || strings.ContainsAny(name, "%+&#"):
		return fmt.Errorf("it is not a plain name")
	case slices.Contains(takenParameters, name):
		return fmt.Errorf("that parameter means something else")
	}
	return nil
}

// isToken reports whether s is a token of at most 64 characters (RFC 9110,
// 5.6.2).
func isToken(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return true
}
