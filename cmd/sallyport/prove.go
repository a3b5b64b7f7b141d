package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/oauth"
	"github.com/sallyport/sallyport/prove"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/store/sqlite"
)

type proveCmd struct {
	URL          string   `required:"" help:"Base URL of the server." placeholder:"URL"`
	OpenAPI      string   `name:"openapi" help:"The OpenAPI document, in JSON; default: openapi.json at the URL." placeholder:"URL|FILE"`
	TokenFile    string   `name:"token-file" help:"Credentials to use, in TOML or JSON, in place of principals made in the database." placeholder:"FILE"`
	Routes       string   `help:"The server's own list of routes (sallyport routes --json), to compare with the document." placeholder:"FILE"`
	Undocumented []string `help:"Route, such as “GET /healthz”, that is meant not to be documented; may be repeated." placeholder:"ROUTE"`
	Call         []string `help:"Operation, such as “POST /logout”, that may be called although nothing would stop it; may be repeated." placeholder:"OPERATION"`
}

// proofView is what prove prints with --json.
type proofView struct {
	URL string `json:"url"`
	prove.Report
	// Declared is how many operations the document has.
	Declared int `json:"declared"`
}

// Run compares what a server enforces with what its document declares.
func (c proveCmd) Run(a *app) error {
	base, err := url.Parse(c.URL)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return &errUsage{fmt.Errorf("--url %q: write it as https://host or http://host:port, with the path that the server is mounted under, if any", printable(c.URL))}
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	base.Path = strings.TrimSuffix(base.Path, "/")
	d, err := c.document(a, base)
	if err != nil {
		return err
	}
	at := operationsAt(base, d)
	told := false
	r := &prove.Runner{Base: at, Transport: proveTransport(), Told: func(wait time.Duration) {
		if told && wait < 10*time.Second {
			return
		}
		told = true
		a.info("the server's limits refuse requests of this address: waiting %v. An own server can be run with limits.default = off and limits.login = off for this.", wait)
	}}
	var differences []prove.Difference
	if c.Routes != "" {
		if differences, err = c.compare(d); err != nil {
			return err
		}
	}
	opt := prove.Options{Harmless: c.Call, Sparing: s.text("limits.login") != "off" && s.text("limits.guesses") != "off"}
	finish := func(cases []prove.Case, left []prove.Untried) error {
		return c.finish(a, r, d, cases, left, differences)
	}
	if c.TokenFile != "" {
		if opt.Given, err = c.given(a, d); err != nil {
			return err
		}
		inClear(a, at)
		return finish(prove.Plan(d, opt))
	}
	own := s.isSet("data_dir") || s.isSet("database")
	if !own && (!d.Sallyport || !sqlite.Exists(sqliteFile(s))) || !d.Sallyport {
		a.info("There is no database of this server here (--data, --database) and no --token-file: only nobody, and credentials that are not good, are tried.")
		return finish(prove.Plan(d, opt))
	}
	inClear(a, at)
	return c.withOwn(a, s, base, func(p *principals) error {
		if c.Routes == "" {
			if differences, err = p.unlisted(d); err != nil {
				return err
			}
		}
		demanded := s.list("auth.mfa_required")
		opt.Demanded, opt.Strong = slices.Contains(demanded, authn.Everybody), len(demanded) > 0
		opt.Make, opt.Implied, opt.Exists = p.schemes(d), p.implied, p.exists
		cases, left := prove.Plan(d, opt)
		r.Maker = p
		if !a.g.DryRun {
			known, err := r.Known(a.ctx, d, cases)
			if err != nil {
				return proveError(err)
			}
			if !known {
				return &errUsage{fmt.Errorf("the server at %s does not know a session of this database. Name the database that it runs on (--data, --database, --config)", base)}
			}
		}
		return finish(cases, left)
	})
}

// finish makes the calls and says what came of them.
func (c proveCmd) finish(a *app, r *prove.Runner, d *prove.Document, cases []prove.Case, left []prove.Untried, differences []prove.Difference) error {
	if a.g.DryRun {
		return planned(a, cases, left)
	}
	rep, err := r.Run(a.ctx, d, cases)
	if err != nil {
		return proveError(err)
	}
	rep.Merge(differences, left)
	err = a.answer("proof/v1", proofView{c.URL, rep, len(d.Operations)}, func(w io.Writer) {
		if len(rep.Differences) > 0 {
			fmt.Fprintln(w, "OPERATION\tPRINCIPAL\tEXPECTED\tGOT\tMEANS")
		}
		for _, x := range rep.Differences {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", printable(x.Operation), printable(x.Principal), x.Expected, printable(x.Got), printable(x.Means))
		}
		if len(rep.Untried) > 0 {
			fmt.Fprintln(w, "NOT TRIED\tPRINCIPAL\tWHY")
		}
		for _, x := range rep.Untried {
			fmt.Fprintf(w, "%s\t%s\t%s\n", printable(x.Operation), printable(cmp.Or(x.Principal, "-")), printable(x.Why))
		}
		fmt.Fprintf(w, "%d of %d operations, %d calls, %d of them let in as declared: %d differences, %d not tried\n",
			rep.Operations, len(d.Operations), rep.Calls, rep.Admitted, len(rep.Differences), len(rep.Untried))
	})
	switch {
	case err != nil:
		return err
	case len(rep.Differences) > 0:
		return errSilent
	case len(rep.Untried) > 0:
		return errPartly
	}
	return nil
}

// planned prints the calls that would be made.
func planned(a *app, cases []prove.Case, left []prove.Untried) error {
	type call struct {
		Operation string `json:"operation"`
		Principal string `json:"principal"`
		Expected  string `json:"expected"`
	}
	calls := make([]call, 0, len(cases))
	for _, x := range cases {
		calls = append(calls, call{x.Op.Name(), x.Principal, x.Expected.String()})
	}
	if left == nil {
		left = []prove.Untried{}
	}
	a.done("made %d calls, and left %d operations out", len(calls), len(left))
	return a.answer("proof_plan/v1", map[string]any{"calls": calls, "not_tried": left}, func(w io.Writer) {
		fmt.Fprintln(w, "OPERATION\tPRINCIPAL\tEXPECTED")
		for _, x := range calls {
			fmt.Fprintf(w, "%s\t%s\t%s\n", printable(x.Operation), printable(x.Principal), x.Expected)
		}
	})
}

func proveError(err error) error {
	if errors.Is(err, prove.ErrUnreachable) {
		return fmt.Errorf("%w: %w. Check that the server runs and the address is right", errUnreachable, err)
	}
	return err
}

func proveTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil // credentials go to the server, and to nobody on the way
	return t
}

// inClear warns where what is sent can be read on the way.
func inClear(a *app, at *url.URL) {
	if at.Scheme == "http" && !onThisMachine(at.Hostname()) {
		a.info("warning: the credentials go to %s in clear", at)
	}
}

// document reads the OpenAPI document.
func (c proveCmd) document(a *app, base *url.URL) (*prove.Document, error) {
	from := c.OpenAPI
	if from == "" {
		from = base.String() + "/openapi.json"
	}
	var in io.Reader
	if strings.HasPrefix(from, "http://") || strings.HasPrefix(from, "https://") {
		res, err := fetch(a.ctx, from)
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		in = res.Body
	} else {
		f, err := os.Open(from)
		if err != nil {
			return nil, &errUsage{fmt.Errorf("--openapi: %w", err)}
		}
		defer f.Close()
		in = f
	}
	d, err := prove.ReadDocument(in)
	if err != nil {
		return nil, &errUsage{fmt.Errorf("%s: %w. Say where the server's OpenAPI document is: --openapi URL or FILE", from, err)}
	}
	return d, nil
}

// fetch asks for a document, without credentials.
func fetch(ctx context.Context, address string) (*http.Response, error) {
	client := &http.Client{Timeout: 20 * time.Second, Transport: proveTransport(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, &errUsage{err}
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s is %w: %w. Check that the server runs and the address is right", address, errUnreachable, err)
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("%s answers %s: there is no OpenAPI document. Say where it is: --openapi URL or FILE", address, res.Status)
	}
	return res, nil
}

// operationsAt is what the paths of the document stand under: its server, if that
// is of the given origin, or else the given URL.
func operationsAt(base *url.URL, d *prove.Document) *url.URL {
	if d.Server == "" {
		return base
	}
	u, err := base.Parse(d.Server)
	if err != nil || u.Scheme != base.Scheme || u.Host != base.Host || u.User != nil {
		return base // another server: credentials go to the origin that was given
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, "/")}
}

// compare holds the list of --routes against the document.
func (c proveCmd) compare(d *prove.Document) ([]prove.Difference, error) {
	f, err := os.Open(c.Routes)
	if err != nil {
		return nil, &errUsage{fmt.Errorf("--routes: %w", err)}
	}
	defer f.Close()
	routes, err := prove.ReadRoutes(f)
	if err != nil {
		return nil, &errUsage{fmt.Errorf("--routes %s: %w", c.Routes, err)}
	}
	return prove.CompareRoutes(d, routes, slices.Concat(undocumented, c.Undocumented)), nil
}

// undocumented are the server's routes that are no operations: pages for people,
// what they load, and what proxies ask.
var undocumented = []string{
	"GET /.well-known/change-password", "GET /account/assets/{file}",
	"GET /account/forgot", "POST /account/forgot", "GET /account/invitation", "POST /account/invitation",
	"GET /account/link", "POST /account/link", "GET /account/password", "POST /account/password",
	"GET /account/request-link", "POST /account/request-link", "GET /account/reset", "POST /account/reset",
	"GET /account/second-factor", "POST /account/second-factor", "GET /account/sign-in", "POST /account/sign-in",
	"POST /account/sign-out", "GET /account/verify", "POST /account/verify", "GET /account/{$}", "GET /account/{rest...}",
	"GET /console/setup", "POST /console/setup", "GET /docs", "GET /docs/{file}", "GET /dev/inbox", "GET /dev/inbox/{id}",
	"GET /forward-auth/nginx", "GET /forward-auth/traefik", "GET /forward-auth/caddy",
	"GET /forward-auth/envoy/{path...}", "POST /forward-auth/envoy/{path...}", "PUT /forward-auth/envoy/{path...}",
	"PATCH /forward-auth/envoy/{path...}", "DELETE /forward-auth/envoy/{path...}", "OPTIONS /forward-auth/envoy/{path...}",
}

// given reads --token-file.
func (c proveCmd) given(a *app, d *prove.Document) ([]prove.Given, error) {
	bad := func(err error) error { return &errUsage{fmt.Errorf("--token-file %s: %w", c.TokenFile, err)} }
	in := a.stdin
	if c.TokenFile != "-" {
		f, err := os.Open(c.TokenFile)
		if err != nil {
			return nil, &errUsage{fmt.Errorf("--token-file: %w", err)}
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, prove.MaxTokenFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > prove.MaxTokenFile {
		return nil, bad(fmt.Errorf("it is longer than %d bytes", prove.MaxTokenFile))
	}
	file, err := parseGiven(b)
	if err != nil {
		return nil, bad(err)
	}
	out, err := file.Given(d, time.Now())
	if err != nil {
		return nil, bad(err)
	}
	return out, nil
}

// parseGiven reads what a --token-file holds.
func parseGiven(b []byte) (file prove.GivenFile, err error) {
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.DisallowUnknownFields()
		return file, dec.Decode(&file)
	}
	meta, err := toml.Decode(string(b), &file)
	if err == nil && len(meta.Undecoded()) > 0 {
		err = fmt.Errorf("%s is not known", meta.Undecoded()[0])
	}
	if e, ok := errors.AsType[toml.ParseError](err); ok {
		err = fmt.Errorf("line %d is not TOML as it should be", e.Position.Line) // its own words repeat the line
	}
	return file, err
}

// principals are those that prove makes in the database, each gone when it ends.
type principals struct {
	a        *app
	s        settings
	o        *opened
	run      string
	key      []byte
	graph    role.Graph
	subjects map[string]*subject // by what they hold
	made     int
	accounts []string
	clients  []string
	end      []*session.Service
}

// subject is an account, or a machine client, of prove's.
type subject struct {
	id     string
	client bool
	used   int // credentials that it has
}

// maxOwn bounds the credentials of a subject, well below what would end others.
const maxOwn = 40

const proveDomain = "@prove.invalid" // a domain that nobody can have (RFC 6761, 6.4)

// withOwn opens the database of the server, runs f with principals on it, and
// removes them.
func (c proveCmd) withOwn(a *app, s settings, base *url.URL, f func(*principals) error) (err error) {
	issuer, err := issuerOf(a.ctx, base)
	if err != nil {
		return err
	}
	if given := s.text("base_url"); issuer != base.String() && issuer != given {
		return &errUsage{fmt.Errorf("the server at %s calls itself %s. If that is right, say so with --base-url %[2]s; credentials of this database are not sent to another server", base, printable(issuer))}
	}
	s = maps.Clone(s)
	s["base_url"] = value{issuer, "default"} // tokens are for what the server calls itself
	for _, name := range []string{"smtp.url", "auth.verify_address", "auth.mail_sign_in"} {
		k, _ := keyNamed(name)
		s[name] = value{k.def, "default"} // nobody gets letters of this
	}
	o, err := a.open(a.ctx, s, mustExist, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer o.Close()
	p := &principals{a: a, s: s, o: o, subjects: map[string]*subject{}}
	if p.key, err = hkdf.Expand(sha256.New, o.Keys.RefreshKey(), "sallyport prove", sha256.Size); err != nil {
		return err
	}
	random := make([]byte, 8)
	rand.Read(random)
	p.run = hex.EncodeToString(random)
	if err := o.Declare(a.ctx); err != nil { // a server that is new does it behind its first request
		return err
	}
	if p.graph, err = role.LoadGraph(o.db.View(a.ctx)); err != nil {
		return err
	}
	if a.g.DryRun {
		return f(p)
	}
	if err := p.removeLeft(); err != nil {
		return err
	}
	if err := p.note(a.ctx, audit.Event{Action: "prove.started", Target: base.String()}); err != nil {
		return err
	}
	defer func() {
		ctx := context.WithoutCancel(a.ctx) // an interruption leaves nothing behind
		for _, svc := range p.end {
			svc.Close()
		}
		rerr := p.remove(ctx)
		if rerr == nil {
			rerr = p.note(ctx, audit.Event{Action: "prove.ended", Target: base.String()})
		}
		if rerr != nil {
			a.info("warning: principals that prove made (%s) could not all be removed: %s. The next run removes them.", p.address(0), describe(rerr))
			if err == nil {
				err = rerr
			}
		}
		time.Sleep(o.Lease())
	}()
	return f(p)
}

// issuerOf is what the server at a URL calls itself (RFC 8414).
func issuerOf(ctx context.Context, base *url.URL) (string, error) {
	res, err := fetch(ctx, base.String()+"/.well-known/oauth-authorization-server")
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var meta struct {
		Issuer string `json:"issuer"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&meta); err != nil || server.CheckBaseURL(meta.Issuer) != nil {
		return "", fmt.Errorf("what answers at %s does not say what it calls itself: it is not Sallyport. Use --token-file", base)
	}
	return meta.Issuer, nil
}

func (p *principals) note(ctx context.Context, e audit.Event) error {
	e.Detail = map[string]string{"run": p.run, "principals": fmt.Sprint(p.made)}
	return p.o.db.Write(ctx, func(tx *db.Tx) error { return audit.Append(ctx, tx, e) })
}

// name is unforgeable: what a run removes, a run has made.
func (p *principals) name(run string, n int) string {
	m := hmac.New(sha256.New, p.key)
	fmt.Fprintf(m, "%s %d", run, n)
	return fmt.Sprintf("prove-%s-%d-%s", run, n, hex.EncodeToString(m.Sum(nil)[:8]))
}

func (p *principals) address(n int) string { return p.name(p.run, n) + proveDomain }

// ours reports whether a run on this database gave the name.
func (p *principals) ours(name string) bool {
	var n int
	parts := strings.Split(name, "-")
	if len(parts) != 4 {
		return false
	}
	if _, err := fmt.Sscanf(parts[2], "%d", &n); err != nil {
		return false
	}
	return hmac.Equal([]byte(p.name(parts[1], n)), []byte(name))
}

// removeLeft removes what a run that was killed has left.
func (p *principals) removeLeft() error {
	for cursor := ""; ; {
		users, next, err := p.o.Accounts.List(p.a.ctx, account.Filter{Query: proveDomain}, cursor, 200)
		if err != nil {
			return err
		}
		for _, u := range users {
			if name, ok := strings.CutSuffix(u.Email, proveDomain); ok && p.ours(name) {
				p.accounts = append(p.accounts, u.ID)
			}
		}
		if cursor = next; next == "" {
			break
		}
	}
	clients, _, err := p.o.Clients.List(p.a.ctx, "", oauth.MaxClients)
	if err != nil {
		return err
	}
	for _, c := range clients {
		if p.ours(c.Name) {
			p.clients = append(p.clients, c.ID)
		}
	}
	if n := len(p.accounts) + len(p.clients); n > 0 {
		p.a.info("removing %d principals that an earlier run has left", n)
	}
	return p.remove(p.a.ctx)
}

func (p *principals) remove(ctx context.Context) error {
	operator := role.Operator()
	var errs []error
	gone := func(err error) {
		if e, ok := errors.AsType[*sallyport.Error](err); err != nil && !(ok && e.Status == http.StatusNotFound) {
			errs = append(errs, err)
		}
	}
	for _, id := range p.accounts {
		gone(p.o.Accounts.Delete(ctx, &operator, id))
	}
	for _, id := range p.clients {
		gone(p.o.Clients.Delete(ctx, operator, id))
	}
	p.accounts, p.clients = nil, nil
	return errors.Join(errs...)
}

// unlisted compares the routes that this program registers with the document of a
// server of the same version: what that serves besides is not known here.
func (p *principals) unlisted(d *prove.Document) (out []prove.Difference, err error) {
	if d.Version != version {
		return nil, nil
	}
	err = p.a.scratch(p.s, func(o *opened) error {
		var routes []prove.Route
		for _, r := range o.Routes().Routes() {
			routes = append(routes, prove.Route{Method: r.Method, Path: r.Path})
		}
		for _, x := range prove.CompareRoutes(d, routes, undocumented) {
			if slices.ContainsFunc(routes, func(r prove.Route) bool { return r.Method+" "+r.Path == x.Operation }) {
				out = append(out, x)
			}
		}
		return nil
	})
	return out, err
}

// schemes are those of which credentials can be made.
func (p *principals) schemes(d *prove.Document) (out []string) {
	for name, s := range d.Schemes {
		if k := s.Kind(); k == "bearer" || k == "cookie" || k == "api_key" || k == "client" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// implied is what comes with a role.
func (p *principals) implied(name string) (permissions, roles []string, all bool) {
	g := p.graph.Resolve([]string{name}, nil)
	return g.Permissions().Names(), g.Roles().Names(), g.Everything()
}

func (p *principals) exists(permission string) bool { return p.graph.Permissions[permission] != nil }

// Make implements prove.Maker.
func (p *principals) Make(ctx context.Context, h prove.Holding, s prove.State, alone bool) (string, error) {
	for _, name := range h.Permissions {
		if !p.exists(name) {
			return "", fmt.Errorf("%w: the database has no permission %s", prove.ErrCannot, name)
		}
	}
	for _, name := range h.Roles {
		if p.graph.Roles[name] == nil {
			return "", fmt.Errorf("%w: the database has no role %s", prove.ErrCannot, name)
		}
	}
	if h.Kind == "client" {
		c, err := p.newClient(ctx, h)
		return c.ID + ":" + c.Secret, err
	}
	// What is ended takes all sessions of its account along.
	who, err := p.subject(ctx, h, alone || s == prove.Ended && h.Kind != "api_key")
	if err != nil {
		return "", err
	}
	if h.Kind == "api_key" {
		return p.apiKey(ctx, who, h, s)
	}
	return p.session(ctx, who, h, s)
}

// subject returns an account that holds this. One that would administer the service
// is a machine client instead: it must not be counted as an administrator, not even
// for a moment.
func (p *principals) subject(ctx context.Context, h prove.Holding, alone bool) (*subject, error) {
	key := fmt.Sprintf("%q %q", h.Permissions, h.Roles)
	if u := p.subjects[key]; u != nil && u.used < maxOwn && !alone {
		u.used++
		return u, nil
	}
	u := &subject{used: 1}
	if p.graph.Resolve(h.Roles, nil).Everything() {
		c, err := p.newClient(ctx, h)
		if err != nil {
			return nil, err
		}
		u.id, u.client = c.ID, true
	} else {
		p.made++
		password := make([]byte, 32)
		rand.Read(password)
		operator := role.Operator()
		made, err := p.o.Accounts.Create(ctx, operator, account.NewUser{
			Email: p.address(p.made), Password: hex.EncodeToString(password), EmailVerified: true, Roles: append([]string{}, h.Roles...),
		})
		if err != nil {
			return nil, err
		}
		u.id = made.ID
		p.accounts = append(p.accounts, u.id)
		if err := p.o.db.Write(ctx, func(tx *db.Tx) error {
			return role.SetPermissions(ctx, tx, operator, u.id, h.Permissions)
		}); err != nil {
			return nil, err
		}
	}
	if !alone {
		p.subjects[key] = u
	}
	return u, nil
}

func (p *principals) newClient(ctx context.Context, h prove.Holding) (oauth.NewClient, error) {
	p.made++
	c, err := p.o.Clients.Create(ctx, role.Operator(), p.name(p.run, p.made), h.Permissions, h.Roles)
	if err == nil {
		p.clients = append(p.clients, c.ID)
	}
	return c, err
}

func (p *principals) apiKey(ctx context.Context, who *subject, h prove.Holding, s prove.State) (string, error) {
	rec, key, err := p.o.APIKeys.Create(ctx, apikey.NewKey{Owner: who.id, Machine: who.client, Name: "prove", Scopes: h.Scopes, Expires: time.Now().Add(leftOver)})
	if err != nil {
		return "", err
	}
	if s == prove.Ended {
		off := false
		if _, err := p.o.APIKeys.Update(ctx, who.id, rec.ID, apikey.Change{Active: &off}); err != nil {
			return "", err
		}
	}
	return key.Reveal(), nil
}

// longest is how long ago a session of prove's may have begun.
const longest = 300 * 24 * time.Hour

// leftOver bounds what a run that is killed leaves behind.
const leftOver = 24 * time.Hour

// session begins a session as long ago as is asked for, on a clock that is late.
func (p *principals) session(ctx context.Context, who *subject, h prove.Holding, s prove.State) (string, error) {
	if h.Age > longest {
		return "", fmt.Errorf("%w: a session that was begun %v ago", prove.ErrCannot, h.Age)
	}
	late, access := h.Age, p.s.duration("tokens.access_ttl")
	if s == prove.Expired {
		late, access = time.Hour, time.Minute
	}
	svc := session.New(session.Config{
		DB: p.o.db, Keys: p.o.Keys, Issuer: p.o.Issuer(), Access: access, Refresh: late + leftOver, Life: late + leftOver,
		Format: session.Format(p.s.text("tokens.format")), Now: func() time.Time { return time.Now().Add(-late) },
	})
	p.end = append(p.end, svc)
	in := session.Start{
		Subject: who.id, Client: session.FirstParty, Scoped: h.Scoped, Scope: h.Scopes,
		AMR: []string{session.Password}, MFA: h.MFA, Cookie: h.Kind == "cookie",
	}
	if h.MFA {
		in.AMR = append(in.AMR, session.OTP)
	}
	started := svc.Prepare(ctx, in)
	if err := p.o.db.Write(ctx, func(tx *db.Tx) error { return svc.Insert(ctx, tx, started) }); err != nil {
		return "", err
	}
	t, err := svc.Issue(ctx, started)
	if err != nil {
		return "", err
	}
	if h.Age > 0 && !in.Cookie { // the token of a session that has lived on
		if t, err = p.o.Sessions.Refresh(ctx, t.Refresh, session.FirstParty, false, nil); err != nil {
			return "", err
		}
	}
	if s == prove.Ended {
		if err := p.o.db.Write(ctx, func(tx *db.Tx) error {
			return p.o.Sessions.EndAll(ctx, tx, who.id, "", "prove")
		}); err != nil {
			return "", err
		}
	}
	if in.Cookie {
		return t.Cookie, nil
	}
	return t.Access, nil
}
