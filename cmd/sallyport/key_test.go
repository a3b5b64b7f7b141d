package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/rogpeppe/go-internal/testscript"
)

// cmdMakeKey writes a key as other programs do: FORM is pkcs8, pkcs1, sec1 or
// jwk, a hyphen, and ed25519, p256, p384 or rsa; or public-p256; or secret.
func cmdMakeKey(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg || len(args) != 2, "makekey FORM FILE")
	b, err := keyFile(args[0])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o600))
}

func keyFile(form string) ([]byte, error) {
	if form == "secret" {
		return []byte(rand.Text() + rand.Text() + "\n"), nil
	}
	form, kind, _ := strings.Cut(form, "-")
	var private any
	var err error
	switch kind {
	case "ed25519":
		_, private, err = ed25519.GenerateKey(rand.Reader)
	case "p256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "p384":
		private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "rsa":
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		err = errors.New("there is no such kind of key: " + kind)
	}
	if err != nil {
		return nil, err
	}
	var typ string
	var der []byte
	switch form {
	case "pkcs8":
		typ = "PRIVATE KEY"
		der, err = x509.MarshalPKCS8PrivateKey(private)
	case "pkcs1":
		typ, der = "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(private.(*rsa.PrivateKey))
	case "sec1":
		typ = "EC PRIVATE KEY"
		der, err = x509.MarshalECPrivateKey(private.(*ecdsa.PrivateKey))
	case "public":
		typ = "PUBLIC KEY"
		der, err = x509.MarshalPKIXPublicKey(private.(*ecdsa.PrivateKey).Public())
	case "jwk":
		return jose.JSONWebKey{Key: private, KeyID: "theirs"}.MarshalJSON()
	default:
		err = errors.New("there is no such form: " + form)
	}
	return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}), err
}

// A token that an imported key signed verifies, in a program that shares
// nothing with us, with the public half of what was imported.
func TestImportedKeySigns(t *testing.T) {
	eachPlace(t, func(t *testing.T, p place) {
		p.env = append(p.env, "SALLYPORT_TOKENS_ALG=ES256")
		p.cli(t, "admin", "create", "--username", "root", "--email", "root@example.com", "--password-stdin")
		r := p.serve(t)
		before := r.signIn(t, "root")

		imported := func(private *ecdsa.PrivateKey, more ...string) string {
			t.Helper()
			der, err := x509.MarshalPKCS8PrivateKey(private)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "key.pem")
			if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
				t.Fatal(err)
			}
			return p.cli(t, append([]string{"key", "import", file}, more...)...)["kid"].(string)
		}
		verified := func(private *ecdsa.PrivateKey, access string) bool {
			t.Helper()
			sig, err := jose.ParseSignedCompact(access, []jose.SignatureAlgorithm{jose.ES256})
			if err != nil {
				t.Fatal(err)
			}
			_, err = sig.Verify(&private.PublicKey)
			return err == nil
		}
		made := func() *ecdsa.PrivateKey {
			t.Helper()
			private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			return private
		}

		// As the next one: it signs after a rotation, beside a running server.
		first := made()
		id := imported(first)
		thumbprint, err := (&jose.JSONWebKey{Key: &first.PublicKey}).Thumbprint(crypto.SHA256)
		if err != nil || id != base64.RawURLEncoding.EncodeToString(thumbprint) || len(thumbprint) != sha256.Size {
			t.Fatalf("kid %s is not the thumbprint of RFC 7638: %v", id, err)
		}
		if tk := r.signIn(t, "root"); verified(first, tk.access) || kid(t, tk.access) != kid(t, before.access) {
			t.Fatal("the next key signs already")
		}
		p.cli(t, "key", "rotate")
		after := r.refresh(t, before.refresh)
		if !verified(first, after.access) || kid(t, after.access) != id {
			t.Fatal("the imported key does not sign after the rotation")
		}
		if verified(made(), after.access) {
			t.Fatal("another key verifies the token")
		}

		// At once.
		second := made()
		id = imported(second, "--active")
		tk := r.signIn(t, "root")
		if !verified(second, tk.access) || kid(t, tk.access) != id {
			t.Fatal("the imported key does not sign")
		}
		for what, access := range map[string]tokens{"before both": before, "of the first": after, "of the second": tk} {
			if status := r.get(t, "/users/me", access); status != 200 {
				t.Errorf("a token %s is refused with %d", what, status)
			}
		}
	})
}
