package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/guard/body"
)

// Bounds of introspection.
const (
	maxAnswer   = 256 << 10    // bytes
	maxVerdicts = 100_000      // remembered
	maxAsking   = 1024         // questions at once; more are refused at once, with 503
	maxSeconds  = 253402300799 // the end of the year 9999
)

// asks puts questions to the issuer, one for each credential at a time, and
// remembers the verdicts for as long as they may be used.
//
// A request uses the verdict of a question that was sent less than maxAge before
// the request came, whether it is remembered or still awaited. So what had
// changed at the issuer maxAge before a request came is what decides on it.
type asks struct {
	cfg    Introspection
	client *http.Client
	life   *life
	now    func() time.Time

	mu       sync.Mutex
	verdicts *cache[*question] // those that have ended
	turned   time.Time
	awaited  map[id]*question
	running  int
}

// question is one request to the issuer and what came of it.
type question struct {
	began time.Time
	done  chan struct{} // closed when the rest is set
	verdict
	err error
}

// verdict is what a credential is good for.
type verdict struct {
	principal sallyport.Principal
	until     time.Time // when it expires; zero if never
}

var errBusy = fmt.Errorf("more than %d questions to the issuer are unanswered", maxAsking)

func newAsks(cfg Introspection, client *http.Client, l *life, now func() time.Time) *asks {
	return &asks{cfg: cfg, client: client, life: l, now: now, verdicts: newCache[*question](maxVerdicts), awaited: map[id]*question{}}
}

// ask returns what the issuer says of a credential, as judge understands it.
func (s *asks) ask(ctx context.Context, k id, credential string, judge func(*answer) (verdict, error)) (sallyport.Principal, error) {
	q, err := s.question(k, credential, judge)
	if err != nil {
		return sallyport.Principal{}, err
	}
	select {
	case <-q.done:
	default:
		select {
		case <-q.done:
		case <-ctx.Done():
			return sallyport.Principal{}, ctx.Err()
		}
	}
	if q.err != nil {
		return sallyport.Principal{}, q.err
	}
	if !q.until.IsZero() && !s.now().Before(q.until) {
		return sallyport.Principal{}, &refused{"expired"}
	}
	return q.principal, nil
}

// question returns one that is young enough, or begins it.
func (s *asks) question(k id, credential string, judge func(*answer) (verdict, error)) (*question, error) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if q, ok := s.verdicts.get(k); ok && s.young(q, now) {
		return q, nil
	}
	if q := s.awaited[k]; q != nil && s.young(q, now) {
		return q, nil
	}
	if s.running >= maxAsking {
		return nil, errBusy
	}
	q := &question{began: now, done: make(chan struct{})}
	if !s.life.run(func(ctx context.Context) {
		a, err := s.fetch(ctx, credential)
		if err == nil {
			q.verdict, err = judge(a)
		}
		s.finish(k, q, err)
	}) {
		return nil, errClosed
	}
	s.awaited[k] = q
	s.running++
	return q, nil
}

func (s *asks) young(q *question, now time.Time) bool {
	age := now.Sub(q.began)
	return age >= 0 && age < s.cfg.MaxAge
}

// finish records how a question ended. What the issuer said is remembered, that
// a credential is not good too; that it could not be asked is not.
func (s *asks) finish(k id, q *question, err error) {
	q.err = err
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(q.done)
	s.running--
	if s.awaited[k] == q { // and not one that was asked after it
		delete(s.awaited, k)
	}
	if _, ok := errors.AsType[*refused](err); err != nil && !ok {
		return
	}
	// After two turns nothing is left that is too old.
	if since := q.began.Sub(s.turned); since < 0 || since >= s.cfg.MaxAge {
		s.verdicts.turn()
		s.turned = q.began
	}
	if before, ok := s.verdicts.get(k); !ok || before.began.Before(q.began) {
		s.verdicts.put(k, q)
	}
}

// fetch asks the issuer (RFC 7662, section 2.1).
func (s *asks) fetch(ctx context.Context, credential string) (*answer, error) {
	form := strings.NewReader("token=" + url.QueryEscape(credential))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.URL, form)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header[s.cfg.HeaderName] = []string{s.cfg.APIKey}
	_, b, err := fetch(s.client, req, maxAnswer)
	if err != nil {
		return nil, without(withContext(ctx, err), credential, url.QueryEscape(credential), s.cfg.APIKey)
	}
	a, err := parseAnswer(b)
	if err != nil {
		return nil, fmt.Errorf("POST %s: %w", s.cfg.URL, err)
	}
	return a, nil
}

// without returns an error that does not hold the secrets, which an answer that
// is not HTTP may have given back.
func without(err error, secrets ...string) error {
	text := err.Error()
	for _, s := range secrets {
		text = strings.ReplaceAll(text, s, "[secret]")
	}
	return errors.New(text)
}

// answer is what the issuer says of a credential (RFC 7662, section 2.2, and
// what Sallyport adds).
type answer struct {
	active    bool
	tokenType string
	subject   string
	client    string
	session   string
	issuer    string
	audience  []string
	expires   time.Time // zero if it does not
	authTime  time.Time
	mfa       bool

	scoped bool
	scope  []string

	// What the subject holds, whatever the scope.
	roles, permissions []string
	everything         bool
}

// parseAnswer reads an answer. Names match by every byte, and members that are
// not known are ignored; the error holds no part of the text.
func parseAnswer(b []byte) (*answer, error) {
	if err := body.CheckJSON(b, 8); err != nil {
		return nil, fmt.Errorf("the answer is not strict JSON: %w", err)
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(b, &members) != nil || members == nil {
		return nil, errors.New("the answer is not a JSON object")
	}
	r := answerReader{members: members}
	a := &answer{active: r.flag("active")}
	if _, there := members["active"]; !there {
		return nil, errors.New(`the answer has no "active"`)
	}
	if !a.active {
		return a, r.err
	}
	a.tokenType, a.subject, a.client = r.text("token_type"), r.text("sub"), r.text("client_id")
	a.session, a.issuer = r.text("sid"), r.text("iss")
	a.expires, a.authTime, a.mfa = r.seconds("exp"), r.seconds("auth_time"), r.flag("mfa")
	a.roles, a.permissions, a.everything = r.list("roles"), r.list("permissions"), r.flag("all_permissions")
	if raw, there := members["aud"]; there && raw[0] == '[' {
		a.audience = r.list("aud")
	} else if there {
		a.audience = []string{r.text("aud")}
	}
	if _, a.scoped = members["scope"]; a.scoped {
		a.scope = strings.Fields(r.text("scope"))
	}
	return a, r.err
}

// answerReader reads members by name and keeps the first error.
type answerReader struct {
	members map[string]json.RawMessage
	err     error
}

// read decodes a member if it is there. null is none of the types: read as
// absent it could make an answer wider than it was meant.
func (r *answerReader) read(name string, to any) {
	raw, there := r.members[name]
	if there && (string(raw) == "null" || json.Unmarshal(raw, to) != nil) && r.err == nil {
		r.err = fmt.Errorf("the answer's member %q is of another type", name)
	}
}

func (r *answerReader) text(name string) (s string) {
	r.read(name, &s)
	return s
}

func (r *answerReader) flag(name string) (b bool) {
	r.read(name, &b)
	return b
}

func (r *answerReader) list(name string) (list []string) {
	r.read(name, &list)
	return list
}

func (r *answerReader) seconds(name string) time.Time {
	if _, there := r.members[name]; !there {
		return time.Time{}
	}
	var n int64
	r.read(name, &n)
	if (n <= 0 || n > maxSeconds) && r.err == nil { // 0 is not “never”
		r.err = fmt.Errorf("the answer's member %q is out of bounds", name)
	}
	return time.Unix(n, 0).UTC()
}
