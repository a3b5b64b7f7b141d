package importer

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/authn/password"
)

// format is how the files of a source are read.
type format struct {
	csv    bool     // may be CSV
	needs  []string // columns that a CSV must have
	nested bool     // the records are a list within one object
	strict bool     // members that are not known are a mistake
	decode func(f *fields, o Options) (record, error)
}

var formats = map[Source]format{
	FastAPIUsers: {csv: true, needs: []string{"email", "hashed_password"}, decode: fastapiUser},
	Django:       {csv: true, needs: []string{"email", "password", "username"}, decode: djangoUser},
	Auth0:        {decode: auth0User},
	Keycloak:     {nested: true, decode: keycloakUser},
	NDJSON:       {strict: true, decode: ownUser},
}

// fastapiUser reads a row of the table of fastapi-users, as CSV or JSON.
func fastapiUser(f *fields, _ Options) (record, error) {
	f.ignore("id")
	r := record{
		email: f.str("email"), hash: f.str("hashed_password"), username: f.str("username"),
		disabled: !f.active("is_active"), super: f.flag("is_superuser", false), verified: f.flag("is_verified", false),
		created: f.time("created_at"),
	}
	return r, f.err
}

// djangoUser reads an object of dumpdata, or a row of auth_user.
func djangoUser(f *fields, o Options) (record, error) {
	if m := f.find("model"); m != nil && m.json != nil {
		want := o.Model
		if want == "" {
			want = "auth.user"
		}
		if model := f.str("model"); model != want {
			return record{}, errSkip
		}
		in := f.inner("fields")
		if f.err != nil {
			return record{}, f.err
		}
		if in == nil {
			return record{}, refuse(KindMalformed, "it has no fields")
		}
		*f = *in
	}
	f.ignore("id", "pk")
	r := record{
		email: f.str("email"), hash: f.str("password"), username: f.str("username"),
		fullName: strings.TrimSpace(f.str("first_name") + " " + f.str("last_name")),
		disabled: !f.active("is_active"), super: f.flag("is_superuser", false), created: f.time("date_joined"),
	}
	return r, f.err
}

// auth0User reads a user of an export with hashes, of the export job, or of the
// format for importing.
func auth0User(f *fields, _ Options) (record, error) {
	f.ignore("_id", "user_id", "tenant", "connection", "_tmp_is_unique", "password_set_date", "version")
	r := record{
		email: f.str("email"), verified: f.flag("email_verified", false), username: f.str("username"),
		fullName: f.str("name"), disabled: f.flag("blocked", false), created: f.time("created_at"),
	}
	if r.fullName == r.email { // what Auth0 puts there by itself
		r.fullName = ""
	}
	if given := strings.TrimSpace(f.str("given_name") + " " + f.str("family_name")); r.fullName == "" {
		r.fullName = given
	}
	for _, name := range []string{"passwordHash", "password_hash"} {
		if h := f.str(name); h != "" {
			r.hash = h
		}
	}
	if custom := f.inner("custom_password_hash"); custom != nil && f.err == nil {
		var err error
		if r.hash, err = auth0Hash(custom); err != nil {
			return r, err
		}
	}
	return r, f.err
}

// auth0Hash reads a custom_password_hash.
func auth0Hash(c *fields) (string, error) {
	algorithm, in, salt := c.str("algorithm"), c.inner("hash"), c.inner("salt")
	if c.err != nil || in == nil {
		return "", refuse(KindHash, "custom_password_hash has no hash")
	}
	value, encoding := in.str("value"), in.str("encoding")
	if in.err != nil || value == "" {
		return "", refuse(KindHash, "custom_password_hash has no hash")
	}
	switch algorithm {
	case "bcrypt", "argon2":
		return value, nil
	case "pbkdf2":
		// $pbkdf2-sha512$i=100000,l=64$salt$hash: the length says what is seen.
		parts := strings.Split(value, "$")
		if len(parts) == 5 {
			parts[2], _, _ = strings.Cut(parts[2], ",l=")
		}
		return strings.Join(parts, "$"), nil
	case "scrypt":
		if salt == nil || encoding != "base64" || salt.str("encoding") != "base64" {
			return "", refuse(KindHash, "scrypt with hash or salt in another encoding than base64")
		}
		n, r, p := in.number("cost"), in.number("blockSize"), in.number("parallelization")
		if c.find("password") != nil {
			return "", refuse(KindHash, "a password that was encoded before it was hashed")
		}
		if in.err != nil || n < 2 || bits.OnesCount64(uint64(n)) != 1 {
			return "", refuse(KindHash, "scrypt without cost, blockSize and parallelization, or with a cost that is no power of two")
		}
		unpadded := func(s string) string { return strings.TrimRight(s, "=") }
		return fmt.Sprintf("$scrypt$ln=%d,r=%d,p=%d$%s$%s", bits.Len64(uint64(n))-1, r, p, unpadded(salt.str("value")), unpadded(value)), nil
	}
	return "", refuse(KindHash, "custom_password_hash of another algorithm than argon2, bcrypt, pbkdf2 and scrypt")
}

// number returns a whole number that is not negative.
func (f *fields) number(name string) int64 {
	m := f.take(name)
	if m == nil {
		f.wrong(name, "a number")
		return 0
	}
	n, err := strconv.ParseInt(string(m.json), 10, 32)
	if err != nil || n < 0 {
		f.wrong(name, "a number")
	}
	return n
}

// keycloakUser reads a user of a realm's export.
func keycloakUser(f *fields, _ Options) (record, error) {
	f.ignore("id", "totp", "notBefore", "disableableCredentialTypes")
	r := record{
		email: f.str("email"), username: f.str("username"), verified: f.flag("emailVerified", false),
		fullName: strings.TrimSpace(f.str("firstName") + " " + f.str("lastName")),
		// Keycloak's own import takes one for disabled that does not say so.
		disabled: !f.flag("enabled", false), created: f.millis("createdTimestamp"),
	}
	if f.str("serviceAccountClientId") != "" {
		return r, refuse(KindNoPerson, "it is a client's service account: make a machine client (sallyport client create)")
	}
	m := f.take("credentials")
	if m == nil || f.err != nil {
		return r, f.err
	}
	var list []json.RawMessage
	if json.Unmarshal(m.json, &list) != nil {
		return r, refuse(KindType, "credentials is not a list")
	}
	for _, raw := range list {
		c, err := parseObject(raw)
		if err != nil {
			return r, err
		}
		if c.str("type") != "password" {
			f.list = append(f.list, field{name: "credentials of other types", text: "x"})
			continue
		}
		if r.hash != "" {
			return r, refuse(KindHash, "it has two passwords")
		}
		hash, err := password.FromKeycloak([]byte(c.str("secretData")), []byte(c.str("credentialData")))
		if err != nil {
			return r, refuse(KindHash, "%s", strings.TrimPrefix(err.Error(), "password: "))
		}
		r.hash = hash
	}
	return r, f.err
}

// ownUser reads a line of our own form.
func ownUser(f *fields, _ Options) (record, error) {
	f.ignore("external_id")
	r := record{
		email: f.str("email"), verified: f.flag("email_verified", false), username: f.str("username"), fullName: f.str("full_name"),
		disabled: f.flag("disabled", false), roles: f.strs("roles"), permissions: f.strs("permissions"),
		hash: f.str("password_hash"), created: f.time("created_at"),
	}
	return r, f.err
}
