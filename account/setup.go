package account

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/link"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
)

// setupLife is how long a link to set the service up is good.
const setupLife = 30 * time.Minute

// OfferSetup makes a token with which somebody can make the first administrator
// (SetUp), for the operator to be shown. With alone, those that were made before
// are worthless from then on. While there is an administrator there is nothing to
// set up: then it is 409 administrator_exists.
func (s *Service) OfferSetup(ctx context.Context, alone bool) (token string, until time.Time, err error) {
	secret := link.Make(link.Setup)
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if err := checkNoAdministrator(tx); err != nil {
			return err
		}
		if alone {
			if err := s.cfg.Links.VoidSetup(tx); err != nil {
				return err
			}
		}
		if err := s.cfg.Links.StoreSetup(tx, secret, setupLife); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "setup_link.made"})
	})
	if err != nil {
		return "", time.Time{}, err
	}
	return secret.Token, s.cfg.Now().Add(setupLife), nil
}

func checkNoAdministrator(rd db.Reader) error {
	has, err := role.HasAdministrator(rd)
	if err != nil || !has {
		return err
	}
	return &sallyport.Error{
		Status: http.StatusConflict, Code: "administrator_exists",
		Message: "There is an administrator already, so nobody is made one by a link. Ask them, or make another with “sallyport admin create”.",
	}
}

// SetUp makes the first administrator, for whoever has a token of OfferSetup. Their
// address counts as verified: they were given the token by the operator, as with
// “admin create”, and without mail nobody could verify it.
func (s *Service) SetUp(ctx context.Context, token string, in NewUser) (User, error) {
	// Who has no token learns nothing else, and has nothing hashed.
	if _, ok, err := s.cfg.Links.Find(s.cfg.DB.View(ctx), link.Setup, token); err != nil {
		return User{}, err
	} else if !ok {
		return User{}, s.refuseSetup(ctx)
	}
	k, err := in.check()
	if err != nil {
		return User{}, err
	}
	hash, err := s.cfg.Passwords.Hash(ctx, in.Password)
	if err != nil {
		return User{}, err
	}
	in.EmailVerified = true
	fresh := s.fresh(in)
	var u User
	used := false
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		if err := checkNoAdministrator(tx); err != nil {
			return err
		}
		if _, used, err = s.cfg.Links.Use(tx, link.Setup, token); err != nil || !used {
			return err
		}
		if err := s.cfg.Links.VoidSetup(tx); err != nil {
			return err
		}
		if err := s.add(tx, fresh, k, hash); err != nil {
			return err
		}
		if err := role.SetRoles(ctx, tx, role.Operator(), fresh.ID, []string{role.Admin}); err != nil {
			return err
		}
		if u, _, err = readUser(tx, fresh.ID); err != nil {
			return err
		}
		return audit.Append(ctx, tx, audit.Event{Action: "administrator.set_up", Target: u.ID, Detail: map[string]string{"roles": strings.Join(u.Roles, " ")}})
	})
	if err == nil && !used {
		err = s.refuseSetup(ctx)
	}
	return u, err
}

// refuseSetup records that somebody came with a token that is not good.
func (s *Service) refuseSetup(ctx context.Context) error {
	s.cfg.Refusals.Note(ctx, audit.Event{Action: "administrator.set_up", Result: audit.Failure, Reason: "the link is not good"})
	return &sallyport.Error{
		Status: http.StatusBadRequest, Code: "invalid_token",
		Message: "The set-up link is not good: it is older than 30 minutes, was used already, or a newer one took its place. “sallyport admin setup-link” makes another.",
	}
}

type setupInput struct {
	Body struct {
		Token    string  `json:"token" maxLength:"256" doc:"What follows #k= in the link that “sallyport serve” prints"`
		Email    string  `json:"email" maxLength:"254" example:"ada@example.com"`
		Password string  `json:"password" maxLength:"4096" doc:"At least 8 characters, not a common one, not one's own name"`
		Username *string `json:"username,omitempty" maxLength:"64"`
	}
}

func (s *Service) setupRoutes(a *api.API) {
	api.Post(a, "/auth/setup", sallyport.Public(), func(ctx context.Context, in *setupInput) (*userOutput, error) {
		return output(s.SetUp(ctx, in.Body.Token, NewUser{Email: in.Body.Email, Password: in.Body.Password, Username: in.Body.Username}))
	}, api.Doc("Own account", "Set up the first administrator", "Makes an account with the role admin, with the token of a link that “sallyport serve” or “sallyport admin setup-link” prints while there is no administrator. It is good once, for 30 minutes."),
		api.Status(201), api.IgnoreCredentials(), api.BodyLimit(api.MaxAuthBody), api.Errors(400, 409, 503), api.Limit(s.cfg.RegisterLimit...))
}
