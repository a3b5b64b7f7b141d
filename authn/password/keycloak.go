package password

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
)

// maxKeycloak bounds each of the two documents; real ones have 200 bytes.
const maxKeycloak = 8 << 10

// FromKeycloak returns what to store for a credential of type "password" that
// Keycloak exported: its members secretData and credentialData, which are JSON
// in a string. The algorithms are argon2, pbkdf2, pbkdf2-sha256 and
// pbkdf2-sha512. The result is the PHC form of the same hash.
func FromKeycloak(secretData, credentialData []byte) (string, error) {
	stored, err := fromKeycloak(secretData, credentialData)
	if err == nil {
		_, err = parse(stored)
	}
	if err != nil {
		return "", fmt.Errorf("password: keycloak: %w", err)
	}
	return stored, nil
}

func fromKeycloak(secretData, credentialData []byte) (string, error) {
	const format = "credential"
	secret, err := object(secretData)
	if err != nil {
		return "", malformed(format, "secretData "+err.Error())
	}
	credential, err := object(credentialData)
	if err != nil {
		return "", malformed(format, "credentialData "+err.Error())
	}
	var algorithm, salt64, hash64 string
	var iterations uint32
	for _, m := range []struct {
		from map[string]json.RawMessage
		name string
		to   any
	}{
		{credential, "algorithm", &algorithm},
		{credential, "hashIterations", &iterations},
		{secret, "salt", &salt64},
		{secret, "value", &hash64},
	} {
		// Not the decoder's error: it may show the value.
		if raw, ok := m.from[m.name]; !ok || json.Unmarshal(raw, m.to) != nil {
			return "", malformed(format, m.name+" is missing or of another type")
		}
	}
	salt, err := keycloakBase64("salt", salt64)
	if err != nil {
		return "", err
	}
	hash, err := keycloakBase64("value", hash64)
	if err != nil {
		return "", err
	}
	switch algorithm {
	case "pbkdf2", "pbkdf2-sha256", "pbkdf2-sha512": // the first is SHA-1, as in passlib
		return fmt.Sprintf("$%s$i=%d$%s$%s", algorithm, iterations, salt, hash), nil
	case "argon2":
		return keycloakArgon2(credential, iterations, salt, hash)
	}
	// The name is the exporter's, not ours to print.
	return "", fmt.Errorf("%w: neither argon2, pbkdf2, pbkdf2-sha256 nor pbkdf2-sha512", ErrUnsupported)
}

// keycloakArgon2 reads the parameters, each a list of one string.
func keycloakArgon2(credential map[string]json.RawMessage, iterations uint32, salt, hash string) (string, error) {
	const format = "credential"
	additional, err := object(credential["additionalParameters"])
	if err != nil {
		return "", malformed(format, "additionalParameters "+err.Error())
	}
	var kind, version, memory, parallelism string
	for _, m := range []struct {
		name string
		to   *string
	}{{"type", &kind}, {"version", &version}, {"memory", &memory}, {"parallelism", &parallelism}} {
		var list []string
		if json.Unmarshal(additional[m.name], &list) != nil || len(list) != 1 {
			return "", malformed(format, m.name+" is not a list of one string")
		}
		*m.to = list[0]
	}
	switch {
	case kind != "id" && kind != "i":
		return "", fmt.Errorf("%w: argon2 of a type other than id and i", ErrUnsupported)
	case version != "1.3":
		return "", fmt.Errorf("%w: argon2 of a version other than 1.3", ErrUnsupported)
	}
	// Checked here, lest other text becomes part of the string.
	m, okM := number(memory)
	p, okP := number(parallelism)
	if !okM || !okP {
		return "", malformed(format, "memory or parallelism is not a decimal number")
	}
	return fmt.Sprintf("$argon2%s$v=19$m=%d,t=%d,p=%d$%s$%s", kind, m, iterations, p, salt, hash), nil
}

// object reads a JSON object. Into a map and not a struct, because a struct
// would also take "Salt" and "SALT" for "salt".
func object(data []byte) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if len(data) > maxKeycloak || json.Unmarshal(data, &m) != nil || m == nil {
		return nil, fmt.Errorf("is not a JSON object of at most %d bytes", maxKeycloak)
	}
	return m, nil
}

// keycloakBase64 turns Java's base64 into that of PHC strings.
func keycloakBase64(what, s string) (string, error) {
	if strings.ContainsAny(s, "\r\n") {
		return "", malformed("credential", what+" is not base64")
	}
	b, err := decode("credential", what, base64.StdEncoding, s, 1, maxKey)
	return base64.RawStdEncoding.EncodeToString(b), err
}
