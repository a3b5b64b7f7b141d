// Package prove shows from outside whether a server enforces what its OpenAPI
// document declares. It calls every operation as nobody, with credentials that are
// not good, and as each principal that a rule calls for, and compares the answers
// with the declaration.
//
// It stores nothing, and it changes nothing: calls are made so that one which is
// let in ends right after the decision, by an id that nothing has or a body that
// cannot be accepted. An operation that nothing would stop is left out, and said
// to be. The document is not trusted: its size and depth are bounded, references
// out of it are not followed, redirects are not either, and credentials go to the
// one origin that was given and nowhere else.
//
// Begin with ReadDocument, Plan and Runner.Run, or with “sallyport prove”, which
// does all three.
package prove

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Maker makes credentials of principals of its own.
type Maker interface {
	// Make returns a credential as it is sent: a token, a key, a cookie's value,
	// “name:password”. alone asks for a principal that nobody else has, because it
	// may be lost. ErrCannot: there is no such principal.
	Make(ctx context.Context, h Holding, s State, alone bool) (string, error)
}

// ErrCannot is returned by a Maker for what cannot be made.
var ErrCannot = errors.New("there is no such principal")

// ErrUnreachable is returned when the server cannot be reached.
var ErrUnreachable = errors.New("the server does not answer")

// Runner makes the calls of a plan.
type Runner struct {
	// Base is the server, with the path that its operations stand under.
	Base *url.URL
	// Maker makes credentials; nil if the plan has none that are to be made.
	Maker Maker
	// Sample is a good token to make forged ones of; "" if there is none.
	Sample string
	// Transport is http.DefaultTransport's like; nil: that.
	Transport http.RoundTripper
	// Told is called when the server's limits make the run wait; nil: nobody is told.
	Told func(wait time.Duration)

	client *http.Client
	d      *Document
	made   map[string]string
	absent reply
	served map[string]bool
}

// Difference is an answer that is not what the document declares.
type Difference struct {
	Operation string `json:"operation"`
	Principal string `json:"principal"`
	Expected  string `json:"expected"`
	Got       string `json:"got"`
	Means     string `json:"means"`
}

// Report is what a run found.
type Report struct {
	Operations  int          `json:"operations"` // of which at least one call was decided
	Calls       int          `json:"calls"`      // that were decided
	Admitted    int          `json:"admitted"`   // of them, those in which a rule let somebody in as declared
	Differences []Difference `json:"differences"`
	Untried     []Untried    `json:"not_tried"`
}

const (
	callTimeout = 20 * time.Second
	maxAnswer   = 64 << 10 // of an answer are read
	maxWaits    = 4        // for limits, for each call
	maxWait     = 65 * time.Second
)

// reply is as much of an answer as tells one from another.
type reply struct {
	status     int
	code       string // of problem details
	detail     string
	challenged bool // WWW-Authenticate
	allow      string
}

// Run makes the calls of a plan, one after the other. Errors: ErrUnreachable, what
// the Maker returns, and ctx's. With an error the report is of what was done.
func (r *Runner) Run(ctx context.Context, d *Document, cases []Case) (Report, error) {
	r.begin(d)
	rep := Report{Differences: []Difference{}, Untried: []Untried{}}
	var err error
	// What the server answers where nothing is, for comparison.
	if r.absent, err = r.ask(ctx, http.MethodGet, "/"+nobody, nil, ""); err != nil {
		return rep, err
	}
	if r.Sample == "" {
		if r.Sample, err = r.sample(ctx, cases); err != nil {
			return rep, err
		}
	}
	tried := map[string]bool{}
	for _, c := range cases {
		diff, undecided, err := r.try(ctx, c)
		if err != nil {
			return rep, err
		}
		if undecided != "" {
			rep.Untried = append(rep.Untried, Untried{c.Op.Name(), c.Principal, undecided})
			continue
		}
		rep.Calls++
		tried[c.Op.Name()] = true
		switch {
		case diff != nil:
			rep.Differences = append(rep.Differences, *diff)
		case c.Expected.Admitted && !c.Expected.Public:
			rep.Admitted++
		}
	}
	rep.Operations = len(tried)
	return rep, nil
}

func (r *Runner) begin(d *Document) {
	if r.client != nil {
		return
	}
	r.d, r.made, r.served = d, map[string]string{}, map[string]bool{}
	r.client = &http.Client{
		Timeout: callTimeout, Transport: r.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Known reports whether the server knows the principals of the Maker: it asks with
// one that may do nothing, before any other is made. If the plan has no such case,
// nothing is found out.
func (r *Runner) Known(ctx context.Context, d *Document, cases []Case) (bool, error) {
	r.begin(d)
	asked := 0
	for _, c := range cases {
		if c.Op.Method != http.MethodGet || len(c.Sends) != 1 || asked == 3 {
			continue
		}
		if s := c.Sends[0]; s.State != Good || s.Forge != "" || s.Holding.Kind != "bearer" || len(s.Holding.Permissions)+len(s.Holding.Roles) > 0 || len(c.Expected.Statuses) == 1 && c.Expected.Statuses[0] == http.StatusUnauthorized {
			continue
		}
		asked++
		value, err := r.value(ctx, c.Sends[0], false)
		if err != nil {
			return false, err
		}
		a, err := r.ask(ctx, c.Op.Method, c.Op.target(), http.Header{"Authorization": {"Bearer " + value}}, "")
		if err != nil {
			return false, err
		}
		if a.status != http.StatusUnauthorized {
			return true, nil
		}
	}
	return asked == 0, nil
}

// sample finds a good token among those that the cases send, to forge others of.
func (r *Runner) sample(ctx context.Context, cases []Case) (string, error) {
	for _, c := range cases {
		for _, s := range c.Sends {
			if s.State != Good || s.Forge != "" || r.d.Schemes[s.Scheme].Kind() != "bearer" {
				continue
			}
			value, err := r.value(ctx, s, false)
			if err != nil && !errors.Is(err, ErrCannot) {
				return "", err
			}
			if strings.Count(value, ".") == 2 {
				return value, nil
			}
		}
	}
	return "", nil
}

// value returns a credential as it is sent.
func (r *Runner) value(ctx context.Context, s Sent, alone bool) (string, error) {
	switch {
	case s.Value != "":
		return s.Value, nil
	case s.Forge != "":
		return forge(s.Forge, r.Sample, time.Now()), nil
	case r.Maker == nil:
		return "", ErrCannot
	case alone:
		return r.Maker.Make(ctx, s.Holding, s.State, true)
	}
	key := fmt.Sprintf("%+v %s", s.Holding, s.State)
	if v, ok := r.made[key]; ok {
		return v, nil
	}
	v, err := r.Maker.Make(ctx, s.Holding, s.State, false)
	if err == nil {
		r.made[key] = v
	}
	return v, err
}

func (r *Runner) try(ctx context.Context, c Case) (*Difference, string, error) {
	header := http.Header{}
	query := url.Values{}
	_, why := c.Op.stop()
	for _, s := range c.Sends {
		value, err := r.value(ctx, s, why != "")
		if errors.Is(err, ErrCannot) {
			return nil, err.Error(), nil
		}
		if err != nil {
			return nil, "", err
		}
		if undone := r.carry(header, query, r.d.Schemes[s.Scheme], value); undone != "" {
			return nil, undone, nil
		}
	}
	target := c.Op.target()
	if c.Op.Strict && !safe(c.Op.Method) {
		query.Set("prove", nobody)
	}
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	text, _, ok := c.Op.probeBody()
	if ok {
		header.Set("Content-Type", c.Op.body.media)
		if c.Op.body.media == multipartType {
			header.Set("Content-Type", multipartType+"; boundary=prove")
		}
	}
	a, err := r.ask(ctx, c.Op.Method, target, header, text)
	if err != nil {
		return nil, "", err
	}
	found := judge(c, a, r.d.Sallyport)
	if found.absent {
		served, err := r.isServed(ctx, c.Op, a)
		if err != nil {
			return nil, "", err
		}
		if !served {
			found = verdict{means: "the operation is documented and not served"}
		}
	}
	if found.undecided != "" || found.means == "" {
		return nil, found.undecided, nil
	}
	got := strconv.Itoa(a.status)
	if a.code != "" {
		got += " " + a.code
	}
	return &Difference{c.Op.Name(), c.Principal, c.Expected.String(), got, found.means}, "", nil
}

func safe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// carry puts a credential where its scheme has it.
func (r *Runner) carry(h http.Header, query url.Values, s Scheme, value string) (undone string) {
	switch {
	case s.Type == "apiKey" && s.In == "header":
		h.Set(s.Param, value)
	case s.Type == "apiKey" && s.In == "query":
		query.Set(s.Param, value)
	case s.Type == "apiKey" && s.In == "cookie":
		h.Add("Cookie", s.Param+"="+value)
		// What a page of the server's own sends along.
		h.Set("Origin", (&url.URL{Scheme: r.Base.Scheme, Host: r.Base.Host}).String())
		h.Set("Sec-Fetch-Site", "same-origin")
	case s.Kind() == "bearer":
		h.Set("Authorization", "Bearer "+value)
	case s.Type == "http" && strings.EqualFold(s.HTTP, "basic"):
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(value)))
	default:
		return "credentials of the scheme " + s.Name + " are not known here"
	}
	return ""
}

// ask sends a request, again if the server's limits refuse it.
func (r *Runner) ask(ctx context.Context, method, target string, header http.Header, body string) (reply, error) {
	address := strings.TrimSuffix(r.Base.String(), "/") + target
	for tries := 0; ; tries++ {
		req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
		if err != nil {
			return reply{}, fmt.Errorf("%s %s cannot be asked for: %w", method, target, err)
		}
		if header != nil {
			req.Header = header.Clone()
		}
		req.Header.Set("Accept", "application/json, */*;q=0.5")
		req.Header.Set("User-Agent", "sallyport-prove")
		res, err := r.client.Do(req)
		if err != nil {
			if ctx.Err() != nil {
				return reply{}, ctx.Err()
			}
			return reply{}, fmt.Errorf("%s: %w: %w", r.Base, ErrUnreachable, err)
		}
		a := readAnswer(res)
		wait := pause(res.Header)
		if a.status == http.StatusTooManyRequests {
			if wait = retryAfter(res.Header); tries == maxWaits || wait > maxWait {
				return a, nil
			}
			if r.Told != nil {
				r.Told(wait)
			}
		}
		if wait > 0 {
			select {
			case <-ctx.Done():
				return reply{}, ctx.Err()
			case <-time.After(wait):
			}
		}
		if a.status != http.StatusTooManyRequests {
			return a, nil
		}
	}
}

func readAnswer(res *http.Response) reply {
	defer res.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	_, _ = io.CopyN(io.Discard, res.Body, maxAnswer) // so that the connection can be used again
	a := reply{status: res.StatusCode, challenged: res.Header.Get("Www-Authenticate") != "", allow: strings.Join(res.Header.Values("Allow"), ", ")}
	var problem struct {
		Code   string          `json:"code"`
		Detail json.RawMessage `json:"detail"`
		OAuth  json.RawMessage `json:"error_description"` // RFC 6749, 5.2
	}
	if res.StatusCode >= 400 && json.NewDecoder(bytes.NewReader(b)).Decode(&problem) == nil {
		a.detail = string(problem.Detail) + string(problem.OAuth)
		if len(problem.Code) <= 64 && !strings.ContainsFunc(problem.Code, func(c rune) bool { return c < '!' || c > '~' }) {
			a.code = problem.Code
		}
	}
	return a
}

func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || seconds < 1 {
		seconds = 1
	}
	return time.Duration(min(seconds, 1<<20)) * time.Second
}

// pause is how long to wait so that the server's limits are not reached: others may
// come from the same address. Servers that do not tell how much is left are not
// waited for.
func pause(h http.Header) time.Duration {
	for item := range strings.SplitSeq(h.Get("RateLimit"), ",") {
		for part := range strings.SplitSeq(item, ";") {
			if left, ok := strings.CutPrefix(strings.TrimSpace(part), "r="); ok {
				if n, err := strconv.Atoi(left); err == nil && n < 20 {
					return 500 * time.Millisecond
				}
			}
		}
	}
	return 0
}

// verdict is what an answer says about a declaration.
type verdict struct {
	means     string // a difference, and what it means
	undecided string // nothing, and why
	absent    bool   // perhaps there is nothing at the path
}

// judge compares an answer with what was declared.
func judge(c Case, a reply, sallyport bool) verdict {
	e := c.Expected
	switch {
	case a.status == http.StatusTooManyRequests:
		return verdict{undecided: "the server's limits refuse it (429), and not for a short time. Try later; an own server can be run with limits.default = off and limits.login = off"}
	case a.status >= 500:
		return verdict{undecided: fmt.Sprintf("the server failed (%d), which says nothing about who may call it", a.status)}
	case a.status == http.StatusMethodNotAllowed:
		return verdict{absent: true, means: "the operation is documented and not served"}
	}
	refusal := a.status == http.StatusUnauthorized || a.status == http.StatusForbidden
	if e.Admitted {
		switch {
		case a.status == http.StatusUnauthorized && e.Public:
			return verdict{means: "refused although the operation is declared public"}
		case refusal && !e.Public:
			return verdict{means: "refused although the declared rule allows it"}
		}
		return verdict{absent: a.status == http.StatusNotFound}
	}
	if slices.Contains(e.Statuses, a.status) && (e.Code == "" || a.code == e.Code || severalInOAuth(e, a)) {
		if a.status == http.StatusUnauthorized && !a.challenged {
			return verdict{means: "refused, but without WWW-Authenticate, which belongs to every 401 (RFC 9110, 15.5.2)"}
		}
		return verdict{}
	}
	switch {
	case refusal && a.status == http.StatusForbidden && slices.Contains(e.Statuses, http.StatusUnauthorized):
		return verdict{means: "refused, but with 403 where 401 says that another credential would help (RFC 9110, 15.5.2)"}
	case refusal && e.Code == "":
		return verdict{means: "refused, but with 401 although the credential is good: 403 says that it is known and not enough (RFC 6750, 3.1)"}
	case a.status >= 300 && a.status < 400:
		return verdict{means: "answered with a redirect, which is neither yes nor no"}
	case !c.Op.wellFormed() && !sallyport && (a.status == 400 || a.status == 422):
		return verdict{undecided: "the server reads the body before it asks who is calling, and refuses that"}
	}
	return verdict{absent: a.status == http.StatusNotFound, means: letIn(c)}
}

// severalInOAuth reports whether a refusal is that of two credentials in the form
// of OAuth's own endpoints, which have no codes for it.
func severalInOAuth(e Expected, a reply) bool {
	return e.Code == severalCode && a.code == "" && strings.Contains(a.detail, "more than one credential")
}

// letIn says what it means that somebody got past the decision.
func letIn(c Case) string {
	switch {
	case c.Expected.Code != "":
		return "let in with two credentials, of which one was chosen without a word"
	case len(c.Sends) == 0:
		return "OPEN: anybody is let in, without a credential"
	}
	s := c.Sends[0]
	switch {
	case s.Forge != "":
		return "OPEN: a credential is not verified"
	case s.State == Expired:
		return "OPEN: an expired credential is taken"
	case s.State == Ended:
		return "OPEN: a credential is taken that was revoked"
	}
	return "OPEN: somebody is let in whom the declared rule does not allow: " + c.Op.Rule.String()
}

// isServed finds out whether there is something at the operation's path: 404 may
// also be the answer for an id that nothing has.
func (r *Runner) isServed(ctx context.Context, o *Operation, got reply) (bool, error) {
	if got.status == http.StatusMethodNotAllowed {
		return false, nil
	}
	if got.code != r.absent.code || got.detail != r.absent.detail || r.absent.status != http.StatusNotFound {
		return true, nil // another 404 than that of a path where nothing is
	}
	if served, known := r.served[o.Name()]; known {
		return served, nil
	}
	// A path that is served answers a method that it does not have with 405, or knows
	// it; one that is not answers as ever.
	a, err := r.ask(ctx, http.MethodOptions, o.target(), nil, "")
	if err != nil {
		return false, err
	}
	served := a.status != http.StatusNotFound
	if a.status == http.StatusMethodNotAllowed && a.allow != "" {
		served = slices.ContainsFunc(strings.Split(a.allow, ","), func(m string) bool { return strings.EqualFold(strings.TrimSpace(m), o.Method) })
	}
	r.served[o.Name()] = served
	return served, nil
}

// Merge adds what another part of the proof found, and sorts it.
func (r *Report) Merge(differences []Difference, left []Untried) {
	r.Differences = append(r.Differences, differences...)
	r.Untried = append(r.Untried, left...)
	slices.SortStableFunc(r.Differences, func(a, b Difference) int { return cmp.Compare(pathOf(a.Operation), pathOf(b.Operation)) })
}

func pathOf(operation string) string {
	method, path, _ := strings.Cut(operation, " ")
	return path + " " + method
}
