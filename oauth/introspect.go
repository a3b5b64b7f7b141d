package oauth

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/session"
)

// Introspection is what a token stands for now (RFC 7662, 2.2). Of one that is
// not good, whatever the cause, it has Active alone.
type Introspection struct {
	Active    bool    `json:"active"`
	TokenType string  `json:"token_type" required:"false" enum:"bearer,api_key,refresh_token"`
	Scope     *string `json:"scope,omitempty" doc:"What the token is limited to; absent if it is not"`
	Client    string  `json:"client_id,omitempty" doc:"Whom the token was issued to"`
	Username  string  `json:"username,omitempty" doc:"The account's user name, if it has one"`
	Subject   string  `json:"sub" required:"false" doc:"Id of the account or machine client"`
	Issuer    string  `json:"iss" required:"false"`
	Audience  string  `json:"aud" required:"false"`
	Expires   int64   `json:"exp,omitempty" doc:"Unix seconds; absent if never"`
	IssuedAt  int64   `json:"iat,omitempty" doc:"Unix seconds; of refresh tokens"`
	Session   string  `json:"sid,omitempty" doc:"Id of the session"`
	AuthTime  int64   `json:"auth_time,omitempty" doc:"When the person last proved who they are, Unix seconds"`

	AMR            []string `json:"amr" required:"false" doc:"How (RFC 8176)"`
	MFA            bool     `json:"mfa" required:"false" doc:"A second factor was used in the session"`
	Roles          []string `json:"roles" required:"false" doc:"All roles that the subject has, included ones too; not limited by the scope"`
	Permissions    []string `json:"permissions" required:"false" doc:"All permissions that the subject holds; not limited by the scope"`
	AllPermissions bool     `json:"all_permissions" required:"false" doc:"The subject holds every permission there is or will be"`
}

// inactive is the one answer for every token that is not good.
var inactive = struct {
	Active bool `json:"active"`
}{}

// IntrospectRoutes registers POST /token/introspect.
func (e *Endpoint) IntrospectRoutes(a *api.API) {
	rule := sallyport.All(
		sallyport.Permission("introspect:tokens"),
		sallyport.Via(sallyport.KindBearer, sallyport.KindAPIKey, sallyport.KindCookie, sallyport.KindClient),
	)
	a.Raw(huma.Operation{
		Method: http.MethodPost, Path: "/token/introspect", Tags: []string{"Tokens"}, Summary: "Introspect a token",
		Description: "What an access token, API key or refresh token stands for now (RFC 7662). A machine client sends its client_id and client_secret by HTTP Basic; everybody else their usual credential. A token that is not good, for whatever cause, is {\"active\":false}. Errors have RFC 6749's form.",
		RequestBody: tokenForm("The token that is asked about"),
		Responses: map[string]*huma.Response{
			"200": {Description: "OK", Content: map[string]*huma.MediaType{"application/json": {Schema: api.Schema[Introspection](a)}}},
			"400": errorResponse(a, "Not a valid request"),
			"401": errorResponse(a, "No credential, or one that is not good"),
			"403": errorResponse(a, "The caller may not introspect"),
			"413": errorResponse(a, "The body is larger than 64 KiB"),
			"415": errorResponse(a, "The body is not a form"),
			"503": errorResponse(a, "The database cannot be reached; see Retry-After"),
		},
	}, rule, func(w http.ResponseWriter, r *http.Request) {
		res, err := e.introspect(r)
		if err == nil && res == nil {
			e.answer(w, r, inactive, nil)
			return
		}
		e.answer(w, r, res, err)
	}, api.RefuseWith(func(w http.ResponseWriter, r *http.Request, refused *sallyport.Error) {
		e.answer(w, r, nil, asTokenError(r, refused))
	}))
}

// tokenForm is the body of RFC 7662, 2.1, and RFC 7009, 2.1.
func tokenForm(token string) *huma.RequestBody {
	str := func(doc string) *huma.Schema { return &huma.Schema{Type: huma.TypeString, Description: doc} }
	return &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		api.FormType: {Schema: &huma.Schema{
			Type: huma.TypeObject, Required: []string{"token"},
			Properties: map[string]*huma.Schema{"token": str(token), "token_type_hint": str("Not needed, and ignored: tokens say what they are")},
		}},
	}}
}

// asTokenError puts what the gate refuses into RFC 6749's form.
func asTokenError(r *http.Request, e *sallyport.Error) *TokenError {
	code := "access_denied"
	_, basic := authn.BasicHeader(r)
	switch {
	case e.Status == http.StatusUnauthorized && (basic || e.Code == "unauthenticated"):
		return &TokenError{Code: "invalid_client", Description: "A credential is required that is good: a machine client's id and secret by HTTP Basic, or an access token.", status: e.Status}
	case e.Status == http.StatusUnauthorized:
		code = "invalid_token"
	case e.Code == "insufficient_scope":
		code = "insufficient_scope"
	case e.Status != http.StatusForbidden:
		return ofError(e)
	}
	return &TokenError{Code: code, Description: e.Message, DecisionID: e.Decision(), status: e.Status}
}

// introspect returns nil for a token that is not good.
func (e *Endpoint) introspect(r *http.Request) (*Introspection, error) {
	form, err := readTokenForm(r)
	if err != nil {
		return nil, err
	}
	ctx, text := r.Context(), form["token"]
	var in *Introspection
	switch {
	case session.IsRefresh(text):
		in, err = e.inspectRefresh(ctx, text)
	case strings.HasPrefix(text, apikey.Prefix):
		in, err = e.inspect(ctx, sallyport.KindAPIKey, text)
	default:
		in, err = e.inspect(ctx, sallyport.KindBearer, text)
	}
	if _, refused := errors.AsType[*authn.Refused](err); refused {
		return nil, nil
	}
	// A token that was not looked at is not known to be dead: 429 is no answer to that.
	if se, ok := errors.AsType[*sallyport.Error](err); ok && se.Status < 500 && se.Status != http.StatusTooManyRequests {
		return nil, nil
	}
	return in, err
}

// inspect asks the gate, which knows most tokens already: it costs what a request
// with that token costs. Two reads for what requests do not need are made once.
func (e *Endpoint) inspect(ctx context.Context, kind sallyport.Kind, text string) (*Introspection, error) {
	p, stamp, err := e.Inspect(ctx, kind, text)
	if err != nil {
		return nil, err
	}
	if in, found := e.known.Get(stamp); found {
		return in, nil
	}
	in, err := e.describe(ctx, kind, p)
	if err == nil && in != nil {
		e.known.Put(stamp, in)
	}
	return in, err
}

func (e *Endpoint) describe(ctx context.Context, kind sallyport.Kind, p sallyport.Principal) (*Introspection, error) {
	c := p.Claims()
	in := e.about(c.Subject, c.Client, p.Grants())
	in.TokenType, in.Session, in.MFA = "bearer", c.Session, c.MFA
	if kind == sallyport.KindAPIKey {
		in.TokenType = "api_key"
	}
	in.Expires, in.AuthTime = unix(c.Expires), unix(c.AuthTime)
	if c.Scoped {
		scope := c.Scopes.String()
		in.Scope = &scope
	}
	if c.Subject == c.Client {
		return in, nil // a machine client has no name and no way of signing in
	}
	if c.Session != "" {
		amr, found, err := e.Sessions.AMR(ctx, c.Session)
		if err != nil || !found { // gone since
			return nil, err
		}
		in.AMR = amr
	}
	name, err := account.Username(e.Clients.DB.View(ctx), c.Subject)
	in.Username = name
	return in, err
}

func (e *Endpoint) inspectRefresh(ctx context.Context, text string) (*Introspection, error) {
	se, st, err := e.Sessions.InspectRefresh(ctx, text)
	if err != nil {
		return nil, err
	}
	grants, err := e.Resolve(ctx, st.Roles, st.RoleNames, st.Permissions)
	if err != nil {
		return nil, err
	}
	in := e.about(se.Subject, se.Client, grants)
	in.TokenType, in.Session, in.MFA, in.AMR = "refresh_token", se.ID, st.MFA, se.AMR
	in.Expires, in.AuthTime, in.IssuedAt = min(unix(se.Expires), unix(se.IdleUntil)), unix(st.AuthTime), se.Issued()
	if se.Scoped {
		scope := strings.Join(se.Scope, " ")
		in.Scope = &scope
	}
	in.Username, err = account.Username(e.Clients.DB.View(ctx), se.Subject)
	return in, err
}

func (e *Endpoint) about(subject, client string, g *sallyport.Grants) *Introspection {
	return &Introspection{
		Active: true, Subject: subject, Client: client, Issuer: e.Issuer, Audience: e.Issuer, AMR: []string{},
		Roles: g.Roles().Names(), Permissions: g.Permissions().Names(), AllPermissions: g.Everything(),
	}
}

// unix is 0 for no time at all.
func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
