// Command tutorial is the application of FastAPI's security tutorials, whole: signing
// in, tokens, roles, permissions, scopes, API keys, a second factor, limits, CORS,
// HTTPS. README.md has each of their snippets beside its lines here.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/guard/clientip"
	"github.com/sallyport/sallyport/guard/cors"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/store/sqlite"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		log.Fatal(err)
	}
}

// options are what the command line says.
type options struct {
	listen, data, url, hosts, proxies, origin, apiKey string
	opaque                                            bool
}

func read(args []string) (o options, err error) {
	f := flag.NewFlagSet("tutorial", flag.ContinueOnError)
	f.StringVar(&o.listen, "listen", "127.0.0.1:8000", "`address` to listen on")
	f.StringVar(&o.data, "data", "tutorial-data", "`folder` of the database and the master key")
	f.StringVar(&o.url, "url", "", "where clients reach the service; with https://, HTTPS is asked for (default http:// and --listen)")
	f.StringVar(&o.hosts, "hosts", "", "`names` under which it is addressed, with commas (default that of --url)")
	f.StringVar(&o.proxies, "proxies", "", "`addresses` of proxies that end TLS, with commas")
	f.StringVar(&o.origin, "origin", "http://localhost:3000", "the origin whose pages may read answers")
	f.StringVar(&o.apiKey, "api-key", "", "a key of a service: `line` of “sallyport apikey create --static”")
	f.BoolVar(&o.opaque, "opaque", false, "issue opaque access tokens instead of JWTs; both are accepted")
	return o, f.Parse(args)
}

// config is the configuration of everything that stands around the routes.
func (o options) config() (server.Config, error) {
	cfg := server.Config{
		BaseURL: o.url, Title: "Tutorial", Log: slog.Default(),
		CORS: cors.Config{Origins: []string{o.origin}},
	}
	if o.hosts != "" {
		cfg.Hosts = strings.Split(o.hosts, ",")
	}
	if o.opaque {
		cfg.TokenFormat = session.Opaque
	}
	if o.apiKey != "" {
		key, err := apikey.ParseStatic(o.apiKey)
		if err != nil {
			return cfg, err
		}
		cfg.APIKeys = []apikey.Static{key}
	}
	if o.proxies != "" {
		proxies, err := clientip.ParseTrusted(strings.Split(o.proxies, ","))
		if err != nil {
			return cfg, err
		}
		cfg.TrustedProxies = proxies
	}
	return cfg, nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := read(args)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return err
	}
	db, err := sqlite.Open(filepath.Join(o.data, "sallyport.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	ln, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	defer ln.Close()
	if o.url == "" {
		o.url = "http://" + ln.Addr().String()
	}
	cfg, err := o.config()
	if err != nil {
		return err
	}
	cfg.DB = db
	sp, err := server.New(ctx, cfg)
	if err != nil {
		return err
	}
	defer sp.Close()

	h := handler(sp)
	if err := putRoles(ctx, sp); err != nil {
		return err
	}
	link, err := sp.SetupLink(ctx)
	if err != nil {
		return err
	}
	if link != "" {
		fmt.Fprintln(out, "Make the first administrator at", link)
	}
	fmt.Fprintln(out, "Listening on", o.url)
	return server.Serve(ctx, ln, h, cfg.Log)
}

// putRoles says what roles may do. The role admin may do everything; user is given to
// whoever registers.
func putRoles(ctx context.Context, sp *server.Server) error {
	for _, r := range []role.Role{
		{Name: role.Guest, Permissions: []string{"read"}},
		{Name: role.User, Includes: []string{role.Guest}, Permissions: []string{"write", "read:items", "write:items"}},
		{Name: role.Moderator, Includes: []string{role.User}},
	} {
		if err := sp.PutRole(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// handler is the whole service. Each route says who may call it; the same rule is
// enforced and documented.
func handler(sp *server.Server) http.Handler {
	a, s := sp.API(), new(shop)

	api.Get(a, "/", sallyport.Public(), say("Hello World"))

	// Any of four forms: Basic, a bearer token (JWT or opaque), an API key of a person
	// or of the configuration.
	api.Get(a, "/protected", sallyport.Via(sallyport.KindBasic, sallyport.KindBearer, sallyport.KindAPIKey), whoami,
		api.Doc("Protected", "Who is calling", "With a name and password, an access token or an API key."))
	a.Alias("GET /protected/", "GET /protected")

	// Roles.
	admin, moderator, user := sallyport.Role(role.Admin), sallyport.Role(role.Moderator), sallyport.Role(role.User)
	api.Get(a, "/admin", admin, say("Hello, admin"), api.Doc("Roles", "For administrators", ""))
	api.Get(a, "/user", sallyport.Any(user, admin), say("Hello, user"), api.Doc("Roles", "For users", "Guests are none."))
	api.Post(a, "/moderate/", sallyport.Any(moderator, admin), say("Moderated"), api.Doc("Roles", "For moderators", ""))

	// Permissions, which roles hold (putRoles).
	api.Get(a, "/read", sallyport.Permission("read"), say("You may read"), api.Doc("Permissions", "Needs read", "Guests have it."))
	api.Get(a, "/write", sallyport.Permission("write"), say("You may write"), api.Doc("Permissions", "Needs write", "Users have it."))

	// Scopes: as permissions, and a token can be limited to some of them.
	api.Get(a, "/items/", sallyport.Scope("read:items"), s.list, api.Doc("Items", "List items", "In order of creation."))
	api.Post(a, "/items/", sallyport.Scope("write:items"), s.add, api.Doc("Items", "Add an item", "The caller becomes its owner."),
		api.Status(http.StatusCreated))

	// Markup is removed before the handler sees the text.
	api.Post(a, "/comments/", sallyport.SignedIn(), addComment, api.Doc("Comments", "Add a comment", "Markup is removed from it."),
		api.Status(http.StatusCreated))

	// Five calls in a minute from one address; the sixth is 429.
	api.Get(a, "/limited/", sallyport.Public(), say("You are within the limit"), api.Doc("Limits", "Five times a minute", ""),
		api.Limit(sallyport.Limit{Rate: "5/minute"}))

	// The server's own operations (/token, /token/refresh, /auth/register, /users/me,
	// /users/{id}, /api-keys …), where the tutorials have some of them under other paths.
	for path, of := range map[string]string{
		"/login": "/auth/login", "/logout/": "/logout", "/2fa/setup/": "/2fa/setup", "/2fa/verify/": "/2fa/verify",
	} {
		a.Alias("POST "+path, "POST "+of)
	}

	mux := sallyport.NewMux(sp)
	mux.Mount("/", sp.Routes())
	return sp.Guard(mux) // hosts, HTTPS, CORS, security headers, limits, the log
}

// say answers with a message.
func say(text string) func(context.Context, *api.None) (*api.Body[api.Message], error) {
	return func(context.Context, *api.None) (*api.Body[api.Message], error) {
		return &api.Body[api.Message]{Body: api.Message{Message: text}}, nil
	}
}

type caller struct {
	ID         string         `json:"id" doc:"Of the account, or config: and the name of a key of the configuration"`
	Credential sallyport.Kind `json:"credential" enum:"basic,bearer,api_key"`
}

func whoami(ctx context.Context, _ *api.None) (*api.Body[caller], error) {
	p := sallyport.From(ctx)
	return &api.Body[caller]{Body: caller{p.ID(), p.Kind()}}, nil
}

type newItem struct {
	Name        string   `json:"name" minLength:"1" maxLength:"50"`
	Description *string  `json:"description,omitempty" maxLength:"300"`
	Price       float64  `json:"price" exclusiveMinimum:"0" maximum:"1000000"`
	Tags        []string `json:"tags,omitempty" maxItems:"10"`
}

type item struct {
	newItem
	ID    int    `json:"id"`
	Owner string `json:"owner" doc:"Id of the account that added it"`
}

// shop is the service's own data. It would be a database.
type shop struct {
	mu    sync.Mutex
	items []item
}

func (s *shop) list(context.Context, *api.None) (*api.Body[api.Page[item]], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &api.Body[api.Page[item]]{Body: api.NewPage(slices.Clone(s.items), "")}, nil
}

func (s *shop) add(ctx context.Context, in *api.Body[newItem]) (*api.Body[item], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := item{in.Body, len(s.items) + 1, sallyport.From(ctx).ID()}
	s.items = append(s.items, it)
	return &api.Body[item]{Body: it}, nil
}

type comment struct {
	Text string `json:"text" sanitize:"text" minLength:"1" maxLength:"1000"`
}

func addComment(_ context.Context, in *api.Body[comment]) (*api.Body[comment], error) {
	return in, nil
}
