package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What a server decided is decided again with a draft, and a refusal is explained by
// the id in its answer.
func TestPolicyReplay(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	r := p.serve(t, "--set", "policy.record_allowed=1")
	id, mo := r.register(t, "mo")
	p.cli(t, "grant", "mo", "moderator")
	_, una := r.register(t, "una")
	if status := r.get(t, "/users", mo); status != 200 {
		t.Fatalf("a moderator is answered %d", status)
	}
	status, doc := r.call(t, "GET", "/users", una.access, nil)
	decision, _ := doc["decision_id"].(string)
	if status != 403 || decision == "" {
		t.Fatalf("a user is answered %d %v", status, doc)
	}
	draft := filepath.Join(t.TempDir(), "draft.cedar")
	if err := os.WriteFile(draft, []byte(`@id("nobody") forbid(principal in Role::"moderator", action == Action::"read:users", resource) unless { context.mfa };`+"\n"+
		`@id("anybody") permit(principal, action == Action::"read:users", resource == Route::"GET /users");`), 0o600); err != nil {
		t.Fatal(err)
	}
	var items []any
	r.until(t, 10*time.Second, "both decisions are recorded", func() bool { // they are written behind the requests
		items = p.cli(t, "policy", "replay", "--since", "1h", "--with", draft)["items"].([]any)
		return len(items) == 2
	})
	first, second := items[0].(map[string]any), items[1].(map[string]any)
	if first["principal"] != id || first["was"] != "allow" || first["would"] != "deny" || !strings.Contains(first["explanation"].(string), "Policy nobody forbids it") {
		t.Errorf("the moderator's: %v", first)
	}
	if second["decision_id"] != decision || second["was"] != "deny" || second["would"] != "allow" {
		t.Errorf("the user's: %v", second)
	}
	if e := p.cli(t, "policy", "why", decision); e["action"] != "access.denied" || !strings.Contains(e["reason"].(string), "the permission is not held") {
		t.Errorf("why: %v", e)
	}
	// With what is in force nothing would change.
	if err := os.WriteFile(draft, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if items := p.cli(t, "policy", "replay", "--since", "1h", "--with", draft)["items"].([]any); len(items) != 0 {
		t.Errorf("without a draft: %v", items)
	}
}
