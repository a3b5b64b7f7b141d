package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/alecthomas/kong"
)

// updateDocs writes docs/configuration.md instead of comparing it:
//
//	go test ./cmd/sallyport -run TestConfigurationPage -update
var updateDocs = flag.Bool("update", false, "write docs/configuration.md from the table of keys")

// docsFolder is the pages, from this folder.
const docsFolder = "../../docs"

// TestConfigurationPage keeps docs/configuration.md what the table of keys says.
func TestConfigurationPage(t *testing.T) {
	path := filepath.Join(docsFolder, "configuration.md")
	want := configurationPage()
	if *updateDocs {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/configuration.md is not what the table of keys says. Write it with: go test ./cmd/sallyport -run TestConfigurationPage -update")
	}
}

const configurationHead = `# Configuration

<!-- Made from the table of keys in cmd/sallyport/config.go by: go test ./cmd/sallyport -run TestConfigurationPage -update -->

The server needs none. A key is set, in order of precedence, by a flag, by the environment, or in a file; otherwise it has its default.

- **Flag.** Some keys have one of their own. ` + "`--set KEY=VALUE`" + ` sets any, and may be repeated.
- **Environment.** ` + "`SALLYPORT_SECTION_KEY`" + ` holds the value, ` + "`SALLYPORT_SECTION_KEY_FILE`" + ` the path of a file that holds it. Line ends at the end of that file are dropped. To set both is a mistake.
- **File.** TOML. Its path is given with ` + "`--config FILE`" + ` or ` + "`SALLYPORT_CONFIG`" + `; without them no file is read. ` + "`sallyport config init`" + ` writes one with every key and its default.

` + "```toml" + `
listen = "0.0.0.0:8080"
base_url = "https://id.example.com"
registration = "closed"

[tokens]
access_ttl = "10m"

[password]
memory = 47104
time = 1
` + "```" + `

Values are texts, whole numbers, true or false, or lists of texts. In the environment and in ` + "`--set`" + ` a list is separated by commas. A duration is a number with a unit: ` + "`90s`, `15m`, `24h`" + `.

All mistakes are reported at once, each with the key, the value, where it came from and what would be right; the exit code is 2. A key that does not exist is a mistake, also in the environment; variables that begin with ` + "`SALLYPORT_TEST_`" + ` are not looked at. Values of keys that may hold a secret are never shown.

` + "```sh" + `
sallyport config validate --config sallyport.toml
sallyport config explain tokens.access_ttl
sallyport config print --json
` + "```" + `

Library users set the same things in ` + "`server.Config`" + `, whose fields say their defaults and bounds; files and the environment are the command's alone.

## Keys

| Key | Environment | Flag | Default | Takes | What it does |
|---|---|---|---|---|---|
`

const configurationTail = `
` + "`smtp.url`" + ` and the keys of mail: see [mail.md](mail.md).

` + "`keys.master`" + ` names a file in a flag or a file, and is the key itself in ` + "`SALLYPORT_KEYS_MASTER`" + ` (or in the file that ` + "`SALLYPORT_KEYS_MASTER_FILE`" + ` names). See [keys.md](keys.md).

` + "`tokens.secret`" + ` is not taken as an argument. The first process that starts with it makes it the key that signs; ` + "`keys.rotate_every`" + ` cannot stand beside it. See [keys.md](keys.md#a-secret-of-your-own).

` + "`auth.api_keys`" + ` holds digests and no keys. See [api-keys.md](api-keys.md#keys-of-the-configuration), also for what the other two places of a key cost.

` + "`password.memory` and `password.time`" + ` together must not be below OWASP's floor: 47104 KiB with 1 pass, 19456 with 2, 12288 with 3, 9216 with 4, 8192 with 5 or more. See [passwords.md](passwords.md).

` + "`registration = \"invite\"`" + ` lets accounts be made by who may write them, with a password or by invitation; ` + "`closed`" + ` with a password alone. See [account-life.md](account-life.md#who-may-register).

` + "`tls.cert` and `tls.acme`" + ` exclude each other; either makes ` + "`listen`" + ` a listener with TLS, and then ` + "`base_url`" + ` begins with https://. To set ` + "`tls.acme`" + ` is to accept the authority's terms of service. ` + "`proxy.protocol`" + ` needs ` + "`proxy.trusted`" + `. See [https.md](https.md).

` + "`base_url`" + ` is the issuer and the audience of access tokens. Changing it makes those that are out worthless; sessions and refresh tokens live on.
`

// configurationPage renders the page.
func configurationPage() []byte {
	code := func(s string) string {
		if s == "" {
			return "–"
		}
		return "`" + s + "`"
	}
	var b bytes.Buffer
	b.WriteString(configurationHead)
	for _, k := range keys {
		flagName := ""
		if k.flag != "" {
			flagName = "--" + k.flag
		}
		cells := []string{code(k.name), code(k.env()), code(flagName), code(k.def), k.bounds, k.doc}
		for i := range cells {
			cells[i] = strings.ReplaceAll(cells[i], "|", `\|`)
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	b.WriteString(configurationTail)
	return b.Bytes()
}

var fencedBlock = regexp.MustCompile("(?ms)^```(sh|toml)\n(.*?)^```$")

// docPages returns the pages, and README.md if it is there.
func docPages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(docsFolder, "*.md"))
	if err != nil || len(files) < 10 {
		t.Fatalf("%d pages: %v", len(files), err)
	}
	out := map[string]string{}
	for _, f := range append(files, filepath.Join(docsFolder, "..", "README.md")) {
		b, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) && filepath.Base(filepath.Dir(f)) != "docs" {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		out[f] = string(b)
	}
	return out
}

// TestCommandsInThePages has the real parser read every “sallyport …” of the
// pages, and looks up every configuration key.
func TestCommandsInThePages(t *testing.T) {
	texts := docPages(t)
	n := 0
	for _, file := range slices.Sorted(maps.Keys(texts)) {
		for _, m := range fencedBlock.FindAllStringSubmatch(texts[file], -1) {
			if m[1] == "toml" {
				var err error
				switch {
				case strings.HasPrefix(m[2], "[[case]]"): // of policy test
					_, err = parseTable(m[2])
				case strings.HasPrefix(m[2], "[[credentials]]"): // of prove
					_, err = parseGiven([]byte(m[2]))
				default:
					err = checkTOML(m[2])
				}
				if err != nil {
					t.Errorf("%s: %v", file, err)
				}
				continue
			}
			for _, words := range commandsIn(m[2]) {
				n++
				if err := checkCommand(words); err != nil {
					t.Errorf("%s: sallyport %s: %v", file, strings.Join(words, " "), err)
				}
			}
		}
	}
	if n < 30 {
		t.Errorf("only %d commands were found in the pages: the search misses some", n)
	}
}

func checkTOML(text string) error {
	var tree map[string]any
	if _, err := toml.Decode(text, &tree); err != nil {
		return err
	}
	values := map[string]string{}
	errs := flatten(values, "", tree)
	for _, name := range sortedKeys(values) {
		k, ok := keyNamed(name)
		if !ok {
			errs = append(errs, fmt.Errorf("there is no key %s", name))
			continue
		}
		if err := k.mistake(value{values[name], "file"}); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// checkCommand parses the words as the command line does, and nothing more.
func checkCommand(words []string) (err error) {
	var c cli
	helped := false
	parser, err := kong.New(&c, kong.Name("sallyport"), kong.Writers(new(bytes.Buffer), new(bytes.Buffer)),
		kong.Exit(func(int) { helped = true; panic(helpShown{}) }))
	if err != nil {
		return err
	}
	_, err = parse(parser, words, &helped)
	if helped {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range sortedKeys(c.Set) {
		k, ok := keyNamed(name)
		if !ok {
			errs = append(errs, fmt.Errorf("there is no key %s", name))
		} else if err := k.mistake(value{c.Set[name], "flag --set"}); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// commandsIn returns the arguments of every sallyport command of a shell
// script, as far as pages use the shell: quotes, pipes, lists, substitutions,
// variables, comments, redirections, and lines that go on.
func commandsIn(script string) (found [][]string) {
	script = strings.ReplaceAll(script, "\\\n", " ")
	for line := range strings.Lines(script) {
		for _, words := range simpleCommands(line) {
			for len(words) > 0 && (strings.Contains(words[0], "=") || words[0] == "sudo" || words[0] == "exec" || words[0] == "env") {
				words = words[1:]
				if len(words) > 1 && words[0] == "-u" { // of sudo
					words = words[2:]
				}
			}
			switch {
			case len(words) > 0 && filepath.Base(words[0]) == "sallyport":
				found = append(found, words[1:])
			case len(words) > 2 && words[0] == "go" && words[1] == "run" && words[2] == "./cmd/sallyport":
				found = append(found, words[3:])
			}
		}
	}
	return found
}

// simpleCommands splits a line.
func simpleCommands(line string) (commands [][]string) {
	var words []string
	var word strings.Builder
	inWord, skip := false, false // skip: the word after a redirection
	quote := rune(0)
	endWord := func() {
		if inWord && !skip {
			words = append(words, word.String())
		}
		if inWord {
			skip = false
		}
		word.Reset()
		inWord = false
	}
	endCommand := func() {
		endWord()
		if len(words) > 0 {
			commands = append(commands, words)
		}
		words, skip = nil, false
	}
	previous := rune(0)
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == '"' && previous == '$' && c == '(': // a substitution begins a command of its own
			quote = 0
			endCommand()
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case c == '#' && !inWord:
			endCommand()
			return commands
		case c == '|' || c == '&' || c == ';' || c == '(' || c == ')' || c == '\n':
			endCommand()
		case c == '>' || c == '<':
			endWord()
			skip = true
		case c == ' ' || c == '\t':
			endWord()
		default:
			word.WriteRune(c)
			inWord = true
		}
		previous = c
	}
	endCommand()
	return commands
}

func TestCommandsIn(t *testing.T) {
	tests := []struct {
		script string
		want   string // commands, separated by “; ”, words by “|”
	}{
		{"sallyport serve --listen 127.0.0.1:0", "serve|--listen|127.0.0.1:0"},
		{"./bin/sallyport user \\\n  list", "user|list"},
		{"go run ./cmd/sallyport serve   # listens", "serve"},
		{"SALLYPORT_DEV=true sallyport serve", "serve"},
		{"sudo -u sallyport sallyport key list", "key|list"},
		{"printf '%s\\n' \"$PASSWORD\" | sallyport user set ada --password-stdin", "user|set|ada|--password-stdin"},
		{"sallyport key list && sallyport key rotate; sallyport routes > routes.txt", "key|list; key|rotate; routes"},
		{"sallyport role set x --description 'it | is'", "role|set|x|--description|it | is"},
		{"kid=$(sallyport key list --json)", "key|list|--json"},
		{"# sallyport nonsense", ""},
		{"curl http://127.0.0.1:8080/sallyport", ""},
	}
	for _, tt := range tests {
		var got []string
		for _, words := range commandsIn(tt.script) {
			got = append(got, strings.Join(words, "|"))
		}
		if s := strings.Join(got, "; "); s != tt.want {
			t.Errorf("%q: got %q, want %q", tt.script, s, tt.want)
		}
	}
	for words, ok := range map[string]bool{
		"serve": true, "serve --set tokens.access_ttl=5m": true, "user list --help": true,
		"server": false, "serve --port 1": false, "user get": false, "serve --set tokens.ttl=5m": false, "serve --set tokens.access_ttl=5": false,
	} {
		if err := checkCommand(strings.Fields(words)); (err == nil) != ok {
			t.Errorf("sallyport %s: got %v, want accepted: %v", words, err, ok)
		}
	}
	for text, ok := range map[string]bool{
		"listen = \":80\"": true, "[tokens]\naccess_ttl = \"1h\"": true, "lisen = \":80\"": false, "[tokens]\naccess_ttl = \"1\"": false,
	} {
		if err := checkTOML(text); (err == nil) != ok {
			t.Errorf("%q: got %v, want accepted: %v", text, err, ok)
		}
	}
}

// TestNginxOfThePages keeps the lines for nginx what TestQ_BehindNginx runs.
func TestNginxOfThePages(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(docsFolder, "proxies.md"))
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^\tproxy_set_header .*$`).FindAllString(string(b), -1)
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	if got := strings.Join(lines, "\n\t\t\t"); got != asDocumented {
		t.Errorf("docs/proxies.md has\n%s\nand what is tested is\n%s", got, asDocumented)
	}
	if !closesQuestions.Match(b) {
		t.Error("docs/proxies.md lets clients of nginx ask as proxies do")
	}
}

// TestCommandLinePage keeps docs/command-line.md complete: a section for every
// command, with every argument and flag, and nothing that does not exist.
func TestCommandLinePage(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(docsFolder, "command-line.md"))
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, part := range strings.Split(string(b), "\n### ")[1:] {
		name, text, _ := strings.Cut(part, "\n")
		text, _, _ = strings.Cut(text, "\n## ")
		sections[strings.Trim(name, "`")] = text
	}
	var c cli
	parser, err := kong.New(&c, kong.Name("sallyport"))
	if err != nil {
		t.Fatal(err)
	}
	common, _, _ := strings.Cut(string(b), "\n### ")
	for _, f := range parser.Model.Flags {
		if !strings.Contains(common, "`--"+f.Name) && f.Name != "help" {
			t.Errorf("docs/command-line.md does not name --%s among the flags of all commands", f.Name)
		}
	}
	known := map[string]bool{}
	for _, leaf := range parser.Model.Leaves(true) {
		name := strings.TrimPrefix(leaf.FullPath(), "sallyport ")
		known[name] = true
		text, ok := sections[name]
		if !ok {
			t.Errorf("docs/command-line.md has no section ### `%s`", name)
			continue
		}
		if !strings.Contains(text, "sallyport "+name) {
			t.Errorf("docs/command-line.md: section %s has no example", name)
		}
		flags := map[string]bool{}
		for n := leaf; n != nil; n = n.Parent {
			for _, f := range n.Flags {
				flags[f.Name] = true
				if n == leaf && !strings.Contains(text, "`--"+f.Name) {
					t.Errorf("docs/command-line.md: section %s does not name --%s", name, f.Name)
				}
			}
		}
		for _, m := range regexp.MustCompile("`--([a-z-]+)").FindAllStringSubmatch(text, -1) {
			if !flags[m[1]] && !flags[strings.TrimPrefix(m[1], "no-")] {
				t.Errorf("docs/command-line.md: section %s names --%s, which the command does not have", name, m[1])
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		if !known[name] {
			t.Errorf("docs/command-line.md has a section of the command %q, which there is not", name)
		}
	}
}
