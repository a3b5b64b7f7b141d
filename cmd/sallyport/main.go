// Command sallyport is the server and its command line.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/reqctx"
	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/server"
)

// version is set by the build: -ldflags "-X main.version=…".
var version = "dev"

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2 // usage or configuration
	exitNotFound    = 3
	exitNotAllowed  = 4
	exitPartly      = 5
	exitUnreachable = 6
	exitInterrupted = 130
)

type globals struct {
	Config   string            `help:"Configuration file (TOML); the default is SALLYPORT_CONFIG." placeholder:"FILE"`
	Listen   *string           `help:"Address to listen on." placeholder:"HOST:PORT"`
	BaseURL  *string           `name:"base-url" help:"Where clients reach the server." placeholder:"URL"`
	Data     *string           `help:"Folder of the SQLite file and the master key." placeholder:"DIR"`
	Database *string           `help:"URL of a PostgreSQL database." placeholder:"URL"`
	Redis    *string           `help:"URL of a Redis server." placeholder:"URL"`
	Dev      *bool             `help:"Development mode."`
	Set      map[string]string `help:"Set any configuration key." placeholder:"KEY=VALUE"`
	JSON     bool              `help:"Answer in JSON, with a versioned schema."`
	Quiet    bool              `help:"Say nothing but the answer and errors."`
	Yes      bool              `help:"Do not ask before something that cannot be undone."`
	DryRun   bool              `help:"Say what would be done, and do nothing."`
}

// flags returns the configuration keys that flags set. An empty value counts:
// --data "$DIR" without DIR must not mean the default folder.
func (g *globals) flags() map[string]value {
	out := map[string]value{}
	for name, text := range g.Set {
		out[name] = value{text, "flag --set"}
	}
	for name, text := range map[string]*string{
		"listen": g.Listen, "base_url": g.BaseURL, "data_dir": g.Data, "database": g.Database, "redis": g.Redis,
	} {
		if text != nil {
			k, _ := keyNamed(name)
			out[name] = value{*text, "flag --" + k.flag}
		}
	}
	if g.Dev != nil {
		out["dev"] = value{strconv.FormatBool(*g.Dev), "flag --dev"}
	}
	return out
}

type cli struct {
	globals

	Serve       serveCmd       `cmd:"" help:"Listen, and answer requests."`
	Admin       adminCmd       `cmd:"" help:"The first administrator."`
	User        userCmd        `cmd:"" help:"Accounts. USER is an id, a user name or an address."`
	Role        roleCmd        `cmd:"" help:"Roles."`
	Permission  permissionCmd  `cmd:"" help:"Permissions of your own."`
	Policy      policyCmd      `cmd:"" help:"Policies in Cedar: who may do what when, and why."`
	Grant       grantCmd       `cmd:"" help:"Give a role to a user."`
	Revoke      revokeCmd      `cmd:"" help:"Take a role from a user."`
	APIKey      apikeyCmd      `cmd:"" name:"apikey" help:"API keys."`
	Client      clientCmd      `cmd:"" help:"Machine clients: programs that act for themselves."`
	Key         keyCmd         `cmd:"" help:"Signing keys."`
	Mail        mailCmd        `cmd:"" help:"Letters to people."`
	Audit       auditCmd       `cmd:"" help:"The audit log: read it, follow it, hand it out, and prove that nobody has changed it."`
	Routes      routesCmd      `cmd:"" help:"List every route and its rule."`
	Prove       proveCmd       `cmd:"" help:"Call every documented operation with credentials that fit and that do not, and say where the answer is not what is declared."`
	ConfigCmd   configCmd      `cmd:"" name:"config" help:"The configuration."`
	Import      importCmd      `cmd:"" help:"Take accounts over from other systems, with their passwords."`
	Backup      backupCmd      `cmd:"" help:"Copies of the database: made while it is served, checked, and brought back."`
	Migrate     migrateCmd     `cmd:"" help:"The schema, and the move to another database."`
	Hash        hashCmd        `cmd:"" help:"Password hashes."`
	Snippet     snippetCmd     `cmd:"" help:"Print a piece of code or configuration that protects a service in another language."`
	Doctor      doctorCmd      `cmd:"" help:"Ask a running server from outside: proxies, hosts, TLS, clock, cookies, limits, mail; what is wrong and how to mend it."`
	Healthcheck healthcheckCmd `cmd:"" help:"Ask a running server whether it is ready."`
	Version     versionCmd     `cmd:"" help:"Print the version."`
	Completion  completionCmd  `cmd:"" help:"Print a script that completes commands in a shell."`
	Complete    completeCmd    `cmd:"" name:"__complete" hidden:"" passthrough:""`
}

// app is what a command works with.
type app struct {
	ctx            context.Context
	g              *globals
	env            []string
	stdin          io.Reader
	stdout, stderr io.Writer
	model          *kong.Application
	endShared      func()  // closes the connection to Redis; nil: there is none
	endMail        func()  // closes connections to the mail server; nil: there is none
	traces         *traces // of requests; nil: there are none
	serving        bool    // this is the server: the one that rotates keys on schedule
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(exitCode(err))
}

// run is the whole program. It prints errors to stderr and returns them for
// the exit code.
func run(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) error {
	var c cli
	exited := false
	parser, err := kong.New(&c,
		kong.Name("sallyport"),
		kong.Description("Two doors for an API: who are you, and may you.\n\nData goes to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 not found, 4 not allowed, 5 partly done, 6 unreachable, 130 interrupted."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { exited = true; panic(helpShown{}) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		parser.Stdout = stderr
		_, _ = parse(parser, []string{"--help"}, &exited)
		return &errUsage{errors.New("no command")}
	}
	kctx, err := parse(parser, args, &exited)
	if exited {
		return nil
	}
	if err != nil {
		fmt.Fprintf(stderr, "sallyport: %s\n", printableLines(misuse(err)))
		return &errUsage{err}
	}
	ctx = reqctx.AsOperator(ctx, operatorName())
	if c.DryRun {
		ctx = db.DryRun(ctx)
	}
	a := &app{ctx: ctx, g: &c.globals, env: env, stdin: stdin, stdout: stdout, stderr: stderr, model: parser.Model}
	if err := kctx.Run(a); err != nil {
		if !errors.Is(err, errSilent) {
			fmt.Fprintf(stderr, "sallyport: %s\n", printableLines(describe(err)))
		}
		return err
	}
	return nil
}

type helpShown struct{}

// parse keeps kong from ending the process when it has shown help.
func parse(p *kong.Kong, args []string, exited *bool) (ctx *kong.Context, err error) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(helpShown); !ok || !*exited {
				panic(r)
			}
		}
	}()
	return p.Parse(args)
}

// misuse words a mistake on the command line, with what would be right.
func misuse(err error) string {
	pe, ok := errors.AsType[*kong.ParseError](err)
	if !ok {
		return err.Error()
	}
	node := pe.Context.Model.Node
	for _, p := range pe.Context.Path {
		if p.Command != nil {
			node = p.Command
		}
	}
	name := node.FullPath()
	if len(node.Children) > 0 {
		why := err.Error()
		if strings.HasPrefix(why, "expected one of") {
			var names []string
			for _, n := range node.Children {
				if !n.Hidden {
					names = append(names, n.Name)
				}
			}
			why = "“" + name + "” needs one of: " + strings.Join(names, ", ")
		}
		return fmt.Sprintf("%s\nRun “%s --help” for its commands.", why, name)
	}
	return fmt.Sprintf("%v\nUsage: sallyport %s\nRun “%s --help” for its flags.", err, strings.Join(strings.Fields(node.Summary()), " "), name)
}

func operatorName() string {
	if u, err := user.Current(); err == nil {
		return "cli:" + u.Username
	}
	return "cli"
}

type errUsage struct{ err error }

func (e *errUsage) Error() string { return e.err.Error() }

var (
	// errSilent is returned when everything has been said.
	errSilent      = errors.New("")
	errUnreachable = errors.New("unreachable")
	// errPartly is returned when some of it was done, and that has been said.
	errPartly = fmt.Errorf("partly done%w", errSilent)
)

// describe words an error for the terminal: the message of one that callers
// see, the whole of any other.
func describe(err error) string {
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	if e, ok := errors.AsType[*sallyport.Error](err); ok {
		s := e.Message
		if len(e.Fields) > 0 {
			s = "what was given is not valid:"
		}
		for _, f := range e.Fields {
			s += "\n  - " + strings.TrimPrefix(f.Pointer, "/") + ": " + inCommands(f)
		}
		return s
	}
	return err.Error()
}

// inCommands words a mistake for the terminal where its own words speak of
// requests.
func inCommands(f sallyport.Field) string {
	list := map[string]string{"unknown_role": "“sallyport role list” lists them", "unknown_permission": "“sallyport permission list” lists them, “sallyport permission set” makes one", "unknown_scope": "“sallyport permission list” and “sallyport role list” list what exists"}[f.Code]
	if what, _, found := strings.Cut(f.Detail, ". "); list != "" && found {
		return what + ". " + list + "."
	}
	return f.Detail
}

// exitCode sorts errors into the codes that scripts rely on.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	if errors.Is(err, errPartly) {
		return exitPartly
	}
	if errors.Is(err, errUnreachable) {
		return exitUnreachable
	}
	if e, ok := errors.AsType[*db.OpenError](err); ok {
		if e.Unreachable {
			return exitUnreachable
		}
		return exitUsage
	}
	if _, ok := errors.AsType[*server.ConfigError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*errConfig](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*errUsage](err); ok {
		return exitUsage
	}
	if errors.Is(err, keyring.ErrMasterKey) || errors.Is(err, seal.ErrWrongKey) {
		return exitUsage
	}
	if e, ok := errors.AsType[*sallyport.Error](err); ok {
		switch e.Status {
		case 404:
			return exitNotFound
		case 401, 403, 409:
			return exitNotAllowed
		case 422:
			return exitUsage
		}
	}
	return exitFailed
}
