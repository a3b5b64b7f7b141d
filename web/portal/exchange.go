package portal

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
)

// exchange is a browser's request for a page, and what is known about it.
type exchange struct {
	p *Portal
	w http.ResponseWriter
	r *http.Request

	form map[string]string // what was posted

	asked  bool
	person *person // who is signed in, once asked
	bare   bool    // the cookie is not good: go on without it
}

// person is who is signed in, as GET /users/me has it.
type person struct {
	Username      *string `json:"username"`
	Email         string  `json:"email"`
	EmailVerified bool    `json:"email_verified"`
	FullName      *string `json:"full_name"`
	MFAEnabled    bool    `json:"mfa_enabled"`
}

// Name is what the person is called.
func (p *person) Name() string {
	if p.Username != nil {
		return *p.Username
	}
	return p.Email
}

// read reads what was posted. If it must not be looked at, read answers and
// returns false.
func (x *exchange) read() bool {
	err := x.p.cfg.Restrict(x.r)
	if err == nil {
		x.form, err = api.ReadForm(x.r, api.MaxAuthBody)
	}
	if err != nil {
		e := sallyport.AsError(err)
		x.refuse(e.Status, "This was not accepted", e.Message)
		return false
	}
	_, ok := x.who()
	return ok
}

// passedOn is what the API sees of the browser's header. Never Authorization: no
// form sends it by itself.
var passedOn = []string{"Cookie", "Origin", "Sec-Fetch-Site", "Accept-Language", "User-Agent"}

// answer is what the API answered.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) ok() bool { return a.status < 300 }

// into reads a body of ours.
func (a answer) into(v any) bool { return json.Unmarshal(a.body, v) == nil }

// failure is the problem details of an answer, with what a sign-in adds whose second
// factor is due.
type failure struct {
	Detail    string            `json:"detail"`
	Code      string            `json:"code"`
	RequestID string            `json:"request_id"`
	Errors    []sallyport.Field `json:"errors"`

	Token   string   `json:"mfa_token"`
	Methods []string `json:"mfa_methods"`
}

func (a answer) failure() (f failure) {
	if !a.into(&f) || f.Detail == "" {
		e := sallyport.Internal()
		f = failure{Detail: e.Message, Code: e.Code}
	}
	return f
}

// call sends a request to the API in the browser's name. Cookies that the answer
// sets, and when to try again, go on to the browser.
func (x *exchange) call(method, target string, body any) answer {
	b, err := json.Marshal(body)
	if err != nil {
		panic(err) // texts always marshal
	}
	if body == nil {
		b = nil
	}
	r, err := http.NewRequestWithContext(x.r.Context(), method, target, bytes.NewReader(b))
	if err != nil {
		panic(err) // a target of ours
	}
	r.Host, r.RemoteAddr, r.TLS, r.RequestURI = x.r.Host, x.r.RemoteAddr, x.r.TLS, target
	for _, name := range passedOn {
		if values := x.r.Header[name]; len(values) > 0 && !(name == "Cookie" && x.bare) {
			r.Header[name] = values
		}
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	w := &recorder{header: http.Header{}}
	w.header[sallyport.RequestIDHeader] = x.w.Header()[sallyport.RequestIDHeader]
	x.p.cfg.API.ServeHTTP(w, r)
	for _, name := range []string{"Set-Cookie", "Retry-After", "Ratelimit", "Ratelimit-Policy"} {
		for _, v := range w.header.Values(name) {
			x.w.Header().Add(name, v)
		}
	}
	return answer{max(w.status, http.StatusOK), w.header, w.body.Bytes()}
}

// recorder takes an answer of the API.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(b)
}

// who returns who is signed in, nil for nobody. A cookie that is not good is taken
// away by the API and not sent again: it is refused wherever credentials are looked
// at. One that is good and opens nothing yet, for want of a second factor, stays. If
// that cannot be found out, who answers and returns false.
func (x *exchange) who() (*person, bool) {
	if x.asked || len(x.r.Header["Cookie"]) == 0 {
		return x.person, true
	}
	x.asked = true
	a := x.call(http.MethodGet, "/users/me", nil)
	switch {
	case a.ok():
		x.person = new(person)
		a.into(x.person)
	case a.status >= 500 || a.status == http.StatusTooManyRequests:
		x.refuse(a.status, "This does not work now", a.failure().Detail)
		return nil, false
	default:
		x.bare = len(a.header["Set-Cookie"]) > 0
	}
	return x.person, true
}

// pick returns fields of the form, as members of a body; those that are empty are
// left out.
func (x *exchange) pick(names ...string) map[string]string {
	m := map[string]string{}
	for _, name := range names {
		if v := x.form[name]; v != "" {
			m[name] = v
		}
	}
	return m
}

// token returns the token of a letter: alone, or as the whole link was pasted.
func (x *exchange) token() string {
	text := strings.TrimSpace(x.form["token"])
	for _, mark := range []string{"#token=", "#k="} {
		if _, after, ok := strings.Cut(text, mark); ok {
			return after
		}
	}
	return text
}

// here is the path of the page as browsers see it. Where what is before the server
// takes the path of the base URL away, the request has come without.
func (x *exchange) here() string {
	if strings.HasPrefix(x.r.URL.Path, x.p.cfg.Path+"/account/") {
		return x.r.URL.Path
	}
	return x.p.cfg.Path + x.r.URL.Path
}

// lead sends the browser to another page of ours.
func (x *exchange) lead(status int, path string) { x.leave(status, x.p.cfg.Path+path) }

// leave sends the browser to a path of this origin.
func (x *exchange) leave(status int, target string) {
	h := x.w.Header()
	x.p.own.Set(h)
	h.Set("Cache-Control", "no-store")
	h.Set("Location", target)
	x.w.WriteHeader(status)
}

// next returns where the person wants to go on, or the page of their account.
func (x *exchange) next() string {
	if n := x.asksNext(); n != "" {
		return n
	}
	return x.p.cfg.Path + "/account/"
}

// asksNext returns the path to go on to that the request names, "" for none. A form
// carries it along.
func (x *exchange) asksNext() string {
	n := x.form["next"]
	if x.form == nil {
		n = x.r.URL.Query().Get("next")
	}
	if !isOwnPath(n) {
		return ""
	}
	return n
}

// isOwnPath reports whether browsers read a text as a path of the same origin. They
// take a backslash for a slash, leave out line breaks and tabs, and read what
// begins with two slashes as another host.
func isOwnPath(s string) bool {
	if len(s) > 2048 || !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") {
		return false
	}
	return !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '\\' })
}
