package main

import (
	"errors"
	"net/http"
	"net/url"
	"os/exec"
	"testing"
)

// A lock is there after kill -9, by which nothing is written that was not; the
// operator ends it, and limits.login = off takes the whole of it away.
func TestLockoutSurvivesAKill(t *testing.T) {
	t.Parallel()
	eachPlace(t, func(t *testing.T, p place) {
		r := p.serve(t)
		p.cli(t, "admin", "create", "--username", "root", "--email", "root@example.com", "--password-stdin")
		p.cli(t, "user", "create", "--username", "ada", "--email", "ada@example.com", "--password-stdin")
		token := func(r *running, name, pw string) (int, map[string]any) {
			t.Helper()
			return r.call(t, "POST", "/token", "", url.Values{"grant_type": {"password"}, "username": {name}, "password": {pw}})
		}
		want := func(what string, r *running, name, pw string, status int) {
			t.Helper()
			if got, doc := token(r, name, pw); got != status || status == http.StatusTooManyRequests && doc["error"] != "too_many_attempts" {
				t.Fatalf("%s: %d %v, want %d", what, got, doc, status)
			}
		}
		for range 5 {
			want("a guess", r, "ada", "not "+testPassword, http.StatusUnauthorized)
		}
		r.kill() // the answer is out, so the failure is stored
		r = p.serve(t)
		want("locked", r, "ada@example.com", testPassword, http.StatusTooManyRequests)
		want("somebody else", r, "root", testPassword, http.StatusOK)

		if items, _ := p.cli(t, "user", "unlock", "ada", "--dry-run")["items"].([]any); len(items) != 2 {
			t.Errorf("a dry run shows %v", items)
		}
		want("after a dry run", r, "ada", testPassword, http.StatusTooManyRequests)
		doc := p.cli(t, "user", "unlock", "ada")
		items, _ := doc["items"].([]any)
		if len(items) != 2 || doc["schema"] != "sallyport.unlocked/v1" {
			t.Fatalf("unlock: %v", doc)
		}
		if m := items[0].(map[string]any); m["network"] != "127.0.0.1/32" || m["failures"] != 5.0 || m["locked_until"] == nil {
			t.Errorf("unlock: %v", m)
		}
		if m := items[1].(map[string]any); m["network"] != "all" || m["failures"] != 5.0 || m["locked_until"] != nil {
			t.Errorf("unlock: %v", m)
		}
		want("unlocked", r, "ada", testPassword, http.StatusOK)
		if items, _ := p.cli(t, "user", "unlock", "--address", "127.0.0.1")["items"].([]any); len(items) != 2 {
			t.Errorf("unlock --address: %v", items)
		}
		for code, args := range map[int][]string{
			3: {"user", "unlock", "nobody"},
			2: {"user", "unlock"},
		} {
			if e, ok := errors.AsType[*exec.ExitError](p.command(args...).Run()); !ok || e.ExitCode() != code {
				t.Errorf("%v: %v, want exit code %d", args, e, code)
			}
		}
		r.terminate(t)

		r = p.serve(t, "--set", "limits.login=off")
		for range 8 {
			want("switched off", r, "ada", "not "+testPassword, http.StatusUnauthorized)
		}
		r.terminate(t)
	})
}
