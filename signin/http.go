package signin

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/session"
)

// Routes registers the operations of signing in.
func (s *Service) Routes(a *api.API) {
	s.loginRoutes(a)
	s.linkRoutes(a)
	s.secondFactorRoutes(a)
}

// loginRoutes registers POST /auth/login: the password grant for those who would
// rather send JSON, or a plain form, and for browsers, which get a cookie.
func (s *Service) loginRoutes(a *api.API) {
	schema := &huma.Schema{Type: huma.TypeObject, Required: []string{"username", "password"}, AdditionalProperties: false, Properties: map[string]*huma.Schema{
		"username":      {Type: huma.TypeString, Description: "User name or e-mail address"},
		"password":      {Type: huma.TypeString, Format: "password"},
		"otp":           {Type: huma.TypeString, Description: "A code of the second factor, if the account has one; without it the answer is 403 mfa_required"},
		"scope":         {Type: huma.TypeString, Description: "As at POST /token"},
		"grant_type":    {Type: huma.TypeString, Enum: []any{"password"}, Description: "Not needed"},
		"client_id":     {Type: huma.TypeString, Description: "Not needed; empty, or first-party"},
		"client_secret": {Type: huma.TypeString, Description: "Not needed; empty"},
	}}
	s.signInRoute(a, huma.Operation{
		Path: "/auth/login", Summary: "Sign in",
		Description: "The password grant of POST /token with a JSON body or a form. With mode=cookie it is for browsers: the session is in a cookie that no script can read, and there are no tokens. " +
			"Pages of another origin cannot sign anybody in like that (403 cross_origin).",
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"application/json": {Schema: schema}, api.FormType: {Schema: schema},
		}},
	}, s.login, s.cfg.PasswordLimit)
}

// signInRoute registers an operation that ends in a session: in tokens, or with
// mode=cookie in a cookie, or in what a second factor takes.
func (s *Service) signInRoute(a *api.API, op huma.Operation, serve func(*http.Request) (session.Tokens, error), limits []sallyport.Limit) {
	op.Method, op.Tags = http.MethodPost, []string{"Tokens"}
	op.Parameters = []*huma.Param{{
		Name: "mode", In: "query", Description: "cookie: set the session cookie, and give no tokens",
		Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"cookie"}},
	}}
	op.Responses = api.ErrorResponses(a, 400, 401, 403, 409, 413, 415, 422, 429, 500, 503)
	op.Responses["200"] = &huma.Response{Description: "OK", Content: map[string]*huma.MediaType{
		"application/json": {Schema: api.Schema[session.TokenResponse](a)},
	}}
	op.Responses["204"] = &huma.Response{Description: "Signed in, with mode=cookie", Headers: map[string]*huma.Param{
		"Set-Cookie": {Description: "The session cookie", Schema: &huma.Schema{Type: huma.TypeString}},
	}}
	a.Raw(op, sallyport.Public(), func(w http.ResponseWriter, r *http.Request) {
		t, err := serve(r)
		if due, ok := errors.AsType[*MFARequired](err); ok {
			writeMFARequired(w, due)
			return
		}
		if err != nil {
			a.WriteError(w, r, err)
			return
		}
		s.answer(w, t)
	}, api.IgnoreCredentials(), api.Limit(limits...))
}

// answer writes what a sign-in gave.
func (s *Service) answer(w http.ResponseWriter, t session.Tokens) {
	if t.Cookie != "" {
		s.cfg.Cookie.Set(w.Header(), t.Cookie, t.ExpiresIn)
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(t.Response())
}

// secretParameters must not stand in the address, where they would be logged.
var secretParameters = []string{"username", "password", "client_secret", "client_id", "refresh_token", "access_token", "otp", "mfa_token", "code", "grant_type"}

// InAddress reports whether the address of a request holds what belongs in its
// body.
func InAddress(r *http.Request) bool {
	return r.URL.RawQuery != "" && slices.ContainsFunc(secretParameters, r.URL.Query().Has)
}

func (s *Service) login(r *http.Request) (session.Tokens, error) {
	if InAddress(r) {
		return session.Tokens{}, &sallyport.Error{
			Status: http.StatusBadRequest, Code: "credential_in_query",
			Message: "Name and password must be in the body: an address ends up in logs and histories. Take what was sent there as known to others.",
		}
	}
	browser, err := s.browser(r)
	if err != nil {
		return session.Tokens{}, err
	}
	if s.cfg.NoPasswordGrant {
		return session.Tokens{}, &sallyport.Error{
			Status: http.StatusForbidden, Code: "password_sign_in_off",
			Message: "Signing in with a password is switched off here.",
		}
	}
	a, err := readLogin(r)
	if err != nil {
		return session.Tokens{}, err
	}
	if a.Cookie = browser; browser {
		a.Replaces = s.replaced(r)
	}
	t, err := s.Password(r.Context(), a)
	if _, ok := errors.AsType[*authn.Refused](err); ok {
		err = WrongCredentials()
	}
	if _, ok := errors.AsType[*WrongCode](err); ok {
		err = InvalidCode()
	}
	if errors.Is(err, session.ErrScope) {
		err = unknownScope()
	}
	return t, err
}

func unknownScope() *sallyport.Error {
	return sallyport.Invalid(sallyport.Field{Pointer: "/scope", Code: "unknown_scope", Detail: "The scope names something that does not exist here."})
}

// replaced returns the value of the cookie that a browser has, "" for none. Of
// several, none is the browser's own.
func (s *Service) replaced(r *http.Request) string {
	value, found, err := s.cfg.Cookie.Read(r)
	if err != nil || !found {
		return ""
	}
	return value
}

// browser reports whether a request asks for a cookie, and refuses it if it must
// not get one. A page of another origin must not: it would sign a visitor in as
// somebody else, who then reads what the visitor enters.
func (s *Service) browser(r *http.Request) (bool, error) {
	if r.URL.RawQuery == "" {
		return false, nil
	}
	mode, asked := r.URL.Query()["mode"]
	if !asked {
		return false, nil
	}
	if len(mode) != 1 || mode[0] != "cookie" {
		return false, sallyport.Invalid(sallyport.Field{
			Pointer: "?mode", Code: "invalid_choice",
			Detail: "Send mode=cookie once, for a session in a cookie, or leave it out, for tokens.",
		})
	}
	if err := s.mayKeep(r); err != nil {
		return false, err
	}
	return true, nil
}

// mayKeep refuses a request that must not get a cookie, or would not keep it.
func (s *Service) mayKeep(r *http.Request) error {
	if err := s.cfg.Cookie.CheckKept(); err != nil {
		return err
	}
	err := s.cfg.Cookie.Restrict(r)
	if err != nil {
		s.cfg.Refusals.Note(r.Context(), audit.Event{Action: audit.SignInRefused, Result: audit.Failure, Reason: "a page of another origin asked for a cookie"})
	}
	return err
}

func readLogin(r *http.Request) (Attempt, error) {
	members := map[string]any{}
	if strings.HasPrefix(strings.ToLower(r.Header.Get("Content-Type")), api.FormType) {
		form, err := api.ReadForm(r, api.MaxAuthBody)
		if err != nil {
			return Attempt{}, err
		}
		for name, text := range form {
			members[name] = text
		}
	} else {
		b, err := api.ReadJSON(r, api.MaxAuthBody)
		if err != nil {
			return Attempt{}, err
		}
		if json.Unmarshal(b, &members) != nil {
			return Attempt{}, sallyport.Invalid(sallyport.Field{Code: "wrong_type", Detail: "An object is expected here."})
		}
	}
	return fromMembers(members)
}

// fromMembers takes what the password grant has. Names match exactly.
func fromMembers(members map[string]any) (Attempt, error) {
	a := Attempt{Client: session.FirstParty}
	var fields []sallyport.Field
	bad := func(pointer, code, detail string) {
		fields = append(fields, sallyport.Field{Pointer: pointer, Code: code, Detail: detail})
	}
	for name, v := range members {
		text, isText := v.(string)
		if !isText {
			v = nil
		}
		switch name {
		case "username":
			a.Login = text
		case "password":
			a.Password = text
		case "otp":
			a.OTP = text
		case "scope":
			var ok bool
			if a.Scope, a.Scoped, ok = ParseScope(text); !ok {
				bad("/scope", "invalid_format", ScopeSyntax)
			}
		case "grant_type":
			if isText && text != "password" {
				bad("/grant_type", "invalid_choice", "Leave it out, or send “password”.")
			}
		case "client_id", "client_secret":
			if text != "" && (name != "client_id" || text != session.FirstParty) {
				bad("/"+name, "invalid_choice", "Clients of their own sign in at POST /token. Leave it out.")
			}
		default:
			bad("", "unknown_member", "The body has a member that signing in does not know. It takes username, password, otp and scope.")
			continue
		}
		if v == nil {
			bad("/"+name, "wrong_type", "A string is expected here.")
		}
	}
	for _, name := range []string{"username", "password"} {
		if text, there := members[name]; !there || text == "" {
			bad("/"+name, "required", "This member is required.")
		}
	}
	if fields != nil {
		return Attempt{}, sallyport.Invalid(fields...)
	}
	return a, nil
}
