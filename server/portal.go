package server

import (
	"context"
	"errors"
	"net/http"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/reqctx"
	"github.com/sallyport/sallyport/web/portal"
)

// pageRoutes registers the pages for people.
func (s *Server) pageRoutes() error {
	if s.cfg.NoPortal {
		return nil
	}
	// Only pages of the server's own origin: that others may use the API with a
	// visitor's cookie does not make these forms theirs.
	own, err := authn.NewSameOrigin(s.cfg.BaseURL, nil)
	if err != nil {
		return err
	}
	pages, err := portal.New(portal.Config{
		API: s.own, Path: s.path(""), Service: s.serviceName(), Mail: s.Mail.Enabled(), MailSignIn: s.cfg.MailSignIn, NoPassword: s.cfg.NoPasswordGrant,
		OwnUsers: s.cfg.Users != nil,
		Restrict: func(r *http.Request) error {
			err := own.Restrict(r)
			if err != nil {
				e := sallyport.AsError(err)
				s.Refusals.Note(r.Context(), audit.Event{
					Action: audit.AccessDenied, Result: audit.Denied, Reason: "a form came from a page of another origin",
					Detail: map[string]string{"method": r.Method, "route": reqctx.Route(r), "code": e.Code},
				})
			}
			return err
		},
	})
	if err != nil {
		return err
	}
	pages.Routes(s.mux)
	return nil
}

// SetupLink returns a link to the page where the first administrator is made, for the
// operator of a program to be shown at its start: it is good once, for 30 minutes. It
// is "" while there is an administrator, and where Config.NoPortal or Config.Users is
// set. On SQLite links that were made before are worthless then; on PostgreSQL they
// stay good, since several servers may start together.
func (s *Server) SetupLink(ctx context.Context) (string, error) {
	if s.cfg.NoPortal || s.cfg.Users != nil {
		return "", nil
	}
	token, _, err := s.Accounts.OfferSetup(ctx, s.DB.Dialect() == db.SQLite)
	if e, ok := errors.AsType[*sallyport.Error](err); ok && e.Code == "administrator_exists" {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return SetupURL(s.cfg.BaseURL, token), nil
}

// SetupURL is where a token of account.OfferSetup is used. What follows # is not sent,
// so it is in no log of a proxy.
func SetupURL(base, token string) string { return base + "/console/setup#k=" + token }

// serviceName is what letters and pages call the service.
func (s *Server) serviceName() string {
	if s.cfg.MailService != "" {
		return s.cfg.MailService
	}
	return hostOf(s.cfg.BaseURL)
}
