package main

import (
	"cmp"
	"embed"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"text/template"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/forward"
	"github.com/sallyport/sallyport/server"
)

//go:embed snippets
var snippets embed.FS

// snippetFiles are what there is, by name.
var snippetFiles = map[string]string{
	"fastapi": "fastapi.py", "express": "express.mjs",
	"nginx": "nginx.conf", "caddy": "Caddyfile", "traefik": "traefik.yaml", "envoy": "envoy.yaml",
}

type snippetCmd struct {
	Name     string `arg:"" enum:"fastapi,express,nginx,caddy,traefik,envoy" help:"One of: ${enum}."`
	URL      string `help:"Where the piece reaches this server; the default is base_url." placeholder:"URL"`
	Require  string `help:"Rule that requests must meet, as “sallyport routes” prints rules; for fastapi and express a scope." placeholder:"RULE"`
	Upstream string `help:"The service that a proxy protects; the default is http://127.0.0.1:9000." placeholder:"URL"`
	Site     string `help:"Where clients reach that service; the default is base_url, so that a browser's session is good there." placeholder:"URL"`
}

// snippet is what the files are filled with.
type snippet struct {
	URL, Issuer, Site, Upstream string
	URLPath                     string
	Host, Port, Authority       string // of Site
	TLS, URLTLS, Same           bool   // Same: the server is reached at Site, too
	Require, RequireQuery       string
	Scope                       string
	Identity                    []string
	Variables                   []struct{ Name, Header string }
	App, Sallyport              endpoint
}

// endpoint is what Envoy connects to.
type endpoint struct {
	Name, Host, Port string
	TLS              bool
}

// Run prints a piece for another language or proxy.
func (c snippetCmd) Run(a *app) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	base := s.baseURL()
	if c.URL != "" && !s.isSet("base_url") && !s.isSet("listen") {
		base = c.URL // nobody has said that it is another
	}
	f := snippet{Issuer: base, URL: cmp.Or(c.URL, base), Site: cmp.Or(c.Site, base), Upstream: cmp.Or(c.Upstream, "http://127.0.0.1:9000"), Identity: forward.IdentityHeaders}
	for flag, address := range map[string]string{"url": f.URL, "site": f.Site, "upstream": f.Upstream, "base-url": base} {
		if err := checkAddress(address, flag == "url" || flag == "base-url"); err != nil {
			return &errUsage{fmt.Errorf("--%s %s: %w", flag, address, err)}
		}
	}
	if err := f.require(c.Name, c.Require); err != nil {
		return &errUsage{fmt.Errorf("--require %s: %w", c.Require, err)}
	}
	site, _ := url.Parse(f.Site) // checked
	f.Host, f.Authority, f.TLS, f.Same = site.Hostname(), site.Host, site.Scheme == "https", f.Site == base
	f.Port = portOf(site)
	f.URLTLS = strings.HasPrefix(f.URL, "https:")
	own, _ := url.Parse(f.URL)
	f.URLPath, f.Sallyport = own.Path, endpoint{"sallyport", own.Hostname(), portOf(own), f.URLTLS}
	up, _ := url.Parse(f.Upstream)
	f.App = endpoint{"app", up.Hostname(), portOf(up), up.Scheme == "https"}
	for _, header := range append(append([]string{}, f.Identity...), forward.SignInHeader, forward.CodeHeader, forward.DecisionHeader, server.StatusHeader, "Retry-After") {
		f.Variables = append(f.Variables, struct{ Name, Header string }{variable(header), strings.ReplaceAll(strings.ToLower(header), "-", "_")})
	}
	text, err := f.fill(snippetFiles[c.Name])
	if err != nil {
		return err
	}
	if a.g.JSON {
		return a.data("snippet/v1", map[string]string{"name": c.Name, "file": snippetFiles[c.Name], "text": text})
	}
	_, err = fmt.Fprint(a.stdout, text)
	return err
}

// require sets what requests must meet.
func (f *snippet) require(name, text string) error {
	if name == "fastapi" || name == "express" {
		f.Scope = cmp.Or(text, "read:items")
		if err := sallyport.CheckName(f.Scope); err != nil {
			return fmt.Errorf("it must be one scope here, such as read:items: %w", err)
		}
		return nil
	}
	rule := sallyport.SignedIn()
	if text != "" {
		var err error
		if rule, err = sallyport.ParseRule(text); err != nil {
			return err
		}
	}
	for value := range rule.Values {
		return fmt.Errorf("it names the path value %q, and the service's paths have no names for Sallyport", value)
	}
	f.Require, f.RequireQuery = rule.String(), url.QueryEscape(rule.String())
	return nil
}

// plainAddress are addresses that no language of the files reads as something else.
var plainAddress = regexp.MustCompile(`^https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?$`)

func checkAddress(s string, path bool) error {
	u, err := url.Parse(s)
	if err != nil || server.CheckBaseURL(s) != nil || !plainAddress.MatchString(s) || u.Path != "" && !path {
		return fmt.Errorf("write it as http://host:port or https://host, without anything after it")
	}
	return nil
}

func portOf(u *url.URL) string {
	if port := u.Port(); port != "" {
		return port
	}
	return strconv.Itoa(map[bool]int{true: 443, false: 80}[u.Scheme == "https"])
}

// variable is the name of nginx's variable for a header.
func variable(header string) string {
	return "sallyport_" + strings.TrimPrefix(strings.ReplaceAll(strings.ToLower(header), "-", "_"), "x_sallyport_")
}

// underscores returns every way to write a header with underscores for hyphens.
func underscores(header string) []string {
	first, rest, ok := strings.Cut(header, "-")
	if !ok {
		return nil
	}
	out := []string{first + "_" + rest}
	for _, s := range underscores(rest) {
		out = append(out, first+"-"+s, first+"_"+s)
	}
	return out
}

func (f *snippet) fill(file string) (string, error) {
	t, err := template.New(file).Funcs(template.FuncMap{
		"join": strings.Join, "lower": strings.ToLower, "variable": variable,
		"underscores": underscores,
	}).ParseFS(snippets, "snippets/"+file)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Execute(&b, f)
	return b.String(), err
}
