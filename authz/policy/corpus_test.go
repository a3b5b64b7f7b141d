package policy_test

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"

	"github.com/sallyport/sallyport/authz/policy"
)

// Cedar's own corpus of decisions, which comes with its module: every 25th of its
// files. Where Cedar passes over a policy with an error, we deny; everywhere else we
// decide as it does.
func TestCedarsCorpus(t *testing.T) {
	t.Parallel()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/cedar-policy/cedar-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), "corpus-tests.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	var cases []string
	for r := tar.NewReader(zipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(h.Name, ".json") && !strings.HasSuffix(h.Name, ".entities.json") {
			cases = append(cases, h.Name)
		}
	}
	slices.Sort(cases)
	allowed, denied, wrong := 0, 0, 0
	for i := 0; i < len(cases); i += 25 {
		var c struct {
			Policies, Entities string
			Requests           []struct {
				Principal, Action, Resource cedar.EntityUID
				Context                     cedar.Record
				Decision                    cedar.Decision
				Errors                      []string
			}
		}
		var entities cedar.EntityMap
		if err := json.Unmarshal(files[cases[i]], &c); err != nil {
			t.Fatalf("%s: %v", cases[i], err)
		}
		if err := json.Unmarshal(files[c.Entities], &entities); err != nil {
			t.Fatalf("%s: %v", cases[i], err)
		}
		set, err := cedar.NewPolicySetFromBytes("", files[c.Policies])
		if err != nil {
			t.Fatalf("%s: %v", cases[i], err)
		}
		for n, r := range c.Requests {
			a := policy.Authorize(set, entities, cedar.Request{Principal: r.Principal, Action: r.Action, Resource: r.Resource, Context: r.Context})
			got := a.Permitted && !a.Forbidden
			switch {
			case len(r.Errors) > 0:
				wrong++
				if got || !a.Forbidden {
					t.Errorf("%s, request %d: let in in spite of errors of %v", cases[i], n, r.Errors)
				}
			case got != bool(r.Decision):
				t.Errorf("%s, request %d: %v, want %v", cases[i], n, got, r.Decision)
			case got:
				allowed++
			default:
				denied++
			}
		}
	}
	t.Logf("%d allowed, %d denied, %d with errors", allowed, denied, wrong)
	if allowed < 20 || denied < 20 || wrong < 5 {
		t.Errorf("only %d allowed, %d denied, %d with errors: the corpus is not what it was", allowed, denied, wrong)
	}
}
