package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/guard/https"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/sqlite"
)

const maxHashFile = 64 << 10

// lineOf reads the first line of a file, or of standard input for “-”.
func (a *app) lineOf(path string) (string, error) {
	if path != "-" {
		return readLineOf(path)
	}
	b, err := io.ReadAll(io.LimitReader(a.stdin, maxHashFile))
	if err != nil {
		return "", err
	}
	return firstLine(b)
}

func readLineOf(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return firstLine(b)
}

type routesCmd struct{}

// Run lists what the server would enforce. It needs no database of its own.
func (routesCmd) Run(a *app) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	return a.scratch(s, func(o *opened) error {
		routes := o.Routes().Routes()
		all := []sallyport.Limit{} // beside those of routes
		if rate := s.text("limits.default"); rate != server.LimitOff {
			all = append(all, sallyport.Limit{Rate: rate, By: sallyport.ByAddress, Name: "all"})
		}
		return a.answer("routes/v1", map[string]any{"items": routes, "all_routes": all}, func(w io.Writer) {
			fmt.Fprintln(w, "METHOD\tPATH\tRULE\tLIMITS")
			for _, r := range routes {
				var limits []string
				for _, l := range r.Limits {
					limits = append(limits, l.String())
				}
				rule := r.Rule.String()
				if r.Setup {
					rule += " +setup"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Method, r.Path, rule, cmp.Or(strings.Join(limits, ", "), "-"))
			}
			for _, l := range all {
				fmt.Fprintf(w, "*\t*\t-\t%s\n", l)
			}
		})
	})
}

// scratch runs f on a new database that is removed afterwards.
func (a *app) scratch(s settings, f func(o *opened) error) (err error) {
	dir, err := os.MkdirTemp("", "sallyport-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d, err := sqlite.Open(filepath.Join(dir, "scratch.db"))
	if err != nil {
		return err
	}
	s = maps.Clone(s)
	s["keys.master"] = value{"", "default"}
	s["data_dir"] = value{dir, "default"}
	sv, err := a.newServer(context.Background(), s, d, slog.New(slog.DiscardHandler)) // its writes are done, dry run or not
	if err != nil {
		return errors.Join(err, d.Close())
	}
	o := &opened{sv, d, true}
	defer o.Close()
	return f(o)
}

type healthcheckCmd struct {
	URL string `help:"Base URL to ask; the default follows from the configuration." placeholder:"URL"`
}

func (c healthcheckCmd) Run(a *app) error {
	client := &http.Client{Timeout: 5 * time.Second}
	if c.URL == "" {
		s, err := a.settings()
		if err != nil {
			return err
		}
		// Ask the process itself, not what stands before it.
		if client.Transport, err = itself(s); err != nil {
			return err
		}
		s["base_url"] = value{"", "default"}
		c.URL = s.baseURL()
	}
	req, err := http.NewRequestWithContext(a.ctx, http.MethodGet, strings.TrimSuffix(c.URL, "/")+"/readyz", nil)
	if err != nil {
		return &errUsage{err}
	}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%s is %w: %w. Check that the server runs and the address is right", c.URL, errUnreachable, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s is not ready: it answers %s. %s/readyz?verbose says which check fails", c.URL, res.Status, c.URL)
	}
	return a.answer("health/v1", map[string]string{"status": "ok", "url": c.URL}, func(w io.Writer) { fmt.Fprintln(w, "ok") })
}

type versionCmd struct{}

func (versionCmd) Run(a *app) error {
	v := map[string]string{"version": version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
	return a.answer("version/v1", v, func(w io.Writer) {
		fmt.Fprintf(w, "sallyport %s (%s, %s)\n", v["version"], v["go"], v["platform"])
	})
}

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

var completions = map[string]string{
	"bash": `_sallyport() {
  local IFS=$'\n'
  COMPREPLY=($(compgen -W "$(sallyport __complete -- "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _sallyport sallyport
`,
	"zsh": `#compdef sallyport
_sallyport() {
  local -a words_found
  words_found=(${(f)"$(sallyport __complete -- "${(@)words[2,CURRENT-1]}" 2>/dev/null)"})
  compadd -a words_found
}
compdef _sallyport sallyport
`,
	"fish": `complete -c sallyport -f -a '(sallyport __complete -- (commandline -opc)[2..-1] 2>/dev/null)'
`,
}

func (c completionCmd) Run(a *app) error {
	_, err := io.WriteString(a.stdout, completions[c.Shell])
	return err
}

// completeCmd prints what may stand after the given words.
type completeCmd struct {
	Words []string `arg:"" optional:""`
}

func (c completeCmd) Run(a *app) error {
	node := a.model.Node
	for _, word := range c.Words {
		if i := slices.IndexFunc(node.Children, func(n *kong.Node) bool { return n.Name == word }); i >= 0 {
			node = node.Children[i]
		}
	}
	for _, n := range node.Children {
		if !n.Hidden {
			fmt.Fprintln(a.stdout, n.Name)
		}
	}
	for n := node; n != nil; n = n.Parent {
		for _, f := range n.Flags {
			if !f.Hidden {
				fmt.Fprintln(a.stdout, "--"+f.Name)
			}
		}
	}
	return nil
}

type configCmd struct {
	Init     configInitCmd     `cmd:"" help:"Write a configuration file with every key and its default."`
	Validate configValidateCmd `cmd:"" help:"Check the configuration and list every mistake."`
	Explain  configExplainCmd  `cmd:"" help:"Say what a key does and where its value comes from."`
	Print    configPrintCmd    `cmd:"" help:"Print the whole configuration, secrets left out."`
}

type configInitCmd struct {
	Path string `arg:"" optional:"" default:"sallyport.toml" help:"File to write; “-” for standard output."`
}

func (c configInitCmd) Run(a *app) error {
	text := configTemplate()
	if c.Path == "-" {
		_, err := io.WriteString(a.stdout, text)
		return err
	}
	if a.g.DryRun {
		if _, err := os.Lstat(c.Path); err == nil {
			return &errUsage{fmt.Errorf("%s: there is a file already, and it would not be replaced", c.Path)}
		}
		a.done("wrote %s", c.Path)
		return nil
	}
	f, err := os.OpenFile(c.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return &errUsage{fmt.Errorf("%s: there is a file already, and it is not replaced: give another path, or “-” for standard output", c.Path)}
	}
	if err != nil {
		return &errUsage{err}
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	a.done("wrote %s", c.Path)
	return a.data("config_file/v1", map[string]string{"path": c.Path})
}

// configTemplate is a file in which every key stands as a comment.
func configTemplate() string {
	var b strings.Builder
	b.WriteString("# Sallyport. Every key with its default; remove the # to change one.\n")
	section := ""
	for _, k := range keys {
		name := k.name
		if s, rest, ok := strings.Cut(name, "."); ok {
			if s != section {
				section = s
				fmt.Fprintf(&b, "\n[%s]\n", s)
			}
			name = rest
		}
		fmt.Fprintf(&b, "\n# %s\n# It takes: %s.\n", k.doc, k.bounds)
		fmt.Fprintf(&b, "# %s = %q\n", name, k.def)
	}
	return b.String()
}

type configValidateCmd struct{}

func (configValidateCmd) Run(a *app) error {
	s, err := a.settings(tlsFiles)
	if err != nil {
		return err
	}
	if _, err := loadTLS(s, func(e https.Event) { a.info("warning: %s: %s.", e.Pair.Cert, e) }); err != nil {
		return err
	}
	a.info("the configuration is valid")
	return a.data("config_validation/v1", map[string]bool{"valid": true})
}

type configExplainCmd struct {
	Key string `arg:"" help:"Name of the key, for example tokens.access_ttl."`
}

type explained struct {
	Key         string `json:"key"`
	Environment string `json:"environment"`
	Flag        string `json:"flag,omitempty"`
	Description string `json:"description"`
	Takes       string `json:"takes"`
	Default     string `json:"default"`
	Value       string `json:"value"`
	Source      string `json:"source"`
}

func explain(k key, s settings) explained {
	e := explained{
		Key: k.name, Environment: k.env(), Description: k.doc, Takes: k.bounds, Default: k.def,
		Value: s.text(k.name), Source: s[k.name].source,
	}
	if k.flag != "" {
		e.Flag = "--" + k.flag
	}
	if e.Value != "" && (k.secret || k.name == "keys.master" && strings.HasPrefix(e.Source, "environment")) {
		e.Value = "(not shown)"
	}
	return e
}

func (c configExplainCmd) Run(a *app) error {
	k, ok := keyNamed(c.Key)
	if !ok {
		return &errUsage{unknownKey(c.Key, "as the argument")}
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	e := explain(k, s)
	return a.answer("config_key/v1", e, func(w io.Writer) {
		fmt.Fprintf(w, "%s\n\n", e.Description)
		for _, line := range [][2]string{
			{"takes", e.Takes},
			{"default", e.Default},
			{"environment", e.Environment},
			{"flag", e.Flag},
			{"value", e.Value},
			{"from", e.Source},
		} {
			if line[1] != "" {
				fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
			}
		}
	})
}

type configPrintCmd struct{}

func (configPrintCmd) Run(a *app) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	all := make([]explained, 0, len(keys))
	for _, k := range keys {
		all = append(all, explain(k, s))
	}
	return a.answer("config/v1", all, func(w io.Writer) {
		fmt.Fprintln(w, "KEY\tVALUE\tFROM")
		for _, e := range all {
			fmt.Fprintf(w, "%s\t%s\t%s\n", e.Key, e.Value, e.Source)
		}
	})
}
