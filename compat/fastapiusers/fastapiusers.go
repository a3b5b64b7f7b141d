// Package fastapiusers serves the routes of the Python library fastapi-users in
// place of the server's own on the same paths, so that a front end that was written
// for the library works unchanged: its paths, its user, its status codes and its
// detail strings.
//
// It decides how a request is read and how an answer is worded, and nothing else:
// each operation is that of package account, signin or session, under the rule that
// the server's own has. It stores nothing. Where the library is more generous than
// is safe, the answer is one of the library's own for a refusal
// (docs/fastapi-users.md lists each).
//
// Begin with server.Config.FastAPIUsers, which switches it on; Endpoint is what the
// server then makes.
package fastapiusers

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/signin"
)

// Endpoint answers the library's routes.
type Endpoint struct {
	Accounts *account.Service
	SignIn   *signin.Service
	Sessions *session.Service
	// NoPasswordGrant switches signing in off, as it does the server's own.
	NoPasswordGrant bool
	// The limits are those of the server's own operations.
	RegisterLimit, PasswordLimit, MailLimit []sallyport.Limit

	api *api.API
}

// Replaced returns the server's own operations that this package's stand in for.
func Replaced() []string {
	return []string{
		"POST /auth/register", "POST /auth/forgot-password", "POST /auth/reset-password",
		"POST /auth/request-verify-token", "POST /auth/verify",
		"GET /users/me", "PATCH /users/me", "GET /users/{id}", "PATCH /users/{id}", "DELETE /users/{id}",
	}
}

// userRead is the library's BaseUser.
type userRead struct {
	ID          string `json:"id"`
	Email       string `json:"email"`
	IsActive    bool   `json:"is_active" doc:"Not disabled"`
	IsSuperuser bool   `json:"is_superuser" doc:"Was given the role admin"`
	IsVerified  bool   `json:"is_verified" doc:"The person has shown that the address is theirs"`
}

func userOf(u account.User) userRead {
	return userRead{
		ID: u.ID, Email: u.Email, IsActive: !u.Disabled, IsSuperuser: slices.Contains(u.Roles, role.Admin), IsVerified: u.EmailVerified,
	}
}

// bearerResponse is the library's answer to a sign-in.
type bearerResponse struct {
	AccessToken string `json:"access_token" doc:"Send it as “Authorization: Bearer …”; there is no refresh token beside it"`
	TokenType   string `json:"token_type" example:"bearer"`
}

// detail is FastAPI's body of a refusal.
type detail struct {
	// Detail is a string, or one of the types below.
	Detail any `json:"detail"`
	// Code is the server's own, of what the library has no word for.
	Code string `json:"code,omitempty"`
}

// invalidPassword is the library's detail of a password that is not taken.
type invalidPassword struct {
	Code   string `json:"code"`
	Reason string `json:"reason"`
}

// fault is one of FastAPI's findings. The value that was sent, which FastAPI
// repeats as input, is left out.
type fault struct {
	Loc  []any  `json:"loc"`
	Msg  string `json:"msg"`
	Type string `json:"type"`
}

// faults is what is wrong with the shape of a request.
type faults []fault

func (f faults) Error() string { return "the request is not valid" }

// refusal is a refusal that the library has a word for.
type refusal struct {
	status int
	detail any
}

func (r *refusal) Error() string { return "refused in the library's words" }

// The library's detail strings. Those that two operations share differ in their
// beginning.
const (
	badCredentials    = "LOGIN_BAD_CREDENTIALS"
	alreadyExists     = "REGISTER_USER_ALREADY_EXISTS"
	registerPassword  = "REGISTER_INVALID_PASSWORD"
	resetBadToken     = "RESET_PASSWORD_BAD_TOKEN"
	resetPassword     = "RESET_PASSWORD_INVALID_PASSWORD"
	verifyBadToken    = "VERIFY_USER_BAD_TOKEN"
	alreadyVerified   = "VERIFY_USER_ALREADY_VERIFIED"
	updateEmailExists = "UPDATE_USER_EMAIL_ALREADY_EXISTS"
	updatePassword    = "UPDATE_USER_INVALID_PASSWORD"
)

// words are the library's names, for one operation, of what the server's own
// refuses.
type words struct {
	password string            // of a password that is not taken
	codes    map[string]string // by our code
}

// of puts an error into the library's words, if it has any: 400 with a detail.
func (v words) of(err error) error {
	e, ok := err.(*sallyport.Error)
	if !ok {
		return err // also nil
	}
	if name := v.codes[e.Code]; name != "" {
		return &refusal{http.StatusBadRequest, name}
	}
	if v.password == "" || len(e.Fields) == 0 {
		return err
	}
	// FastAPI looks at the shape first, and the library at the password then: who has
	// mistaken both is told of the shape.
	shape := slices.DeleteFunc(slices.Clone(e.Fields), func(f sallyport.Field) bool { return f.Pointer == "/password" })
	if len(shape) > 0 {
		return sallyport.Invalid(shape...)
	}
	return &refusal{http.StatusBadRequest, invalidPassword{v.password, e.Fields[0].Detail}}
}

// wording is how the library says what any operation may be refused with.
func wording(e *sallyport.Error) (status int, d detail) {
	switch {
	case len(e.Fields) > 0:
		return http.StatusUnprocessableEntity, detail{Detail: faultsOf(e.Fields)}
	case e.Status == http.StatusUnauthorized:
		return e.Status, detail{Detail: "Unauthorized"}
	case slices.Contains([]string{"insufficient_permission", "insufficient_scope", "credential_not_accepted", "above_own_rights"}, e.Code):
		return e.Status, detail{Detail: "Forbidden"}
	case e.Status == http.StatusNotFound:
		return e.Status, detail{Detail: "Not Found"}
	}
	return e.Status, detail{Detail: e.Message, Code: e.Code}
}

// faultsOf puts our findings into FastAPI's form.
func faultsOf(fields []sallyport.Field) (out faults) {
	for _, f := range fields {
		loc := []any{"body"}
		for part := range strings.SplitSeq(strings.TrimPrefix(f.Pointer, "/"), "/") {
			if n, err := strconv.Atoi(part); err == nil {
				loc = append(loc, n)
			} else if part != "" {
				loc = append(loc, part)
			}
		}
		found := fault{Loc: loc, Msg: f.Detail, Type: "value_error"}
		switch f.Code {
		case "required":
			found.Msg, found.Type = missing, "missing"
		case "invalid_email":
			found.Msg = "value is not a valid email address: " + f.Detail
		}
		out = append(out, found)
	}
	return out
}

// answer writes a body, or with nil the library's null.
func answer(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers and booleans always marshal
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

// refuse answers with an error.
func (e *Endpoint) refuse(w http.ResponseWriter, r *http.Request, err error) {
	switch known := err.(type) {
	case faults:
		answer(w, http.StatusUnprocessableEntity, detail{Detail: known})
	case *refusal:
		answer(w, known.status, detail{Detail: known.detail})
	default:
		status, d := wording(e.api.Refusal(w, r, err))
		answer(w, status, d)
	}
}

// gateRefusal answers for the gate, which has set the challenges.
func gateRefusal(w http.ResponseWriter, _ *http.Request, err *sallyport.Error) {
	err.SetRetryAfter(w.Header())
	status, d := wording(err)
	answer(w, status, d)
}
