package bearer

import (
	"errors"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
)

func TestRead(t *testing.T) {
	for name, c := range map[string]struct {
		header []string
		target string
		cred   string
		found  bool
		code   string
	}{
		"none":                  {nil, "/", "", false, ""},
		"bearer":                {[]string{"Bearer abc"}, "/", "abc", true, ""},
		"another case":          {[]string{"bEaReR abc"}, "/", "abc", true, ""},
		"no token":              {[]string{"Bearer"}, "/", "", true, ""},
		"spaces are the token":  {[]string{"Bearer  a b"}, "/", " a b", true, ""},
		"another scheme":        {[]string{"Basic abc"}, "/", "", false, ""},
		"a scheme that is more": {[]string{"Bearerx abc"}, "/", "", false, ""},
		"two":                   {[]string{"Bearer a", "Bearer a"}, "/", "", false, "several_credentials"},
		"two schemes":           {[]string{"Basic a", "Bearer a"}, "/", "", false, "several_credentials"},
		"in the address":        {nil, "/?access_token=abc", "", false, "credential_in_query"},
		"escaped":               {nil, "/?access%5ftoken=abc", "", false, "credential_in_query"},
		"another parameter":     {nil, "/?my_access_token=abc", "", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("GET", c.target, nil)
			if c.header != nil {
				r.Header["Authorization"] = c.header
			}
			cred, found, err := Read(r)
			e, _ := errors.AsType[*sallyport.Error](err)
			if cred != c.cred || found != c.found || (e == nil) != (c.code == "") || e != nil && (e.Code != c.code || e.Status != 400) {
				t.Errorf("%q %v %v", cred, found, err)
			}
		})
	}
}

func TestChallenge(t *testing.T) {
	const realm = `Bearer realm="sallyport"`
	for _, c := range []struct {
		e    *sallyport.Error
		want string
		sent bool
	}{
		{sallyport.Unauthenticated(), realm, true},
		{Invalid(), realm + `, error="invalid_token"`, true},
		{&sallyport.Error{Status: 403, Code: "insufficient_scope", Scope: []string{"a", "b"}}, realm + `, error="insufficient_scope", scope="a b"`, true},
		{&sallyport.Error{Status: 403, Code: "insufficient_scope"}, realm + `, error="insufficient_scope"`, true},
		{&sallyport.Error{Status: 403, Code: "insufficient_permission"}, realm, false},
		{
			&sallyport.Error{Status: 401, Code: "insufficient_user_authentication", MFA: true, MaxAge: 5 * time.Minute},
			realm + `, error="insufficient_user_authentication", acr_values="mfa", max_age="300"`, true,
		},
		{Several(), realm, false},
	} {
		if got := Challenge(c.e); got != c.want || Challenged(c.e) != c.sent {
			t.Errorf("%s: %s, sent: %v", c.e.Code, got, Challenged(c.e))
		}
	}
}
