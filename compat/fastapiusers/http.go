package fastapiusers

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/guard/body"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/signin"
)

// handler answers with a status and a body, or an error.
type handler func(r *http.Request) (status int, v any, err error)

// operation is what the document says of a route.
type operation struct {
	method, path         string
	tag, summary, detail string
	body                 *huma.Schema // of JSON; nil for none
	success              int
	answer               *huma.Schema // nil for null, or none with 204
	refusals             []int
}

func (e *Endpoint) register(op operation, rule sallyport.Rule, h handler, opts ...api.Option) {
	a := e.api
	o := huma.Operation{Method: op.method, Path: op.path, Tags: []string{op.tag}, Summary: op.summary, Description: op.detail}
	if strings.Contains(op.path, "{id}") {
		o.Parameters = []*huma.Param{{Name: "id", In: "path", Required: true, Description: "Id of the account", Schema: &huma.Schema{Type: huma.TypeString}}}
	}
	statuses := append(op.refusals, http.StatusInternalServerError, http.StatusServiceUnavailable)
	if op.body != nil {
		o.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: op.body}}}
		statuses = append(statuses, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity)
	}
	if rule.Op() != sallyport.OpPublic {
		statuses = append(statuses, http.StatusUnauthorized, http.StatusForbidden)
	}
	slices.Sort(statuses)
	o.Responses = api.ErrorResponses(a, slices.Compact(statuses)...)
	for _, res := range o.Responses {
		res.Content = map[string]*huma.MediaType{"application/json": {Schema: detailSchema()}}
	}
	success := &huma.Response{Description: http.StatusText(op.success)}
	if op.success != http.StatusNoContent {
		success.Content = map[string]*huma.MediaType{"application/json": {Schema: cmp.Or(op.answer, &huma.Schema{Type: "null"})}}
	}
	o.Responses[strconv.Itoa(op.success)] = success
	if op.path == loginPath {
		o.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			api.FormType: {Schema: loginSchema()}, body.MultipartType: {Schema: loginSchema()},
		}}
	}
	a.Raw(o, rule, func(w http.ResponseWriter, r *http.Request) {
		status, v, err := h(r)
		if err != nil {
			e.refuse(w, r, err)
			return
		}
		answer(w, status, v)
	}, append(opts, api.RefuseWith(gateRefusal))...)
}

func object(required []string, properties map[string]*huma.Schema) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, Required: required, Properties: properties, AdditionalProperties: true}
}

func text(doc string) *huma.Schema { return &huma.Schema{Type: huma.TypeString, Description: doc} }

func flag(doc string) *huma.Schema { return &huma.Schema{Type: huma.TypeBoolean, Description: doc} }

// detailSchema is FastAPI's body of a refusal.
func detailSchema() *huma.Schema {
	return object([]string{"detail"}, map[string]*huma.Schema{
		"detail": {Description: "A name of fastapi-users or a sentence; a name with its reason; or, with 422, what is wrong with each member", OneOf: []*huma.Schema{
			{Type: huma.TypeString},
			object([]string{"code", "reason"}, map[string]*huma.Schema{"code": text(""), "reason": text("")}),
			{Type: huma.TypeArray, Items: object([]string{"loc", "msg", "type"}, map[string]*huma.Schema{
				"loc": {Type: huma.TypeArray, Items: &huma.Schema{}}, "msg": text(""), "type": text(""),
			})},
		}},
		"code": text("The server's own code, of what fastapi-users has no word for"),
	})
}

func loginSchema() *huma.Schema {
	return object([]string{"username", "password"}, map[string]*huma.Schema{
		"username":   text("E-mail address, or user name"),
		"password":   {Type: huma.TypeString, Format: "password"},
		"otp":        text("A code of the second factor, if the account has one"),
		"scope":      text("As at POST /token"),
		"grant_type": {Type: huma.TypeString, Enum: []any{"password"}, Description: "Not needed"},
	})
}

const loginPath = "/auth/jwt/login"

// Routes registers the operations.
func (e *Endpoint) Routes(a *api.API) {
	e.api = a
	e.signInRoutes()
	e.registerRoutes()
	e.letterRoutes()
	e.ownRoutes()
	e.userRoutes()
}

func (e *Endpoint) signInRoutes() {
	e.register(operation{
		method: http.MethodPost, path: loginPath, tag: "Tokens", summary: "Sign in (fastapi-users)",
		detail:  "The library's form, as application/x-www-form-urlencoded or multipart/form-data. The session is one access token long: there is no refresh token.",
		success: http.StatusOK, answer: api.Schema[bearerResponse](e.api), refusals: []int{400, 403, 413, 415, 422, 429},
	}, sallyport.Public(), e.login, api.IgnoreCredentials(), api.Limit(e.PasswordLimit...))

	e.register(operation{
		method: http.MethodPost, path: "/auth/jwt/logout", tag: "Tokens", summary: "Sign out (fastapi-users)",
		detail:  "Ends the session of this request: its token is refused from the next request on.",
		success: http.StatusNoContent,
	}, sallyport.Via(sallyport.KindBearer, sallyport.KindCookie), func(r *http.Request) (int, any, error) {
		return http.StatusNoContent, nil, e.Sessions.SignOut(r.Context())
	}, api.WhileSettingUp())
}

// login signs in. The library knows one refusal, and this gives no other: also of
// an account with a second factor whose code did not come along.
func (e *Endpoint) login(r *http.Request) (int, any, error) {
	if signin.InAddress(r) {
		return 0, nil, &sallyport.Error{
			Status: http.StatusBadRequest, Code: "credential_in_query",
			Message: "Name and password must be in the body: an address ends up in logs and histories. Take what was sent there as known to others.",
		}
	}
	form, err := readForm(r)
	if err != nil {
		return 0, nil, err
	}
	if e.NoPasswordGrant {
		return 0, nil, &sallyport.Error{
			Status: http.StatusForbidden, Code: "password_sign_in_off",
			Message: "Signing in with a password is switched off here.",
		}
	}
	a := signin.Attempt{Login: form["username"], Password: form["password"], OTP: form["otp"], Client: session.FirstParty, Brief: true, Whole: true}
	var ok bool
	if a.Scope, a.Scoped, ok = signin.ParseScope(form["scope"]); !ok {
		return 0, nil, faults{{Loc: []any{"body", "scope"}, Msg: signin.ScopeSyntax, Type: "value_error"}}
	}
	t, err := e.SignIn.Password(r.Context(), a)
	switch err.(type) {
	case *authn.Refused, *signin.WrongCode:
		return 0, nil, &refusal{http.StatusBadRequest, badCredentials}
	}
	if errors.Is(err, session.ErrScope) {
		return 0, nil, faults{{Loc: []any{"body", "scope"}, Msg: "The scope names something that does not exist here.", Type: "value_error"}}
	}
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, bearerResponse{AccessToken: t.Access, TokenType: "bearer"}, nil
}

func (e *Endpoint) registerRoutes() {
	op := operation{
		method: http.MethodPost, path: "/auth/register", tag: "Own account", summary: "Register (fastapi-users)",
		detail: "Makes an account with the role user. is_active, is_superuser and is_verified are ignored, as the library does, and so is everything else.",
		body: object([]string{"email", "password"}, map[string]*huma.Schema{
			"email": text(""), "password": text("At least 8 characters, not a common one, not one's own address"),
		}),
		success: http.StatusCreated, answer: api.Schema[userRead](e.api), refusals: []int{400, 403, 429},
	}
	if e.Accounts.Silent() {
		op.detail = "Sends a letter to the address; the account, with the role user, is made when its link is used. The answer is the same whether the address has an account or not."
		op.success, op.answer = http.StatusAccepted, api.Schema[api.Message](e.api)
	}
	e.register(op, sallyport.Public(), func(r *http.Request) (int, any, error) {
		in, err := readInput(r)
		if err != nil {
			return 0, nil, err
		}
		new := account.NewUser{Email: in.text("email"), Password: in.text("password")}
		if err := in.err(); err != nil {
			return 0, nil, err
		}
		known := words{registerPassword, map[string]string{"account_exists": alreadyExists}}
		if e.Accounts.Silent() {
			// The library's answer is the account, which would tell that there was none.
			err := e.Accounts.RegisterSilently(r.Context(), new)
			return http.StatusAccepted, api.Message{Message: "If the address is yours, a letter is on its way to it. Its link is good for 30 minutes."}, known.of(err)
		}
		u, err := e.Accounts.Register(r.Context(), new)
		return http.StatusCreated, userOf(u), known.of(err)
	}, api.IgnoreCredentials(), api.Limit(e.RegisterLimit...))
}

func (e *Endpoint) letterRoutes() {
	address := object([]string{"email"}, map[string]*huma.Schema{"email": text("")})
	ask := func(path, summary, detail string, f func(ctx context.Context, email string) error) {
		e.register(operation{
			method: http.MethodPost, path: path, tag: "Letters", summary: summary + " (fastapi-users)",
			detail: detail + " The answer is the same whether the address has an account or not.",
			body:   address, success: http.StatusAccepted, refusals: []int{403, 429},
		}, sallyport.Public(), func(r *http.Request) (int, any, error) {
			in, err := readInput(r)
			if err != nil {
				return 0, nil, err
			}
			email := in.text("email")
			if err := in.err(); err != nil {
				return 0, nil, err
			}
			return http.StatusAccepted, nil, f(r.Context(), email)
		}, api.IgnoreCredentials(), api.Limit(e.MailLimit...))
	}
	ask("/auth/request-verify-token", "Ask for a letter to verify an address", "It goes to an account whose address has not been verified.", e.Accounts.RequestVerify)
	ask("/auth/forgot-password", "Ask for a letter to choose a new password", "Nothing changes until its link is used.", e.Accounts.Forgot)

	e.register(operation{
		method: http.MethodPost, path: "/auth/reset-password", tag: "Letters", summary: "Choose a new password (fastapi-users)",
		detail:  "With the token of a letter. All sessions end, and the address is verified.",
		body:    object([]string{"token", "password"}, map[string]*huma.Schema{"token": text(""), "password": text("The new one")}),
		success: http.StatusOK, refusals: []int{400, 409, 429},
	}, sallyport.Public(), func(r *http.Request) (int, any, error) {
		in, err := readInput(r)
		if err != nil {
			return 0, nil, err
		}
		token, pw := in.text("token"), in.text("password")
		if err := in.err(); err != nil {
			return 0, nil, err
		}
		_, err = e.Accounts.Reset(r.Context(), token, pw)
		return http.StatusOK, nil, words{resetPassword, map[string]string{"invalid_token": resetBadToken}}.of(err)
	}, api.IgnoreCredentials())

	e.register(operation{
		method: http.MethodPost, path: "/auth/verify", tag: "Letters", summary: "Verify an address (fastapi-users)",
		detail: "With the token of a letter. An access token of the account, or its password, shows that who verifies is who registered: without either, an account that was not verified is emptied of what somebody else may have put there, " +
			"and the person chooses a password with POST /auth/forgot-password.",
		body: object([]string{"token"}, map[string]*huma.Schema{
			"token": text(""), "password": text("The account's own; the library has no such member"),
		}),
		success: http.StatusOK, answer: api.Schema[userRead](e.api), refusals: []int{400, 401, 409, 429},
	}, sallyport.Public(), e.verify, api.Limit(e.PasswordLimit...))
}

func (e *Endpoint) verify(r *http.Request) (int, any, error) {
	in, err := readInput(r)
	if err != nil {
		return 0, nil, err
	}
	token, pw := in.text("token"), in.changeText("password")
	if err := in.err(); err != nil {
		return 0, nil, err
	}
	if pw == nil {
		pw = new(string)
	}
	v, err := e.Accounts.Verify(r.Context(), token, *pw, e.Accounts.SignedIn(r.Context()))
	if refused, ok := err.(*sallyport.Error); ok {
		switch refused.Code {
		case "invalid_token":
			// A link that is used twice is what the library has a word for. A used token
			// tells nothing here; whose account is verified may be told of their own.
			if id := e.Accounts.SignedIn(r.Context()); id != "" {
				if u, uerr := e.Accounts.Get(r.Context(), id); uerr == nil && u.EmailVerified {
					return 0, nil, &refusal{http.StatusBadRequest, alreadyVerified}
				}
			}
			return 0, nil, &refusal{http.StatusBadRequest, verifyBadToken}
		case "wrong_password": // 401 would send who is signed in to sign in
			again := *refused
			again.Status = http.StatusBadRequest
			return 0, nil, &again
		}
	}
	return http.StatusOK, userOf(v.User), err
}

func (e *Endpoint) ownRoutes() {
	e.register(operation{
		method: http.MethodGet, path: "/users/me", tag: "Own account", summary: "Own account (fastapi-users)",
		detail: "The account of the caller.", success: http.StatusOK, answer: api.Schema[userRead](e.api),
	}, sallyport.SignedIn(), func(r *http.Request) (int, any, error) {
		u, err := e.Accounts.Get(r.Context(), sallyport.From(r.Context()).ID())
		return http.StatusOK, userOf(u), err
	}, api.WhileSettingUp())

	e.register(operation{
		method: http.MethodPatch, path: "/users/me", tag: "Own account", summary: "Change own account (fastapi-users)",
		detail: "A new password or address needs a sign-in of the last ten minutes (401). A new password ends all other sessions; a new address holds when the link of the letter to it was used. Everything else is ignored, as the library does.",
		body: object(nil, map[string]*huma.Schema{
			"email": text(""), "password": text(""),
		}),
		success: http.StatusOK, answer: api.Schema[userRead](e.api), refusals: []int{400, 409, 429},
	}, sallyport.Unscoped(), func(r *http.Request) (int, any, error) {
		p := sallyport.From(r.Context())
		u, err := e.Accounts.Get(r.Context(), p.ID())
		if err != nil {
			return 0, nil, err
		}
		in, err := readInput(r)
		if err != nil {
			return 0, nil, err
		}
		c := account.Replacement{Keep: p.SessionID()}
		c.Password, c.Email = in.changeText("password"), in.changeText("email")
		return e.replace(r, in, u, nil, c)
	})
}

// replace changes an account, or refuses; actor is nil for the caller's own.
func (e *Endpoint) replace(r *http.Request, in *input, u account.User, actor *role.Actor, c account.Replacement) (int, any, error) {
	if err := in.err(); err != nil {
		return 0, nil, err
	}
	// Front ends send the whole user back, with what they did not change.
	if c.Email != nil && *c.Email == u.Email {
		c.Email = nil
	}
	if c.Admin != nil && *c.Admin == userOf(u).IsSuperuser {
		c.Admin = nil
	}
	if c.Password != nil || actor == nil && c.Email != nil {
		p := sallyport.From(r.Context())
		if err := e.Accounts.Demand(&p, authn.FreshSession()); err != nil {
			return 0, nil, err
		}
	}
	if c.Admin != nil {
		if err := e.Accounts.MayAssign(r.Context()); err != nil {
			return 0, nil, err
		}
	}
	if c == (account.Replacement{Keep: c.Keep}) { // nothing that is known here
		return http.StatusOK, userOf(u), nil
	}
	u, err := e.Accounts.Replace(r.Context(), actor, u.ID, c)
	return http.StatusOK, userOf(u), words{updatePassword, map[string]string{"account_exists": updateEmailExists}}.of(err)
}

// target returns the account that a path names.
func (e *Endpoint) target(r *http.Request) (account.User, error) {
	id := r.PathValue("id")
	if !isID(id) {
		return account.User{}, sallyport.NotFound("user")
	}
	return e.Accounts.Get(r.Context(), id)
}

func (e *Endpoint) userRoutes() {
	actor := func(r *http.Request) role.Actor { return role.ByPrincipal(sallyport.From(r.Context())) }

	e.register(operation{
		method: http.MethodGet, path: "/users/{id}", tag: "Accounts", summary: "An account (fastapi-users)",
		detail: "As its person sees it at /users/me.", success: http.StatusOK, answer: api.Schema[userRead](e.api), refusals: []int{404},
	}, sallyport.Permission("read:users"), func(r *http.Request) (int, any, error) {
		u, err := e.target(r)
		return http.StatusOK, userOf(u), err
	})

	e.register(operation{
		method: http.MethodPatch, path: "/users/{id}", tag: "Accounts", summary: "Change an account (fastapi-users)",
		detail: "All of it or nothing. A new password, and another address of one's own, need a session with a sign-in of the last ten minutes, and is_superuser assign:roles and everything that the role admin gives. An account that may do more than the caller cannot be changed.",
		body: object(nil, map[string]*huma.Schema{
			"email": text(""), "password": text(""), "is_active": flag("false: disabled"), "is_superuser": flag("Gives or takes the role admin"), "is_verified": flag(""),
		}),
		success: http.StatusOK, answer: api.Schema[userRead](e.api), refusals: []int{400, 404, 409},
	}, sallyport.Permission("write:users"), func(r *http.Request) (int, any, error) {
		u, err := e.target(r)
		if err != nil {
			return 0, nil, err
		}
		in, err := readInput(r)
		if err != nil {
			return 0, nil, err
		}
		var c account.Replacement
		c.Password, c.Email = in.changeText("password"), in.changeText("email")
		if active := in.changeFlag("is_active"); active != nil {
			disabled := !*active
			c.Disabled = &disabled
		}
		c.Admin, c.EmailVerified = in.changeFlag("is_superuser"), in.changeFlag("is_verified")
		if p := sallyport.From(r.Context()); p.ID() == u.ID {
			c.Keep = p.SessionID()
		}
		act := actor(r)
		return e.replace(r, in, u, &act, c)
	})

	e.register(operation{
		method: http.MethodDelete, path: "/users/{id}", tag: "Accounts", summary: "Delete an account (fastapi-users)",
		detail: "Cannot be undone. An account that may do more than the caller cannot be deleted.", success: http.StatusNoContent, refusals: []int{404, 409},
	}, sallyport.Permission("delete:users"), func(r *http.Request) (int, any, error) {
		u, err := e.target(r)
		if err != nil {
			return 0, nil, err
		}
		act := actor(r)
		return http.StatusNoContent, nil, e.Accounts.Delete(r.Context(), &act, u.ID)
	})
}
