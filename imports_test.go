package sallyport_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The house, from left to right. A room imports what stands left of it and
// never what stands right of it. A folder that is not listed has no place yet:
// give it one, left of everything that will import it.
//
// These rules hold for what is built. Test files may import anything.
var house = []room{
	// The words all rooms speak.
	{dir: ".", bare: true},
	// The wall; each part is usable without anything else here.
	{dir: "guard", only: []string{"."}, apart: true, bare: true},
	// The database handle, the cache, what a request carries.
	{dir: "internal"},
	// Typed operations: rule, handler and documentation in one.
	{dir: "api"},
	// What happened; every room from here on records into it.
	{dir: "audit"},
	// The form of tokens, and the keys that sign them.
	{dir: "authn/token"},
	// How they travel, and what a refusal says.
	{dir: "authn/bearer", only: []string{"."}, bare: true},
	// The first door of another service, which has no database of ours.
	{dir: "authn/remote", only: []string{".", "guard", "authn/token", "authn/bearer"}, bare: true},
	// The first door: who are you.
	{dir: "authn", apart: true},
	// The second door: may you. Neither door knows the other.
	{dir: "authz", never: []string{"authn"}, apart: true},
	// Letters to people, of what happens to the right.
	{dir: "mail"},
	// Signed in, until signed out.
	{dir: "session"},
	// How often a password may be tried, by whichever way: all ways are to the right.
	{dir: "lockout"},
	// The life of a user.
	{dir: "account"},
	// From a name to a session.
	{dir: "signin"},
	// The same for other programs.
	{dir: "oauth"},
	// The operations of other systems, for front ends that were written for those.
	{dir: "compat", apart: true},
	// Pages; they reach the rest over HTTP, as anybody does.
	{dir: "web", only: []string{".", "guard", "internal", "api"}},
	// Where everything meets.
	{dir: "server"},
	// What others may know of it, in their formats.
	{dir: "telemetry", only: []string{".", "internal", "server"}},
	// Databases; the only room with drivers.
	{dir: "store", only: []string{".", "guard", "internal"}, apart: true},
	// For the tests of our users; it picks a store for them.
	{dir: "authtest", testing: true},
	// For our own tests.
	{dir: "internal/testkit", testing: true},
	// Declared and enforced, compared from outside: it knows HTTP and the document,
	// and shares no code with what it judges.
	{dir: "prove", only: []string{}, bare: true},
	// The command line; it picks a store.
	{dir: "cmd"},
	// What our users could have written.
	{dir: "examples", never: []string{"internal"}},
	// Measurements.
	{dir: "bench"},
}

// A room is a folder with everything below it, or "." for the root package.
// Within a room packages import each other freely.
type room struct {
	dir     string
	only    []string // of the rooms to the left, these and no other
	never   []string // of the rooms to the left, not these
	apart   bool     // its packages do not import each other, only the one above them
	bare    bool     // imports no library but those that libraries lists
	testing bool     // imported by test files only
}

// libraries lists what packages of bare rooms may import from other modules:
// at most one library each.
var libraries = map[string]string{
	"guard/cors":     "github.com/jub0bs/cors",
	"guard/sanitize": "github.com/microcosm-cc/bluemonday",
}

// heavy lists what would weigh on every program that uses the library. One room
// may import each; nothing left of that room may contain it, not even through
// another module.
var heavy = []struct{ path, what, room string }{
	{"modernc.org/sqlite", "a database driver", "store"},
	{"github.com/jackc/pgx", "a database driver", "store"},
	{"github.com/redis/rueidis", "a Redis client", "store"},
	{"github.com/prometheus/client_golang", "the Prometheus client", "telemetry"},
	{"go.opentelemetry.io/otel/sdk", "the OpenTelemetry SDK", "cmd"},
}

const modulePath = "github.com/sallyport/sallyport"

func TestImportsKeepTheOrderOfTheHouse(t *testing.T) {
	// go test reuses a result until a file or folder that the test itself read has
	// changed. What go list reads does not count, so read the folders here.
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != "." && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	out, err := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	imports := map[string][]string{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); err != nil {
			t.Fatalf("go list: %v", err)
		}
		imports[p.ImportPath] = p.Imports
	}
	if !slices.Contains(imports[modulePath], "net/http") || imports["net/http"] == nil {
		t.Fatal("go list did not show the root package with its dependencies, so nothing can be said about imports")
	}
	for _, v := range importViolations(imports) {
		t.Error(v)
	}
}

// importViolations holds an import graph (import path to the paths it imports)
// against the house. Each violation says which import, which rule, what to do.
func importViolations(imports map[string][]string) []string {
	var found []string
	for _, path := range slices.Sorted(maps.Keys(imports)) {
		pkg, ours := inModule(path)
		if !ours {
			continue
		}
		at := roomOf(pkg)
		if at < 0 {
			found = append(found, fmt.Sprintf("%s has no place in the house. Add its folder to the list in imports_test.go, left of everything that will import it.", pkg))
			continue
		}
		for _, imp := range imports[path] {
			why := ""
			if target, ours := inModule(imp); ours {
				why = violationInside(at, pkg, target)
			} else if !isStandard(imp) {
				why = violationOutside(at, pkg, imp, imports)
			}
			if why != "" {
				found = append(found, fmt.Sprintf("%s imports %s: %s", pkg, strings.TrimPrefix(imp, modulePath+"/"), why))
			}
		}
	}
	return found
}

// violationInside judges an import of one of our packages by another.
func violationInside(at int, pkg, target string) string {
	to := roomOf(target)
	if to < 0 {
		return "" // reported by itself
	}
	from, into := house[at], house[to]
	switch {
	case into.testing && to != at:
		return fmt.Sprintf("%s is for tests. Import it in a _test.go file only.", into.dir)
	case to == at && from.apart && !strings.HasPrefix(pkg, target+"/"):
		return fmt.Sprintf("packages in %s do not know each other, only the one above them. Take what you need as an argument, or move what both need to the left.", from.dir)
	case to > at && into.dir == "store":
		return "only commands, examples and tests pick a database. Take the opened handle as an argument."
	case to > at:
		return fmt.Sprintf("%s stands right of %s, and imports go left only. Take what you need as an argument, or move what both need to the left.", into.dir, from.dir)
	case to < at && from.only != nil && !slices.Contains(from.only, into.dir):
		what := "nothing"
		if len(from.only) > 0 {
			what = "only " + strings.Join(from.only, ", ")
		}
		return fmt.Sprintf("of this module, %s imports %s. Take what you need as an argument.", from.dir, what)
	case to < at && slices.Contains(from.never, into.dir):
		return fmt.Sprintf("%s does without %s. Use what is exported elsewhere, or take what you need as an argument.", from.dir, into.dir)
	}
	return ""
}

// violationOutside judges an import from another module, with all that it brings.
func violationOutside(at int, pkg, imp string, imports map[string][]string) string {
	from := house[at]
	if from.bare && !isBelow(imp, libraries[pkg]) {
		if lib := libraries[pkg]; lib != "" {
			return fmt.Sprintf("besides the standard library, this package imports %s only. Do without.", lib)
		}
		return "this package imports the standard library only. Do without, or move what needs the library to a room on the right."
	}
	for _, h := range heavy {
		if from.dir == h.room {
			continue
		}
		limit := slices.IndexFunc(house, func(r room) bool { return r.dir == h.room })
		if isBelow(imp, h.path) {
			return fmt.Sprintf("it is %s, which only %s imports. Put the code there, and an interface of the standard library's here.", h.what, h.room)
		}
		if at > limit {
			continue
		}
		if way := wayTo(h.path, imp, imports); way != nil {
			return fmt.Sprintf("it brings %s (%s), which every user of %s would carry. Find a lighter package of it, or do without.", h.what, strings.Join(way, " → "), pkg)
		}
	}
	return ""
}

// wayTo returns a shortest chain of imports from a package to one at or below
// path, or nil.
func wayTo(path, from string, imports map[string][]string) []string {
	before := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		p := queue[0]
		if isBelow(p, path) {
			var way []string
			for ; p != ""; p = before[p] {
				way = append([]string{p}, way...)
			}
			return way
		}
		for _, next := range imports[p] {
			if _, seen := before[next]; !seen {
				before[next] = p
				queue = append(queue, next)
			}
		}
	}
	return nil
}

// roomOf returns the index of the room that a package of ours is in: the one
// with the longest matching folder, or -1.
func roomOf(pkg string) int {
	best := -1
	for i, r := range house {
		if isBelow(pkg, r.dir) && (best < 0 || len(r.dir) > len(house[best].dir)) {
			best = i
		}
	}
	return best
}

// inModule returns a package's path within this module, "." for the root.
func inModule(path string) (pkg string, ours bool) {
	if path == modulePath {
		return ".", true
	}
	return strings.CutPrefix(path, modulePath+"/")
}

func isBelow(path, dir string) bool {
	return path == dir || dir != "" && strings.HasPrefix(path, dir+"/")
}

// isStandard tells whether a package is the standard library's: no other's path
// begins with an element that has no dot.
func isStandard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

// TestImportViolations shows that the checker finds what it is there to find,
// and lets pass what stands beside it.
func TestImportViolations(t *testing.T) {
	const m = modulePath + "/"
	tests := []struct {
		name    string
		imports map[string][]string
		want    string // part of the only violation; "" for none
	}{
		{"the root with the standard library", map[string][]string{modulePath: {"net/http", "encoding/json"}}, ""},
		{"the root with a library", map[string][]string{modulePath: {"github.com/google/uuid"}}, "standard library only"},
		{"the root with a package of ours", map[string][]string{modulePath: {m + "internal/db"}}, "internal stands right of ."},

		{"the wall with the root", map[string][]string{m + "guard/body": {modulePath, "io"}}, ""},
		{"the wall with its library", map[string][]string{m + "guard/cors": {"github.com/jub0bs/cors/cfgerrors"}}, ""},
		{"the wall with another library", map[string][]string{m + "guard/cors": {"github.com/rs/cors"}}, "github.com/jub0bs/cors only"},
		{"the wall with a namesake of its library", map[string][]string{m + "guard/cors": {"github.com/jub0bs/cors2"}}, "github.com/jub0bs/cors only"},
		{"the wall with any library", map[string][]string{m + "guard/body": {"golang.org/x/text/width"}}, "standard library only"},
		{"two parts of the wall", map[string][]string{m + "guard/https": {m + "guard/clientip"}}, "do not know each other"},
		{"the wall with the database", map[string][]string{m + "guard/ratelimit": {m + "internal/db"}}, "internal stands right of guard"},

		{"leftwards", map[string][]string{m + "signin": {modulePath, m + "account", m + "session", m + "authn/totp", m + "audit", m + "internal/db", m + "guard/clientip"}}, ""},
		{"rightwards", map[string][]string{m + "account": {m + "signin"}}, "signin stands right of account"},
		{"rightwards to the server", map[string][]string{m + "api": {m + "server"}}, "server stands right of api"},
		{"within a room", map[string][]string{m + "internal/live": {m + "internal/reqctx"}}, ""},

		{"a way of signing in with the gate", map[string][]string{m + "authn/password": {m + "authn", m + "audit"}}, ""},
		{"the gate with a way of signing in", map[string][]string{m + "authn": {m + "authn/password"}}, "do not know each other"},
		{"two ways of signing in", map[string][]string{m + "authn/password": {m + "authn/apikey"}}, "do not know each other"},
		{"the form of tokens, to the right", map[string][]string{m + "authn/token": {m + "authn/password"}}, "stands right of authn/token"},
		{"a scheme with the form of tokens", map[string][]string{m + "authn/apikey": {m + "authn/token"}}, ""},
		{"the gate with the words of a refusal", map[string][]string{m + "authn": {m + "authn/bearer"}}, ""},
		{"another service's door with the form of tokens", map[string][]string{m + "authn/remote": {modulePath, m + "authn/token", m + "authn/bearer", m + "guard/body"}}, ""},
		{"another service's door with the gate", map[string][]string{m + "authn/remote": {m + "authn"}}, "authn stands right of authn/remote"},
		{"another service's door with the audit log", map[string][]string{m + "authn/remote": {m + "audit"}}, "authn/remote imports only"},
		{"another service's door with a library", map[string][]string{m + "authn/remote": {"golang.org/x/sync/singleflight"}}, "standard library only"},
		{"the doors, forth", map[string][]string{m + "authz/role": {m + "authn"}}, "authz does without authn"},
		{"the doors, back", map[string][]string{m + "authn/apikey": {m + "authz/role"}}, "authz stands right of authn"},

		{"another system's operations", map[string][]string{m + "compat/fastapiusers": {m + "signin", m + "account", m + "api"}}, ""},
		{"operations of two other systems", map[string][]string{m + "compat/fastapiusers": {m + "compat/other"}}, "do not know each other"},
		{"sign-in with another system's operations", map[string][]string{m + "signin": {m + "compat/fastapiusers"}}, "compat stands right of signin"},

		{"pages with operations", map[string][]string{m + "web/console": {m + "api", m + "web"}}, ""},
		{"pages with accounts", map[string][]string{m + "web/console": {m + "account"}}, "web imports only"},

		{"the proof with what it judges", map[string][]string{m + "prove": {modulePath}}, "prove imports nothing"},
		{"the command with the proof", map[string][]string{m + "cmd/sallyport": {m + "prove"}}, ""},
		{"the command with a store", map[string][]string{m + "cmd/sallyport": {m + "store/sqlite", m + "server"}}, ""},
		{"an example with a store", map[string][]string{m + "examples/items": {m + "store/sqlite", m + "server"}}, ""},
		{"a measurement with a store", map[string][]string{m + "bench": {m + "store/postgres", m + "internal/db"}}, ""},
		{"the server with a store", map[string][]string{m + "server": {m + "store/sqlite"}}, "pick a database"},
		{"the database handle with a store", map[string][]string{m + "internal/db": {m + "store/postgres"}}, "pick a database"},
		{"a store with the database handle", map[string][]string{m + "store/sqlite": {m + "internal/db", "modernc.org/sqlite"}}, ""},
		{"a store with accounts", map[string][]string{m + "store/sqlite": {m + "account"}}, "store imports only"},
		{"two stores", map[string][]string{m + "store/sqlite": {m + "store/postgres"}}, "do not know each other"},
		{"an example with what others cannot import", map[string][]string{m + "examples/items": {m + "internal/db"}}, "examples does without internal"},

		{"the tests' tools in what is built", map[string][]string{m + "cmd/sallyport": {m + "internal/testkit"}}, "is for tests"},
		{"our users' tests' tools in what is built", map[string][]string{m + "server": {m + "authtest"}}, "is for tests"},
		{"our users' tests' tools with a store", map[string][]string{m + "authtest": {m + "store/sqlite", m + "server", m + "internal/db"}}, ""},
		{"the tests' tools with a store", map[string][]string{m + "internal/testkit": {m + "store/sqlite", m + "internal/db"}}, ""},

		{"SQLite outside the stores", map[string][]string{m + "internal/db": {"modernc.org/sqlite/lib"}}, "only store imports"},
		{"PostgreSQL outside the stores", map[string][]string{m + "cmd/sallyport": {"github.com/jackc/pgx/v5/pgconn"}}, "only store imports"},
		{"Redis outside the stores", map[string][]string{m + "session": {"github.com/redis/rueidis"}}, "only store imports"},
		{"telemetry's SDK in the command", map[string][]string{m + "cmd/sallyport": {"go.opentelemetry.io/otel/sdk/trace"}}, ""},
		{"telemetry's SDK in the server", map[string][]string{m + "server": {"go.opentelemetry.io/otel/sdk/trace"}}, "only cmd imports"},
		{"the Prometheus client in telemetry", map[string][]string{m + "telemetry": {"github.com/prometheus/client_golang/prometheus", m + "server"}}, ""},
		{"the Prometheus client in the server", map[string][]string{m + "server": {"github.com/prometheus/client_golang/prometheus"}}, "only telemetry imports"},
		{"the Prometheus client in the command", map[string][]string{m + "cmd/sallyport": {"github.com/prometheus/client_golang/prometheus/promhttp"}}, "only telemetry imports"},
		{"telemetry with the ways in", map[string][]string{m + "telemetry": {m + "signin"}}, "telemetry imports only"},
		{"the server with telemetry", map[string][]string{m + "server": {m + "telemetry"}}, "telemetry stands right of server"},
		{"telemetry's interface in the server", map[string][]string{m + "server": {"go.opentelemetry.io/otel/trace"}}, ""},
		{
			"a driver through a library",
			map[string][]string{
				m + "api":               {"example.org/web"},
				"example.org/web":       {"fmt", "example.org/web/store"},
				"example.org/web/store": {"github.com/jackc/pgx/v5"},
			},
			"example.org/web → example.org/web/store → github.com/jackc/pgx/v5",
		},
		{
			"a driver through a store",
			map[string][]string{
				m + "cmd/sallyport": {m + "store/sqlite"},
				m + "store/sqlite":  {"modernc.org/sqlite"},
			},
			"",
		},

		{"a folder without a place", map[string][]string{m + "utils/strings": {"strings"}}, "no place in the house"},
		{"another module", map[string][]string{"example.org/sallyport/server": {m + "internal/db"}}, ""},
		{"a module with our name and more", map[string][]string{modulePath + "-extra": {"example.org/x"}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := importViolations(tt.imports)
			switch {
			case tt.want == "" && len(got) > 0:
				t.Errorf("refused: %q", got)
			case tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)):
				t.Errorf("got %q, want one violation that says %q", got, tt.want)
			}
		})
	}
}
