package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/store/postgres"
	"github.com/sallyport/sallyport/store/sqlite"
)

// settings loads the configuration, with what more has against it.
func (a *app) settings(more ...func(settings) []error) (settings, error) {
	s, err := loadSettings(a.g.Config, a.env, a.g.flags(), more...)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.inFlag(s[k.name]) {
			a.info("warning: a password in %s can be seen by everybody on this machine. Use %s or %s_FILE.", strings.TrimPrefix(s[k.name].source, "flag "), k.env(), k.env())
		}
	}
	return s, nil
}

// info tells the operator something that is not the answer.
func (a *app) info(format string, args ...any) {
	if !a.g.Quiet {
		fmt.Fprintf(a.stderr, format+"\n", args...)
	}
}

func (a *app) logger(s settings) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(s.text("log.level"))) // checked
	o := &slog.HandlerOptions{Level: level}
	format := s.text("log.format")
	if format == "text" || format == "" && s.bool("dev") {
		return slog.New(slog.NewTextHandler(a.stderr, o))
	}
	return slog.New(slog.NewJSONHandler(a.stderr, o))
}

func sqliteFile(s settings) string {
	dir := s.text("data_dir")
	path := filepath.Join(dir, "sallyport.db")
	if strings.HasPrefix(dir, "./") {
		path = "./" + path // as it was written
	}
	return path
}

// openMode says what a command may do to a database that is not there yet.
type openMode int

const (
	mustExist openMode = iota // and have the current schema
	mayCreate
)

// unlessDry returns mode, or what a dry run may do.
func (a *app) unlessDry(mode openMode) openMode {
	if a.g.DryRun {
		return mustExist
	}
	return mode
}

// opened is an open database with the server on it.
type opened struct {
	*server.Server
	db      *db.DB
	created bool
}

func (o *opened) Close() {
	o.Server.Close()
	_ = o.db.Close()
}

// open opens the database and the server on it.
func (a *app) open(ctx context.Context, s settings, mode openMode, log *slog.Logger) (*opened, error) {
	d, err := a.openDB(ctx, s, mode)
	if err != nil {
		return nil, err
	}
	schema, err := d.Schema(ctx)
	if err == nil && mode == mustExist && schema.Current < schema.Latest {
		err = &db.OpenError{
			What: d.Name(), Why: "its schema is older than this program needs, or it is empty",
			Fix: "Start the server once (sallyport serve): it brings the schema up to date.",
		}
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if mode == mayCreate {
		if err := a.makeKeyDir(ctx, s, d, schema); err != nil {
			return nil, errors.Join(err, d.Close())
		}
	}
	sv, err := a.newServer(context.WithoutCancel(ctx), s, d, log)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return &opened{sv, d, schema.Current == 0}, nil
}

// makeKeyDir makes the folder of a master key that is going to be made: a
// PostgreSQL database has no folder of its own.
func (a *app) makeKeyDir(ctx context.Context, s settings, d *db.DB, schema db.Schema) error {
	if key, file := s.masterKey(); key != "" || file != "" {
		return nil
	}
	if schema.Current > 0 {
		if has, err := keyring.HasKeys(d.View(ctx)); has || err != nil {
			return err
		}
	}
	return makeDataDir(s)
}

// serverConfig is what the configuration says to the server.
func serverConfig(s settings, d *db.DB, log *slog.Logger) server.Config {
	key, file := s.masterKey()
	if key == "" && file == "" {
		file = filepath.Join(s.text("data_dir"), "master.key")
	}
	keys, _ := statics(s.text("auth.api_keys")) // checked
	cfg := server.Config{
		DB: d, BaseURL: s.baseURL(), MasterKey: key, MasterKeyFile: file, Version: version, Log: log,
		Registration: account.Registration(s.text("registration")),
		AccessTTL:    s.duration("tokens.access_ttl"), RefreshTTL: s.duration("tokens.refresh_ttl"), SessionLife: s.duration("tokens.session_ttl"),
		TokenFormat: session.Format(s.text("tokens.format")), InsecureLoopbackCookie: s.bool("dev"),
		Algorithm: token.Alg(s.text("tokens.alg")), Secret: []byte(s.text("tokens.secret")), NoPasswordGrant: !s.bool("password.grant"), NoLockout: s.text("limits.login") == "off", Basic: s.bool("auth.basic"),
		MailSignIn: s.bool("auth.mail_sign_in"), MFARequired: s.list("auth.mfa_required"), MFATTL: s.duration("tokens.mfa_ttl"), TOTPIssuer: s.text("auth.totp_issuer"),
		Password: passwordConfig(s), Lease: s.duration("auth.lease"), Remember: s.int("auth.remember"), CleanEvery: s.duration("cleanup.every"),
		NoPortal:     !s.bool("portal"),
		APIKeyCookie: s.text("auth.api_key_cookie"), APIKeyQuery: s.text("auth.api_key_query"), APIKeys: keys,
		FastAPIUsers: s.bool("compat.fastapi_users"), OnLostHistory: server.LostHistory(s.text("postgres.on_lost_history")),
		AuditRetention: s.duration("audit.retention"),
		AuditSinks: audit.SinksConfig{
			Log: s.bool("audit.log"), File: s.text("audit.file"), Syslog: s.text("audit.syslog"),
			Webhook: s.text("audit.webhook"), WebhookSecret: []byte(s.text("audit.webhook_secret")),
		},
	}

	s.wall(&cfg)
	return cfg
}

func (a *app) newServer(ctx context.Context, s settings, d *db.DB, log *slog.Logger) (*server.Server, error) {
	cfg := serverConfig(s, d, log)
	if err := a.mail(s, &cfg, log); err != nil {
		return nil, err
	}
	if a.serving {
		if url := s.text("redis"); url != "" {
			cfg.Limits.Share, a.endShared = sharedLimits(ctx, url, s.int("limits.nodes"), log)
		}
		cfg.RotateEvery = s.duration("keys.rotate_every")
		cfg.Metrics = s.text("metrics.listen") != ""
		var err error
		if a.traces, err = newTraces(s, log); err != nil {
			return nil, err
		}
		if a.traces != nil {
			cfg.Trace = a.traces.hook
		}
	}
	return server.New(ctx, cfg)
}

func passwordConfig(s settings) password.Config {
	return password.Config{
		Memory: uint32(s.int("password.memory")), Time: uint32(s.int("password.time")), Permits: s.int("password.permits"), SpareProcessor: true,
	}
}

// dbPatience is how long serve waits for a database that is not there yet.
const dbPatience = 10 * time.Second

func (a *app) openDB(ctx context.Context, s settings, mode openMode) (*db.DB, error) {
	if url := s.text("database"); url != "" {
		if mode == mustExist {
			return postgres.OpenWith(ctx, url, s.postgresOptions())
		}
		deadline := time.Now().Add(dbPatience)
		for {
			d, err := postgres.OpenWith(ctx, url, s.postgresOptions())
			e, ok := errors.AsType[*db.OpenError](err)
			if !ok || !e.Unreachable || time.Now().After(deadline) {
				return d, err
			}
			a.info("waiting for the database: %v", err)
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Second):
			}
		}
	}
	path := sqliteFile(s)
	if mode == mustExist {
		if !sqlite.Exists(path) {
			return nil, &db.OpenError{
				What: path, Why: "there is no database there",
				Fix: "Name its folder with --data, or start the server once (sallyport serve), which makes one.",
			}
		}
		return sqlite.Open(path)
	}
	if err := makeDataDir(s); err != nil {
		return nil, err
	}
	return sqlite.Open(path)
}

// makeDataDir makes the data folder, but not its parents: a mistyped path
// should not become a new, empty database.
func makeDataDir(s settings) error {
	dir := s.text("data_dir")
	err := os.Mkdir(dir, 0o700)
	switch {
	case err == nil, errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return &db.OpenError{What: dir, Why: "the folder above it does not exist", Fix: "Create it (mkdir -p), or give another with --data.", Err: err}
	}
	return &db.OpenError{What: dir, Why: "it cannot be made: " + err.Error(), Fix: "Make it yourself, or give another with --data.", Err: err}
}

// with opens what exists, runs f, and closes it.
func (a *app) with(f func(o *opened) error) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	o, err := a.open(a.ctx, s, mustExist, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		return err
	}
	defer o.Close()
	var changed atomic.Bool
	defer o.db.OnChange(func([]string) { changed.Store(true) })()
	err = f(o)
	if changed.Load() {
		time.Sleep(o.Lease()) // what was changed holds on every server when the command returns
	}
	return err
}
