package server

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authz/policy"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
)

// countryEvery is how often it is looked whether the file of countries changed.
const countryEvery = 10 * time.Second

// openPolicies makes the service of policies.
func (s *Server) openPolicies(cursorKey []byte) error {
	place := policy.Place{Zone: s.cfg.PolicyZone}
	if s.cfg.CountryFile != "" {
		var err error
		if s.countries, err = policy.OpenCountries(s.cfg.CountryFile); err != nil {
			return sallyport.Mistake("policy.country_file", s.cfg.CountryFile, "it cannot be read: "+err.Error(), "Name a file in MaxMind's format (.mmdb) with countries, or leave it out.")
		}
		place.Country = s.countries.Of
	}
	s.Policies = policy.New(policy.Config{
		DB: s.cfg.DB, Graph: graph, Changes: s.live.Policies, Subject: s.subject, Refusals: s.Refusals,
		Place: place, CursorKey: cursorKey, Log: s.cfg.Log, Now: s.cfg.Now,
	})
	return nil
}

// graph returns the names of all permissions and roles.
func graph(rd db.Reader) (permissions, roles []string, err error) {
	g, err := role.LoadGraph(rd)
	for name := range g.Permissions {
		permissions = append(permissions, name)
	}
	for name := range g.Roles {
		roles = append(roles, name)
	}
	return permissions, roles, err
}

// subject finds whom a policy is asked about: an account, or a machine client.
func (s *Server) subject(ctx context.Context, name string) (id string, client bool, g *sallyport.Grants, err error) {
	if !utf8.ValidString(name) || strings.Contains(name, "\x00") { // PostgreSQL takes no such text
		return "", false, nil, sallyport.NotFound("user or machine client")
	}
	view := s.cfg.DB.View(ctx)
	u, err := s.Accounts.Find(ctx, name)
	id = u.ID
	if e, ok := errors.AsType[*sallyport.Error](err); ok && e.Status == 404 {
		if client, err = role.IsClient(view, name); err == nil && !client {
			err = sallyport.NotFound("user or machine client")
		}
		id = name
	}
	if err == nil {
		g, err = role.GrantsOf(view, id)
	}
	return id, client, g, err
}

// currentPolicies returns the policies for the gate.
func (s *Server) currentPolicies(ctx context.Context) (sallyport.Policies, int64, error) {
	set, err := s.Policies.Current(ctx)
	if err != nil {
		return nil, 0, err
	}
	return set, set.Version(), nil
}

// record writes down what a decision depends on.
func (s *Server) record(ctx context.Context, rule sallyport.Rule, p *sallyport.Principal, f *sallyport.Facts) string {
	set, _ := f.Policies.(*policy.Set)
	if set == nil { // the rule needs none; a draft may still be tried on it
		var err error
		if set, err = s.Policies.Current(ctx); err != nil {
			return ""
		}
	}
	return set.Record(rule, p, f)
}

// refreshCountries reads the file of countries again when it has changed.
func (s *Server) refreshCountries(context.Context) {
	changed, err := s.countries.Refresh()
	switch {
	case err != nil:
		s.cfg.Log.Error("the file of countries cannot be read; the countries stay as they were", "file", s.cfg.CountryFile, "error", err)
	case changed:
		s.cfg.Log.Info("read the file of countries again", "file", s.cfg.CountryFile)
	}
}
