package server

import (
	"context"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
)

// UserChanged tells the server that the service has changed or deleted a user of its
// own table (Config.Users): call it after the change is stored there. The user is read
// again by id. When it returns nil, whoever was disabled or deleted, or has another
// password, is refused at the next request, on every node within Lease; the roles, keys
// and second factor of somebody who is gone are deleted. It goes on when ctx ends. If it
// returns an error, call it again: until then the old state may hold, as
// docs/own-users.md has it.
func (s *Server) UserChanged(ctx context.Context, ownID string) error {
	return s.Accounts.UserChanged(ctx, ownID)
}

// CompareUsers does what UserChanged does for everybody who has an account here, but
// deletes nothing: for a job at night, and after either database was restored. It
// returns how many it has compared.
func (s *Server) CompareUsers(ctx context.Context) (int, error) { return s.Accounts.CompareUsers(ctx) }

// SubjectOf returns the id that a user of the service's own table has here: that of
// Principal.ID, of GET /users and of the audit log. The user need not have signed in
// yet. The error is 404 “not_found” if the table has nobody of that id.
func (s *Server) SubjectOf(ctx context.Context, ownID string) (string, error) {
	return s.Accounts.SubjectOf(ctx, ownID)
}

// OwnID returns the id that the caller of a handler has in the service's own table of
// users. The error is 401 “unauthenticated” for nobody, and 404 “not_found” for a
// machine client and for keys of the configuration.
func (s *Server) OwnID(ctx context.Context) (string, error) {
	p := sallyport.From(ctx)
	if p.Anonymous() {
		return "", sallyport.Unauthenticated()
	}
	id := p.ID()
	if own, found := s.ownIDs.get(id); found {
		return own, nil
	}
	own, err := s.Accounts.OwnID(ctx, id)
	if err == nil {
		s.ownIDs.put(id, own)
	}
	return own, err
}

// SetRoles makes these the roles that were given to somebody directly, as the operator
// would: for programs that decide on roles in their own code. id is that of SubjectOf or
// of an account; a user of the service's own table begins with the role user. It holds at
// the next request. What PUT /users/{id}/roles refuses an administrator is refused here
// with the same *sallyport.Error: an unknown role, and taking the last administrator's.
func (s *Server) SetRoles(ctx context.Context, id string, roles ...string) error {
	return s.DB.Write(ctx, func(tx *db.Tx) error { return role.SetRoles(ctx, tx, role.Operator(), id, roles) })
}

// maxOwnIDs bounds what is remembered: some ten megabytes.
const maxOwnIDs = 50_000

// ownIDs remembers who accounts stand for. That never changes, and the id of an account
// is never used again.
type ownIDs struct {
	mu sync.RWMutex
	m  map[string]string
}

func (o *ownIDs) get(id string) (own string, found bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	own, found = o.m[id]
	return own, found
}

func (o *ownIDs) put(id, own string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.m == nil || len(o.m) >= maxOwnIDs {
		o.m = map[string]string{}
	}
	o.m[id] = own
}

// follow returns how the users table is asked before a refresh, nil if there is none.
func (s *Server) follow() func(ctx context.Context, subject string) error {
	if s.cfg.Users == nil {
		return nil
	}
	return func(ctx context.Context, subject string) error { return s.Accounts.Follow(ctx, subject) }
}

// Credentials that are not refreshed (cookies, API keys, names and passwords) are looked
// at again once a minute while they are used. Then the users table is asked, too, behind
// the request: a change that the server was not told of holds no longer than that.
const (
	followEvery = time.Second
	lookAgain   = time.Minute
	maxUsed     = 50_000 // beyond it they are noted a minute later
)

// used is who has used such a credential and is yet to be asked about.
type used struct {
	mu sync.Mutex
	m  map[string]bool
}

// use notes that a subject has used such a credential.
func (s *Server) use(subject string) {
	if s.cfg.Users == nil {
		return
	}
	s.used.mu.Lock()
	defer s.used.mu.Unlock()
	if s.used.m == nil {
		s.used.m = map[string]bool{}
	}
	if len(s.used.m) < maxUsed {
		s.used.m[subject] = true
	}
}

// noteUsed is use for whom a Confirm has let in.
func (s *Server) noteUsed(v authn.Verified) func(authn.State, error) (authn.State, error) {
	return func(st authn.State, err error) (authn.State, error) {
		if err == nil {
			s.use(v.Subject)
		}
		return st, err
	}
}

// confirmPassword is the Confirm of Basic. Otherwise it would not look again: nothing of
// an account changes there without being heard of.
func (s *Server) confirmPassword(rd db.Reader, v authn.Verified) (authn.State, error) {
	st, err := s.noteUsed(v)(s.Accounts.ConfirmPassword(rd, v))
	if err == nil && s.cfg.Users != nil {
		st.Until = s.cfg.Now().Add(lookAgain)
	}
	return st, err
}

// followUsed asks the users table about whoever has used such a credential.
func (s *Server) followUsed(ctx context.Context) {
	s.used.mu.Lock()
	m := s.used.m
	s.used.m = nil
	s.used.mu.Unlock()
	for subject := range m {
		err := s.Accounts.Follow(ctx, subject)
		if e, ok := err.(*sallyport.Error); ok && e.Status >= 500 || ctx.Err() != nil {
			return // it was logged, and would be for each; they are noted again
		}
		if _, refused := err.(*authn.Refused); err != nil && !refused {
			s.cfg.Log.ErrorContext(ctx, "it could not be stored what the service's table of users says; it is tried again", "error", err)
			return
		}
	}
}
