package signin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/session"
)

type requestLinkInput struct {
	Body struct {
		Email string `json:"email" maxLength:"254" example:"ada@example.com"`
	}
}

type linkRequested struct {
	Message string `json:"message" example:"If there is an account with this address, a letter is on its way."`
	Handle  string `json:"handle" doc:"A secret, for who asked: what the code of the letter is sent with"`
}

// linkRoutes registers signing in by mail.
func (s *Service) linkRoutes(a *api.API) {
	api.Post(a, "/auth/request-link", sallyport.Public(), func(ctx context.Context, in *requestLinkInput) (*api.Body[linkRequested], error) {
		handle, err := s.RequestLink(ctx, in.Body.Email)
		if err != nil {
			return nil, err
		}
		return &api.Body[linkRequested]{Body: linkRequested{"If there is an account with this address, a letter with a link and a code is on its way. They are good once, for ten minutes.", handle}}, nil
	}, api.Doc("Tokens", "Ask for a link to sign in", "Sends a letter with a link and a code of six digits, to an address that has an account. The answer is the same for every address. An address gets at most 3 such letters in 15 minutes, and 10 a day."),
		api.Status(http.StatusAccepted), api.IgnoreCredentials(), api.BodyLimit(api.MaxAuthBody), api.Errors(403, 429), api.Limit(s.cfg.MailLimit...))

	schema := &huma.Schema{Type: huma.TypeObject, AdditionalProperties: false, Properties: map[string]*huma.Schema{
		"token":  {Type: huma.TypeString, Description: "What stands behind #token= in the link of the letter"},
		"handle": {Type: huma.TypeString, Description: "In place of token, with code: as POST /auth/request-link gave it"},
		"code":   {Type: huma.TypeString, Description: "The six digits of the letter. Of one handle five are looked at"},
		"scope":  {Type: huma.TypeString, Description: "As at POST /token"},
		"otp":    {Type: huma.TypeString, Description: "A code of the second factor, if the account has one; without it the answer is 403 mfa_required"},
	}}
	s.signInRoute(a, huma.Operation{
		Path: "/auth/link", Summary: "Sign in with a link or code",
		Description: "Takes what POST /auth/request-link had mailed: token, or handle and code. A second factor is asked for as after a password. With mode=cookie it is for browsers, as at POST /auth/login. " +
			"Whoever signs in like this has shown that the address is theirs. If that was not known before, the password, second factor, sessions and API keys that the account had until then are gone: somebody else may have put them there.",
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: schema}}},
	}, s.serveLink, s.cfg.CodeLimit)
}

func (s *Service) serveLink(r *http.Request) (session.Tokens, error) {
	if r.URL.RawQuery != "" && slices.ContainsFunc([]string{"token", "handle", "code", "otp"}, r.URL.Query().Has) {
		return session.Tokens{}, &sallyport.Error{
			Status: http.StatusBadRequest, Code: "credential_in_query",
			Message: "The token, or handle and code, must be in the body: an address ends up in logs and histories. Take what was sent there as known to others.",
		}
	}
	browser, err := s.browser(r)
	if err != nil {
		return session.Tokens{}, err
	}
	a, err := readLink(r)
	if err != nil {
		return session.Tokens{}, err
	}
	if a.Cookie = browser; browser {
		a.Replaces = s.replaced(r)
	}
	t, err := s.Link(r.Context(), a)
	if _, ok := errors.AsType[*authn.Refused](err); ok {
		err = invalidLink()
	}
	if _, ok := errors.AsType[*WrongCode](err); ok {
		err = InvalidCode()
	}
	if errors.Is(err, session.ErrScope) {
		err = unknownScope()
	}
	return t, err
}

// readLink reads the body of POST /auth/link. Names match exactly.
func readLink(r *http.Request) (LinkAttempt, error) {
	a := LinkAttempt{Attempt: Attempt{Client: session.FirstParty}}
	b, err := api.ReadJSON(r, api.MaxAuthBody)
	if err != nil {
		return a, err
	}
	var members map[string]any
	if json.Unmarshal(b, &members) != nil || members == nil {
		return a, sallyport.Invalid(sallyport.Field{Code: "wrong_type", Detail: "An object is expected here."})
	}
	var fields []sallyport.Field
	bad := func(pointer, code, detail string) {
		fields = append(fields, sallyport.Field{Pointer: pointer, Code: code, Detail: detail})
	}
	var scope string
	places := map[string]*string{"token": &a.Token, "handle": &a.Handle, "code": &a.Code, "scope": &scope, "otp": &a.OTP}
	for name, value := range members {
		to, known := places[name]
		if !known {
			bad("", "unknown_member", "The body has a member that signing in does not know. It takes token, or handle and code, and scope and otp.")
			continue
		}
		var ok bool
		if *to, ok = value.(string); !ok {
			bad("/"+name, "wrong_type", "A string is expected here.")
		}
	}
	var ok bool
	if a.Scope, a.Scoped, ok = ParseScope(scope); !ok {
		bad("/scope", "invalid_format", ScopeSyntax)
	}
	if withCode := a.Handle != "" || a.Code != ""; fields == nil && (a.Token != "" && withCode || a.Token == "" && (a.Handle == "" || a.Code == "")) {
		bad("", "required", "Send token, as it stands in the link, or handle with code, and not both.")
	}
	if fields != nil {
		return a, sallyport.Invalid(fields...)
	}
	return a, nil
}
