package oauth

import (
	"encoding/json"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
)

// Metadata is what RFC 8414 lets clients and resource servers find out.
type Metadata struct {
	Issuer        string   `json:"issuer" doc:"The iss of access tokens"`
	TokenEndpoint string   `json:"token_endpoint"`
	JWKS          string   `json:"jwks_uri" doc:"Where the public keys are"`
	ResponseTypes []string `json:"response_types_supported" doc:"Empty: there is no authorization endpoint"`
	GrantTypes    []string `json:"grant_types_supported"`
	AuthMethods   []string `json:"token_endpoint_auth_methods_supported"`

	RevocationEndpoint       string   `json:"revocation_endpoint"`
	RevocationAuthMethods    []string `json:"revocation_endpoint_auth_methods_supported"`
	IntrospectionEndpoint    string   `json:"introspection_endpoint"`
	IntrospectionAuthMethods []string `json:"introspection_endpoint_auth_methods_supported"`
}

// MetadataRoutes registers the metadata of the issuer.
func (e *Endpoint) MetadataRoutes(a *api.API) {
	methods := []string{"none", "client_secret_basic", "client_secret_post"}
	m := Metadata{
		Issuer: e.Issuer, TokenEndpoint: e.Issuer + "/token", JWKS: e.Issuer + "/.well-known/jwks.json",
		ResponseTypes: []string{}, GrantTypes: []string{"password", "refresh_token", "client_credentials"}, AuthMethods: methods,
		RevocationEndpoint: e.Issuer + "/token/revoke", RevocationAuthMethods: methods,
		IntrospectionEndpoint: e.Issuer + "/token/introspect", IntrospectionAuthMethods: []string{"client_secret_basic", "Bearer"},
	}
	if e.NoPasswordGrant {
		m.GrantTypes = m.GrantTypes[1:]
	}
	body, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings always marshal
	}
	a.Raw(huma.Operation{
		Method: http.MethodGet, Path: "/.well-known/oauth-authorization-server", Tags: []string{"Tokens"}, Summary: "Metadata",
		Description: "What this server supports (RFC 8414). An issuer with a path expects the metadata at the host's root: forward it there.",
		Responses: map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{
			"application/json": {Schema: api.Schema[Metadata](a)},
		}}},
	}, sallyport.Public(), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "public, max-age=300")
		_, _ = w.Write(body)
	}, api.IgnoreCredentials())
}
