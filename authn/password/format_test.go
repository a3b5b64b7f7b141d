package password

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// known are published hashes, small enough to stand here, so that a plain
// clone proves every algorithm.
var known = []struct {
	name, pw, stored string
	format, notation string
	params           string
}{
	// github.com/P-H-C/phc-winner-argon2, src/test.c, version 0x13.
	{"argon2id", "password", "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4", "argon2id", "phc", "m=256,t=2,p=1"},
	{"argon2id, two threads", "password", "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc", "argon2id", "phc", "m=256,t=2,p=2"},
	{"argon2i", "password", "$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$iekCn0Y3spW+sCcFanM2xBT63UP2sghkUoHLIUpWRS8", "argon2i", "phc", "m=256,t=2,p=1"},
	// Django, tests/auth_tests/test_hashers.py.
	{"argon2i, Django", "secret", "argon2$argon2i$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$YC9+jJCrQhs5R6db7LlN8Q", "argon2i", "django", "m=8,t=1,p=1"},
	{"scrypt, Django", "lètmein", "scrypt$16384$seasalt$8$1$Qj3+9PPyRjSJIebHnG81TMjsqtaIGxNQG/aEB/NYafTJ7tibgfYz71m0ldQESkXFRkdVCBhhY8mx7rQwite/Pw==", "scrypt", "django", "ln=14,r=8,p=1"},
	// Openwall's crypt_blowfish, wrapper.c.
	{"bcrypt 2a", "U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "bcrypt", "crypt", "cost=5"},
	{"bcrypt 2y", "\xa3", "$2y$05$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq", "bcrypt", "crypt", "cost=5"},
	{"bcrypt, empty", "", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy", "bcrypt", "crypt", "cost=5"},
	{"bcrypt, 72 bytes", "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", "$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui", "bcrypt", "crypt", "cost=5"},
	// passlib, tests/test_handlers_{bcrypt,django,pbkdf2,scrypt}.py.
	{"bcrypt 2b", "táБℓə", "$2b$05$Z17AXnnlpzddNUvnC6cZNOSwMA/8oNiKnHTHTwLlBijfucQQlHjaG", "bcrypt", "crypt", "cost=5"},
	{"bcrypt, stray bits in the salt", "test", "$2a$04$oaQbBqq8JnSM1NHRPQGXORY4Vw3bdHKLIXTecPDRAcJ98cz1ilveO", "bcrypt", "crypt", "cost=4"},
	{"bcrypt, stray bits in the hash", "test", "$2a$04$yjDgE74RJkeqC0/1NheSSOrvKeu9IbKDpcQf/Ox3qsrRS/Kw42qIV", "bcrypt", "crypt", "cost=4"},
	{"bcrypt, Django", "táБℓə", "bcrypt$$2a$05$Z17AXnnlpzddNUvnC6cZNOSwMA/8oNiKnHTHTwLlBijfucQQlHjaG", "bcrypt", "django", "cost=5"},
	{"bcrypt-sha256, Django", "", "bcrypt_sha256$$2a$06$/3OeRpbOf8/l6nPPRdZPp.nRiyYqPobEZGdNRBWihQhiFDh1ws1tu", "bcrypt-sha256", "django", "cost=6"},
	{"bcrypt-sha256, passlib 1", "password", "$bcrypt-sha256$2a,5$5Hg1DKFqPE8C2aflZ5vVoe$12BjNE0p7axMg55.Y/mHsYiVuFBDQyu", "bcrypt-sha256", "passlib", "cost=5"},
	{"bcrypt-sha256, passlib 2", "password", "$bcrypt-sha256$v=2,t=2b,r=5$5Hg1DKFqPE8C2aflZ5vVoe$wOK1VFFtS8IGTrGa7.h5fs0u84qyPbS", "bcrypt-sha256", "passlib", "cost=5"},
	{"PBKDF2-SHA1, passlib", "password", "$pbkdf2$1212$OB.dtnSEXZK8U5cgxU/GYQ$y5LKPOplRmok7CZp/aqVDVg8zGI", "pbkdf2-sha1", "passlib", "i=1212"},
	{"PBKDF2-SHA256, passlib", "password", "$pbkdf2-sha256$1212$4vjV83LKPjQzk31VI4E0Vw$hsYF68OiOUPdDZ1Fg.fJPeq1h/gXXY7acBp9/6c.tmQ", "pbkdf2-sha256", "passlib", "i=1212"},
	{"PBKDF2-SHA512, passlib", "password", "$pbkdf2-sha512$1212$RHY0Fr3IDMSVO/RSZyb5ow$eNLfBK.eVozomMr.1gYa17k9B7KIK25NOEshvhrSX.esqY3s.FvWZViXz4KoLlQI.BzY/YTNJOiKc5gBYFYGww", "pbkdf2-sha512", "passlib", "i=1212"},
	{"PBKDF2-SHA1, Django", "not a password", "pbkdf2_sha1$10000$wz5B6WkasRoF$atJmJ1o+XfJxKq1+Nu1f1i57Z5I=", "pbkdf2-sha1", "django", "i=10000"},
	{"PBKDF2-SHA256, Django", "not a password", "pbkdf2_sha256$10000$kjVJaVz6qsnJ$5yPHw3rwJGECpUf70daLGhOrQ5+AMxIJdz1c3bqK1Rs=", "pbkdf2-sha256", "django", "i=10000"},
	{"scrypt, passlib", "nacl", "$scrypt$ln=1,r=4,p=2$yhnD+J+Tci4lZCwFgHCuVQ$fAsEWmxSHuC0cHKMwKVFPzrQukgvK09Sj+NueTSxKds", "scrypt", "phc", "ln=1,r=4,p=2"},
	// RFC 7914, section 12: scrypt("", "", 16, 1, 1, 64), scrypt("password", "NaCl", 1024, 8, 16, 64).
	{"scrypt, RFC 7914", "", "$scrypt$ln=4,r=1,p=1$$" + b64("77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442fcd0069ded0948f8326a753a0fc81f17e8d3e0fb2e0d3628cf35e20c38d18906"), "scrypt", "phc", "ln=4,r=1,p=1"},
	{"scrypt with salt, RFC 7914", "password", "$scrypt$ln=10,r=8,p=16$TmFDbA$" + b64("fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b3731622eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640"), "scrypt", "phc", "ln=10,r=8,p=16"},
	// RFC 6070.
	{"PBKDF2-SHA1, RFC 6070, 1", "password", "$pbkdf2$i=1$c2FsdA$" + b64("0c60c80f961f0e71f3a9b524af6012062fe037a6"), "pbkdf2-sha1", "phc", "i=1"},
	{"PBKDF2-SHA1, RFC 6070, 2", "password", "$pbkdf2$i=2$c2FsdA$" + b64("ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957"), "pbkdf2-sha1", "phc", "i=2"},
	{"PBKDF2-SHA1, RFC 6070, 4096", "password", "$pbkdf2$i=4096$c2FsdA$" + b64("4b007901b765489abead49d926f721d065a429c1"), "pbkdf2-sha1", "phc", "i=4096"},
	{"PBKDF2-SHA1, RFC 6070, two blocks", "passwordPASSWORDpassword", "$pbkdf2$i=4096$c2FsdFNBTFRzYWx0U0FMVHNhbHRTQUxUc2FsdFNBTFRzYWx0$" + b64("3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038"), "pbkdf2-sha1", "phc", "i=4096"},
	{"PBKDF2-SHA1, RFC 6070, NUL", "pass\x00word", "$pbkdf2$i=4096$c2EAbHQ$" + b64("56fa6aa75548099dcc37d7f03425e0c3"), "pbkdf2-sha1", "phc", "i=4096"},
	// RFC 7914, section 11.
	{"PBKDF2-SHA256, RFC 7914", "passwd", "$pbkdf2-sha256$i=1$c2FsdA$" + b64("55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783"), "pbkdf2-sha256", "phc", "i=1"},
	// github.com/firebase/scrypt, README.
	{"Firebase", "user1password", "$firebase-scrypt$ln=14,r=8$42xEC+ixf3L2lw$Bw$jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA$lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ", "firebase-scrypt", "firebase", "ln=14,r=8,p=1"},
}

// b64 turns the hexadecimal of an RFC into the base64 of PHC strings.
func b64(h string) string {
	b, err := hex.DecodeString(h)
	if err != nil {
		panic(err)
	}
	return base64.RawStdEncoding.EncodeToString(b)
}

func TestKnownHashes(t *testing.T) {
	h := newTest(t, nil)
	for _, k := range known {
		t.Run(k.name, func(t *testing.T) {
			if got := mustVerify(t, h, k.stored, k.pw); got != imported {
				t.Errorf("right password: %+v", got)
			}
			for _, wrong := range []string{k.pw + "x", "x" + k.pw} {
				if got := mustVerify(t, h, k.stored, wrong); got != refused {
					t.Errorf("wrong password: %+v", got)
				}
			}
			info, err := Identify(k.stored)
			if err != nil || info.Format != k.format || info.Notation != k.notation || info.Params != k.params || info.Current || info.Memory == 0 {
				t.Errorf("Identify: %+v, %v", info, err)
			}
			// The digest, the salt and the cost all count.
			for i := 4; i < len(k.stored); i += 29 {
				changed := []byte(k.stored)
				changed[i] ^= 1
				if string(changed) == k.stored || sameBcrypt(string(changed), k.stored) {
					continue
				}
				if hash, err := parse(string(changed)); err == nil && cheap(hash) && mustVerify(t, h, string(changed), k.pw).OK {
					t.Errorf("still matches with another character at %d", i)
				}
			}
		})
	}
}

// sameBcrypt reports whether a and b are spellings of the same bcrypt hash:
// the letter of the version, and bits that mean nothing.
func sameBcrypt(a, b string) bool {
	x, err1 := parse(a)
	y, err2 := parse(b)
	ax, ok1 := x.(*bcryptHash)
	by, ok2 := y.(*bcryptHash)
	return err1 == nil && err2 == nil && ok1 && ok2 && ax.stored[3:] == by.stored[3:]
}

// cheap reports whether a test may spend the time.
func cheap(v verifier) bool {
	switch h := v.(type) {
	case *argon2Hash:
		return h.memory*h.time <= 4096
	case *bcryptHash:
		return h.rounds <= 6
	case *scryptHash:
		return h.n*h.r*h.p <= 1<<17
	case *firebaseHash:
		return h.n*h.r*h.p <= 1<<17
	case *pbkdf2Hash:
		return h.iterations <= 20_000
	}
	return false
}

// A password that bcrypt's users cut off does not match, not even uncut.
func TestBcryptRefusesWhatItWouldCut(t *testing.T) {
	h := newTest(t, nil)
	const max72 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	const stored72 = "$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui"
	const storedU = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
	for _, tt := range []struct {
		name, stored, pw string
		want             Result
	}{
		{"72 bytes", stored72, max72, imported},
		{"73 bytes, of which bcrypt sees 72", stored72, max72 + "c", refused},
		{"the one it was made from", stored72, max72 + "chars after 72 are ignored", refused},
		{"without NUL", storedU, "U*U", imported},
		{"with a NUL, where C stops", storedU, "U*U\x00more", refused},
		{"with a NUL, where Go repeats the key", storedU, "U*U\x00U*U", refused},
		{"bcrypt-sha256 has no limit", "bcrypt_sha256$$2a$06$Tg/oYyZTyAf.Nb3qSgN61OySmyXA8FoY4PjGizjE1QSDfuL5MXNni", strings.Repeat("abc123", 12), imported},
		{"bcrypt-sha256 sees byte 73", "bcrypt_sha256$$2a$06$Tg/oYyZTyAf.Nb3qSgN61OySmyXA8FoY4PjGizjE1QSDfuL5MXNni", strings.Repeat("abc123", 12) + "q", refused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, stored := range []string{tt.stored, "bcrypt$" + tt.stored} {
				if strings.Count(stored, "bcrypt") > 1 {
					continue
				}
				if got := mustVerify(t, h, stored, tt.pw); got != tt.want {
					t.Errorf("%+v, want %+v", got, tt.want)
				}
			}
		})
	}
}

const (
	salt22 = "CCCCCCCCCCCCCCCCCCCCC."
	dig31  = "E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
	salt   = "c29tZXNhbHQ"                                 // 8 bytes
	key    = "nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4" // 32 bytes
)

// What is stored was written by somebody else. Whatever is wrong with it, no
// work is done for it, and nothing of it is repeated.
func TestIdentifyRefuses(t *testing.T) {
	long := strings.Repeat("A", 172) // 129 bytes of base64
	tests := []struct {
		name, stored string
		want         error // nil: control, accepted
	}{
		{"empty", "", ErrUnusable},
		{"switched off, Django", "!9wa845vn7098ythaehasldkfj", ErrUnusable},
		{"switched off, shadow", "*", ErrUnusable},
		{"plain text", "password", ErrUnsupported},
		{"MD5", "5f4dcc3b5aa765d61d8327deb882cf99", ErrUnsupported},
		{"md5-crypt", "$1$dOHYPKoP$tnxS1T8Q6VVn3kpV8cN6o.", ErrUnsupported},
		{"sha512-crypt", "$6$x$y", ErrUnsupported},
		{"LDAP", "{SSHA}0c0blFTXXNuAMHECS4uxrj3ZieMoWImr", ErrUnsupported},
		{"over 1 KiB", "$scrypt$" + strings.Repeat("x", maxStored), ErrMalformed},
		{"white space before", " $argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + key, ErrMalformed},
		{"line feed in base64", "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + key[:8] + "\n" + key[8:], ErrMalformed},
		{"line feed at the end", "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + key + "\n", ErrMalformed},
		{"NUL", "$2b$05$" + salt22 + dig31 + "\x00", ErrMalformed},

		{"argon2id", "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + key, nil},
		{"argon2, the most", "$argon2id$v=19$m=262144,t=4,p=16$" + salt + "$" + key, nil},
		{"argon2, the most passes", "$argon2id$v=19$m=65536,t=16,p=1$" + salt + "$" + key, nil},
		{"argon2, memory", "$argon2id$v=19$m=262145,t=1,p=1$" + salt + "$" + key, ErrTooCostly},
		{"argon2, all memory", "$argon2id$v=19$m=4294967295,t=1,p=1$" + salt + "$" + key, ErrTooCostly},
		{"argon2, memory that wraps", "$argon2id$v=19$m=4294967304,t=1,p=1$" + salt + "$" + key, ErrTooCostly},
		{"argon2, more digits than 64 bits", "$argon2id$v=19$m=99999999999999999999,t=1,p=1$" + salt + "$" + key, ErrMalformed},
		{"argon2, passes", "$argon2id$v=19$m=256,t=17,p=1$" + salt + "$" + key, ErrTooCostly},
		{"argon2, product", "$argon2id$v=19$m=262144,t=5,p=1$" + salt + "$" + key, ErrTooCostly},
		{"argon2, threads", "$argon2id$v=19$m=256,t=2,p=17$" + salt + "$" + key, ErrTooCostly},
		{"argon2, threads that wrap to 1", "$argon2id$v=19$m=256000,t=2,p=257$" + salt + "$" + key, ErrTooCostly},
		{"argon2, no passes", "$argon2id$v=19$m=256,t=0,p=1$" + salt + "$" + key, ErrMalformed},
		{"argon2, no threads", "$argon2id$v=19$m=256,t=2,p=0$" + salt + "$" + key, ErrMalformed},
		{"argon2, too little memory", "$argon2id$v=19$m=127,t=2,p=16$" + salt + "$" + key, ErrMalformed},
		{"argon2, sign", "$argon2id$v=19$m=+256,t=2,p=1$" + salt + "$" + key, ErrMalformed},
		{"argon2, leading zero", "$argon2id$v=19$m=0256,t=2,p=1$" + salt + "$" + key, ErrMalformed},
		{"argon2, order", "$argon2id$v=19$t=2,m=256,p=1$" + salt + "$" + key, ErrMalformed},
		{"argon2, repeated", "$argon2id$v=19$m=256,t=2,p=1,p=1$" + salt + "$" + key, ErrMalformed},
		{"argon2, one missing", "$argon2id$v=19$m=256,t=2$" + salt + "$" + key, ErrMalformed},
		{"argon2, no salt", "$argon2id$v=19$m=256,t=2,p=1$$" + key, ErrMalformed},
		{"argon2, short salt", "$argon2id$v=19$m=256,t=2,p=1$c29tZXM$" + key, ErrMalformed},
		{"argon2, long salt", "$argon2id$v=19$m=256,t=2,p=1$" + long + "$" + key, ErrMalformed},
		{"argon2, no hash", "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$", ErrMalformed},
		{"argon2, hash of a byte", "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$nQ", ErrMalformed},
		{"argon2, long hash", "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + long, ErrMalformed},
		{"argon2, padding", "$argon2id$v=19$m=256,t=2,p=1$" + salt + "=$" + key, ErrMalformed},
		{"argon2, bits that mean nothing", "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHR$" + key, ErrMalformed},
		{"argon2, other alphabet", "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + strings.ReplaceAll(key, "/", "_"), ErrMalformed},
		{"argon2, more fields", "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + key + "$", ErrMalformed},
		{"argon2, cut off", "$argon2id$v=19$", ErrMalformed},
		{"argon2, only the name", "$argon2id", ErrMalformed},
		{"argon2, version 20", "$argon2id$v=20$m=256,t=2,p=1$" + salt + "$" + key, ErrMalformed},
		{"argon2, version 16", "$argon2id$v=16$m=256,t=2,p=1$" + salt + "$" + key, ErrUnsupported},
		{"argon2, version 16 unsaid", "$argon2i$m=256,t=2,p=1$" + salt + "$" + key, ErrUnsupported},
		{"argon2d", "$argon2d$v=19$m=256,t=2,p=1$" + salt + "$" + key, ErrUnsupported},
		{"argon2d, Django", "argon2$argon2d$v=19$m=256,t=2,p=1$" + salt + "$" + key, ErrUnsupported},
		{"argon2ids", "$argon2ids$v=19$m=256,t=2,p=1$" + salt + "$" + key, ErrUnsupported},

		{"bcrypt", "$2b$05$" + salt22 + dig31, nil},
		{"bcrypt, the most", "$2b$16$" + salt22 + dig31, nil},
		{"bcrypt, cost", "$2b$17$" + salt22 + dig31, ErrTooCostly},
		{"bcrypt, cost 31", "bcrypt$$2b$31$" + salt22 + dig31, ErrTooCostly},
		{"bcrypt, cost 99", "bcrypt_sha256$$2b$99$" + salt22 + dig31, ErrTooCostly},
		{"bcrypt, cost 3", "$2b$03$" + salt22 + dig31, ErrMalformed},
		{"bcrypt, cost 0", "$2b$00$" + salt22 + dig31, ErrMalformed},
		{"bcrypt, cost of one digit", "$2b$5$" + salt22 + dig31, ErrMalformed},
		{"bcrypt, cost of three digits", "$2b$005$" + salt22 + dig31, ErrMalformed},
		{"bcrypt, cost with a sign", "$2b$+5$" + salt22 + dig31, ErrMalformed},
		{"bcrypt, alphabet", "$2b$05$" + salt22 + strings.Replace(dig31, "E", "+", 1), ErrMalformed},
		{"bcrypt, short", "$2b$05$" + salt22 + dig31[1:], ErrMalformed},
		{"bcrypt, long", "$2b$05$" + salt22 + dig31 + ".", ErrMalformed},
		{"bcrypt, only the salt", "$2b$05$" + salt22, ErrMalformed},
		{"bcrypt 2x", "$2x$05$" + salt22 + dig31, ErrUnsupported},
		{"bcrypt 2", "$2$05$" + salt22 + dig31, ErrUnsupported},
		{"bcrypt 2c", "$2c$05$" + salt22 + dig31, ErrUnsupported},
		{"bcrypt, Django without the second $", "bcrypt$2b$05$" + salt22 + dig31, ErrMalformed},
		{"bcrypt-sha256 1", "$bcrypt-sha256$2b,5$" + salt22 + "$" + dig31, nil},
		{"bcrypt-sha256 1, cost", "$bcrypt-sha256$2b,17$" + salt22 + "$" + dig31, ErrTooCostly},
		{"bcrypt-sha256 1, 2x", "$bcrypt-sha256$2x,5$" + salt22 + "$" + dig31, ErrMalformed},
		{"bcrypt-sha256 1, leading zero", "$bcrypt-sha256$2b,05$" + salt22 + "$" + dig31, ErrMalformed},
		{"bcrypt-sha256 1, without the 2", "$bcrypt-sha256$b,5$" + salt22 + "$" + dig31, ErrMalformed},
		{"bcrypt-sha256 2", "$bcrypt-sha256$v=2,t=2b,r=5$" + salt22 + "$" + dig31, nil},
		{"bcrypt-sha256 2, cost", "$bcrypt-sha256$v=2,t=2b,r=31$" + salt22 + "$" + dig31, ErrTooCostly},
		{"bcrypt-sha256 2, 2a", "$bcrypt-sha256$v=2,t=2a,r=5$" + salt22 + "$" + dig31, ErrMalformed},
		{"bcrypt-sha256 2, without names", "$bcrypt-sha256$v=2,2b,5$" + salt22 + "$" + dig31, ErrMalformed},
		{"bcrypt-sha256 3", "$bcrypt-sha256$v=3,t=2b,r=5$" + salt22 + "$" + dig31, ErrMalformed},

		{"scrypt", "$scrypt$ln=14,r=8,p=1$" + salt + "$" + key, nil},
		{"scrypt, no salt", "$scrypt$ln=14,r=8,p=1$$" + key, nil},
		{"scrypt, OWASP's most", "$scrypt$ln=17,r=8,p=1$" + salt + "$" + key, nil},
		{"scrypt, memory", "$scrypt$ln=18,r=8,p=1$" + salt + "$" + key, ErrTooCostly},
		{"scrypt, 1 GiB", "$scrypt$ln=20,r=8,p=1$" + salt + "$" + key, ErrTooCostly},
		{"scrypt, N", "$scrypt$ln=63,r=1,p=1$" + salt + "$" + key, ErrTooCostly},
		{"scrypt, N that wraps to 0", "$scrypt$ln=64,r=1,p=1$" + salt + "$" + key, ErrTooCostly},
		{"scrypt, N that wraps to 2", "$scrypt$ln=4294967297,r=1,p=1$" + salt + "$" + key, ErrTooCostly},
		{"scrypt, r", "$scrypt$ln=1,r=9999999999,p=1$" + salt + "$" + key, ErrTooCostly},
		{"scrypt, r with little N", "$scrypt$ln=1,r=1000000,p=1$" + salt + "$" + key, ErrTooCostly},
		{"scrypt, p with little N", "$scrypt$ln=1,r=1,p=4194304$" + salt + "$" + key, ErrTooCostly},
		{"scrypt, product", "$scrypt$ln=14,r=8,p=33$" + salt + "$" + key, ErrTooCostly},
		{"scrypt, N of 1", "$scrypt$ln=0,r=8,p=1$" + salt + "$" + key, ErrMalformed},
		{"scrypt, no r", "$scrypt$ln=14,r=0,p=1$" + salt + "$" + key, ErrMalformed},
		{"scrypt, no p", "$scrypt$ln=14,r=8,p=0$" + salt + "$" + key, ErrMalformed},
		{"scrypt, hash of a byte", "$scrypt$ln=14,r=8,p=1$" + salt + "$nQ", ErrMalformed},
		{"scrypt, Django", "scrypt$16384$seasalt$8$1$" + key + "=", nil},
		{"scrypt, Django, N no power of 2", "scrypt$16383$seasalt$8$1$" + key + "=", ErrMalformed},
		{"scrypt, Django, N of 0", "scrypt$0$seasalt$8$1$" + key + "=", ErrMalformed},
		{"scrypt, Django, memory", "scrypt$1048576$seasalt$8$1$" + key + "=", ErrTooCostly},
		{"scrypt, Django, words", "scrypt$N$seasalt$8$1$" + key + "=", ErrMalformed},
		{"scrypt, Django, long salt", "scrypt$16384$" + long + "$8$1$" + key + "=", ErrMalformed},
		{"scrypt, Django, no padding", "scrypt$16384$seasalt$8$1$" + key, ErrMalformed},

		{"PBKDF2", "$pbkdf2-sha256$i=600000$" + salt + "$" + key, nil},
		{"PBKDF2, the most", "$pbkdf2-sha256$10000000$" + salt + "$" + strings.ReplaceAll(key, "+", "."), nil},
		{"PBKDF2, rounds", "$pbkdf2-sha256$10000001$" + salt + "$" + strings.ReplaceAll(key, "+", "."), ErrTooCostly},
		{"PBKDF2, all rounds", "pbkdf2_sha256$9999999999$seasalt$" + key + "=", ErrTooCostly},
		{"PBKDF2, rounds times blocks", "$pbkdf2$i=5000001$" + salt + "$" + key, ErrTooCostly},
		{"PBKDF2, rounds times blocks, control", "$pbkdf2$i=5000000$" + salt + "$" + key, nil},
		{"PBKDF2, no rounds", "$pbkdf2-sha256$i=0$" + salt + "$" + key, ErrMalformed},
		{"PBKDF2, negative", "pbkdf2_sha256$-1$seasalt$" + key + "=", ErrMalformed},
		{"PBKDF2, PHC with more parameters", "$pbkdf2-sha256$i=1,l=32$" + salt + "$" + key, ErrMalformed},
		{"PBKDF2, hash of a byte", "$pbkdf2-sha256$i=1$" + salt + "$nQ", ErrMalformed},
		{"PBKDF2, Django, long salt", "pbkdf2_sha256$1$" + long + "$" + key + "=", ErrMalformed},
		{"PBKDF2, unknown digest", "$pbkdf2-md5$i=1$" + salt + "$" + key, ErrUnsupported},

		{"Firebase", "$firebase-scrypt$ln=14,r=8$" + salt + "$Bw$" + key + "$" + key, nil},
		{"Firebase, mem_cost", "$firebase-scrypt$ln=22,r=8$" + salt + "$Bw$" + key + "$" + key, ErrTooCostly},
		{"Firebase, lengths differ", "$firebase-scrypt$ln=14,r=8$" + salt + "$Bw$" + key + "$" + key[:24], ErrMalformed},
		{"Firebase, no signer key", "$firebase-scrypt$ln=14,r=8$" + salt + "$Bw$$", ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			info, err := Identify(tt.stored)
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Fatalf("Identify: %+v, %v, want %v", info, err, tt.want)
			}
			if err == nil {
				return
			}
			for _, secret := range []string{salt, key, salt22, dig31, long, "seasalt"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%q repeats a part of the hash", err)
				}
			}
			// One dummy hash, and nothing else.
			h := newTest(t, nil)
			h.typical.add(time.Hour) // in relation to it, parsing took no time
			var p peak
			h.meter = p.meter
			if got := mustVerify(t, h, tt.stored, "password"); got != refused || p.begun != 1 || p.most != 64 {
				t.Errorf("Verify: %+v after %d computations and %d KiB", got, p.begun, p.most)
			}
		})
	}
}

// The imported hash's memory is what a meter in Verify sees.
func TestCostIsCounted(t *testing.T) {
	h := newTest(t, func(c *Config) { c.Permits = 8 })
	for _, tt := range []struct {
		stored string
		kib    int64
		weight int64
	}{
		{"$scrypt$ln=10,r=8,p=1$" + salt + "$" + key, 1027, 8},
		{"$scrypt$ln=6,r=8,p=1$" + salt + "$" + key, 67, 2},
		{"$argon2id$v=19$m=256,t=2,p=2$" + salt + "$" + key, 256, 4},
		{"$argon2id$v=19$m=64,t=2,p=8$" + salt + "$" + key, 64, 8}, // by its threads
		{"$2b$05$" + salt22 + dig31, 5, 1},
	} {
		hash, err := parse(tt.stored)
		if err != nil {
			t.Fatal(err)
		}
		if kib, threads := hash.cost(); int64(kib) != tt.kib || h.weight(kib, threads) != tt.weight {
			t.Errorf("%s: %d KiB, %d permits, want %d and %d", tt.stored[:20], kib, h.weight(kib, threads), tt.kib, tt.weight)
		}
	}
}

func TestFromFirebase(t *testing.T) {
	project := FirebaseParams{
		SignerKey:     "jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA==",
		SaltSeparator: "Bw==", Rounds: 8, MemCost: 14,
	}
	const salt, hash = "42xEC+ixf3L2lw==", "lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ=="
	h := newTest(t, nil)
	urlSafe := strings.NewReplacer("+", "-", "/", "_", "=", "")
	for _, in := range [][2]string{{salt, hash}, {urlSafe.Replace(salt), urlSafe.Replace(hash)}} {
		stored, err := FromFirebase(project, in[0], in[1])
		if err != nil {
			t.Fatal(err)
		}
		if got := mustVerify(t, h, stored, "user1password"); got != imported {
			t.Errorf("right password: %+v", got)
		}
		if got := mustVerify(t, h, stored, "user2password"); got != refused {
			t.Errorf("wrong password: %+v", got)
		}
	}

	for name, change := range map[string]func(p *FirebaseParams, salt, hash *string){
		"no signer key":       func(p *FirebaseParams, _, _ *string) { p.SignerKey = "" },
		"signer key, garbage": func(p *FirebaseParams, _, _ *string) { p.SignerKey = "not base64!" },
		"no rounds":           func(p *FirebaseParams, _, _ *string) { p.Rounds = 0 },
		"negative mem_cost":   func(p *FirebaseParams, _, _ *string) { p.MemCost = -1 },
		"mem_cost":            func(p *FirebaseParams, _, _ *string) { p.MemCost = 30 },
		"short hash":          func(_ *FirebaseParams, _, h *string) { *h = (*h)[:40] },
		"line feed in salt":   func(_ *FirebaseParams, s, _ *string) { *s += "\n" },
		"huge salt":           func(_ *FirebaseParams, s, _ *string) { *s = strings.Repeat("A", 1<<20) },
		"dollar in salt":      func(_ *FirebaseParams, s, _ *string) { *s = "AA$AA" },
	} {
		p, s, h := project, salt, hash
		change(&p, &s, &h)
		if stored, err := FromFirebase(p, s, h); err == nil || stored != "" {
			t.Errorf("%s: %q, %v", name, stored, err)
		} else if strings.Contains(err.Error(), p.SignerKey) && p.SignerKey != "" || strings.Contains(err.Error(), h) {
			t.Errorf("%s: %q repeats a secret", name, err)
		}
	}

	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("import", "project", project)
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %s", project, project, &project, project), log.String()} {
		if strings.Contains(s, project.SignerKey[:10]) || !strings.Contains(s, "mem_cost=14") {
			t.Errorf("printed as %q", s)
		}
	}
}

func TestFromKeycloak(t *testing.T) {
	std := func(raw string) string { // Java's base64 has padding
		b, _ := base64.RawStdEncoding.DecodeString(raw)
		return base64.StdEncoding.EncodeToString(b)
	}
	sha256Key := b64("55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783")
	const sha512Key = "eNLfBK.eVozomMr.1gYa17k9B7KIK25NOEshvhrSX.esqY3s.FvWZViXz4KoLlQI.BzY/YTNJOiKc5gBYFYGww"
	secret := func(salt, value string) string {
		return fmt.Sprintf(`{"value":%q,"salt":%q,"additionalParameters":{}}`, std(value), std(salt))
	}
	pbkdf2 := func(algorithm string, n int) string {
		return fmt.Sprintf(`{"hashIterations":%d,"algorithm":%q,"additionalParameters":{}}`, n, algorithm)
	}
	argon2 := func(kind, version, memory string) string {
		return fmt.Sprintf(`{"hashIterations":2,"algorithm":"argon2","additionalParameters":{"hashLength":["32"],"memory":[%q],"type":[%q],"version":[%q],"parallelism":["1"]}}`, memory, kind, version)
	}

	h := newTest(t, nil)
	for _, tt := range []struct{ name, secret, credential, pw, want string }{
		{"pbkdf2", secret("c2FsdA", b64("4b007901b765489abead49d926f721d065a429c1")), pbkdf2("pbkdf2", 4096), "password", "$pbkdf2$i=4096$c2FsdA$"},
		{"pbkdf2-sha256, 64 bytes", secret("c2FsdA", sha256Key), pbkdf2("pbkdf2-sha256", 1), "passwd", "$pbkdf2-sha256$i=1$c2FsdA$"},
		{"pbkdf2-sha512", secret("RHY0Fr3IDMSVO/RSZyb5ow", strings.ReplaceAll(sha512Key, ".", "+")), pbkdf2("pbkdf2-sha512", 1212), "password", "$pbkdf2-sha512$i=1212$"},
		{"argon2id", secret(salt, key), argon2("id", "1.3", "256"), "password", "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + key},
		{"argon2i", secret(salt, "iekCn0Y3spW+sCcFanM2xBT63UP2sghkUoHLIUpWRS8"), argon2("i", "1.3", "256"), "password", "$argon2i$v=19$m=256,"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stored, err := FromKeycloak([]byte(tt.secret), []byte(tt.credential))
			if err != nil || !strings.HasPrefix(stored, tt.want) {
				t.Fatalf("%q, %v", stored, err)
			}
			if got := mustVerify(t, h, stored, tt.pw); got != imported {
				t.Errorf("right password: %+v", got)
			}
			if got := mustVerify(t, h, stored, tt.pw+"x"); got != refused {
				t.Errorf("wrong password: %+v", got)
			}
		})
	}

	good, credential := secret(salt, key), pbkdf2("pbkdf2-sha256", 1000)
	if _, err := FromKeycloak([]byte(good), []byte(credential)); err != nil {
		t.Fatalf("control: %v", err)
	}
	for _, tt := range []struct {
		name, secret, credential string
		want                     error
	}{
		{"empty", "", "", ErrMalformed},
		{"null", "null", "null", ErrMalformed},
		{"list", "[]", "[]", ErrMalformed},
		{"no salt", `{"value":"` + std(key) + `"}`, credential, ErrMalformed},
		{"name in another case", strings.Replace(good, "salt", "Salt", 1), credential, ErrMalformed},
		{"number for text", `{"value":1,"salt":"AA=="}`, credential, ErrMalformed},
		{"no padding", strings.ReplaceAll(good, "=", ""), credential, ErrMalformed},
		{"short value", secret(salt, "nQ"), credential, ErrMalformed},
		{"no rounds", good, pbkdf2("pbkdf2-sha256", 0), ErrMalformed},
		{"negative rounds", good, pbkdf2("pbkdf2-sha256", -1), ErrMalformed},
		{"rounds with a fraction", good, strings.Replace(credential, "1000", "1000.5", 1), ErrMalformed},
		{"rounds", good, pbkdf2("pbkdf2-sha256", 10_000_001), ErrTooCostly},
		{"unknown algorithm", good, pbkdf2("bcrypt", 10), ErrUnsupported},
		{"algorithm with a dollar", good, pbkdf2("pbkdf2-sha256$i=1$AAAA", 10), ErrUnsupported},
		{"argon2d", good, argon2("d", "1.3", "256"), ErrUnsupported},
		{"argon2 1.0", good, argon2("id", "1.0", "256"), ErrUnsupported},
		{"argon2, memory", good, argon2("id", "1.3", "4294967295"), ErrTooCostly},
		{"argon2, memory with more", good, argon2("id", "1.3", "256,t=1"), ErrMalformed},
		{"argon2 without parameters", good, pbkdf2("argon2", 2), ErrMalformed},
		{"huge", good + strings.Repeat(" ", maxKeycloak), credential, ErrMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stored, err := FromKeycloak([]byte(tt.secret), []byte(tt.credential))
			if !errors.Is(err, tt.want) || stored != "" {
				t.Fatalf("%q, %v, want %v", stored, err, tt.want)
			}
			if strings.Contains(err.Error(), key) || strings.Contains(err.Error(), salt) {
				t.Errorf("%q repeats a secret", err)
			}
		})
	}
}

// No format takes another's for its own.
func TestPrefixesAreDistinct(t *testing.T) {
	for i, a := range formats {
		for _, b := range formats[i+1:] {
			if strings.HasPrefix(a.prefix, b.prefix) || strings.HasPrefix(b.prefix, a.prefix) {
				t.Errorf("%q and %q", a.prefix, b.prefix)
			}
		}
	}
}

// What is found parses to the same thing again, whatever it is.
func FuzzIdentify(f *testing.F) {
	for _, k := range known {
		f.Add(k.stored)
	}
	for _, s := range []string{"", "!", "$", "$$$$$$", "$argon2id$v=19$", "$2b$", "bcrypt$", "scrypt$", "$scrypt$ln=99999,r=,p=$$", "$pbkdf2$i=$$", "{SSHA}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		info, err := Identify(s)
		if err != nil {
			if info != (Info{}) || !errors.Is(err, ErrUnusable) && !errors.Is(err, ErrUnsupported) && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooCostly) {
				t.Errorf("%+v, %v", info, err)
			}
			return
		}
		if len(s) > maxStored || info.Memory == 0 || info.Memory > maxMemory || info.Format == "" || info.Notation == "" || info.Params == "" {
			t.Errorf("accepted %+v", info)
		}
		hash, _ := parse(s)
		if a, ok := hash.(*argon2Hash); ok && a.String() != s {
			t.Errorf("%q is another spelling of %q", s, a)
		}
	})
}

// A guess never matches, and whatever is stored, Verify comes back.
func FuzzVerify(f *testing.F) {
	for _, k := range known {
		f.Add(k.stored, "guess")
	}
	f.Add("", "")
	h := newTest(f, nil)
	f.Fuzz(func(t *testing.T, stored, pw string) {
		if hash, err := parse(stored); err == nil && !cheap(hash) {
			return // within the caps, but the fuzzer is to see more than a few
		}
		// Bound to the input, so that no corpus can hold the right one.
		sum := sha256.Sum256([]byte(stored + pw))
		if got, err := h.Verify(t.Context(), stored, pw+hex.EncodeToString(sum[:])); err != nil || got != refused {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func FuzzFromKeycloak(f *testing.F) {
	f.Add([]byte(`{"value":"nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4=","salt":"c29tZXNhbHQ="}`),
		[]byte(`{"hashIterations":2,"algorithm":"argon2","additionalParameters":{"memory":["256"],"type":["id"],"version":["1.3"],"parallelism":["1"]}}`))
	f.Add([]byte(`{"value":"nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4=","salt":"c29tZXNhbHQ="}`), []byte(`{"hashIterations":27500,"algorithm":"pbkdf2-sha256"}`))
	f.Fuzz(func(t *testing.T, secret, credential []byte) {
		stored, err := FromKeycloak(secret, credential)
		if err != nil {
			return
		}
		if info, err := Identify(stored); err != nil || info.Notation != notationPHC {
			t.Errorf("returned what Verify does not take: %+v, %v", info, err)
		}
	})
}

func FuzzFromFirebase(f *testing.F) {
	f.Add(key, "Bw==", 8, 14, "42xEC+ixf3L2lw==", key)
	f.Fuzz(func(t *testing.T, signer, separator string, rounds, memCost int, salt, hash string) {
		stored, err := FromFirebase(FirebaseParams{signer, separator, rounds, memCost}, salt, hash)
		if err != nil {
			return
		}
		if info, err := Identify(stored); err != nil || info.Notation != notationFirebase {
			t.Errorf("returned what Verify does not take: %+v, %v", info, err)
		}
	})
}
