package oauth

import (
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/signin"
)

// RevokeRoutes registers POST /token/revoke.
func (e *Endpoint) RevokeRoutes(a *api.API) {
	body := tokenForm("An access token or refresh token; the session that it belongs to ends, with all its tokens")
	properties := body.Content[api.FormType].Schema.Properties
	properties["client_id"] = &huma.Schema{Type: huma.TypeString, Description: "Needed for a token of a registered client only"}
	properties["client_secret"] = &huma.Schema{Type: huma.TypeString, Description: "As at POST /token"}
	a.Raw(huma.Operation{
		Method: http.MethodPost, Path: "/token/revoke", Tags: []string{"Tokens"}, Summary: "Revoke a token",
		Description: "Ends the session of a token (RFC 7009). A token that was issued to no registered client may be revoked by whoever holds it; any other by its client, which proves itself as at POST /token. A token that is unknown or dead already is no error. Errors have RFC 6749's form.",
		RequestBody: body,
		Responses: map[string]*huma.Response{
			"200": {Description: "The token is dead"},
			"400": errorResponse(a, "Not a valid request, an API key, or another client's token"),
			"401": errorResponse(a, "The client is not known, its secret is wrong, or the token needs its client"),
			"413": errorResponse(a, "The body is larger than 64 KiB"),
			"415": errorResponse(a, "The body is not a form"),
			"503": errorResponse(a, "Nothing was revoked: the database cannot be reached; see Retry-After"),
		},
	}, sallyport.Public(), func(w http.ResponseWriter, r *http.Request) {
		if err := e.revoke(r); err != nil {
			e.answer(w, r, nil, err)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusOK) // RFC 7009, 2.2: the body is ignored
	}, api.IgnoreCredentials())
}

// readTokenForm reads the form that has the token.
func readTokenForm(r *http.Request) (map[string]string, error) {
	if signin.InAddress(r) || r.URL.RawQuery != "" && r.URL.Query().Has("token") {
		return nil, refuse(http.StatusBadRequest, "invalid_request", inAddress)
	}
	form, err := api.ReadForm(r, api.MaxAuthBody)
	if err == nil && form["token"] == "" {
		err = refuse(http.StatusBadRequest, "invalid_request", "token is required.")
	}
	return form, err
}

func (e *Endpoint) revoke(r *http.Request) error {
	form, err := readTokenForm(r)
	if err != nil {
		return err
	}
	who, err := e.clientOf(r, form)
	if err != nil {
		return err
	}
	text := form["token"]
	if strings.HasPrefix(text, apikey.Prefix) {
		return refuse(http.StatusBadRequest, "unsupported_token_type", "An API key is not revoked here. Delete it where it was made.")
	}
	named, err := e.Sessions.Find(r.Context(), text)
	if _, refused := errors.AsType[*authn.Refused](err); refused {
		return nil // RFC 7009, 2.2: what is dead needs no killing
	}
	if err != nil {
		return err
	}
	if registered(named.Client) && named.Client != who.id {
		if who.secret == "" {
			return invalidClient("This token was issued to a registered client, which must prove itself to revoke it.")
		}
		return refuse(http.StatusBadRequest, "invalid_grant", "This token was issued to another client. Nothing was revoked.")
	}
	return e.Sessions.Revoke(r.Context(), named)
}
