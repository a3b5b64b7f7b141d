package account

import (
	"context"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
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

type createInput struct {
	Body struct {
		Email         string   `json:"email" maxLength:"254" example:"ada@example.com"`
		Password      string   `json:"password" maxLength:"4096"`
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

// Routes registers the operations on accounts.
func (s *Service) Routes(a *api.API) {
	api.Post(a, "/auth/register", sallyport.Public(), func(ctx context.Context, in *registerInput) (*userOutput, error) {
		return output(s.Register(ctx, NewUser{
			Email: in.Body.Email, Password: in.Body.Password, Username: in.Body.Username, FullName: in.Body.FullName,
		}))
	}, api.Doc("Own account", "Register", "Makes an account with the role user."), api.Status(201), api.IgnoreCredentials(), api.BodyLimit(api.MaxAuthBody), api.Errors(403, 409, 503), api.Limit(s.cfg.RegisterLimit...))

	s.ownRoutes(a)
	s.adminRoutes(a)
	s.setupRoutes(a)
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
	}, api.Doc("Own account", "Own account", "The account of the caller."), api.Shortcut(s.own.serve))

	api.Patch(a, "/users/me", sallyport.Unscoped(), func(ctx context.Context, in *patchMeInput) (*api.Body[Me], error) {
		u, err := s.Update(ctx, nil, sallyport.From(ctx).ID(), Change{
			Username: in.Body.Username.Change(), FullName: in.Body.FullName.Change(),
		})
		return s.me(ctx, u, err)
	}, api.Doc("Own account", "Change own account", "Members that are left out stay; null empties one. Nothing but these members can be changed here."), api.Errors(409))

	api.Delete(a, "/users/me", sallyport.Unscoped(), func(ctx context.Context, _ *api.None) (*api.None, error) {
		return nil, s.Delete(ctx, nil, sallyport.From(ctx).ID())
	}, api.Doc("Own account", "Delete own account", "Cannot be undone."), api.Status(204), api.Errors(409))

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
		p := sallyport.From(ctx)
		if in.Body.Roles != nil && !p.Can("assign:roles") {
			rule := sallyport.Permission("assign:roles")
			return nil, rule.Explain(&p, &sallyport.Facts{Now: s.cfg.Now()}).Refusal()
		}
		return output(s.Create(ctx, actor(ctx), NewUser{
			Email: in.Body.Email, Password: in.Body.Password, Username: in.Body.Username, FullName: in.Body.FullName,
			EmailVerified: in.Body.EmailVerified, Roles: in.Body.Roles,
		}))
	}, api.Doc("Accounts", "Create an account", "With a password that the person should change. Roles can be given by who may assign them."), api.Status(201), api.BodyLimit(api.MaxAuthBody), api.Errors(409, 503))

	api.Get(a, "/users/{id}", read, func(ctx context.Context, in *idInput) (*userOutput, error) {
		return output(s.Get(ctx, in.ID))
	}, api.Doc("Accounts", "An account", "As its person sees it at /users/me."), api.Errors(404))

	api.Patch(a, "/users/{id}", write, func(ctx context.Context, in *patchInput) (*userOutput, error) {
		act := actor(ctx)
		return output(s.Update(ctx, &act, in.ID, Change{
			Username: in.Body.Username.Change(), FullName: in.Body.FullName.Change(),
			Email: in.Body.Email, EmailVerified: in.Body.EmailVerified, Disabled: in.Body.Disabled,
		}))
	}, api.Doc("Accounts", "Change an account", "Members that are left out stay; null empties one. Disabling ends the account's sessions. An account that may do more than the caller cannot be changed."), api.Errors(404, 409))

	api.Delete(a, "/users/{id}", sallyport.Permission("delete:users"), func(ctx context.Context, in *idInput) (*api.None, error) {
		act := actor(ctx)
		return nil, s.Delete(ctx, &act, in.ID)
	}, api.Doc("Accounts", "Delete an account", "Cannot be undone."), api.Status(204), api.Errors(404, 409))

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
