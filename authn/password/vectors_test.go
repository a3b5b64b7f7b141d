package password

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/testkit"
)

func vectors(t *testing.T, name string, into any) {
	t.Helper()
	data, err := os.ReadFile(testkit.Vectors(t, "passwords/"+name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// atLeast fails a test whose file has shrunk, or whose filter has grown.
func atLeast(t *testing.T, what string, got, want int) {
	t.Helper()
	if got < want {
		t.Errorf("only %d %s were tried, not %d", got, what, want)
	}
}

func TestVectorsArgon2(t *testing.T) {
	var v struct {
		Hash []struct {
			Version, Password, Encoded string
			Memory                     int `json:"m_kib"`
		}
		Errors []struct{ Encoded, Password, Expect string } `json:"verify_errors"`
	}
	vectors(t, "argon2_phc_winner.json", &v)
	h := newTest(t, nil)
	verified, refusedOnes := 0, 0
	for _, k := range v.Hash {
		_, err := Identify(k.Encoded)
		switch {
		case k.Version == "0x10":
			if !errors.Is(err, ErrUnsupported) {
				t.Errorf("%s: %v, want ErrUnsupported", k.Encoded, err)
			}
			refusedOnes++
			continue
		case k.Memory > maxMemory:
			if !errors.Is(err, ErrTooCostly) {
				t.Errorf("%s: %v, want ErrTooCostly", k.Encoded, err)
			}
			refusedOnes++
			continue
		case k.Memory > 65536 && testing.Short():
			continue
		}
		if got := mustVerify(t, h, k.Encoded, k.Password); got != imported {
			t.Errorf("%s: %+v, %v", k.Encoded, got, err)
		}
		if k.Memory < 1024 {
			if got := mustVerify(t, h, k.Encoded, k.Password+"x"); got != refused {
				t.Errorf("%s with a wrong password: %+v", k.Encoded, got)
			}
		}
		verified++
	}
	atLeast(t, "hashes", verified, 14)
	atLeast(t, "hashes to refuse", refusedOnes, 10)
	for _, e := range v.Errors {
		if e.Expect == "ARGON2_VERIFY_MISMATCH" && strings.Contains(e.Encoded, "$v=19$") {
			if _, err := Identify(e.Encoded); err != nil {
				t.Errorf("%s: %v", e.Encoded, err)
			}
			if got := mustVerify(t, h, e.Encoded, e.Password); got != refused {
				t.Errorf("%s: %+v", e.Encoded, got)
			}
		} else if _, err := Identify(e.Encoded); err == nil {
			t.Errorf("%s: accepted, want %s", e.Encoded, e.Expect)
		}
	}
	atLeast(t, "errors", len(v.Errors), 8)
}

func TestVectorsBcrypt(t *testing.T) {
	var v struct {
		Cases []struct {
			Hash     string
			Password []byte `json:"password_b64"`
		}
	}
	vectors(t, "bcrypt_pyca.json", &v)
	h := newTest(t, nil)
	for _, k := range v.Cases {
		pw, want := string(k.Password), imported
		if len(pw) > bcryptMax || strings.Contains(pw, "\x00") {
			want = refused // see TestBcryptRefusesWhatItWouldCut
		}
		if got := mustVerify(t, h, k.Hash, pw); got != want {
			t.Errorf("%s: %+v, want %+v", k.Hash, got, want)
		}
		if got := mustVerify(t, h, k.Hash, "x"+pw); got != refused {
			t.Errorf("%s with a wrong password: %+v", k.Hash, got)
		}
	}
	atLeast(t, "hashes", len(v.Cases), 28)
}

func TestVectorsScrypt(t *testing.T) {
	var v struct {
		Cases []struct {
			Password, Salt, Hex string
			N, R, P             int
		}
	}
	vectors(t, "scrypt_rfc7914.json", &v)
	h := newTest(t, nil)
	for _, k := range v.Cases {
		digest, err := hex.DecodeString(k.Hex)
		if err != nil {
			t.Fatal(err)
		}
		stored := fmt.Sprintf("$scrypt$ln=%d,r=%d,p=%d$%s$%s", bits.TrailingZeros(uint(k.N)), k.R, k.P,
			base64.RawStdEncoding.EncodeToString([]byte(k.Salt)), base64.RawStdEncoding.EncodeToString(digest))
		want := imported
		if k.N == 1<<20 { // 1 GiB
			want = refused
			if _, err := Identify(stored); !errors.Is(err, ErrTooCostly) {
				t.Errorf("%s: %v", stored, err)
			}
		}
		if got := mustVerify(t, h, stored, k.Password); got != want {
			t.Errorf("%s: %+v, want %+v", stored, got, want)
		}
	}
	atLeast(t, "hashes", len(v.Cases), 4)
}

func TestVectorsDjango(t *testing.T) {
	var v struct {
		Cases []struct{ Password, Encoded string }
	}
	vectors(t, "django_hashes.json", &v)
	h := newTest(t, nil)
	for _, k := range v.Cases {
		// Version 1.0 of argon2, and what one hash of a fast function made.
		weak := strings.HasPrefix(k.Encoded, "sha1$") || strings.HasPrefix(k.Encoded, "md5$") || strings.Contains(k.Encoded, "argon2i$m=")
		want := imported
		if weak {
			want = refused
		}
		if _, err := Identify(k.Encoded); weak != errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", k.Encoded, err)
		}
		if got := mustVerify(t, h, k.Encoded, k.Password); got != want {
			t.Errorf("%s: %+v, want %+v", k.Encoded, got, want)
		}
	}
	atLeast(t, "hashes", len(v.Cases), 8)
}

// passlib's own tests, for all the formats it has. Those that we have as well
// must match; of the others, and of everything malformed, nothing may.
func TestVectorsPasslib(t *testing.T) {
	var v struct {
		Files map[string]map[string]map[string]json.RawMessage
	}
	vectors(t, "passlib_known_hashes.json", &v)
	ours := map[string]bool{
		"_base_argon2_test": true, "_bcrypt_test": true, "_bcrypt_sha256_test": true,
		"django_pbkdf2_sha256_test": true, "django_pbkdf2_sha1_test": true, "django_bcrypt_test": true,
		"django_bcrypt_sha256_test": true, "django_argon2_test": true,
		"pbkdf2_sha1_test": true, "pbkdf2_sha256_test": true, "pbkdf2_sha512_test": true, "_scrypt_test": true,
	}
	const table = "t\u00e1\u0411\u2113\u0259"
	abc := strings.Repeat("abc123", 12)
	written := map[string]string{ // expressions of Python that the file left as they were
		"<UPASS_LETMEIN>":                       "l\u00e8tmein",
		"<call UPASS_TABLE.encode('utf-8')>":    table,
		"<call repeat_string('abc123', 72)>":    abc,
		"<call repeat_string('abc123', 72)>qwr": abc + "qwr",
		"<call repeat_string('abc123', 72)>xyz": abc + "xyz",
		"<('0123456789' * 26)[:254]>":           strings.Repeat("0123456789", 26)[:254],
		"<('0123456789' * 26)[:255]>":           strings.Repeat("0123456789", 26)[:255],
		"<('0123456789' * 26)[:256]>":           strings.Repeat("0123456789", 26)[:256],
		"<('0123456789' * 26)[:257]>":           strings.Repeat("0123456789", 26)[:257],
	}
	decode := func(raw json.RawMessage) (string, bool) {
		var b struct {
			B64 []byte `json:"b64"`
		}
		var s string
		switch {
		case json.Unmarshal(raw, &s) != nil: // bytes, or a password with a user name
			err := json.Unmarshal(raw, &b)
			return string(b.B64), err == nil
		case !strings.HasPrefix(s, "<"):
			return s, true
		}
		s, ok := written[s]
		return s, ok
	}

	h := newTest(t, nil)
	matchedOnes, refusedOnes := 0, 0
	for _, file := range v.Files {
		for handler, sets := range file {
			for set, raw := range sets {
				var rows []json.RawMessage
				if json.Unmarshal(raw, &rows) != nil {
					continue // an expression of Python: the set of another handler
				}
				for _, row := range rows {
					var cols []json.RawMessage
					if json.Unmarshal(row, &cols) != nil {
						cols = []json.RawMessage{row} // malformed or unknown: only a hash
					}
					var pw, stored string
					ok := true
					switch {
					case len(cols) == 1:
						stored, ok = decode(cols[0])
					case set == "known_incorrect_padding": // password, unusual, usual
						pw, _ = decode(cols[0])
						stored, ok = decode(cols[1])
					default: // password, hash; or configuration, password, hash
						pw, _ = decode(cols[len(cols)-2])
						stored, ok = decode(cols[len(cols)-1])
					}
					if !ok {
						continue
					}

					info, err := Identify(stored)
					good := ours[handler] && (strings.HasPrefix(set, "known_correct") || set == "known_incorrect_padding")
					switch {
					case !good || strings.HasPrefix(stored, "$argon2d$"):
						if err == nil {
							t.Errorf("%s, %s: %q is accepted as %+v", handler, set, stored, info)
						}
						refusedOnes++
						continue
					case err != nil:
						t.Errorf("%s, %s: %q: %v", handler, set, stored, err)
						continue
					}
					want := imported
					if info.Format == "bcrypt" && (len(pw) > bcryptMax || strings.Contains(pw, "\x00")) {
						want = refused
					}
					if got := mustVerify(t, h, stored, pw); got != want {
						t.Errorf("%s, %s: %q: %+v, want %+v", handler, set, stored, got, want)
					}
					matchedOnes++
				}
			}
		}
	}
	atLeast(t, "hashes of our formats", matchedOnes, 75)
	atLeast(t, "hashes to refuse", refusedOnes, 300)
}
