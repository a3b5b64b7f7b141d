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
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/session"
)

type loginBody struct{ Username, Password string }

// Routes registers POST /auth/login: the password grant for those who would
// rather send JSON, or a plain form.
func (s *Service) Routes(a *api.API) {
	schema := &huma.Schema{Type: huma.TypeObject, Required: []string{"username", "password"}, AdditionalProperties: false, Properties: map[string]*huma.Schema{
		"username":   {Type: huma.TypeString, Description: "User name or e-mail address"},
		"password":   {Type: huma.TypeString, Format: "password"},
		"grant_type": {Type: huma.TypeString, Enum: []any{"password"}, Description: "Not needed"},
	}}
	op := huma.Operation{
		Method: http.MethodPost, Path: "/auth/login", Tags: []string{"Tokens"}, Summary: "Sign in",
		Description: "The password grant of POST /token with a JSON body or a form.",
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"application/json": {Schema: schema}, api.FormType: {Schema: schema},
		}},
		Responses: api.ErrorResponses(a, 400, 401, 413, 415, 422, 500, 503),
	}
	op.Responses["200"] = &huma.Response{Description: "OK", Content: map[string]*huma.MediaType{
		"application/json": {Schema: api.Schema[session.TokenResponse](a)},
	}}
	a.Raw(op, sallyport.Public(), func(w http.ResponseWriter, r *http.Request) {
		t, err := s.login(r)
		if err != nil {
			a.WriteError(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(t.Response())
	})
}

// secretParameters must not stand in the address, where they would be logged.
var secretParameters = []string{"username", "password", "client_secret", "client_id", "refresh_token", "access_token", "otp", "grant_type"}

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
	in, err := readLogin(r)
	if err != nil {
		return session.Tokens{}, err
	}
	t, err := s.Password(r.Context(), Attempt{Login: in.Username, Password: in.Password, Client: session.FirstParty})
	if _, ok := errors.AsType[*authn.Refused](err); ok {
		err = WrongCredentials()
	}
	return t, err
}

func readLogin(r *http.Request) (in loginBody, err error) {
	if strings.HasPrefix(strings.ToLower(r.Header.Get("Content-Type")), api.FormType) {
		return readForm(r)
	}
	b, err := api.ReadJSON(r, api.MaxAuthBody)
	if err != nil {
		return in, err
	}
	var members map[string]any
	if json.Unmarshal(b, &members) != nil {
		return in, sallyport.Invalid(sallyport.Field{Code: "wrong_type", Detail: "An object is expected here."})
	}
	return fromMembers(members)
}

func readForm(r *http.Request) (in loginBody, err error) {
	form, err := api.ReadForm(r, api.MaxAuthBody)
	if err != nil {
		return in, err
	}
	members := map[string]any{}
	for k, v := range form {
		members[k] = v
	}
	return fromMembers(members)
}

// fromMembers takes what the password grant has. Names match exactly.
func fromMembers(members map[string]any) (in loginBody, err error) {
	var fields []sallyport.Field
	for name, v := range members {
		text, isText := v.(string)
		switch name {
		case "username":
			in.Username = text
		case "password":
			in.Password = text
		case "grant_type":
			isText = isText && text == "password"
		default:
			fields = append(fields, sallyport.Field{Code: "unknown_member", Detail: "The body has a member besides username, password and grant_type. Leave it out."})
			continue
		}
		if !isText {
			fields = append(fields, sallyport.Field{Pointer: "/" + name, Code: "wrong_type", Detail: "A string is expected here; of grant_type, “password”."})
		}
	}
	for name, text := range map[string]string{"username": in.Username, "password": in.Password} {
		if _, there := members[name]; !there || text == "" && len(fields) == 0 {
			fields = append(fields, sallyport.Field{Pointer: "/" + name, Code: "required", Detail: "This member is required."})
		}
	}
	if fields != nil {
		return loginBody{}, sallyport.Invalid(fields...)
	}
	return in, nil
}
