package account

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/internal/measure"
)

// Users is the users table of a service that has one already. It stays the truth: who
// there is, what they are called, their password hash and whether they may sign in is
// asked there at each sign-in and each refresh, and never decided here.
//
// All methods may be called at the same time, must end when ctx does, and are never
// called from inside a transaction. An error, or a panic, is answered 503 and lets
// nobody in; it is logged, and not shown.
type Users interface {
	// ByLogin finds who is meant by what a person types in: a user name, an address,
	// whatever the service signs in with, as it was typed. If that could be several
	// users, found is false.
	ByLogin(ctx context.Context, login string) (u OwnUser, found bool, err error)
	// ByID finds a user by OwnUser.ID.
	ByID(ctx context.Context, id string) (u OwnUser, found bool, err error)
	// UpdateHash replaces a user's password hash in one step if it is old, and reports
	// whether it was.
	UpdateHash(ctx context.Context, id, old, hash string) (bool, error)
}

// OwnUser is a user as the service's own table has them.
type OwnUser struct {
	// ID is the table's key, of 1 to 255 bytes. It must never change, and never be given
	// to somebody else: whoever has it has the roles, keys and second factor of whoever
	// had it.
	ID string
	// Username, FullName and Email are shown, and letters go to Email; "" where there is
	// none. Nobody is found by them, so they need not be unique, or follow our rules.
	Username, FullName, Email string
	// EmailVerified tells that the address is known to be the user's. To one that is
	// not, no letter is sent that lets somebody in.
	EmailVerified bool
	// Hash is of a format that docs/passwords.md lists; "" is no password.
	Hash     string
	Disabled bool
}

const (
	maxOwnID = 255
	// maxLogin bounds what the users table is asked for, in bytes.
	maxLogin = 1024
	// askFor is how long the users table may take for an answer.
	askFor = 5 * time.Second
	// upgradeFor is how long whoever stores a better hash of a password has for it,
	// before another sign-in may.
	upgradeFor = time.Minute
	// catchUps is how often it is looked again when a user changes while it is looked.
	catchUps = 10
	// answerGrid hides whether there was anything to be brought up to date: what a
	// stranger has done is answered at a multiple of this.
	answerGrid = 100 * time.Millisecond
)

// OwnUsers reports whether the people are kept in a table of the service's own.
func (s *Service) OwnUsers() bool { return s.cfg.Users != nil }

// usersAway is the answer when the users table cannot be asked.
func usersAway() *sallyport.Error {
	e := sallyport.Unavailable()
	e.Message = "The service cannot reach its table of users. Nothing was changed. Try again in a moment."
	return e
}

// ask calls the users table. What comes of it that is no answer is usersAway.
func (s *Service) ask(ctx context.Context, method string, call func(ctx context.Context) error) (err error) {
	defer measure.Span(ctx, "users table")()
	asking, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			s.cfg.Log.ErrorContext(ctx, "the service's table of users panicked", "method", method, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = usersAway()
		}
	}()
	if err := call(asking); err != nil {
		if ctx.Err() == nil { // a caller who went away is no fault of the table
			s.cfg.Log.ErrorContext(ctx, "the service's table of users could not be asked", "method", method, "error", err)
		}
		return usersAway()
	}
	return nil
}

// userByLogin finds a user by what a person types in.
func (s *Service) userByLogin(ctx context.Context, login string) (u OwnUser, found bool, err error) {
	if len(login) > maxLogin || !storable(login) {
		return u, false, nil // nobody's, in no database
	}
	err = s.ask(ctx, "ByLogin", func(ctx context.Context) (err error) {
		if u, found, err = s.cfg.Users.ByLogin(ctx, login); err == nil && found {
			err = u.check()
		}
		return err
	})
	if err != nil || !found {
		return OwnUser{}, false, err
	}
	if _, err := password.Identify(u.Hash); err != nil && !errors.Is(err, password.ErrUnusable) {
		s.cfg.Log.WarnContext(ctx, "the password of a user cannot be verified, so it is always wrong: docs/passwords.md lists the formats that can", "own_id", u.ID, "error", err)
	}
	return u, true, nil
}

func (s *Service) userByID(ctx context.Context, id string) (u OwnUser, found bool, err error) {
	err = s.ask(ctx, "ByID", func(ctx context.Context) (err error) {
		if u, found, err = s.cfg.Users.ByID(ctx, id); err != nil || !found {
			return err
		}
		if u.ID != id {
			return fmt.Errorf("asked for the id %q, it gave %q", id, u.ID)
		}
		return u.check()
	})
	if err != nil || !found {
		return OwnUser{}, false, err
	}
	return u, true, nil
}

// updateHash replaces a hash in the users table.
func (s *Service) updateHash(ctx context.Context, ownID, old, hash string) (ok bool, err error) {
	ctx = context.WithoutCancel(ctx) // half-way it would not be known what the table has
	err = s.ask(ctx, "UpdateHash", func(ctx context.Context) (err error) {
		ok, err = s.cfg.Users.UpdateHash(ctx, ownID, old, hash)
		return err
	})
	return ok && err == nil, err
}

func (u OwnUser) check() error {
	if u.ID == "" || len(u.ID) > maxOwnID || !storable(u.ID) {
		return fmt.Errorf("the id %.300q is not 1 to %d bytes of UTF-8 without NUL", u.ID, maxOwnID)
	}
	return nil
}

// storable reports whether both databases take a text.
func storable(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

// profile is what is kept here of a user.
type profile struct {
	username, fullName string // "": none
	email              string
	verified           bool
	hash               string
}

// profile returns what is kept here of a user: names as far as they can be shown, an
// address if letters can go there, a hash if it can be verified.
func (u OwnUser) profile() profile {
	p := profile{username: shown(u.Username), fullName: shown(u.FullName)}
	if _, ok := EmailKey(u.Email); ok {
		p.email, p.verified = u.Email, u.EmailVerified
	}
	if _, err := password.Identify(u.Hash); err == nil {
		p.hash = u.Hash
	}
	return p
}

// maxShown bounds names of others' making, in characters.
const maxShown = 254

func shown(name string) string {
	name = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, name)
	if r := []rune(name); len(r) > maxShown {
		name = string(r[:maxShown])
	}
	return name
}

// keysOf returns what stands where others have the names that they are found by. It
// begins with the name, so that a search finds it. A space makes it one that no login
// name becomes, and the id, in capitals, which no search has, the only one.
func (p profile) keysOf(id string) keys {
	email, _ := EmailKey(p.email)
	only := " " + strings.Map(func(r rune) rune {
		if r >= 'a' {
			return r - 'a' + 'A'
		}
		return r - '-' + 'G' // the digits, and what is between them
	}, id)
	k := keys{email: email + only}
	if p.username != "" {
		name := strings.ToLower(norm.NFKC.String(p.username)) + only
		k.username = &name
	}
	return k
}

// plainKey returns the address of a key that keysOf may have made.
func plainKey(key string) string {
	key, _, _ = strings.Cut(key, " ")
	return key
}

// settle answers at a multiple of answerGrid after began.
func settle(ctx context.Context, began time.Time) {
	timer := time.NewTimer(answerGrid - time.Since(began)%answerGrid)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
