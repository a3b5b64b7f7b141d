package account

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/link"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
)

// shadow is the account that stands for a user of the users table.
type shadow struct {
	subject           string
	version           int64
	disabled, blocked bool // there; here
	next              []byte
	profile
}

// Located is whom a person named to sign in.
type Located struct {
	login string
	own   bool   // of the users table
	id    string // then: of the account, "" of nobody's
}

// Locate finds who is meant by a login name. It asks the users table, if there is one,
// and has the account that stands for the user made or brought up to date; so it must
// not be called from inside a transaction.
func (s *Service) Locate(ctx context.Context, login string) (Located, error) {
	if s.cfg.Users == nil {
		return Located{login: login}, nil
	}
	u, found, err := s.userByLogin(ctx, login)
	if err != nil || !found {
		return Located{own: true}, err
	}
	sh, known, err := readShadow(s.cfg.DB.View(ctx), u.ID)
	if err != nil {
		return Located{}, err
	}
	if known && sh.disabled == u.Disabled && sh.profile == u.profile() {
		return Located{own: true, id: sh.subject}, nil
	}
	id, found, err := s.catchUp(ctx, u.ID)
	if err != nil || !found {
		return Located{own: true}, err
	}
	return Located{own: true, id: id}, nil
}

// Login reads what signing in needs to know of whoever was located.
func (l Located) Login(rd db.Reader) (Login, bool, error) {
	switch {
	case !l.own:
		return FindLogin(rd, l.login)
	case l.id == "":
		return Login{}, false, nil
	}
	return ReadLogin(rd, l.id)
}

// reachable returns the account of an address that was located, if it may be written
// to. One of the users table must have its address from there.
func (l Located) reachable(rd db.Reader, key string) (addressee, error) {
	if !l.own {
		return readReachable(rd, key)
	}
	if l.id == "" {
		return addressee{}, nil
	}
	a, _, err := readAddressee(rd, l.id)
	if a.Disabled || !a.Verified {
		a = addressee{}
	}
	return a, err
}

// errOvertaken says that something else was noted of a user meanwhile.
var errOvertaken = errors.New("the user was brought up to date by somebody else")

// catchUp makes the account of a user what the users table says, and returns its id.
// found is false if the user is not there: then the account, if there is one, is
// disabled, so that what it has is there again should the user be.
//
// The table is always read after the account's version was, and what is read is stored
// only over that version: of any number at once, none stores what is older. Nothing is
// returned that the table did not say after it was stored.
func (s *Service) catchUp(ctx context.Context, ownID string) (id string, found bool, err error) {
	for range catchUps {
		sh, known, err := readShadow(s.cfg.DB.View(ctx), ownID)
		if err != nil {
			return "", false, err
		}
		u, found, err := s.userByID(ctx, ownID)
		if err != nil {
			return "", false, err
		}
		want, disabled := u.profile(), u.Disabled
		switch {
		case !found && !known:
			return "", false, nil
		case !found:
			want, disabled = sh.profile, true
		}
		switch {
		case !known:
			err = s.adopt(ctx, u)
		case sh.disabled == disabled && sh.profile == want:
			return sh.subject, found, nil
		default:
			err = s.cfg.DB.Write(decided(ctx), func(tx *db.Tx) error { return s.note(ctx, tx, ownID, sh, want, disabled) })
		}
		if err != nil && !errors.Is(err, errOvertaken) {
			return "", false, err
		}
	}
	s.cfg.Log.ErrorContext(ctx, "a user of the service's own table changes faster than it can be read", "own_id", ownID)
	return "", false, usersAway()
}

// decided is the context for storing what the users table has decided, whoever's
// request it was seen in: also if they have gone meanwhile, or are who is shut out.
func decided(ctx context.Context) context.Context {
	return context.WithValue(context.WithoutCancel(ctx), db.GuardKey{}, nil)
}

// adopt makes the account that stands for a user, with the role that everybody has.
func (s *Service) adopt(ctx context.Context, u OwnUser) error {
	now, p := s.cfg.Now(), u.profile()
	acc := User{ID: uuid.Must(uuid.NewV7()).String(), Email: p.email, EmailVerified: p.verified, Username: unlessEmpty(p.username), FullName: unlessEmpty(p.fullName), CreatedAt: now, UpdatedAt: now}
	k := p.keysOf(acc.ID)
	return s.cfg.DB.Write(decided(ctx), func(tx *db.Tx) error {
		if err := role.Adopt(tx, acc.ID, now, u.Disabled, []string{role.User}, nil); err != nil {
			return err
		}
		if _, err := insertAccount(tx, acc, k, p.hash); err != nil {
			return err
		}
		if ok, err := insertOwn(tx, u.ID, acc.ID, u.Disabled); err != nil {
			return err
		} else if !ok {
			return errOvertaken
		}
		return audit.Append(ctx, tx, audit.Event{Action: "account.adopted", Target: acc.ID, Detail: map[string]string{"roles": role.User}})
	})
}

func unlessEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// byTable marks events of what the users table has decided.
var byTable = map[string]string{"by": "users table"}

// note stores what the users table says of a user, and what follows from it: a new
// hash is a new password, unless it was announced as a better hash of the same one.
func (s *Service) note(ctx context.Context, tx *db.Tx, ownID string, sh shadow, want profile, disabled bool) error {
	id := sh.subject
	if ok, err := updateOwn(tx, ownID, sh.version, disabled); err != nil {
		return err
	} else if !ok {
		return errOvertaken
	}
	if want != sh.profile {
		if err := followAccount(tx, id, want, want.keysOf(id), s.cfg.Now()); err != nil {
			return err
		}
	}
	if members := sh.profile.differences(want); members != "" {
		if err := audit.Append(ctx, tx, audit.Event{Action: "account.changed", Target: id, Detail: map[string]string{"by": "users table", "members": members}}); err != nil {
			return err
		}
	}
	if want.email != sh.email {
		if err := s.cfg.Links.Void(tx, id); err != nil {
			return err
		}
	}
	if want.hash != sh.hash {
		if err := s.rehashed(ctx, tx, sh, want.hash); err != nil {
			return err
		}
	}
	if sh.blocked || disabled == sh.disabled {
		return nil // whom an administrator has shut out here stays out
	}
	// Whoever it is: the last administrator, too, is let in or not by the table.
	if err := role.SetDisabledAnyway(tx, id, disabled); err != nil {
		return err
	}
	return s.noteDisabled(ctx, tx, id, disabled, byTable)
}

// differences names the members of an account that another profile changes.
func (p profile) differences(q profile) string {
	var names []string
	for _, m := range []struct {
		name    string
		differs bool
	}{{"username", p.username != q.username}, {"full_name", p.fullName != q.fullName}, {"email", p.email != q.email}, {"email_verified", p.verified != q.verified}} {
		if m.differs {
			names = append(names, m.name)
		}
	}
	return strings.Join(names, " ")
}

// rehashed is what follows when the users table has another hash.
func (s *Service) rehashed(ctx context.Context, tx *db.Tx, sh shadow, hash string) error {
	if err := settleHash(tx, sh.subject); err != nil {
		return err
	}
	if next := HashID(hash); bytes.Equal(sh.next, next[:]) {
		return audit.Append(ctx, tx, audit.Event{Action: "password.upgraded", Target: sh.subject})
	}
	if err := s.cfg.Sessions.EndAll(ctx, tx, sh.subject, "", "password changed"); err != nil {
		return err
	}
	if err := s.cfg.Links.Void(tx, sh.subject); err != nil {
		return err
	}
	return audit.Append(ctx, tx, audit.Event{Action: "password.changed", Target: sh.subject, Detail: byTable})
}

// Follow brings the account of a user up to date with the users table, if there is
// one. An account that stands for nobody there is refused with *authn.Refused. It must
// not be called from inside a transaction.
func (s *Service) Follow(ctx context.Context, id string) error {
	if s.cfg.Users == nil {
		return nil
	}
	_, _, err := s.followed(ctx, id)
	if e, ok := err.(*sallyport.Error); ok && e.Status == http.StatusNotFound {
		err = &authn.Refused{Reason: "the account is not one of the service's table of users", Subject: id}
	}
	return err
}

// followCaller is Follow for somebody who is signed in, and refuses who is not to be.
func (s *Service) followCaller(ctx context.Context, id string) error {
	if s.cfg.Users == nil {
		return nil
	}
	_, there, err := s.followed(ctx, id)
	if e, ok := err.(*sallyport.Error); ok && e.Status == http.StatusNotFound || err == nil && !there {
		return authn.InvalidToken()
	}
	if err != nil {
		return err
	}
	u, err := s.Get(ctx, id)
	if err == nil && u.Disabled {
		err = authn.InvalidToken()
	}
	return err
}

// followed is Follow, and returns the user's own id and whether the user is there.
func (s *Service) followed(ctx context.Context, id string) (ownID string, there bool, err error) {
	if ownID, err = s.OwnID(ctx, id); err != nil {
		return "", false, err
	}
	_, there, err = s.catchUp(ctx, ownID)
	return ownID, there, err
}

// UserChanged tells that the service has changed a user of its table, or deleted them:
// the account that stands for them, if there is one, is brought up to date or deleted,
// and what must end has ended when it returns.
func (s *Service) UserChanged(ctx context.Context, ownID string) error {
	if err := s.checkOwn(ownID); err != nil {
		return err
	}
	ctx = decided(ctx) // it is done there; who asked for it may be gone
	// Whoever has read the table before has read what may be old.
	known := false
	if err := s.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		known, err = bumpOwn(tx, ownID)
		return err
	}); err != nil || !known {
		return err // whoever makes the account meanwhile reads the table after that
	}
	id, found, err := s.catchUp(ctx, ownID)
	if err != nil || found || id == "" {
		return err
	}
	return s.remove(ctx, id)
}

// SubjectOf returns the id of the account that stands for a user of the users table,
// who need not have signed in yet. The error is 404 “not_found” if there is none.
func (s *Service) SubjectOf(ctx context.Context, ownID string) (string, error) {
	if err := s.checkOwn(ownID); err != nil {
		return "", err
	}
	id, found, err := s.catchUp(ctx, ownID)
	if err == nil && !found {
		err = sallyport.NotFound("user")
	}
	if err != nil {
		return "", err
	}
	return id, nil
}

// OwnID returns the id that a user has in the users table. The error is 404
// “not_found” for an account, or a machine client, that is nobody's there.
func (s *Service) OwnID(ctx context.Context, id string) (string, error) {
	ownID, found, err := readOwnID(s.cfg.DB.View(ctx), id)
	if err == nil && !found {
		err = sallyport.NotFound("user")
	}
	return ownID, err
}

func (s *Service) checkOwn(ownID string) error {
	if s.cfg.Users == nil {
		return errors.New("account: there is no table of users: set Config.Users")
	}
	return OwnUser{ID: ownID}.check()
}

// ownPage is how many users CompareUsers has in memory at a time.
const ownPage = 500

// CompareUsers brings the accounts of all users up to date with the users table: after
// either database was restored, or now and then, for changes of which UserChanged was
// not told. Who is not there is disabled and not deleted. It returns how many were
// compared, and the first error, after which it goes on with the others.
func (s *Service) CompareUsers(ctx context.Context) (n int, err error) {
	if s.cfg.Users == nil {
		return 0, errors.New("account: there is no table of users: set Config.Users")
	}
	for after := ""; ; {
		ids, rerr := listOwn(s.cfg.DB.View(ctx), after, ownPage)
		if rerr != nil {
			return n, rerr
		}
		for _, id := range ids {
			if ctx.Err() != nil {
				return n, ctx.Err()
			}
			if _, _, cerr := s.catchUp(ctx, id); cerr != nil {
				if err == nil {
					err = cerr
				}
				continue
			}
			n++
		}
		if len(ids) < ownPage {
			return n, err
		}
		after = ids[len(ids)-1]
	}
}

// remove deletes the account of a user who is gone from the users table, the last
// administrator too.
func (s *Service) remove(ctx context.Context, id string) error {
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if _, found, err := readOwnID(tx, id); err != nil || !found {
			return err // somebody else was first
		}
		return s.erase(ctx, tx, id, role.DeleteAnyway)
	})
}

// Upgrade stores a better hash of a password in the users table, if there is one, and
// returns it: the sign-in stores it here. It returns "" where that is left to another
// sign-in, or did not succeed: nothing depends on it. same is false if the password is
// not what it was.
//
// It is announced here before, so that who compares meanwhile, or after a crash
// between, does not take it for a new password and end the user's sessions.
func (s *Service) Upgrade(ctx context.Context, who Login, hash string) (upgraded string, same bool, err error) {
	if s.cfg.Users == nil {
		return hash, true, nil
	}
	ownID, err := s.OwnID(ctx, who.ID)
	if err != nil {
		return "", false, err
	}
	next, now, mine := HashID(hash), s.cfg.Now(), false
	if err := s.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		mine, err = announceHash(tx, ownID, next[:], now, now.Add(-upgradeFor))
		return err
	}); err != nil || !mine {
		return "", true, err
	}
	ok, err := s.updateHash(ctx, ownID, who.Hash, hash)
	if err != nil { // it was logged, and the password is right all the same
		return "", true, nil
	}
	if !ok {
		return "", false, nil
	}
	return hash, true, nil
}

// replaceHash stores the hash of a new password in the users table.
func (s *Service) replaceHash(ctx context.Context, id, old, hash string) error {
	ownID, err := s.OwnID(ctx, id)
	if err != nil {
		return err
	}
	// The table does not know of the request: that it may still be made is asked before.
	if err := s.cfg.DB.Write(ctx, func(*db.Tx) error { return nil }); err != nil {
		return err
	}
	ok, err := s.updateHash(ctx, ownID, old, hash)
	if err == nil && !ok {
		err = changedMeanwhile()
	}
	return err
}

// resetOwn is Reset for a user of the users table. The letter is used up before the
// table is changed: a letter that was refused has changed nothing, whatever happens
// between.
func (s *Service) resetOwn(ctx context.Context, token, pw string) (User, error) {
	g, ok, err := s.cfg.Links.Find(s.cfg.DB.View(ctx), link.Reset, token)
	if err != nil {
		return User{}, err
	}
	if !ok {
		return User{}, s.refusedToken(ctx)
	}
	ownID, there, err := s.followed(ctx, g.Subject)
	if err != nil {
		return User{}, err
	}
	before, found, err := s.userByID(ctx, ownID)
	if err != nil {
		return User{}, err
	}
	u, known, err := readUser(s.cfg.DB.View(ctx), g.Subject)
	if err != nil {
		return User{}, err
	}
	if !there || !found || !known {
		return User{}, s.refusedToken(ctx)
	}
	if f := checkPassword("/password", pw, u.own()...); f != nil {
		return User{}, sallyport.Invalid(*f)
	}
	hash, err := s.cfg.Passwords.Hash(ctx, pw)
	if err != nil {
		return User{}, err
	}
	var a addressee
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		// Of an address that nobody has verified it is not known whose it is.
		if a, _, err = s.used(tx, link.Reset, token); err == nil && (!a.Verified || a.hash != before.profile().hash) {
			err = errDead
		}
		return err
	})
	if errors.Is(err, errDead) {
		return User{}, s.refusedToken(ctx)
	}
	if err != nil {
		return User{}, err
	}
	if ok, err := s.updateHash(ctx, ownID, before.Hash, hash); err != nil {
		return User{}, err
	} else if !ok {
		return User{}, changedMeanwhile()
	}
	err = s.cfg.DB.Write(decided(ctx), func(tx *db.Tx) (err error) {
		if u, err = s.chosen(ctx, tx, a, hash); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "password.changed", Target: a.ID, Detail: map[string]string{"by": "letter"}})
	})
	return u, err
}

// findOwn returns the account of a user by what a person types in, if one stands for
// them already. It writes nothing.
func (s *Service) findOwn(ctx context.Context, login string) (User, error) {
	u, found, err := s.userByLogin(ctx, login)
	if err != nil {
		return User{}, err
	}
	if !found {
		return User{}, sallyport.NotFound("user")
	}
	sh, known, err := readShadow(s.cfg.DB.View(ctx), u.ID)
	if err != nil {
		return User{}, err
	}
	if !known {
		return User{}, sallyport.NotFound("user")
	}
	return s.Get(ctx, sh.subject)
}

// keptHere returns why something cannot be changed of an account here, nil if it can.
func keptHere(rd db.Reader, id string) error {
	_, found, err := readOwnID(rd, id)
	if err == nil && found {
		err = keptElsewhere()
	}
	return err
}

func keptElsewhere() error {
	return &sallyport.Error{
		Status: http.StatusConflict, Code: "kept_elsewhere",
		Message: "Users are kept in a table of the service's own, which decides who there is, and on name, address and password. Nothing was changed. Do it in the service.",
	}
}
