// Command peers answers the bytes of a file behind a token that is verified at
// every request: GET /golang-jwt and GET /go-jose, each as its documentation
// shows. It looks at no session and knows no roles. It is a module of its own, so
// that measuring against a library is not depending on it.
package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"
	"github.com/golang-jwt/jwt/v5"
)

const issuer = "http://peers.test"

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "`address` to listen on")
	file := flag.String("body", "", "`file` with the answer's body")
	out := flag.String("out", "", "`file` for the targets")
	flag.Parse()
	body, err := os.ReadFile(*file)
	if err != nil {
		log.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": issuer, "aud": issuer, "sub": "019abcde-f012-7abc-8def-0123456789ab", "sid": "019abcde-f012-7abc-8def-0123456789ac",
		"jti": "019abcde-f012-7abc-8def-0123456789ad", "client_id": "first-party", "iat": time.Now().Unix(), "exp": time.Now().Add(23 * time.Hour).Unix(),
	}).SignedString(private)
	if err != nil {
		log.Fatal(err)
	}
	answer := func(verify func(string) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if !ok || verify(text) != nil {
				http.Error(w, "unauthorized", http.StatusUnauthorized)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(body)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /golang-jwt", answer(func(text string) error {
		_, err := jwt.Parse(text, func(*jwt.Token) (any, error) { return public, nil },
			jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithIssuer(issuer), jwt.WithAudience(issuer), jwt.WithExpirationRequired())
		return err
	}))
	mux.HandleFunc("GET /go-jose", answer(func(text string) error {
		t, err := josejwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.EdDSA})
		if err != nil {
			return err
		}
		var c josejwt.Claims
		if err := t.Claims(public, &c); err != nil {
			return err
		}
		if c.Expiry == nil {
			return errors.New("no exp")
		}
		return c.Validate(josejwt.Expected{Issuer: issuer, AnyAudience: josejwt.Audience{issuer}, Time: time.Now()})
	}))
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	var targets []map[string]string
	for _, name := range []string{"golang-jwt", "go-jose"} {
		targets = append(targets, map[string]string{"Name": name, "URL": "http://" + ln.Addr().String() + "/" + name, "Header": "Authorization: Bearer " + token})
	}
	text, err := json.Marshal(targets)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(filepath.Clean(*out), text, 0o600); err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(ln, mux))
}
