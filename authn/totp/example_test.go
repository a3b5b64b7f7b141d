package totp_test

import (
	"fmt"
	"time"

	"github.com/sallyport/sallyport/authn/totp"
)

// What an authenticator app and the server agree on: a code of this half minute or a
// neighbour, and each step once. The secret is that of RFC 6238, appendix B.
func ExampleParams_Match() {
	secret := []byte("12345678901234567890")
	fmt.Println(totp.Default.URI(secret, "Example", "ada@example.com"))

	at := time.Unix(1111111109, 0)
	code := totp.Default.Code(secret, totp.StepAt(at))
	step, ok := totp.Default.Match(secret, code, at.Add(20*time.Second), -1)
	fmt.Println(code, ok)
	_, ok = totp.Default.Match(secret, code, at.Add(20*time.Second), step) // used up
	fmt.Println(code, ok)
	_, ok = totp.Default.Match(secret, code, at.Add(2*time.Minute), -1)
	fmt.Println(code, ok)
	// Output:
	// otpauth://totp/Example:ada%40example.com?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Example&algorithm=SHA1&digits=6&period=30
	// 081804 true
	// 081804 false
	// 081804 false
}
