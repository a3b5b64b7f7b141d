package account

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
)

type registerInput struct {
	Body struct {
		Email    string  `json:"email" maxLength:"254" example:"ada@example.com"`
		Password string  `json:"password" maxLength:"4096" doc:"At least 8 characters, not a common one, not one's own name"`
		Username *string `json:"username,omitempty" maxLength:"64"`
		FullName *string `json:"full_name,omitempty" maxLength:"200"`
	}
}

type emailInput struct {
	Body struct {
		Email string `json:"email" maxLength:"254" example:"ada@example.com"`
	}
}

type verifyInput struct {
	Body struct {
		Token    string `json:"token" maxLength:"128" doc:"As the letter's link has it, behind the #token="`
		Password string `json:"password,omitempty" maxLength:"4096" doc:"The account's own: it shows that who verifies is who chose it"`
	}
}

type resetInput struct {
	Body struct {
		Token    string `json:"token" maxLength:"128" doc:"As the letter's link has it, behind the #token="`
		Password string `json:"password" maxLength:"4096" doc:"The new one"`
	}
}

type acceptInput struct {
	Body struct {
		Token    string  `json:"token" maxLength:"128" doc:"As the letter's link has it, behind the #token="`
		Password string  `json:"password" maxLength:"4096"`
		Username *string `json:"username,omitempty" maxLength:"64"`
		FullName *string `json:"full_name,omitempty" maxLength:"200"`
	}
}

type createInput struct {
	Body struct {
		Email         string   `json:"email" maxLength:"254" example:"ada@example.com"`
		Password      *string  `json:"password,omitempty" maxLength:"4096" doc:"Needed, unless it is an invitation"`
		Invitation    bool     `json:"invitation,omitempty" doc:"Sends a letter with whose link the person chooses the password"`
		Username      *string  `json:"username,omitempty" maxLength:"64"`
		FullName      *string  `json:"full_name,omitempty" maxLength:"200"`
		EmailVerified bool     `json:"email_verified,omitempty"`
		Roles         []string `json:"roles,omitempty" maxItems:"50" doc:"Needs assign:roles; the default is user"`
	}
}

type patchMeInput struct {
	Body struct {
		Username api.Opt[string] `json:"username" required:"false" maxLength:"64"`
		FullName api.Opt[string] `json:"full_name" required:"false" maxLength:"200"`
		Email    *string         `json:"email,omitempty" maxLength:"254" doc:"A letter goes there, and the one before stays until its link was used"`
	}
}

type patchInput struct {
	ID   string `path:"id" maxLength:"64" doc:"Id of the account"`
	Body struct {
		Username      api.Opt[string] `json:"username" required:"false" maxLength:"64"`
		FullName      api.Opt[string] `json:"full_name" required:"false" maxLength:"200"`
		Email         *string         `json:"email,omitempty" maxLength:"254"`
		EmailVerified *bool           `json:"email_verified,omitempty"`
		Disabled      *bool           `json:"disabled,omitempty"`
	}
}

type passwordInput struct {
	Body struct {
		Current string `json:"current_password" maxLength:"4096"`
		New     string `json:"new_password" maxLength:"4096"`
	}
}

type idInput struct {
	ID string `path:"id" maxLength:"64" doc:"Id of the account"`
}

type nameInput struct {
	ID string `path:"id" maxLength:"64" doc:"Id of the account, or its user name"`
}

type listInput struct {
	Query    string `query:"q" maxLength:"254" doc:"Part of the address or user name"`
	Role     string `query:"role" maxLength:"64" doc:"Only those who were given this role"`
	Disabled string `query:"disabled" enum:"true,false" doc:"Only those who are, or are not, disabled"`
	Limit    int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
	Cursor   string `query:"cursor" maxLength:"512" doc:"next_cursor of the page before"`
}

type rolesInput struct {
	ID   string `path:"id" maxLength:"64" doc:"Id of the account"`
	Body struct {
		Roles []string `json:"roles" maxItems:"50"`
	}
}

type permissionsInput struct {
	ID   string `path:"id" maxLength:"64" doc:"Id of the account"`
	Body struct {
		Permissions []string `json:"permissions" maxItems:"200"`
	}
}

// Me is one's own account.
type Me struct {
	User
	EffectivePermissions []string `json:"effective_permissions" doc:"All permissions: direct ones and those of roles"`
}

type userOutput = api.Body[User]

// accepted is the answer to everything that may or may not have written a letter.
type accepted = api.Body[api.Message]

// Routes registers the operations on accounts.
func (s *Service) Routes(a *api.API) {
	if s.cfg.Users != nil {
		a.Without(ownBusiness(), func() {
			s.mailRoutes(a)
			s.ownRoutes(a)
			s.adminRoutes(a)
		})
		s.blockRoute(a)
		return
	}
	s.registerRoute(a)
	s.mailRoutes(a)
	s.ownRoutes(a)
	s.adminRoutes(a)
	s.setupRoutes(a)
}

// ownBusiness returns the operations that are the business of a service which keeps its
// users itself.
func ownBusiness() []string {
	return []string{
		"POST /auth/request-verify-token", "POST /auth/verify", "POST /auth/accept-invitation",
		"PATCH /users/me", "DELETE /users/me", "POST /users", "PATCH /users/{id}", "DELETE /users/{id}",
	}
}

type blockInput struct {
	ID   string `path:"id" maxLength:"64" doc:"Id of the account"`
	Body struct {
		Disabled bool `json:"disabled"`
	}
}

// blockRoute is what is left of PATCH /users/{id} where the users are the service's.
func (s *Service) blockRoute(a *api.API) {
	api.Patch(a, "/users/{id}", sallyport.Permission("write:users"), func(ctx context.Context, in *blockInput) (*userOutput, error) {
		act := role.ByPrincipal(sallyport.From(ctx))
		return output(s.Update(ctx, &act, in.ID, Change{Disabled: &in.Body.Disabled}))
	}, api.Doc("Accounts", "Disable or enable an account", "Disabling ends the account's sessions. Everything else of a user is changed in the service that keeps them; who is disabled there stays so. An account that may do more than the caller cannot be disabled."), api.Errors(404, 409))
}

func (s *Service) registerRoute(a *api.API) {
	user := func(in *registerInput) NewUser {
		return NewUser{Email: in.Body.Email, Password: in.Body.Password, Username: in.Body.Username, FullName: in.Body.FullName}
	}
	options := []api.Option{api.IgnoreCredentials(), api.BodyLimit(api.MaxAuthBody), api.Errors(403, 409, 503), api.Limit(s.cfg.RegisterLimit...)}
	if s.Silent() {
		api.Post(a, "/auth/register", sallyport.Public(), func(ctx context.Context, in *registerInput) (*accepted, error) {
			return sent(s.RegisterSilently(ctx, user(in)))
		}, append(options, api.Limit(s.cfg.MailLimit...), api.Status(202), api.Doc("Own account", "Register", "Sends a letter to the address. The account, with the role user, is made when its link is used (POST /auth/verify). "+
			"The answer is the same whether the address has an account or not."))...)
		return
	}
	api.Post(a, "/auth/register", sallyport.Public(), func(ctx context.Context, in *registerInput) (*userOutput, error) {
		return output(s.Register(ctx, user(in)))
	}, append(options, api.Status(201), api.Doc("Own account", "Register", "Makes an account with the role user."))...)
}

// sent answers whoever may have had a letter sent: the same to everybody.
func sent(err error) (*accepted, error) {
	if err != nil {
		return nil, err
	}
	return &accepted{Body: api.Message{Message: "If there is something to be done with this address, a letter is on its way to it. Its link is good for 30 minutes."}}, nil
}

func (s *Service) mailRoutes(a *api.API) {
	letter := []api.Option{api.IgnoreCredentials(), api.Status(202), api.BodyLimit(api.MaxAuthBody), api.Errors(403), api.Limit(s.cfg.MailLimit...)}
	const same = " The answer is the same whether the address has an account or not. One address gets three such letters in 15 minutes and ten a day."

	api.Post(a, "/auth/request-verify-token", sallyport.Public(), func(ctx context.Context, in *emailInput) (*accepted, error) {
		return sent(s.RequestVerify(ctx, in.Body.Email))
	}, append(letter, api.Doc("Letters", "Ask for a letter to verify an address", "It goes to an account, or a registration, whose address has not been verified."+same))...)

	api.Post(a, "/auth/verify", sallyport.Public(), func(ctx context.Context, in *verifyInput) (*api.Body[Verified], error) {
		v, err := s.Verify(ctx, in.Body.Token, in.Body.Password, s.SignedIn(ctx))
		if err != nil {
			return nil, err
		}
		return &api.Body[Verified]{Body: v}, nil
	}, api.Doc("Letters", "Verify an address", "With the token of a letter. The password shows that who verifies is who chose it; an access token or cookie of the very account shows the same. "+
		"Without either, an account that was not verified is emptied of what somebody else may have put there: password, sessions, API keys, second factor. Then password_set is false, and the person chooses a password with POST /auth/forgot-password. "+
		"A new address of an account needs one of the two."),
		api.BodyLimit(api.MaxAuthBody), api.Errors(400, 401, 403, 409, 429, 503), api.Limit(limitFor(s.cfg.PasswordLimit, "a password")...))

	api.Post(a, "/auth/forgot-password", sallyport.Public(), func(ctx context.Context, in *emailInput) (*accepted, error) {
		return sent(s.Forgot(ctx, in.Body.Email))
	}, append(letter, api.Doc("Letters", "Ask for a letter to choose a new password", "Nothing changes until its link is used (POST /auth/reset-password)."+same))...)

	api.Post(a, "/auth/reset-password", sallyport.Public(), func(ctx context.Context, in *resetInput) (*userOutput, error) {
		return output(s.Reset(ctx, in.Body.Token, in.Body.Password))
	}, api.Doc("Letters", "Choose a new password", "With the token of a letter. All sessions and all other letters end, and the address is verified. A second factor stays, unless the address had not been verified before: "+
		"then that and all API keys are removed, because somebody else may have put them there."),
		api.IgnoreCredentials(), api.BodyLimit(api.MaxAuthBody), api.Errors(400, 409, 503))

	api.Post(a, "/auth/accept-invitation", sallyport.Public(), func(ctx context.Context, in *acceptInput) (*userOutput, error) {
		return output(s.Accept(ctx, Acceptance{Token: in.Body.Token, Password: in.Body.Password, Username: in.Body.Username, FullName: in.Body.FullName}))
	}, api.Doc("Letters", "Accept an invitation", "With the token of a letter: chooses the password, and verifies the address. An invitation that has run out is replaced with POST /auth/forgot-password."),
		api.IgnoreCredentials(), api.BodyLimit(api.MaxAuthBody), api.Errors(400, 409, 503))
}

// limitFor says of limits which of a route's calls count.
func limitFor(limits []sallyport.Limit, which string) []sallyport.Limit {
	limits = slices.Clone(limits)
	for i := range limits {
		limits[i].For = which
	}
	return limits
}

// SignedIn returns the id of whoever calls in an unlimited session of their own, ""
// for anybody else.
func (s *Service) SignedIn(ctx context.Context) string {
	p := sallyport.From(ctx)
	if s.Demand(&p, authn.OwnSession()) != nil {
		return ""
	}
	return p.ID()
}

func output(u User, err error) (*userOutput, error) {
	if err != nil {
		return nil, err
	}
	return &userOutput{Body: u}, nil
}

func (s *Service) me(ctx context.Context, u User, err error) (*api.Body[Me], error) {
	if err != nil {
		return nil, err
	}
	p := sallyport.From(ctx)
	m := Me{User: u, EffectivePermissions: p.Grants().Permissions().Names()}
	if p.Grants().Everything() {
		g, err := role.LoadGraph(s.cfg.DB.View(ctx))
		if err != nil {
			return nil, err
		}
		names := make([]string, 0, len(g.Permissions))
		for name := range g.Permissions {
			names = append(names, name)
		}
		m.EffectivePermissions = sallyport.NewSet(names...).Names()
	}
	return &api.Body[Me]{Body: m}, nil
}

func (s *Service) ownRoutes(a *api.API) {
	api.Get(a, "/users/me", sallyport.SignedIn(), func(ctx context.Context, _ *api.None) (*api.Body[Me], error) {
		p := sallyport.From(ctx)
		u, found, err := readOwn(s.cfg.DB.View(ctx), p.ID(), p.Grants())
		if err == nil && !found {
			err = sallyport.NotFound("user")
		}
		m, err := s.me(ctx, u, err)
		if err == nil {
			s.own.keep(ctx, m.Body)
		}
		return m, err
	}, api.Doc("Own account", "Own account", "The account of the caller."), api.Shortcut(s.own.serve), api.WhileSettingUp())

	api.Patch(a, "/users/me", sallyport.Unscoped(), func(ctx context.Context, in *patchMeInput) (*api.Body[Me], error) {
		p := sallyport.From(ctx)
		if in.Body.Email != nil {
			if err := s.Demand(&p, authn.FreshSession()); err != nil {
				return nil, err
			}
		}
		u, err := s.Update(ctx, nil, p.ID(), Change{
			Username: in.Body.Username.Change(), FullName: in.Body.FullName.Change(), Email: in.Body.Email,
		})
		return s.me(ctx, u, err)
	}, api.Doc("Own account", "Change own account", "Members that are left out stay; null empties one. Nothing but these members can be changed here. "+
		"A new address needs a sign-in of the last ten minutes (401 insufficient_user_authentication with max_age=600); it is the account's when its letter's link has been used with the password (POST /auth/verify)."), api.Errors(409, 429))

	export := huma.Operation{
		Method: http.MethodGet, Path: "/users/me/export", Tags: []string{"Own account"}, Summary: "Export own data",
		Description: "Everything that is held about the caller, as a JSON file: account, grants, sessions, API keys without the keys, letters, networks, and the newest 10,000 events. Needs a sign-in of the last ten minutes.",
		Responses:   api.ErrorResponses(a, 404, 422, 500, 503),
	}
	export.Responses["200"] = &huma.Response{
		Description: "OK", Content: map[string]*huma.MediaType{"application/json": {Schema: api.Schema[Export](a)}},
		Headers: map[string]*huma.Param{"Content-Disposition": {Description: "attachment", Schema: &huma.Schema{Type: huma.TypeString}}},
	}
	a.Raw(export, authn.FreshSession(), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if err := s.serveExport(w, r); err != nil {
			a.WriteError(w, r, err)
		}
	})

	api.Delete(a, "/users/me", authn.FreshSession(), func(ctx context.Context, _ *api.None) (*api.None, error) {
		return nil, s.Delete(ctx, nil, sallyport.From(ctx).ID())
	}, api.Doc("Own account", "Delete own account", "Cannot be undone. Needs a sign-in of the last ten minutes."), api.Status(204), api.Errors(409))

	api.Put(a, "/users/me/password", sallyport.Unscoped(), func(ctx context.Context, in *passwordInput) (*api.None, error) {
		p := sallyport.From(ctx)
		return nil, s.ChangePassword(ctx, p.ID(), p.SessionID(), in.Body.Current, in.Body.New)
	}, api.Doc("Own account", "Change own password", "Needs the current one. All other sessions are ended."), api.Status(204), api.BodyLimit(api.MaxAuthBody), api.Errors(429, 503), api.Limit(s.cfg.PasswordLimit...))
}

func (s *Service) adminRoutes(a *api.API) {
	read, write := sallyport.Permission("read:users"), sallyport.Permission("write:users")
	actor := func(ctx context.Context) role.Actor { return role.ByPrincipal(sallyport.From(ctx)) }

	api.Get(a, "/users", read, func(ctx context.Context, in *listInput) (*api.Body[api.Page[User]], error) {
		f := Filter{Query: in.Query, Role: in.Role}
		if in.Disabled != "" {
			disabled := in.Disabled == "true"
			f.Disabled = &disabled
		}
		users, next, err := s.List(ctx, f, in.Cursor, in.Limit)
		if err != nil {
			return nil, err
		}
		return &api.Body[api.Page[User]]{Body: api.NewPage(users, next)}, nil
	}, api.Doc("Accounts", "List accounts", "In order of creation."), api.Errors(400))

	api.Post(a, "/users", write, func(ctx context.Context, in *createInput) (*userOutput, error) {
		if in.Body.Roles != nil {
			if err := s.MayAssign(ctx); err != nil {
				return nil, err
			}
		}
		u := NewUser{
			Email: in.Body.Email, Username: in.Body.Username, FullName: in.Body.FullName,
			EmailVerified: in.Body.EmailVerified, Roles: in.Body.Roles, Invitation: in.Body.Invitation,
		}
		switch {
		case in.Body.Password != nil:
			u.Password = *in.Body.Password
		case !u.Invitation:
			return nil, sallyport.Invalid(sallyport.Field{Pointer: "/password", Code: "required", Detail: "Send a password, or “invitation”: true."})
		}
		return output(s.Create(ctx, actor(ctx), u))
	}, api.Doc("Accounts", "Create an account", "With a password that the person should change; or as an invitation, with a letter whose link lets the person choose it within 30 minutes. Roles can be given by who may assign them."),
		api.Status(201), api.BodyLimit(api.MaxAuthBody), api.Errors(409, 429, 503))

	api.Get(a, "/users/{id}", read, func(ctx context.Context, in *nameInput) (*userOutput, error) {
		return output(s.byName(ctx, in.ID))
	}, api.Doc("Accounts", "An account", "As its person sees it at /users/me."), api.Errors(404))

	api.Patch(a, "/users/{id}", write, func(ctx context.Context, in *patchInput) (*userOutput, error) {
		act := actor(ctx)
		return output(s.Update(ctx, &act, in.ID, Change{
			Username: in.Body.Username.Change(), FullName: in.Body.FullName.Change(),
			Email: in.Body.Email, EmailVerified: in.Body.EmailVerified, Disabled: in.Body.Disabled,
		}))
	}, api.Doc("Accounts", "Change an account", "Members that are left out stay; null empties one. Disabling ends the account's sessions. An account that may do more than the caller cannot be changed. The address of one's own needs a sign-in of the last ten minutes (401 insufficient_user_authentication with max_age=600)."), api.Errors(404, 409))

	api.Delete(a, "/users/{id}", sallyport.Permission("delete:users"), func(ctx context.Context, in *idInput) (*api.None, error) {
		act := actor(ctx)
		return nil, s.Delete(ctx, &act, in.ID)
	}, api.Doc("Accounts", "Delete an account", "Cannot be undone. One's own needs a sign-in of the last ten minutes, as at /users/me."), api.Status(204), api.Errors(404, 409))

	assign := sallyport.Permission("assign:roles")
	api.Put(a, "/users/{id}/roles", assign, func(ctx context.Context, in *rolesInput) (*userOutput, error) {
		return output(s.regrant(ctx, in.ID, func(tx *db.Tx) error {
			return role.SetRoles(ctx, tx, actor(ctx), in.ID, in.Body.Roles)
		}))
	}, api.Doc("Accounts", "Set an account's roles", "Replaces those given directly; holds at the account's next request. Nobody can give or take more than they hold."), api.Errors(404, 409))

	api.Put(a, "/users/{id}/permissions", assign, func(ctx context.Context, in *permissionsInput) (*userOutput, error) {
		return output(s.regrant(ctx, in.ID, func(tx *db.Tx) error {
			return role.SetPermissions(ctx, tx, actor(ctx), in.ID, in.Body.Permissions)
		}))
	}, api.Doc("Accounts", "Set an account's permissions", "Replaces those given directly; holds at the account's next request."), api.Errors(404, 409))
}

func (s *Service) serveExport(w http.ResponseWriter, r *http.Request) error {
	if r.URL.RawQuery != "" {
		return sallyport.Invalid(sallyport.Field{Pointer: "?", Code: "unknown_member", Detail: "This operation knows no parameters. Leave them out."})
	}
	out, err := s.Export(r.Context(), sallyport.From(r.Context()).ID())
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Disposition", `attachment; filename="account.json"`)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(out)
}

// regrant changes an account's grants and returns the account as it is then.
func (s *Service) regrant(ctx context.Context, id string, change func(*db.Tx) error) (u User, err error) {
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		var found bool
		if _, found, err = readUser(tx, id); err != nil {
			return err
		}
		if !found {
			return sallyport.NotFound("user")
		}
		if err := change(tx); err != nil {
			return err
		}
		u, _, err = readUser(tx, id)
		return err
	})
	return u, err
}
