// Package oauth is the face of OAuth 2.0: the token endpoint, introspection and
// revocation, and the machine clients that use them.
//
// It decides which client and which grant a request is, and hands on to the
// packages that decide about people and sessions. It stores machine clients,
// with a digest of each one's secret. Its errors are those of RFC 6749, section
// 5.2, and never say which part of a name and password, or of a client's id and
// secret, was wrong.
//
// Begin with Clients.Create: a program has its server's, server.Server.Clients.
// Endpoint is what the server mounts.
package oauth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/live"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/signin"
)

// DocsClient is the public client of the docs page. Swagger UI sends it with an
// empty secret.
const DocsClient = "docs"

// Endpoint answers POST /token, /token/introspect and /token/revoke.
type Endpoint struct {
	SignIn   *signin.Service
	Sessions *session.Service
	Clients  *Clients
	Refusals *audit.Refusals
	Issuer   string
	// Inspect finds out whose a credential is (authn.Gate), and Resolve what roles
	// and permissions amount to (role.Cache).
	Inspect func(ctx context.Context, kind sallyport.Kind, credential string) (sallyport.Principal, uint64, error)
	Resolve func(ctx context.Context, version int64, roles, permissions string) (*sallyport.Grants, error)
	// NoPasswordGrant switches the password grant off.
	NoPasswordGrant bool
	// PasswordLimit is how the documentation tells of what lockout.Config.Limit
	// counts.
	PasswordLimit []sallyport.Limit
	Log           *slog.Logger

	known live.Memo[*Introspection]
}

// TokenError is RFC 6749, 5.2.
type TokenError struct {
	Code        string `json:"error"`
	Description string `json:"error_description,omitempty"`

	// With 403: names the decision, as in problem details.
	DecisionID string `json:"decision_id,omitempty" doc:"Only with 403: names the decision in the audit log"`

	// With mfa_required.
	MFAToken   string   `json:"mfa_token,omitempty" doc:"Only with mfa_required: for POST /2fa/verify, good for five minutes"`
	MFAMethods []string `json:"mfa_methods,omitempty" doc:"Only with mfa_required: what the second factor can be proved with"`

	status    int
	challenge string
	retry     *sallyport.Error
}

// Error returns the code and the description.
func (e *TokenError) Error() string { return e.Code + ": " + e.Description }

func refuse(status int, code, description string) *TokenError {
	return &TokenError{Code: code, Description: description, status: status}
}

// Routes registers the endpoint.
func (e *Endpoint) Routes(a *api.API) {
	str := func(doc string) *huma.Schema { return &huma.Schema{Type: huma.TypeString, Description: doc} }
	a.Raw(huma.Operation{
		Method: http.MethodPost, Path: "/token", Tags: []string{"Tokens"}, Summary: "Sign in or refresh",
		Description: "The OAuth 2.0 token endpoint (RFC 6749): the grants password and refresh_token for people, through the service's own clients, and client_credentials for machine clients, which prove themselves by HTTP Basic or by client_id and client_secret. Errors have RFC 6749's form.",
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			api.FormType: {Schema: &huma.Schema{
				Type: huma.TypeObject, Required: []string{"grant_type"},
				Properties: map[string]*huma.Schema{
					"grant_type":    {Type: huma.TypeString, Enum: []any{"password", "refresh_token", "client_credentials"}},
					"username":      str("User name or e-mail address (grant password)"),
					"password":      {Type: huma.TypeString, Format: "password", Description: "The password (grant password)"},
					"refresh_token": str("The refresh token (grant refresh_token)"),
					"otp":           str("A code of the second factor, if the account has one (grant password); without it the answer is 403 mfa_required"),
					"scope":         str("Space-separated names; the token is limited to those that its user or client holds"),
					"client_id":     str("Not needed for the service's own clients"),
					"client_secret": str("Of machine clients, unless it is sent by HTTP Basic"),
				},
			}},
		}},
		Responses: map[string]*huma.Response{
			"200": {Description: "OK", Content: map[string]*huma.MediaType{"application/json": {Schema: api.Schema[session.TokenResponse](a)}}},
			"400": errorResponse(a, "Not a valid request (RFC 6749, 5.2)"),
			"401": errorResponse(a, "Incorrect username or password, or an unknown client"),
			"403": errorResponse(a, "mfa_required: the password was right, and a second factor is due (POST /2fa/verify)"),
			"413": errorResponse(a, "The body is larger than 64 KiB"),
			"415": errorResponse(a, "The body is not a form"),
			"429": errorResponse(a, "Too many sign-ins with this name or from this network have failed; see Retry-After"),
			"503": errorResponse(a, "Too many sign-ins at once; see Retry-After"),
		},
	}, sallyport.Public(), e.serve, api.IgnoreCredentials(), api.Limit(e.PasswordLimit...))
}

func errorResponse(a *api.API, description string) *huma.Response {
	return &huma.Response{Description: description, Content: map[string]*huma.MediaType{"application/json": {Schema: api.Schema[TokenError](a)}}}
}

func (e *Endpoint) serve(w http.ResponseWriter, r *http.Request) {
	res, err := e.token(r)
	e.answer(w, r, res, err)
}

// answer writes v, or what the caller may see of an error.
func (e *Endpoint) answer(w http.ResponseWriter, r *http.Request, v any, err error) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	status := http.StatusOK
	if err != nil {
		oe := e.visible(r, err)
		v, status = oe, oe.status
		if oe.challenge != "" {
			h.Set("Www-Authenticate", oe.challenge)
		}
		if oe.retry != nil {
			oe.retry.SetRetryAfter(h)
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

// visible returns what the caller may see of an error.
func (e *Endpoint) visible(r *http.Request, err error) *TokenError {
	if oe, ok := errors.AsType[*TokenError](err); ok {
		return oe
	}
	if se, ok := errors.AsType[*sallyport.Error](err); ok {
		return ofError(se)
	}
	if r.Context().Err() == nil { // otherwise the caller is gone
		e.Log.ErrorContext(r.Context(), "a request about tokens failed", "error", err)
	}
	return ofError(sallyport.Unavailable())
}

// ofError puts an error into RFC 6749's form.
func ofError(e *sallyport.Error) *TokenError {
	code := "invalid_request"
	switch {
	case e.Status >= 500:
		code = "temporarily_unavailable"
	case e.Status == http.StatusTooManyRequests: // RFC 6749 has no word for it
		code = "too_many_attempts"
	}
	return &TokenError{Code: code, Description: e.Message, DecisionID: e.Decision(), status: e.Status, retry: e}
}

const inAddress = "Parameters must be in the body: an address ends up in logs and histories. Take what was sent there as known to others."

func (e *Endpoint) token(r *http.Request) (*session.TokenResponse, error) {
	if signin.InAddress(r) {
		return nil, refuse(http.StatusBadRequest, "invalid_request", inAddress)
	}
	form, err := api.ReadForm(r, api.MaxAuthBody)
	if err != nil {
		return nil, err
	}
	who, err := e.clientOf(r, form)
	if err != nil {
		return nil, err
	}
	scope, scoped, ok := signin.ParseScope(form["scope"])
	if !ok {
		return nil, refuse(http.StatusBadRequest, "invalid_scope", signin.ScopeSyntax)
	}
	switch grant := form["grant_type"]; grant {
	case "password":
		if registered(who.id) {
			// It acts for itself. A program that is trusted with people's passwords
			// is one of the service's own, and needs no secret for that.
			return nil, refuse(http.StatusBadRequest, "unauthorized_client", "A machine client signs nobody in. Send grant_type=client_credentials for a token of its own, or leave its id and secret out to sign a person in.")
		}
		return e.password(r, form, signin.Attempt{Client: who.id, Scoped: scoped, Scope: scope})
	case "refresh_token":
		return e.refresh(r, form, who.id, scoped, scope)
	case "client_credentials":
		return e.clientCredentials(r, who, scoped, scope)
	case "":
		return nil, refuse(http.StatusBadRequest, "invalid_request", "grant_type is missing. Send password, refresh_token or client_credentials.")
	default:
		return nil, refuse(http.StatusBadRequest, "unsupported_grant_type", "This grant_type is not supported. Send password, refresh_token or client_credentials.")
	}
}

func (e *Endpoint) password(r *http.Request, form map[string]string, a signin.Attempt) (*session.TokenResponse, error) {
	if e.NoPasswordGrant {
		return nil, refuse(http.StatusBadRequest, "unsupported_grant_type", "The password grant is switched off here.")
	}
	a.Login, a.Password, a.OTP = form["username"], form["password"], form["otp"]
	if a.Login == "" || a.Password == "" {
		return nil, refuse(http.StatusBadRequest, "invalid_request", "username and password are required.")
	}
	t, err := e.SignIn.Password(r.Context(), a)
	if _, ok := errors.AsType[*authn.Refused](err); ok {
		oe := refuse(http.StatusUnauthorized, "invalid_grant", signin.WrongCredentials().Message)
		oe.challenge = "Bearer"
		return nil, oe
	}
	if due, ok := errors.AsType[*signin.MFARequired](err); ok {
		oe := refuse(http.StatusForbidden, "mfa_required", due.Refusal().Message)
		oe.MFAToken, oe.MFAMethods, oe.DecisionID = due.Token, due.Methods, sallyport.NewDecisionID()
		return nil, oe
	}
	if _, ok := errors.AsType[*signin.WrongCode](err); ok {
		oe := refuse(http.StatusUnauthorized, "invalid_2fa_code", signin.InvalidCode().Message)
		oe.challenge = "Bearer"
		return nil, oe
	}
	if errors.Is(err, session.ErrScope) {
		return nil, refuse(http.StatusBadRequest, "invalid_scope", "The scope names something that does not exist here.")
	}
	return respond(t, err)
}

func (e *Endpoint) refresh(r *http.Request, form map[string]string, client string, scoped bool, scope []string) (*session.TokenResponse, error) {
	if form["refresh_token"] == "" {
		return nil, refuse(http.StatusBadRequest, "invalid_request", "refresh_token is required.")
	}
	t, err := e.Sessions.Refresh(r.Context(), form["refresh_token"], client, scoped, scope)
	if refused, ok := errors.AsType[*authn.Refused](err); ok {
		e.Refusals.Note(r.Context(), audit.Event{Action: "refresh.refused", Result: audit.Failure, Reason: refused.Reason, Actor: refused.Subject})
		return nil, refuse(http.StatusBadRequest, "invalid_grant", "The refresh token is not valid, or not any more. Sign in again.")
	}
	if errors.Is(err, session.ErrScope) {
		return nil, refuse(http.StatusBadRequest, "invalid_scope", "The scope is wider than what was granted at sign-in, or names something that does not exist here.")
	}
	return respond(t, err)
}

func respond(t session.Tokens, err error) (*session.TokenResponse, error) {
	if err != nil {
		return nil, err
	}
	res := t.Response()
	return &res, nil
}

func (e *Endpoint) clientCredentials(r *http.Request, who requester, scoped bool, scope []string) (*session.TokenResponse, error) {
	if !registered(who.id) {
		return nil, invalidClient("This grant is for machine clients. Send client_id and client_secret.")
	}
	t, err := e.Clients.Grant(r.Context(), who.id, who.secret, scoped, scope)
	if refused, ok := errors.AsType[*authn.Refused](err); ok {
		return nil, e.refuseClient(r.Context(), refused)
	}
	if errors.Is(err, session.ErrScope) {
		e.Refusals.Note(r.Context(), audit.Event{Action: audit.SignInRefused, Result: audit.Failure, Reason: "an unknown scope was asked for", Actor: who.id, ActorKind: "client"})
		return nil, refuse(http.StatusBadRequest, "invalid_scope", "The scope names something that does not exist here.")
	}
	return respond(t, err)
}

// requester is the client of a request. If it has a secret, the secret is right.
type requester struct{ id, secret string }

// registered reports whether a client is a machine client, with a secret. The
// service's own need no registration and have none.
func registered(id string) bool { return id != session.FirstParty && id != DocsClient }

// clientOf returns the client of a request: one of the service's own, or a
// machine client that has proved itself, by the header or by fields of the form
// (RFC 6749, 2.3.1).
func (e *Endpoint) clientOf(r *http.Request, form map[string]string) (requester, error) {
	id, secret := form["client_id"], form["client_secret"]
	basic, found, err := basicOf(r)
	if err != nil {
		return requester{}, err
	}
	if found {
		user, pass, err := basicClient(basic)
		if err != nil {
			return requester{}, err
		}
		if id != "" && user != "" && user != id || secret != "" && (user != "" || pass != "") {
			return requester{}, refuse(http.StatusBadRequest, "invalid_request", "The client is named twice. Use either the Authorization header or the body.")
		}
		if user != "" {
			id = user
		}
		if pass != "" {
			secret = pass
		}
	}
	if secret == "" {
		switch id {
		case "", session.FirstParty:
			return requester{id: session.FirstParty}, nil
		case DocsClient:
			return requester{id: DocsClient}, nil
		}
	}
	err = e.Clients.Authenticate(r.Context(), id, secret)
	if refused, ok := errors.AsType[*authn.Refused](err); ok {
		return requester{}, e.refuseClient(r.Context(), refused)
	}
	return requester{id, secret}, err
}

// refuseClient notes why, and says the one thing that is said to all.
func (e *Endpoint) refuseClient(ctx context.Context, refused *authn.Refused) error {
	e.Refusals.Note(ctx, audit.Event{Action: audit.SignInRefused, Result: audit.Failure, Reason: refused.Reason, Actor: refused.Subject, ActorKind: "client"})
	return invalidClient("There is no such client, or its secret is wrong. The service's own users need no client_id.")
}

func invalidClient(description string) *TokenError {
	oe := refuse(http.StatusUnauthorized, "invalid_client", description)
	oe.challenge = authn.BasicChallenge
	return oe
}

// basicOf returns what stands behind “Basic” in the Authorization header.
func basicOf(r *http.Request) (text string, found bool, err error) {
	if len(r.Header["Authorization"]) > 1 {
		return "", false, refuse(http.StatusBadRequest, "invalid_request", "The request has more than one Authorization header. Send one, or none.")
	}
	text, found = authn.BasicHeader(r)
	return text, found, nil
}

const notBasic = "The Authorization header is not valid Basic authentication (RFC 7617)."

// basicClient reads RFC 6749, 2.3.1: both parts are form-encoded.
func basicClient(text string) (id, secret string, err error) {
	bad := refuse(http.StatusBadRequest, "invalid_request", notBasic)
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return "", "", bad
	}
	user, pass, ok := strings.Cut(string(b), ":")
	if !ok {
		return "", "", bad
	}
	id, err1 := url.QueryUnescape(user)
	secret, err2 := url.QueryUnescape(pass)
	if err1 != nil || err2 != nil {
		return "", "", bad
	}
	return id, secret, nil
}
