package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/page"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// Stored is a policy as it is kept.
type Stored struct {
	ID          string    `json:"id"`
	Cedar       string    `json:"cedar" doc:"The policy, as it was written"`
	Description string    `json:"description"`
	Effect      string    `json:"effect" enum:"permit,forbid"`
	Actions     []string  `json:"actions" doc:"The permissions that it is about; none: all"`
	Version     int64     `json:"version" doc:"Grows with every change of any policy; for If-Match"`
	UpdatedAt   time.Time `json:"updated_at"`
	UpdatedBy   string    `json:"updated_by" doc:"Who wrote it: an account's id, or the operator"`

	permits bool
}

// Revision is what a policy was.
type Revision struct {
	Version     int64     `json:"version"`
	Cedar       string    `json:"cedar"`
	Description string    `json:"description"`
	Deleted     bool      `json:"deleted"`
	UpdatedAt   time.Time `json:"updated_at"`
	UpdatedBy   string    `json:"updated_by"`
}

func effect(permits bool) string { return (&Policy{Permits: permits}).Effect() }

// Config is what a Service needs.
type Config struct {
	DB *db.DB
	// Graph returns all permissions and all roles.
	Graph func(rd db.Reader) (permissions, roles []string, err error)
	// Changes counts what may have changed policies here; it is asked once everything
	// within the lease has been heard of (live.Cache).
	Changes func() uint64
	// Subject finds an account or machine client by id or name, and what it holds.
	Subject func(ctx context.Context, name string) (id string, client bool, grants *sallyport.Grants, err error)
	// Refusals takes what was asked about.
	Refusals  *audit.Refusals
	Place     Place
	CursorKey []byte
	Log       *slog.Logger
	Now       func() time.Time
}

// Service keeps the policies of a database.
type Service struct {
	cfg     Config
	current atomic.Pointer[Set]
	loading chan struct{} // holds one while nobody loads
}

// New returns the service. It reads nothing yet.
func New(cfg Config) *Service {
	s := &Service{cfg: cfg, loading: make(chan struct{}, 1)}
	s.loading <- struct{}{}
	return s
}

// Current returns the policies as they are now. It reads the database only when
// something may have changed since it last did. An error means that they could not
// be read: nothing that they might forbid may be let in.
func (s *Service) Current(ctx context.Context) (*Set, error) {
	stamp := s.cfg.Changes()
	if set := s.current.Load(); set != nil && set.stamp == stamp {
		return set, nil
	}
	select {
	case <-s.loading:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { s.loading <- struct{}{} }()
	stamp = s.cfg.Changes()
	before := s.current.Load()
	if before != nil && before.stamp == stamp {
		return before, nil
	}
	set, err := s.load(ctx, before, stamp)
	if err != nil {
		return nil, err
	}
	s.current.Store(set)
	return set, nil
}

// Read reads the policies without regard to what is known: for commands, which hear
// of no changes.
func (s *Service) Read(ctx context.Context) (*Set, error) { return s.load(ctx, nil, 0) }

const maxLoads = 10

// load reads what has changed since before. It takes several statements; when a
// version moved between them it reads again.
func (s *Service) load(ctx context.Context, before *Set, stamp uint64) (*Set, error) {
	view := s.cfg.DB.View(ctx)
	for range maxLoads {
		policies, roles, err := versions(view)
		if err != nil {
			return nil, err
		}
		var known []*Policy
		switch {
		case before != nil && before.version == policies && before.roles == roles:
			return before.as(stamp), nil
		case before != nil && before.version == policies:
			known = before.Policies()
		default:
			if known, err = s.changed(view, before); err != nil {
				return nil, err
			}
		}
		permissions, _, err := s.cfg.Graph(view)
		if err != nil {
			return nil, err
		}
		p, r, err := versions(view)
		if err != nil {
			return nil, err
		}
		if p == policies && r == roles {
			set := NewSet(known, permissions, s.cfg.Place)
			set.version, set.roles, set.stamp = policies, roles, stamp
			return set, nil
		}
	}
	return nil, &db.Error{Op: "read policies", Err: errors.New("they change faster than they can be read")}
}

// as returns the same policies under another stamp.
func (s *Set) as(stamp uint64) *Set {
	c := &Set{version: s.version, roles: s.roles, stamp: stamp, byID: s.byID, index: s.index, rest: s.rest, permissions: s.permissions, place: s.place}
	return c
}

// few is how many policies are read one by one.
const few = 50

// changed returns all policies, and compiles those that are not in before.
func (s *Service) changed(view db.Reader, before *Set) ([]*Policy, error) {
	var known []*Policy
	missing := map[string]bool{}
	err := eachVersion(view, func(id string, version int64) {
		if before != nil {
			if p := before.byID[id]; p != nil && p.version == version {
				known = append(known, p)
				return
			}
		}
		missing[id] = true
	})
	if err != nil {
		return nil, err
	}
	add := func(st Stored) {
		p := load(st.ID, st.Cedar, st.Version, st.permits, st.Actions)
		if p.broken != nil {
			s.cfg.Log.Error("a policy cannot be read, so that it denies what it is about", "policy", st.ID, "error", p.broken)
		}
		known = append(known, p)
	}
	if len(missing) <= few {
		for id := range missing {
			st, found, err := readPolicy(view, id)
			if err != nil {
				return nil, err
			}
			if found { // otherwise the version has moved
				add(st)
			}
		}
		return known, nil
	}
	all, err := listPolicies(view, "", MaxPolicies)
	if err != nil {
		return nil, err
	}
	for _, st := range all {
		if missing[st.ID] {
			add(st)
		}
	}
	return known, nil
}

// Author is who changes policies.
type Author struct {
	operator  bool
	principal sallyport.Principal
}

// Operator is the command line on the server's own database: it may do everything.
func Operator() Author { return Author{operator: true} }

// ByPrincipal writes with the rights of a request's credential.
func ByPrincipal(p sallyport.Principal) Author { return Author{principal: p} }

// covers reports whether the author holds all that a policy is about. Who may write
// policies could otherwise give themselves whatever they lack, or take from others
// what keeps those above them.
func (a Author) covers(actions []string) bool {
	p := &a.principal
	if a.operator || p.Grants().Everything() && !p.Claims().Scoped {
		return true
	}
	return len(actions) > 0 && !slices.ContainsFunc(actions, func(name string) bool { return !p.Can(name) })
}

func aboveOwn() error {
	return &sallyport.Error{
		Status: http.StatusForbidden, Code: "above_own_rights",
		Message: "You cannot write or delete a policy about a permission that you do not hold. One about all actions is for administrators. Ask somebody who holds all the permissions concerned.",
	}
}

// known returns what policies may name.
func (s *Service) known(rd db.Reader) (Known, error) {
	permissions, roles, err := s.cfg.Graph(rd)
	if err != nil {
		return Known{}, err
	}
	types, err := resourceTypes(rd)
	return Known{setOf(permissions), setOf(roles), types}, err
}

func setOf(names []string) map[string]bool {
	out := make(map[string]bool, len(names))
	for _, n := range names {
		out[n] = true
	}
	return out
}

// Put creates or replaces a policy. With match, which is a version, it must be what
// it is replaced at; 0: whatever it is.
func (s *Service) Put(ctx context.Context, author Author, id, text, description string, match int64) (out Stored, err error) {
	if err := checkID(id); err != nil {
		return out, err
	}
	if !utf8.ValidString(description) || utf8.RuneCountInString(description) > 200 || strings.ContainsFunc(description, unicode.IsControl) {
		return out, sallyport.Invalid(sallyport.Field{Pointer: "/description", Code: "invalid_text", Detail: "Use text of at most 200 characters on one line, without control characters."})
	}
	p, err := Parse(text)
	if err != nil {
		return out, err
	}
	if p.ID != "" && p.ID != id {
		return out, fault("id", "The policy has another name in its annotation @id. Leave that out, or write the same.")
	}
	// It takes milliseconds, and what exists only grows: in the transaction names are
	// looked at again, and types fit as they do here.
	if k, err := s.known(s.cfg.DB.View(ctx)); err != nil {
		return out, err
	} else if err := p.Check(k); err != nil {
		return out, err
	}
	by, now := reqctx.InfoFrom(ctx).Actor, micros(s.cfg.Now())
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		old, found, err := readPolicy(tx, id)
		if err != nil {
			return err
		}
		if match != 0 && (!found || old.Version != match) {
			return changedMeanwhile()
		}
		if !author.covers(p.Actions) || found && !author.covers(old.Actions) {
			return aboveOwn()
		}
		if found && old.Cedar == text && old.Description == description {
			out = old
			return nil // as it is: nobody's requests are disturbed
		}
		k, err := s.known(tx)
		if err != nil {
			return err
		}
		if err := p.names(k); err != nil {
			return err
		}
		if err := room(tx, id, p); err != nil {
			return err
		}
		version, err := bump(tx)
		if err != nil {
			return err
		}
		out = Stored{
			ID: id, Cedar: text, Description: description, Effect: p.Effect(), Actions: append([]string{}, p.Actions...),
			Version: version, UpdatedAt: now, UpdatedBy: by, permits: p.Permits,
		}
		if err := upsertPolicy(tx, out); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "policy.put", Target: id, Detail: map[string]string{
			"version": strconv.FormatInt(version, 10), "effect": out.Effect, "actions": strings.Join(out.Actions, " "),
		}})
	})
	return out, err
}

func changedMeanwhile() error {
	return &sallyport.Error{
		Status: http.StatusPreconditionFailed, Code: "version_conflict",
		Message: "The policy is not the one that If-Match names: somebody has changed or deleted it. Read it again, and write what should stand.",
	}
}

// room returns an error if the policies would be too many or too long.
func room(tx *db.Tx, id string, p *Policy) error {
	n, size := 1, len(p.Text)
	about := map[string]int{} // "": all
	count := func(actions []string) {
		if len(actions) == 0 {
			about[""]++
		}
		for _, a := range actions {
			about[a]++
		}
	}
	count(p.Actions)
	if err := weights(tx, id, func(actions []string, length int) {
		n, size = n+1, size+length
		count(actions)
	}); err != nil {
		return err
	}
	most := 0
	for action, k := range about {
		if action != "" {
			most = max(most, k)
		}
	}
	var what string
	switch {
	case n > MaxPolicies:
		what = fmt.Sprintf("There are as many policies as there may be (%d).", MaxPolicies)
	case size > MaxTotal:
		what = fmt.Sprintf("All policies together may have %d bytes.", MaxTotal)
	case most+about[""] > MaxForAction:
		what = fmt.Sprintf("There would be more than %d policies for one action, and each decision looks at all of them.", MaxForAction)
	default:
		return nil
	}
	return &sallyport.Error{Status: http.StatusConflict, Code: "too_many_policies", Message: what + " Delete what is not needed, or let one policy say what several do."}
}

// Delete removes a policy; match is as for Put.
func (s *Service) Delete(ctx context.Context, author Author, id string, match int64) error {
	by, now := reqctx.InfoFrom(ctx).Actor, micros(s.cfg.Now())
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		old, found, err := readPolicy(tx, id)
		switch {
		case err != nil:
			return err
		case !found:
			return sallyport.NotFound("policy")
		case match != 0 && old.Version != match:
			return changedMeanwhile()
		case !author.covers(old.Actions):
			return aboveOwn()
		}
		if old.Version, err = bump(tx); err != nil {
			return err
		}
		old.UpdatedAt, old.UpdatedBy = now, by
		if err := deletePolicy(tx, old); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "policy.deleted", Target: id, Detail: map[string]string{
			"version": strconv.FormatInt(old.Version, 10), "effect": old.Effect, "actions": strings.Join(old.Actions, " "),
		}})
	})
}

// Get returns one policy.
func (s *Service) Get(ctx context.Context, id string) (Stored, error) {
	st, found, err := readPolicy(s.cfg.DB.View(ctx), id)
	if err == nil && !found {
		err = sallyport.NotFound("policy")
	}
	return st, err
}

// History returns what a policy was, the newest first; also of one that is deleted.
func (s *Service) History(ctx context.Context, id string) ([]Revision, error) {
	all, err := history(s.cfg.DB.View(ctx), id)
	if err == nil && len(all) == 0 {
		err = sallyport.NotFound("policy")
	}
	return all, err
}

// List returns a page of policies in the order of their names.
func (s *Service) List(ctx context.Context, limit int, cursor string) (out []Stored, next string, err error) {
	after := ""
	if cursor != "" {
		if err := page.Decode(s.cfg.CursorKey, "policies", cursor, &after); err != nil {
			return nil, "", err
		}
	}
	out, err = listPolicies(s.cfg.DB.View(ctx), after, limit+1)
	if err != nil || len(out) <= limit {
		return out, "", err
	}
	out = out[:limit]
	return out, page.Encode(s.cfg.CursorKey, "policies", out[limit-1].ID), nil
}

// All returns every policy.
func (s *Service) All(ctx context.Context) ([]Stored, error) {
	return listPolicies(s.cfg.DB.View(ctx), "", MaxPolicies)
}

// Declare makes types of resources known, so that policies may name them.
func Declare(ctx context.Context, d *db.DB, names []string) error {
	known, err := resourceTypes(d.View(ctx))
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return known[n] })
	if len(names) == 0 {
		return nil
	}
	return d.Write(ctx, func(tx *db.Tx) error {
		for _, n := range names {
			if err := insertType(tx, n); err != nil {
				return err
			}
		}
		return nil
	})
}
