package main

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sallyport/sallyport/internal/testkit"
)

// binary is the program as it is delivered, for the tests of whole processes.
var binary string

// TestMain makes the program a command of the scripts and builds the binary.
func TestMain(m *testing.M) {
	testscript.Main(building{m}, map[string]func(){"sallyport": main})
}

type building struct{ *testing.M }

func (m building) Run() int {
	dir, err := os.MkdirTemp("", "sallyport-test-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "sallyport")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		log.Fatalf("go build: %v\n%s", err, out)
	}
	return m.M.Run()
}

// TestScripts runs testdata/script/*.txt. Beside testscript's own commands they
// have:
//
//	exits CODE COMMAND…        run a command that must exit with this code
//	json SCHEMA [PATH=VALUE…]  standard output is JSON of this schema, with these values
//	let NAME PATH              set a variable to a value of standard output's JSON
//	snapshot DIR               remember names, modes and contents of a folder
//	unchanged DIR              compare with what was remembered
//	mode OCTAL FILE            compare a file's mode
//	sql FILE STATEMENT         change a SQLite file
//	freeport NAME              set a variable to a port that nobody listens on
//	ready URL                  wait until a server is ready
//	makekey FORM FILE          write a new private key, with mode 0600
//	mailserver start           start a mail server: MAIL_URL, MAIL_ROOTS; it refuses nobody@…
//	mailserver has N           compare how many letters it has taken
//	mailserver end             end it
//
// The condition [postgres] holds where there is a server for tests; POSTGRES_URL
// is then an empty database, for the script that names it.
func TestScripts(t *testing.T) {
	hasPostgres := os.Getenv(testkit.PostgresEnv) != "" || os.Getenv("CI") == "true"
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(e *testscript.Env) error {
			e.Values[snapshotKey{}] = map[string]map[string]string{}
			name := strings.TrimPrefix(filepath.Base(e.WorkDir), "script-")
			text, err := os.ReadFile(filepath.Join("testdata", "script", name+".txt"))
			if err != nil {
				return err
			}
			if hasPostgres && bytes.Contains(text, []byte("POSTGRES_URL")) {
				e.Setenv("POSTGRES_URL", testkit.PostgresURL(t))
			}
			e.Values[mailServerKey{}] = new(*testkit.MailServer)
			e.Setenv("GORACE", "atexit_sleep_ms=0") // a second for each command otherwise
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Getuid() == 0, nil
			case "postgres":
				return hasPostgres, nil
			}
			return false, fmt.Errorf("there is no condition %q", cond)
		},
		RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": cmdExits, "json": cmdJSON, "let": cmdLet, "snapshot": cmdSnapshot, "unchanged": cmdUnchanged,
			"mode": cmdMode, "sql": cmdSQL, "freeport": cmdFreePort, "ready": cmdReady,
			"makekey": cmdMakeKey, "mailserver": func(ts *testscript.TestScript, neg bool, args []string) { cmdMailServer(t, ts, neg, args) },
		},
	})
}

// usage ends a script that uses a command wrongly.
func usage(ts *testscript.TestScript, wrong bool, text string) {
	if wrong {
		ts.Fatalf("usage: %s", text)
	}
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg || len(args) < 2, "exits CODE COMMAND…")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		e, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = e.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg || len(args) < 1, "json SCHEMA [PATH=VALUE…]")
	doc := document(ts)
	for _, arg := range append([]string{"schema=" + args[0]}, args[1:]...) {
		path, want, _ := strings.Cut(arg, "=")
		if got := at(ts, doc, path); got != want {
			ts.Fatalf("%s is %q, want %q", path, got, want)
		}
	}
}

func cmdLet(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg || len(args) != 2, "let NAME PATH")
	ts.Setenv(args[0], at(ts, document(ts), args[1]))
}

func document(ts *testscript.TestScript) any {
	var doc any
	if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &doc); err != nil {
		ts.Fatalf("standard output is not JSON: %v", err)
	}
	return doc
}

// at returns the value at a path such as items.0.name; “len” is a list's length.
func at(ts *testscript.TestScript, doc any, path string) string {
	for part := range strings.SplitSeq(path, ".") {
		switch v := doc.(type) {
		case map[string]any:
			member, ok := v[part]
			if !ok {
				ts.Fatalf("%s: there is no member %q", path, part)
			}
			doc = member
		case []any:
			if part == "len" {
				doc = float64(len(v))
				continue
			}
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(v) {
				ts.Fatalf("%s: the list has %d elements", path, len(v))
			}
			doc = v[i]
		default:
			ts.Fatalf("%s: nothing is below %v", path, v)
		}
	}
	return fmt.Sprint(doc)
}

type mailServerKey struct{}

func cmdMailServer(t *testing.T, ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg || len(args) < 1, "mailserver start | has N | end")
	if args[0] == "start" {
		s := testkit.NewMailServer(t, testkit.MailServerConfig{User: "mailer@example.com", Password: "top/secret"})
		s.Change(testkit.MailRules{To: func(address string) error {
			if strings.HasPrefix(address, "nobody@") {
				return testkit.Refusal(550, [3]int{5, 1, 1}, "there is no "+address)
			}
			return nil
		}})
		*ts.Value(mailServerKey{}).(**testkit.MailServer) = s
		ts.Setenv("MAIL_URL", s.URL("tls=starttls"))
		ts.Setenv("MAIL_ADDR", s.Addr)
		ts.Setenv("MAIL_ROOTS", s.RootsFile)
		return
	}
	s := *ts.Value(mailServerKey{}).(**testkit.MailServer)
	switch args[0] {
	case "has":
		if n := fmt.Sprint(len(s.Got())); len(args) != 2 || n != args[1] {
			ts.Fatalf("the mail server has %s letters, want %v", n, args[1:])
		}
	case "end":
		s.Away()
	}
}

type snapshotKey struct{}

func snapshots(ts *testscript.TestScript) map[string]map[string]string {
	return ts.Value(snapshotKey{}).(map[string]map[string]string)
}

func cmdSnapshot(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg || len(args) != 1, "snapshot DIR")
	snapshots(ts)[args[0]] = files(ts, args[0])
}

func cmdUnchanged(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) != 1, "[!] unchanged DIR")
	before, ok := snapshots(ts)[args[0]]
	if !ok {
		ts.Fatalf("there is no snapshot of %s", args[0])
	}
	after := files(ts, args[0])
	if same := maps.Equal(before, after); same == neg {
		ts.Fatalf("%s before: %v\nafter: %v", args[0], slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
	}
}

// files returns what is in a folder, with modes and contents. A missing folder
// has nothing.
func files(ts *testscript.TestScript, dir string) map[string]string {
	out := map[string]string{}
	root := ts.MkAbs(dir)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if path == root && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += string(b)
		}
		out[strings.TrimPrefix(path, root)] = text
		return nil
	})
	ts.Check(err)
	return out
}

func cmdMode(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg || len(args) != 2, "mode OCTAL FILE")
	st, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", st.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

func cmdSQL(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg || len(args) != 2, "sql FILE STATEMENT")
	d, err := sql.Open("sqlite", ts.MkAbs(args[0]))
	ts.Check(err)
	_, err = d.Exec(args[1])
	ts.Check(errors.Join(err, d.Close()))
}

func cmdFreePort(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg || len(args) != 1, "freeport NAME")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	_, port, err := net.SplitHostPort(ln.Addr().String())
	ts.Check(errors.Join(err, ln.Close()))
	ts.Setenv(args[0], port)
}

func cmdReady(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg || len(args) != 1, "ready URL")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		res, err := http.Get(args[0] + "/readyz")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s is not ready: %v", args[0], err)
		}
	}
}
