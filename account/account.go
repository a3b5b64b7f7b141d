// Package account decides the life of a person's account: registration,
// invitation, profile, address, password, being disabled, export, deletion.
//
// It stores accounts with their names, address and password hash. It never
// stores or logs a password, never shows a hash, never lets anybody change an
// account that may do more than they, and never tells a stranger who has one,
// where addresses are verified.
//
// Where a service keeps its users itself (Users), an account here only stands for one of
// them: who there is, names, address and password are decided there.
//
// Begin with Service: a program has its server's, server.Server.Accounts.
package account

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/link"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/cleanup"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/lockout"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/session"
)

// Registration says who may make an account.
type Registration string

// The kinds of registration. With Invite and Closed, accounts are made by who
// may write them.
const (
	Open   Registration = "open"
	Invite Registration = "invite"
	Closed Registration = "closed"
)

// Config is what a Service needs.
type Config struct {
	DB        *db.DB
	Passwords *password.Hasher
	Sessions  *session.Service
	Lockout   *lockout.Guard
	Mail      *mail.Outbox
	Links     *link.Service
	Refusals  *audit.Refusals
	// Devices returns when each device was last seen from which somebody signed in, for
	// an export; nil: that is not kept. The room that keeps it is to the right.
	Devices func(rd db.Reader, subject string) ([]time.Time, error)
	// VerifyAddress: nobody is let in before they have shown that their address is
	// theirs, and who registers is not told whether it has an account.
	VerifyAddress bool
	// ForgetDevices forgets where an account was signed in from (package signin); nil:
	// nothing is known of that.
	ForgetDevices func(tx *db.Tx, id string) error
	// RegisterLimit bounds how often registration is asked for, MailLimit how often
	// letters are; PasswordLimit is how the documentation tells of what Lockout.Limit
	// counts.
	RegisterLimit, MailLimit, PasswordLimit []sallyport.Limit
	Registration                            Registration // Open if empty
	// Decide decides a rule for the request of ctx as the gate before an operation does
	// (authn.Gate.Decide). Operations need it.
	Decide    func(ctx context.Context, rule sallyport.Rule) error
	CursorKey []byte
	// Users is the service's own table of users, nil if there is none: the accounts
	// here then stand for its users, and nobody registers.
	Users Users
	Log   *slog.Logger // default: discarded
	Now   func() time.Time
}

// Service keeps accounts.
type Service struct {
	cfg    Config
	own    ownBodies
	asking asking
}

// New returns a Service.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.Users != nil:
		cfg.Registration = Closed
	case cfg.Registration == "":
		cfg.Registration = Open
	}
	return &Service{cfg: cfg, asking: asking{permits: make(chan struct{}, maxAsking)}}
}

// User is an account as those who may see it see it.
type User struct {
	ID            string     `json:"id" doc:"Opaque id (UUIDv7)"`
	Username      *string    `json:"username" doc:"Unique without regard to case"`
	Email         string     `json:"email" doc:"Unique without regard to case"`
	EmailVerified bool       `json:"email_verified" doc:"The person has shown that the address is theirs"`
	FullName      *string    `json:"full_name"`
	Disabled      bool       `json:"disabled" doc:"May not sign in"`
	Roles         []string   `json:"roles" doc:"Roles that were given directly"`
	Permissions   []string   `json:"permissions" doc:"Permissions that were given directly"`
	MFAEnabled    bool       `json:"mfa_enabled" doc:"A second factor is asked for at sign-in"`
	CreatedAt     time.Time  `json:"created_at"`
	UpdatedAt     time.Time  `json:"updated_at"`
	LastLoginAt   *time.Time `json:"last_login_at"`
}

// NewUser is an account to be made.
type NewUser struct {
	Email    string
	Password string
	Username *string
	FullName *string

	// For those who may decide it.
	EmailVerified bool
	Roles         []string // nil: role.User
	// Invitation makes an account without a password, whose person chooses one with
	// the link of a letter.
	Invitation bool
}

// keys is a user's names in normalised form.
type keys struct {
	email    string
	username *string
}

func (n NewUser) check() (keys, error) {
	var k keys
	var fields []sallyport.Field
	add := func(f *sallyport.Field) {
		if f != nil {
			fields = append(fields, *f)
		}
	}
	var f *sallyport.Field
	k.email, f = checkEmail(n.Email)
	add(f)
	own := []string{n.Email}
	if n.Username != nil {
		key, f := checkUsername(*n.Username)
		add(f)
		k.username = &key
		own = append(own, *n.Username)
	}
	if n.FullName != nil {
		add(checkFullName(*n.FullName))
		own = append(own, *n.FullName)
	}
	switch {
	case !n.Invitation:
		add(checkPassword("/password", n.Password, own...))
	case n.Password != "":
		add(&sallyport.Field{Pointer: "/password", Code: "not_allowed", Detail: "Who is invited chooses the password. Leave it out, or leave invitation out."})
	}
	if fields != nil {
		return keys{}, sallyport.Invalid(fields...)
	}
	return k, nil
}

// own returns what a person's password must not be made of.
func (u User) own() []string {
	own := []string{u.Email}
	for _, n := range []*string{u.Username, u.FullName} {
		if n != nil {
			own = append(own, *n)
		}
	}
	return own
}

func checkPassword(pointer, pw string, own ...string) *sallyport.Field {
	f := password.Check(pw, own...)
	if f != nil {
		f.Pointer = pointer
	}
	return f
}

// Register makes an account for whoever asks, with the role user. It tells whether
// there is one already, and so it is not for a server that verifies addresses: see
// RegisterSilently.
func (s *Service) Register(ctx context.Context, in NewUser) (User, error) {
	if s.Silent() {
		return User{}, errTells
	}
	if err := s.mayRegister(); err != nil {
		return User{}, err
	}
	in.Roles, in.EmailVerified, in.Invitation = nil, false, false
	return s.create(ctx, role.Operator(), in, "account.registered")
}

var errTells = errors.New("account: Register would tell who has an account, where addresses are verified")

// Silent reports whether who registers is told nothing of whether the address has
// an account: then there is RegisterSilently and no Register.
func (s *Service) Silent() bool { return s.cfg.VerifyAddress }

func (s *Service) mayRegister() error {
	if s.cfg.Registration != Open {
		return &sallyport.Error{
			Status: http.StatusForbidden, Code: "registration_closed",
			Message: "Accounts are not made by registering here. Ask an administrator for one.",
		}
	}
	return nil
}

// Create makes an account on behalf of somebody who may.
func (s *Service) Create(ctx context.Context, actor role.Actor, in NewUser) (User, error) {
	if !in.Invitation {
		return s.create(ctx, actor, in, "account.created")
	}
	if err := s.mayInvite(); err != nil {
		return User{}, err
	}
	in.EmailVerified = false // that is for the person to show
	return s.create(ctx, actor, in, "account.invited")
}

func (s *Service) create(ctx context.Context, actor role.Actor, in NewUser, action string) (User, error) {
	if s.cfg.Users != nil {
		return User{}, keptElsewhere()
	}
	k, err := in.check()
	if err != nil {
		return User{}, err
	}
	hash := "" // of no password
	if !in.Invitation {
		// Hashing comes before the look-up, so that a taken name costs the same.
		if hash, err = s.cfg.Passwords.Hash(ctx, in.Password); err != nil {
			return User{}, err
		}
	}
	fresh := s.fresh(in)
	u, secrets := fresh, newSecrets(link.Verify, link.Invitation)
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		u = fresh // nothing of an earlier run
		if err := s.add(tx, u, k, hash); err != nil {
			return err
		}
		// Not even the role that everybody gets, if it holds what the actor does
		// not: they know the password.
		if err := role.CheckTouch(tx, actor, u.ID); err != nil {
			return err
		}
		if in.Roles != nil {
			if err := role.SetRoles(ctx, tx, actor, u.ID, in.Roles); err != nil {
				return err
			}
		}
		if u, _, err = readUser(tx, u.ID); err != nil {
			return err
		}
		switch {
		case in.Invitation:
			err = s.mustWrite(ctx, tx, u.ID, secrets[link.Invitation], mail.Invitation)
		case s.cfg.VerifyAddress && !u.EmailVerified: // they cannot sign in before
			err = s.write(ctx, tx, u.ID, secrets[link.Verify], mail.Verify)
		}
		if err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: action, Target: u.ID, Detail: map[string]string{"roles": strings.Join(u.Roles, " ")}})
	})
	return u, err
}

// fresh is an account that nobody has yet.
func (s *Service) fresh(in NewUser) User {
	now := s.cfg.Now()
	return User{
		ID: uuid.Must(uuid.NewV7()).String(), Username: in.Username, Email: in.Email, EmailVerified: in.EmailVerified,
		FullName: in.FullName, CreatedAt: now, UpdatedAt: now,
	}
}

// add stores an account with the role that everybody has.
func (s *Service) add(tx *db.Tx, u User, k keys, hash string) error {
	if err := role.Create(tx, u.ID, role.Person, u.CreatedAt, role.User); err != nil {
		return err
	}
	ok, err := insertAccount(tx, u, k, hash)
	if err == nil && !ok {
		err = exists()
	}
	return err
}

func exists() error {
	return &sallyport.Error{
		Status: http.StatusConflict, Code: "account_exists",
		Message: "There is already an account with this address or user name. Sign in, or choose another.",
	}
}

// Get returns an account.
func (s *Service) Get(ctx context.Context, id string) (User, error) {
	u, found, err := readUser(s.cfg.DB.View(ctx), id)
	if err == nil && !found {
		err = sallyport.NotFound("user")
	}
	return u, err
}

// byName returns the account with this id, or else with this user name. An address
// is none: addresses of people do not belong into those of requests, which others log.
func (s *Service) byName(ctx context.Context, name string) (User, error) {
	if strings.Contains(name, "@") {
		return User{}, sallyport.NotFound("user")
	}
	return s.Find(ctx, name)
}

// Find returns the account with this id, user name or address.
func (s *Service) Find(ctx context.Context, name string) (User, error) {
	view := s.cfg.DB.View(ctx)
	if u, found, err := readUser(view, name); found || err != nil {
		return u, err
	}
	if s.cfg.Users != nil {
		return s.findOwn(ctx, name)
	}
	l, found, err := FindLogin(view, name)
	if err == nil && !found {
		err = sallyport.NotFound("user")
	}
	if err != nil {
		return User{}, err
	}
	return s.Get(ctx, l.ID)
}

// Change is what to change of an account; nil members stay.
type Change struct {
	Username      **string
	FullName      **string
	Email         *string
	EmailVerified *bool
	Disabled      *bool
}

// Update changes an account. actor is nil for the account's own person: their new
// address is theirs when they have shown that it is (Verify), and until then the
// one before stays.
func (s *Service) Update(ctx context.Context, actor *role.Actor, id string, c Change) (User, error) {
	return s.update(ctx, actor, id, c, nil)
}

// update is Update with what else is done before it in the same transaction, nil for
// nothing.
func (s *Service) update(ctx context.Context, actor *role.Actor, id string, c Change, also func(*db.Tx) error) (User, error) {
	var k keys
	var fields []sallyport.Field
	if c.Username != nil && *c.Username != nil {
		key, f := checkUsername(**c.Username)
		if k.username = &key; f != nil {
			fields = append(fields, *f)
		}
	}
	if c.FullName != nil && *c.FullName != nil {
		if f := checkFullName(**c.FullName); f != nil {
			fields = append(fields, *f)
		}
	}
	if c.Email != nil {
		key, f := checkEmail(*c.Email)
		if k.email = key; f != nil {
			fields = append(fields, *f)
		}
	}
	if fields != nil {
		return User{}, sallyport.Invalid(fields...)
	}
	var wanted *addressChange
	if actor == nil && c.Email != nil {
		if !s.cfg.Mail.Enabled() {
			return User{}, mailOff()
		}
		wanted = &addressChange{*c.Email, k.email, link.Make(link.Address)}
		c.Email = nil
	}
	toVerify := link.Make(link.Verify)
	var u User
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		var found bool
		var err error
		if u, found, err = readUser(tx, id); err != nil {
			return err
		}
		if !found {
			return sallyport.NotFound("user")
		}
		if actor != nil {
			if err := role.CheckTouch(tx, *actor, id); err != nil {
				return err
			}
			if err := s.mayReaddress(*actor, u, c); err != nil {
				return err
			}
		}
		if c.touchesProfile() {
			if err := keptHere(tx, id); err != nil {
				return err
			}
		}
		if also != nil {
			if err := also(tx); err != nil {
				return err
			}
		}
		var changed []string
		before := u
		if c.Username != nil {
			u.Username = *c.Username
			changed = append(changed, "username")
		}
		if c.FullName != nil {
			u.FullName = *c.FullName
			changed = append(changed, "full_name")
		}
		if c.Email != nil && *c.Email != u.Email {
			u.Email, u.EmailVerified = *c.Email, false
			changed = append(changed, "email")
		}
		if c.EmailVerified != nil {
			u.EmailVerified = *c.EmailVerified
			changed = append(changed, "email_verified")
		}
		u.UpdatedAt = s.cfg.Now()
		if taken, err := namesTaken(tx, id, c, k); err != nil {
			return err
		} else if taken {
			return exists()
		}
		if err := updateAccount(tx, u, c, k); err != nil {
			return err
		}
		if c.Email != nil && u.Email != before.Email {
			if err := s.readdressed(ctx, tx, before, u, toVerify); err != nil {
				return err
			}
		}
		if wanted != nil && wanted.email != u.Email {
			if err := s.askForAddress(ctx, tx, u, *wanted); err != nil {
				return err
			}
		}
		if c.Disabled != nil {
			// Who is disabled in a table of the service's own stays so.
			disabled, noted, err := noteBlocked(tx, id, *c.Disabled)
			if err != nil {
				return err
			}
			if disabled != u.Disabled {
				if err := s.setDisabled(ctx, tx, id, disabled); err != nil {
					return err
				}
				noted = true
			}
			if noted {
				changed = append(changed, "disabled")
			}
		}
		if u, _, err = readUser(tx, id); err != nil {
			return err
		}
		if (wanted != nil || also != nil) && changed == nil { // these have events of their own
			return nil
		}
		return audit.Append(ctx, tx, audit.Event{Action: "account.changed", Target: id, Detail: map[string]string{"members": strings.Join(changed, " ")}})
	})
	return u, err
}

// mayReaddress returns why an actor may not change the address of an account. Their
// own needs a fresh session also where they may change those of others: with another
// address goes the password, by a letter, and the second factor (Claim).
func (s *Service) mayReaddress(actor role.Actor, u User, c Change) error {
	if c.Email != nil && *c.Email != u.Email || c.EmailVerified != nil && *c.EmailVerified != u.EmailVerified {
		return s.freshIfOwn(actor, u.ID)
	}
	return nil
}

// freshIfOwn returns why an actor may not do to their own account what takes a fresh
// session at /users/me; nil for another's account.
func (s *Service) freshIfOwn(actor role.Actor, id string) error {
	p := actor.Principal()
	if p.ID() != id {
		return nil
	}
	return s.Demand(&p, authn.FreshSession())
}

// Demand returns why a caller does not meet a rule, nil if they do: for what is asked
// of some uses of an operation only.
func (s *Service) Demand(p *sallyport.Principal, rule sallyport.Rule) error {
	facts := sallyport.Facts{Now: s.cfg.Now()}
	if rule.Allows(p, &facts) {
		return nil
	}
	return rule.Explain(p, &facts).Refusal()
}

// MayAssign returns why the caller of ctx may not give or take roles along with
// something else, nil if they may: what PUT /users/{id}/roles asks for, policies too.
func (s *Service) MayAssign(ctx context.Context) error {
	return s.cfg.Decide(ctx, sallyport.Permission("assign:roles"))
}

// touchesProfile reports whether a change is of more than who may sign in.
func (c Change) touchesProfile() bool {
	return c.Username != nil || c.FullName != nil || c.Email != nil || c.EmailVerified != nil
}

// setDisabled also ends the sessions: enabling does not bring them back.
func (s *Service) setDisabled(ctx context.Context, tx *db.Tx, id string, disabled bool) error {
	if err := role.SetDisabled(tx, id, disabled); err != nil {
		return err
	}
	return s.noteDisabled(ctx, tx, id, disabled, nil)
}

// noteDisabled is what follows when an account was disabled or enabled.
func (s *Service) noteDisabled(ctx context.Context, tx *db.Tx, id string, disabled bool, detail map[string]string) error {
	if !disabled {
		return audit.Append(ctx, tx, audit.Event{Action: "account.enabled", Target: id, Detail: detail})
	}
	if err := s.cfg.Sessions.EndAll(ctx, tx, id, "", "account disabled"); err != nil {
		return err
	}
	return audit.Append(ctx, tx, audit.Event{Action: "account.disabled", Target: id, Detail: detail})
}

// Delete removes an account with its sessions, keys, grants and letters. The audit
// log keeps its id, with what was done and when. actor is nil for the account's own
// person.
func (s *Service) Delete(ctx context.Context, actor *role.Actor, id string) error {
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		to, found, err := Recipient(tx, id)
		if err != nil {
			return err
		}
		if !found {
			return sallyport.NotFound("user") // a machine client, for one, is no account
		}
		if actor != nil {
			if err := role.CheckTouch(tx, *actor, id); err != nil {
				return err
			}
			if err := s.freshIfOwn(*actor, id); err != nil {
				return err
			}
		}
		if err := s.erase(ctx, tx, id, role.Delete); err != nil {
			return err
		}
		// A letter of the account's would go with it.
		return s.cfg.Mail.Tell(ctx, tx, mail.Letter{Kind: mail.AccountDeleted, To: to.Address, Facts: mail.Facts{Name: to.Name}})
	})
}

// erase removes an account with all that refers to it, and what the audit log has of
// its person.
func (s *Service) erase(ctx context.Context, tx *db.Tx, id string, remove func(*db.Tx, string) error) error {
	if err := s.cfg.Sessions.EndAll(ctx, tx, id, "", "account deleted"); err != nil {
		return err
	}
	if err := s.cfg.Links.Forget(tx, id); err != nil {
		return err
	}
	if err := remove(tx, id); err != nil {
		return err
	}
	if err := s.cfg.Lockout.Forget(tx, id); err != nil {
		return err
	}
	if err := audit.Append(ctx, tx, audit.Event{Action: "account.deleted", Target: id}); err != nil {
		return err
	}
	return audit.Erase(tx, id)
}

// ChangePassword replaces a person's own password and ends their other
// sessions; keep is the one that asks. Whoever guesses the current one counts as
// at a sign-in.
func (s *Service) ChangePassword(ctx context.Context, id, keep, current, next string) error {
	if err := s.followCaller(ctx, id); err != nil {
		return err
	}
	u, stored, err := s.passwordOf(ctx, id)
	if err != nil {
		return err
	}
	try, err := s.cfg.Lockout.Begin(ctx, lockout.Who{Subject: id})
	if err != nil {
		return err
	}
	defer try.End(ctx)
	res, err := s.cfg.Passwords.Verify(ctx, stored, current)
	if err != nil {
		return err
	}
	if !res.OK {
		if err := try.Failure(ctx, func(tx *db.Tx) error {
			return audit.Append(ctx, tx, audit.Event{Action: "password.changed", Result: audit.Failure, Target: id, Reason: "the current password is wrong"})
		}); err != nil {
			return err
		}
		return &sallyport.Error{
			Status: http.StatusUnauthorized, Code: "wrong_password",
			Message: "The current password is not right. Nothing was changed.",
		}
	}
	write := try.Success
	if u.MFAEnabled {
		// Only a whole sign-in lets failures be forgotten: codes count there too, and
		// who is in a session and knows the password could guess at them without end.
		write = s.cfg.DB.Write
	}
	return s.setPassword(ctx, write, u, stored, keep, "/new_password", next)
}

// SetPassword replaces a password for the operator and ends all sessions.
func (s *Service) SetPassword(ctx context.Context, id, next string) error {
	if err := s.followCaller(ctx, id); err != nil {
		return err
	}
	u, stored, err := s.passwordOf(ctx, id)
	if err != nil {
		return err
	}
	return s.setPassword(ctx, s.cfg.DB.Write, u, stored, "", "/password", next)
}

func (s *Service) passwordOf(ctx context.Context, id string) (User, string, error) {
	u, err := s.Get(ctx, id)
	if err != nil {
		return u, "", err
	}
	l, _, err := ReadLogin(s.cfg.DB.View(ctx), id)
	return u, l.Hash, err
}

func (s *Service) setPassword(ctx context.Context, write func(context.Context, func(*db.Tx) error) error, u User, stored, keep, pointer, next string) error {
	if f := checkPassword(pointer, next, u.own()...); f != nil {
		return sallyport.Invalid(*f)
	}
	if s.cfg.Users == nil {
		if err := keptHere(s.cfg.DB.View(ctx), u.ID); err != nil {
			return err
		}
	}
	hash, err := s.cfg.Passwords.Hash(ctx, next)
	if err != nil {
		return err
	}
	replace := func(tx *db.Tx) (bool, error) { return ReplaceHash(tx, u.ID, stored, hash, s.cfg.Now()) }
	if s.cfg.Users != nil {
		if err := s.replaceHash(ctx, u.ID, stored, hash); err != nil {
			return err
		}
		// It has been decided there; who compared meanwhile may have stored it already.
		replace = func(tx *db.Tx) (bool, error) {
			now, _, err := latest(tx, u.ID, stored, hash)
			if err == nil {
				err = setHash(tx, u.ID, now, s.cfg.Now())
			}
			return true, err
		}
		ctx = decided(ctx)
	}
	return write(ctx, func(tx *db.Tx) error {
		// Only over the hash that was checked: of two changes at once, one wins.
		ok, err := replace(tx)
		if err != nil {
			return err
		}
		if !ok {
			return changedMeanwhile()
		}
		if err := s.cfg.Sessions.EndAll(ctx, tx, u.ID, keep, "password changed"); err != nil {
			return err
		}
		if err := s.cfg.Links.Void(tx, u.ID, link.Reset, link.Address, link.SignIn, link.Invitation); err != nil {
			return err
		}
		if err := s.cfg.Mail.Notify(ctx, tx, u.ID, mail.PasswordChanged, mail.Facts{}); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "password.changed", Target: u.ID})
	})
}

// Cleanup says what is old of letters' tokens.
func (s *Service) Cleanup() []cleanup.Step { return s.cfg.Links.Cleanup() }

// Erase goes on with what deletions have left to erase from the audit log.
func (s *Service) Erase(ctx context.Context) error {
	return audit.EraseNext(ctx, s.cfg.DB, time.Now)
}
