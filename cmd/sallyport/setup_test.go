package main

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

var setupLine = regexp.MustCompile(`(?m)^  Set-up     (\S+)/console/setup#k=(su_[\w-]{43})   one use, 30 minutes$`)

// link returns the token of the set-up link that a server has printed.
func (r *running) link(t *testing.T) (token string) {
	t.Helper()
	r.until(t, 10*time.Second, "the set-up link is printed", func() bool {
		m := setupLine.FindStringSubmatch(r.output(t))
		if m != nil && m[1] != r.base {
			t.Fatalf("the link leads to %s, and the server is %s", m[1], r.base)
		}
		if m != nil {
			token = m[2]
		}
		return m != nil
	})
	return token
}

// A set-up link that is printed works, after a crash too; a newer one takes its
// place where nobody else can have printed it; and with an administrator there is
// none.
func TestSetUpLinks(t *testing.T) {
	t.Parallel()
	eachPlace(t, func(t *testing.T, p place) {
		setUp := func(r *running, token string) int {
			t.Helper()
			a := r.ask(r.client, http.MethodPost, "/auth/setup", "", map[string]string{"token": token, "email": "root@example.com", "username": "root", "password": testPassword})
			if a.err != nil {
				t.Fatal(a.err)
			}
			return a.status
		}
		r := p.serve(t)
		first := r.link(t)
		r.kill()
		r = p.serve(t)
		second := r.link(t)
		other := p.serve(t) // another node
		third := other.link(t)
		if strings.Contains(t.Name(), "sqlite") {
			for _, dead := range []string{first, second} {
				if status := setUp(r, dead); status != http.StatusBadRequest {
					t.Errorf("an older link: %d", status)
				}
			}
		}
		url, _ := p.cli(t, "admin", "setup-link")["url"].(string)
		_, last, _ := strings.Cut(url, "/console/setup#k=")
		for _, dead := range []string{first, second, third} {
			if status := setUp(r, dead); status != http.StatusBadRequest {
				t.Errorf("a link from before setup-link: %d", status)
			}
		}
		r.kill()
		r = p.serve(t)
		newest := r.link(t)
		token := last
		if strings.Contains(t.Name(), "sqlite") {
			token = newest
		}
		if status := setUp(other, token); status != http.StatusCreated {
			t.Fatalf("a link that was made by another process: %d", status)
		}
		r.signIn(t, "root")
		if status := setUp(r, newest); status != http.StatusBadRequest {
			t.Errorf("a link when there is an administrator: %d", status)
		}
		r.kill()
		r = p.serve(t)
		if out := r.output(t); strings.Contains(out, "Set-up") {
			t.Errorf("with an administrator: %s", out)
		}
	})
}
