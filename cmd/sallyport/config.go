package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/guard/clientip"
	"github.com/sallyport/sallyport/guard/cors"
	"github.com/sallyport/sallyport/guard/https"
	"github.com/sallyport/sallyport/guard/ratelimit"
	"github.com/sallyport/sallyport/internal/cleanup"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/signin"
	"github.com/sallyport/sallyport/store/postgres"
	"github.com/sallyport/sallyport/store/redis"
)

// key is one configuration key: its documentation, its default, and what a
// value must look like.
type key struct {
	name   string // section.key, as in the file
	flag   string // "" if it has none
	def    string
	doc    string
	bounds string // unit and range, or the choices
	secret bool
	check  func(string) error
}

// keys is the manual: docs/configuration.md is made from it.
var keys = []key{
	{name: "listen", flag: "listen", def: "127.0.0.1:8080", doc: "Address to listen on.", bounds: "host:port", check: checkListen},
	{name: "base_url", flag: "base-url", def: "", doc: "Where clients reach the server. It is the issuer and audience of tokens. Empty: http:// (with TLS https://) and the address of “listen”.", bounds: "URL", check: optional(server.CheckBaseURL)},
	{name: "data_dir", flag: "data", def: "./sallyport-data", doc: "Folder of the SQLite file and the master key. It is made if its parent exists.", bounds: "path", check: nonEmpty},
	{name: "database", flag: "database", def: "", doc: "URL of a PostgreSQL database, with several hosts where there are standbys. Empty: SQLite in data_dir.", bounds: "postgres://USER:PASSWORD@HOST:5432/DATABASE, several HOST:PORT with commas", secret: true, check: optional(checkPostgres)},
	{name: "redis", flag: "redis", def: "", doc: "URL of a Redis or Valkey server, over which nodes share their limits. Empty: each node counts for itself.", bounds: "redis://…, rediss://…, unix://…", secret: true, check: optional(redis.CheckURL)},
	{name: "dev", flag: "dev", def: "false", doc: "Development: readable logs, an inbox page for letters at /dev/inbox, and a session cookie that is not Secure where base_url is http:// on this machine.", bounds: "true, false", check: checkBool},
	{name: "portal", def: "true", doc: "Pages for people under /account/ and /console/: signing in, links of letters, the first administrator.", bounds: "true, false", check: checkBool},
	{name: "registration", def: "open", doc: "Who may make an account: anyone (open), or only who may write accounts (invite, closed).", bounds: "open, invite, closed", check: oneOf("open", "invite", "closed")},
	{name: "postgres.max_connections", def: "16", doc: "How many connections to PostgreSQL requests may use at once. A process has two more, and one while it changes the schema.", bounds: "2 to 1000", check: integer(postgres.MinConnections, postgres.MaxConnections)},
	{name: "postgres.connect_timeout", def: "5s", doc: "When an attempt to connect to a host of PostgreSQL is given up. The URL's connect_timeout stands above it.", bounds: "duration, 100ms to 1m", check: duration(postgres.MinConnectTimeout, postgres.MaxConnectTimeout)},
	{name: "postgres.statement_timeout", def: "10s", doc: "When PostgreSQL gives a statement up, and a node its answer; a transaction is given up 5 s later. The URL's statement_timeout stands above it on PostgreSQL's side.", bounds: "duration, 1s to 10m", check: duration(postgres.MinStatementTimeout, postgres.MaxStatementTimeout)},
	{name: "postgres.idle_timeout", def: "5m", doc: "When a connection to PostgreSQL that nobody uses is closed.", bounds: "duration, 1s to 24h", check: duration(postgres.MinIdleTimeout, postgres.MaxIdleTimeout)},
	{name: "postgres.max_lifetime", def: "1h", doc: "When a connection to PostgreSQL is replaced by a new one, however much it is used.", bounds: "duration, 1m to 24h", check: duration(postgres.MinMaxLifetime, postgres.MaxMaxLifetime)},
	{name: "postgres.on_lost_history", def: "end_sessions", doc: "What happens when a failover has lost changes that a node had seen: every session is ended, because some may be back that were over (end_sessions), or it is only logged and audited (log). The same on all nodes.", bounds: "end_sessions, log", check: oneOf(string(server.EndSessions), string(server.OnlyLog))},
	{name: "tokens.access_ttl", def: "15m", doc: "Life of an access token.", bounds: "duration, 10s to 24h", check: duration(10*time.Second, 24*time.Hour)},
	{name: "tokens.refresh_ttl", def: "336h", doc: "Life of a refresh token that is not used.", bounds: "duration, 1m to 8784h", check: duration(time.Minute, 8784*time.Hour)},
	{name: "tokens.session_ttl", def: "720h", doc: "Life of a session however often it is refreshed.", bounds: "duration, 1m to 8784h", check: duration(time.Minute, 8784*time.Hour)},
	{name: "tokens.mfa_ttl", def: "5m", doc: "How long a sign-in waits for its second factor: the life of an mfa_token.", bounds: "duration, 1m to 15m", check: duration(signin.MinPending, signin.MaxPending)},
	{name: "tokens.format", def: "jwt", doc: "Form of access tokens that are issued. Both are accepted always: changing it logs nobody out.", bounds: "jwt, opaque", check: oneOf("jwt", "opaque")},
	{name: "tokens.alg", def: "EdDSA", doc: "Algorithm of signing keys that are made from now on.", bounds: "EdDSA, ES256, RS256, HS256", check: func(s string) error { return token.Alg(s).Check() }},
	{name: "tokens.secret", def: "", doc: "Secret of HS256, its bytes as they are; only with tokens.alg = HS256. Empty: 32 random bytes are made.", bounds: "32 to 512 bytes", secret: true, check: optional(func(s string) error { return server.CheckSecret([]byte(s)) })},
	{name: "password.grant", def: "true", doc: "The password grant of POST /token.", bounds: "true, false", check: checkBool},
	{name: "password.memory", def: "19456", doc: "Memory of one password hash (argon2id). Times password.permits it is what sign-ins may take.", bounds: "KiB, 8192 to 262144", check: integer(8192, 262144)},
	{name: "password.time", def: "2", doc: "Passes of one password hash (argon2id).", bounds: "1 to 16", check: integer(1, 16)},
	{name: "password.permits", def: "0", doc: "Password hashes at the same time. 0: one for each processor.", bounds: "0 to 1024", check: integer(0, 1024)},
	{name: "auth.basic", def: "false", doc: "HTTP Basic on every route, not only where a rule names it.", bounds: "true, false", check: checkBool},
	{name: "auth.mail_sign_in", def: "false", doc: "Signing in with a link or code that is mailed. It needs mail.", bounds: "true, false", check: checkBool},
	{name: "auth.mfa_required", def: "", doc: "Roles whose members must have a second factor; * is everybody. Empty: nobody must.", bounds: "list of roles, or *", check: optional(list(checkDemanded))},
	{name: "auth.totp_issuer", def: "", doc: "Whose codes an authenticator app shows them to be. Empty: the host of base_url.", bounds: "text, at most 64 characters, no colon", check: server.CheckTOTPIssuer},
	{name: "auth.verify_address", def: "false", doc: "Nobody is let in before they have shown that their address is theirs, and who registers is not told whether an address has an account. It needs smtp.url, or dev.", bounds: "true, false", check: checkBool},
	{name: "auth.lease", def: "", doc: "The longest that a change made by another node may go unnoticed, and how long requests are answered while the database is away. Empty: 5ms on SQLite, 750ms on PostgreSQL.", bounds: "duration, 1ms to 1m", check: optional(duration(time.Millisecond, time.Minute))},
	{name: "auth.remember", def: "1000000", doc: "How many credentials are held in memory at most, 200 bytes each.", bounds: "1 to 16000000", check: integer(1, 16_000_000)},
	{name: "auth.api_keys", def: "", doc: "API keys of services, which need no account. “sallyport apikey create --static NAME” makes one with its entry.", bounds: "list of NAME=DIGEST SCOPE SCOPE…", secret: true, check: optional(checkStatics)},
	{name: "auth.api_key_header", def: "X-API-Key", doc: "Header of API keys.", bounds: "name of a header", check: apikey.CheckHeader},
	{name: "auth.api_key_cookie", def: "", doc: "Cookie in which API keys are taken too. Empty: in none.", bounds: "name of a cookie", check: optional(apikey.CheckCookie)},
	{name: "auth.api_key_query", def: "", doc: "Query parameter in which API keys are taken too. Addresses end up in logs and histories. Empty: in none, and a key in an address is refused.", bounds: "name of a parameter", check: optional(apikey.CheckQuery)},
	{name: "cleanup.every", def: "5m", doc: "How often what is old is deleted from the database, by one server at a time.", bounds: "duration, 1s to 1h", check: duration(cleanup.MinEvery, cleanup.MaxEvery)},
	{name: "limits.default", def: server.DefaultLimit, doc: "How many requests of any kind a client address may send; health checks are not counted.", bounds: "10/minute, 100/hour;burst=20, several with commas, or off", check: checkLimit},
	{name: "limits.login", def: server.LoginLimit, doc: "How many passwords a client address may try, right or wrong. “off”, for tests, also switches limits.register, limits.mail, limits.guesses and lockout off.", bounds: "as limits.default", check: checkLimit},
	{name: "limits.register", def: server.RegisterLimit, doc: "How often a client address may ask to register, whether an account comes of it or not.", bounds: "as limits.default", check: checkLimit},
	{name: "limits.mail", def: server.MailLimit, doc: "How often a client address may ask for a letter, whether one is sent or not.", bounds: "as limits.default", check: checkLimit},
	{name: "limits.guesses", def: server.GuessLimit, doc: "How many credentials that nobody has (API keys, tokens, client secrets) a client address may send.", bounds: "as limits.default", check: checkLimit},
	{name: "limits.nodes", def: "1", doc: "How many servers count for themselves behind a balancer, without redis or while it is away: each then lets through its part of every limit, rounded up.", bounds: "1 to 1000", check: integer(1, ratelimit.MaxShare)},
	{name: "keys.master", def: "", doc: "File with the master key, the base64 of 32 bytes; it is made with mode 0600 for a new database. Empty: master.key in data_dir. In the environment the variable holds the key itself.", bounds: "path", check: optional(checkKeyFile)},
	{name: "keys.rotate_every", def: "off", doc: "How long a signing key signs before the next one takes over.", bounds: "duration, 1h to 8784h, or off", check: unlessOff(duration(server.MinRotateEvery, server.MaxRotateEvery))},
	{name: "cors.origins", def: "", doc: "Origins whose pages may read answers.", bounds: "list of https://host, https://*.domain, or * alone", check: optional(list(nonEmpty))},
	{name: "cors.credentials", def: "false", doc: "Whether those pages may send cookies, and act with them.", bounds: "true, false", check: checkBool},
	{name: "cors.methods", def: strings.Join(cors.DefaultMethods(), ","), doc: "Methods that those pages may use.", bounds: "list", check: list(nonEmpty)},
	{name: "cors.headers", def: strings.Join(cors.DefaultRequestHeaders(), ","), doc: "Request headers that those pages may send.", bounds: "list", check: list(nonEmpty)},
	{name: "cors.max_age", def: "10m", doc: "How long a browser may remember the answer to a preflight.", bounds: "duration, 1s to 24h", check: duration(cors.MinMaxAge, cors.MaxMaxAge)},
	{name: "hosts.allowed", def: "", doc: "Names under which the server may be addressed. Empty: that of base_url; if that is this machine, all its names.", bounds: "list of host, *.domain", check: optional(list(nonEmpty))},
	{name: "proxy.trusted", def: "", doc: "Proxies whose forwarded headers are believed.", bounds: "list of network, address, loopback, private", check: optional(list(checkProxy))},
	{name: "proxy.header", def: string(clientip.XForwardedFor), doc: "Header that those proxies write; no other is read.", bounds: "X-Forwarded-For, Forwarded, X-Real-IP", check: oneOf(string(clientip.XForwardedFor), string(clientip.Forwarded), string(clientip.XRealIP))},
	{name: "proxy.protocol", def: "false", doc: "PROXY protocol, version 1 or 2: connections from proxy.trusted must begin with its header, which says who the client is; connections from elsewhere must not.", bounds: "true, false", check: checkBool},
	{name: "tls.cert", def: "", doc: "PEM files of certificates with their chains, for HTTPS on “listen”. They are read again when they change.", bounds: "list of paths", check: optional(list(nonEmpty))},
	{name: "tls.key", def: "", doc: "PEM files of their private keys, in the same order.", bounds: "list of paths", check: optional(list(nonEmpty))},
	{name: "tls.acme", def: "false", doc: "HTTPS with certificates from a certificate authority, by ACME (RFC 8555). To set it is to accept the authority's terms of service.", bounds: "true, false", check: checkBool},
	{name: "tls.hosts", def: "", doc: "Names to have certificates for beside the host of base_url; only with tls.acme.", bounds: "list of host", check: optional(list(nonEmpty))},
	{name: "tls.acme_email", def: "", doc: "Address that the authority may write to.", bounds: "e-mail address", check: optional(server.CheckACMEEmail)},
	{name: "tls.acme_directory", def: "", doc: "Directory of the authority. Empty: Let's Encrypt's.", bounds: "https://…", check: optional(server.CheckACMEDirectory)},
	{name: "tls.acme_roots", def: "", doc: "PEM file with the roots of a private authority, trusted for the connection to its directory beside the system's.", bounds: "path", check: optional(nonEmpty)},
	{name: "tls.redirect", def: "", doc: "Address of a second listener, without TLS: it sends pages to base_url, refuses everything else, and answers the authority's challenges.", bounds: "host:port", check: optional(checkListen)},
	{name: "tls.hsts", def: "8760h", doc: "For how long browsers shall use https:// only. 0s makes them forget it.", bounds: "duration, 0s to 87600h", check: duration(0, https.MaxHSTS)},
	{name: "tls.hsts_subdomains", def: "false", doc: "Whether that holds for all names below the host, too.", bounds: "true, false", check: checkBool},
	{name: "tls.hsts_preload", def: "false", doc: "Agrees to be built into browsers as https:// only. It takes months to undo.", bounds: "true, false", check: checkBool},
	{name: "smtp.url", def: "", doc: "Server that takes letters. smtp:// begins in clear and goes on with TLS (STARTTLS), smtps:// is TLS from the beginning. Empty: there is no mail, except with dev.", bounds: "smtp://USER:PASSWORD@host:587, smtps://USER:PASSWORD@host:465", secret: true, check: optional(mail.CheckURL)},
	{name: "smtp.roots", def: "", doc: "PEM file with the roots of a private authority, trusted for the connection to that server beside the system's.", bounds: "path", check: optional(nonEmpty)},
	{name: "mail.from", def: "", doc: "Address that letters come from. Empty: no-reply at the host of base_url.", bounds: "name@example.com, or Name <name@example.com>", check: optional(mail.CheckFrom)},
	{name: "mail.service", def: "", doc: "What letters call the service. Empty: the host of base_url.", bounds: "1 to 80 characters", check: optional(mail.CheckService)},
	{name: "mail.templates", def: "", doc: "Folder with templates of letters, each in place of ours of that name.", bounds: "path", check: optional(nonEmpty)},
	{name: "audit.retention", def: "off", doc: "How long events of the audit log are kept. Off: for ever.", bounds: "duration, 24h to 87840h, or off", check: unlessOff(duration(audit.MinRetention, audit.MaxRetention))},
	{name: "audit.log", def: "false", doc: "Events of the audit log in the log, too.", bounds: "true, false", check: checkBool},
	{name: "audit.file", def: "", doc: "File to which events are appended, as lines of JSON; it is made with mode 0600, and anew when it was renamed. Empty: none.", bounds: "path", check: optional(nonEmpty)},
	{name: "audit.syslog", def: "", doc: "Syslog server that events are sent to (RFC 5424). Empty: none.", bounds: "udp://host:514, tcp://host:601, unix:///dev/log", check: optional(audit.CheckSyslog)},
	{name: "audit.webhook", def: "", doc: "Address that events are sent to, signed with audit.webhook_secret, until it has answered 2xx. Empty: none.", bounds: "https://…, or http:// to this machine", secret: true, check: optional(audit.CheckWebhook)},
	{name: "audit.webhook_secret", def: "", doc: "Secret that signs what goes to audit.webhook, its bytes as they are.", bounds: "32 to 512 bytes", secret: true, check: optional(func(s string) error { return audit.CheckWebhookSecret([]byte(s)) })},
	{name: "metrics.listen", def: "", doc: "Address of a listener for Prometheus, which answers GET /metrics to everybody who reaches it. Empty: none.", bounds: "host:port", check: optional(checkListen)},
	{name: "telemetry.otlp", def: "", doc: "Receiver of traces, by OTLP over HTTP (protobuf). Empty: nothing is traced.", bounds: "http://…, https://…", secret: true, check: optional(checkOTLP)},
	{name: "telemetry.sample", def: "0.05", doc: "Share of the requests that are traced.", bounds: "0 to 1", check: checkSample},
	{name: "telemetry.parents", def: "false", doc: "Whether requests of proxy.trusted go on with the trace of their traceparent header: only if those proxies write it themselves.", bounds: "true, false", check: checkBool},
	{name: "compat.fastapi_users", def: "false", doc: "The routes of the Python library fastapi-users in place of the server's own on the same paths, for a front end that was written for it.", bounds: "true, false", check: checkBool},
	{name: "log.level", def: "info", doc: "The least level that is logged. Requests are logged at info.", bounds: "debug, info, warn, error", check: oneOf("debug", "info", "warn", "error")},
	{name: "log.format", def: "", doc: "Form of the log. Empty: json, or text with dev.", bounds: "json, text", check: optional(oneOf("json", "text"))},
}

const (
	envPrefix     = "SALLYPORT_"
	testEnvPrefix = "SALLYPORT_TEST_" // the project's own tests
	configEnv     = "SALLYPORT_CONFIG"
)

// env returns the environment variable of a key.
func (k key) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(k.name, ".", "_"))
}

func keyNamed(name string) (key, bool) {
	i := slices.IndexFunc(keys, func(k key) bool { return k.name == name })
	if i < 0 {
		return key{}, false
	}
	return keys[i], true
}

// value is a key's text and where it came from.
type value struct {
	text   string
	source string // "default", "file PATH", "environment NAME", "flag --NAME"
}

// settings is the whole configuration: a valid value for every key.
type settings map[string]value

func (s settings) text(name string) string { return s[name].text }
func (s settings) isSet(name string) bool  { return s[name].source != "default" }

func (s settings) bool(name string) bool { return s[name].text == "true" }

// duration returns 0 for “off”.
func (s settings) duration(name string) time.Duration {
	d, _ := time.ParseDuration(s[name].text) // checked
	return d
}

func (s settings) int(name string) int {
	n, _ := strconv.Atoi(s[name].text) // checked
	return n
}

// baseURL is base_url, or what follows from listen.
func (s settings) baseURL() string {
	if u := s.text("base_url"); u != "" {
		return u
	}
	host, port, _ := net.SplitHostPort(s.text("listen"))
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	if s.tlsOn() {
		return "https://" + net.JoinHostPort(host, port)
	}
	return "http://" + net.JoinHostPort(host, port)
}

// errConfig is a mistake of the configuration: exit code 2.
type errConfig struct{ errs []error }

func (e *errConfig) Error() string {
	var b strings.Builder
	if len(e.errs) == 1 {
		b.WriteString("the configuration has a mistake:")
	} else {
		fmt.Fprintf(&b, "the configuration has %d mistakes:", len(e.errs))
	}
	for _, err := range e.errs {
		fmt.Fprintf(&b, "\n  - %v", err)
	}
	return b.String()
}

// loadSettings puts the sources together: flag over environment over file over
// default. It reports every mistake at once, with those that more finds.
func loadSettings(file string, env []string, flags map[string]value, more ...func(settings) []error) (settings, error) {
	s := settings{}
	for _, k := range keys {
		s[k.name] = value{k.def, "default"}
	}
	var errs []error
	fromEnv, envErrs := environment(env)
	errs = append(errs, envErrs...)
	if file == "" {
		file = fromEnv["config"].text
	}
	if file != "" {
		values, fileErrs := readFile(file)
		errs = append(errs, fileErrs...)
		for _, name := range sortedKeys(values) {
			if _, ok := keyNamed(name); !ok {
				errs = append(errs, unknownKey(name, "in "+file))
				continue
			}
			s[name] = value{values[name], "file " + file}
		}
	}
	delete(fromEnv, "config")
	for name, v := range fromEnv {
		s[name] = v
	}
	for _, name := range sortedKeys(flags) {
		if _, ok := keyNamed(name); !ok {
			errs = append(errs, unknownKey(name, "in --set"))
			continue
		}
		s[name] = flags[name]
	}
	wrong := map[string]bool{}
	for _, k := range keys {
		if err := k.mistake(s[k.name]); err != nil {
			errs = append(errs, err)
			wrong[k.name] = true
		}
	}
	if !wrong["password.memory"] && !wrong["password.time"] && !wrong["password.permits"] {
		if _, err := password.New(passwordConfig(s)); err != nil {
			memory, passes := s["password.memory"], s["password.time"]
			errs = append(errs, fmt.Errorf("password.memory = %s (from %s) with password.time = %s (from %s): a stolen database would be guessed too cheaply. Use the defaults, or 47104 with 1, 19456 with 2, 12288 with 3, 9216 with 4, or more",
				memory.text, memory.source, passes.text, passes.source))
		}
	}
	if secret, alg := s["tokens.secret"], s["tokens.alg"]; secret.text != "" {
		if !wrong["tokens.alg"] && alg.text != string(token.HS256) {
			errs = append(errs, fmt.Errorf("tokens.secret = (not shown) (from %s): it is the secret of HS256, and tokens.alg = %s (from %s). Set tokens.alg = HS256, or leave the secret out", secret.source, alg.text, alg.source))
		}
		if every := s["keys.rotate_every"]; !wrong["keys.rotate_every"] && every.text != "off" {
			errs = append(errs, fmt.Errorf("keys.rotate_every = %s (from %s): the key that signs is tokens.secret (from %s), which does not rotate by itself. Leave one of the two out", every.text, every.source, secret.source))
		}
	}
	errs = append(errs, s.tlsMistakes(wrong)...)
	errs = append(errs, s.mailMistakes(wrong)...)
	errs = append(errs, s.auditMistakes(wrong)...)
	for _, f := range more {
		errs = append(errs, f(s)...)
	}
	if !slices.ContainsFunc(wallKeys, func(name string) bool { return wrong[name] }) {
		errs = append(errs, s.wallMistakes()...)
	}
	if errs != nil {
		return nil, &errConfig{errs}
	}
	return s, nil
}

// wallKeys are those that wallMistakes puts together.
var wallKeys = []string{
	"listen", "base_url", "cors.origins", "cors.credentials", "cors.methods", "cors.headers", "cors.max_age", "hosts.allowed", "proxy.trusted", "proxy.header",
	"tls.hsts", "tls.hsts_subdomains", "tls.hsts_preload", "limits.default", "limits.login", "limits.register", "limits.mail", "limits.guesses", "limits.nodes",
}

// mistake returns what is wrong with a value, in full.
func (k key) mistake(v value) error {
	if k.name == "keys.master" && strings.HasPrefix(v.source, "environment") {
		return checkMasterKey(v)
	}
	if k.name == "tokens.secret" || k.name == "audit.webhook_secret" {
		switch {
		case v.text != "" && strings.HasPrefix(v.source, "flag"):
			return fmt.Errorf("%s = (not shown) (from %s): an argument can be seen by everybody on this machine. Use %s or %[3]s_FILE, and another secret", k.name, v.source, k.env())
		case v.text == "" && strings.HasSuffix(v.source, "_FILE"): // its author wants no random one
			return fmt.Errorf("%s (from %s): the file is empty. Write a secret into it: openssl rand -hex 32", k.name, v.source)
		}
	}
	err := k.check(v.text)
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*server.ConfigError](err); ok && k.secret {
		return fmt.Errorf("%s = (not shown) (from %s): %s. %s", k.name, v.source, e.Reason, strings.TrimSuffix(e.Fix, "."))
	}
	if e, ok := errors.AsType[*server.ConfigError](err); ok { // words it itself, and knows what not to show
		return fmt.Errorf("%s = %q (from %s): %s. %s", k.name, e.Value, v.source, e.Reason, strings.TrimSuffix(e.Fix, "."))
	}
	shown := strconv.Quote(v.text)
	if k.secret || errors.Is(err, errKeyItself) {
		shown = "(not shown)"
	}
	return fmt.Errorf("%s = %s (from %s): %w. It takes: %s", k.name, shown, v.source, err, k.bounds)
}

// inFlag reports whether the value is a URL with a password in it that was
// given as an argument, which everybody on the machine can see.
func (k key) inFlag(v value) bool {
	if !k.secret || !strings.HasPrefix(v.source, "flag") {
		return false
	}
	u, err := url.Parse(v.text)
	if err != nil { // several hosts of PostgreSQL, for example
		user, _, found := strings.Cut(v.text, "@")
		return found && strings.Count(user, ":") > 1 || strings.Contains(v.text, "password=")
	}
	_, has := u.User.Password()
	return has || u.Query().Has("password") // which PostgreSQL's URLs may hold too
}

func unknownKey(name, where string) error {
	known := make([]string, len(keys))
	for i, k := range keys {
		known[i] = k.name
	}
	return fmt.Errorf("%s (%s): there is no such key. %s", name, where, didYouMean(name, known))
}

// didYouMean suggests the known name that is closest to a mistyped one.
func didYouMean(name string, known []string) string {
	best, distance := "", 4
	for _, k := range known {
		if d := editDistance(name, k); d < distance {
			best, distance = k, d
		}
	}
	if best != "" {
		return "Did you mean " + best + "?"
	}
	return "“sallyport config print” lists all keys"
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			before, row[j+1] = row[j+1], min(before+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// environment reads every SALLYPORT_ variable; one that is no key is a mistake.
func environment(env []string) (map[string]value, []error) {
	byEnv := map[string]string{configEnv: "config"}
	for _, k := range keys {
		byEnv[k.env()] = k.name
	}
	out := map[string]value{}
	var errs []error
	for _, line := range slices.Sorted(slices.Values(env)) {
		name, text, _ := strings.Cut(line, "=")
		if !strings.HasPrefix(name, envPrefix) || strings.HasPrefix(name, testEnvPrefix) {
			continue
		}
		if k, ok := byEnv[name]; ok {
			out[k] = value{text, "environment " + name}
			continue
		}
		if k, ok := byEnv[strings.TrimSuffix(name, "_FILE")]; ok && k != "config" {
			b, err := os.ReadFile(text)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w. Give the path of a file that holds the value of %s", name, err, k))
				continue
			}
			if _, twice := out[k]; twice {
				errs = append(errs, fmt.Errorf("%s and %s are both set. Keep one", strings.TrimSuffix(name, "_FILE"), name))
			}
			out[k] = value{strings.TrimRight(string(b), "\r\n"), "environment " + name}
			continue
		}
		known := []string{configEnv}
		for _, k := range keys {
			known = append(known, k.env())
			if strings.HasSuffix(name, "_FILE") {
				known = append(known, k.env()+"_FILE")
			}
		}
		errs = append(errs, fmt.Errorf("%s (in the environment): there is no such variable. %s", name, didYouMean(name, known)))
	}
	return out, errs
}

// readFile flattens a TOML file to section.key.
func readFile(path string) (map[string]string, []error) {
	var tree map[string]any
	if _, err := toml.DecodeFile(path, &tree); err != nil {
		if pe, ok := errors.AsType[toml.ParseError](err); ok {
			return nil, []error{fmt.Errorf("%s: line %d: %s", path, pe.Position.Line, pe.Message)}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, []error{fmt.Errorf("%s: there is no such file. “sallyport config init” writes one", path)}
		}
		return nil, []error{fmt.Errorf("%s: %w", path, err)}
	}
	out := map[string]string{}
	errs := flatten(out, "", tree)
	for i, err := range errs {
		errs[i] = fmt.Errorf("%s: %w", path, err)
	}
	return out, errs
}

func flatten(out map[string]string, prefix string, tree map[string]any) (errs []error) {
	for _, member := range sortedKeys(tree) {
		name := prefix + member
		switch v := tree[member].(type) {
		case map[string]any:
			errs = append(errs, flatten(out, name+".", v)...)
		case []any:
			parts := make([]string, len(v))
			strs := true
			for i, e := range v {
				var ok bool
				parts[i], ok = e.(string)
				strs = strs && ok
			}
			if !strs {
				errs = append(errs, fmt.Errorf("%s: a list holds strings", name))
				continue
			}
			out[name] = strings.Join(parts, ",")
		case string:
			out[name] = v
		case bool, int64:
			out[name] = fmt.Sprint(v)
		default:
			errs = append(errs, fmt.Errorf("%s: write a string, a whole number, true, false, or a list of strings", name))
		}
	}
	return errs
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func optional(f func(string) error) func(string) error {
	return func(s string) error {
		if s == "" {
			return nil
		}
		return f(s)
	}
}

// checkKeyFile refuses the key itself where its file is meant: it would be
// printed as a path, or become the name of a new one.
func checkKeyFile(s string) error {
	if b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(s)); err == nil && len(b) == 32 {
		return errKeyItself
	}
	return nonEmpty(s)
}

var errKeyItself = errors.New("this is a key and not the path of a file that holds one. Write it into a file with mode 0600, or into SALLYPORT_KEYS_MASTER")

func nonEmpty(s string) error {
	if strings.TrimSpace(s) == "" {
		return errors.New("it is empty")
	}
	return nil
}

func list(f func(string) error) func(string) error {
	return func(s string) error {
		for part := range strings.SplitSeq(s, ",") {
			if err := f(strings.TrimSpace(part)); err != nil {
				return fmt.Errorf("%q: %w", part, err)
			}
		}
		return nil
	}
}

// statics returns the keys of auth.api_keys.
func statics(s string) (all []apikey.Static, mistakes []string) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	for i, part := range strings.Split(s, ",") {
		k, err := apikey.ParseStatic(part)
		if err != nil {
			mistakes = append(mistakes, fmt.Sprintf("entry %d: %v", i+1, err))
			continue
		}
		all = append(all, k)
	}
	for _, m := range apikey.CheckStatics(all) {
		mistakes = append(mistakes, strings.TrimSuffix(m.Error(), "."))
	}
	return all, mistakes
}

func checkStatics(s string) error {
	if _, mistakes := statics(s); mistakes != nil {
		return errors.New(strings.Join(mistakes, "; "))
	}
	return nil
}

func oneOf(choices ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(choices, s) {
			return errors.New("it is none of the choices")
		}
		return nil
	}
}

func checkBool(s string) error { return oneOf("true", "false")(s) }

func duration(low, high time.Duration) func(string) error {
	return func(s string) error {
		d, err := time.ParseDuration(s)
		if err != nil {
			return errors.New("it is not a duration such as 90s, 15m or 24h")
		}
		if d < low || d > high {
			return errors.New("it is out of range")
		}
		return nil
	}
}

// unlessOff also takes “off”.
func unlessOff(f func(string) error) func(string) error {
	return func(s string) error {
		if s == "off" {
			return nil
		}
		return f(s)
	}
}

func integer(low, high int) func(string) error {
	return func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil {
			return errors.New("it is not a whole number")
		}
		if n < low || n > high {
			return errors.New("it is out of range")
		}
		return nil
	}
}

func checkListen(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return errors.New("it is not host:port")
	}
	return integer(0, 65535)(port)
}

// checkPostgres also takes postgres:///NAME?host=/run/postgresql, a socket.
func checkPostgres(s string) error {
	err := postgres.CheckURL(s)
	if e, ok := errors.AsType[*db.OpenError](err); ok {
		return errors.New(e.Why)
	}
	return err
}

// postgresOptions is what the configuration says of connections.
func (s settings) postgresOptions() postgres.Options {
	return postgres.Options{
		MaxConnections: s.int("postgres.max_connections"),
		ConnectTimeout: s.duration("postgres.connect_timeout"), StatementTimeout: s.duration("postgres.statement_timeout"),
		IdleTimeout: s.duration("postgres.idle_timeout"), MaxLifetime: s.duration("postgres.max_lifetime"),
	}
}

func checkProxy(s string) error {
	_, err := clientip.ParseTrusted([]string{s})
	return err
}

func checkDemanded(s string) error {
	if s == authn.Everybody {
		return nil
	}
	return sallyport.CheckName(s)
}

func checkLimit(s string) error {
	if s == "" {
		return errors.New("it is empty; “off” is how to have none")
	}
	return server.CheckLimit(s)
}

// wall adds to a server's configuration what stands around it.
func (s settings) wall(c *server.Config) {
	c.TrustedProxies = s.trusted()
	c.ProxyHeader = clientip.Header(s.text("proxy.header"))
	c.Hosts = s.list("hosts.allowed")
	c.CORS = cors.Config{
		Origins: s.list("cors.origins"), Methods: s.list("cors.methods"),
		Credentials: s.bool("cors.credentials"), MaxAge: s.duration("cors.max_age"),
	}
	if s.isSet("cors.headers") { // otherwise with the header of API keys as it is called
		c.CORS.RequestHeaders = s.list("cors.headers")
	}
	c.HSTS, c.HSTSSubdomains, c.HSTSPreload = s.duration("tls.hsts"), s.bool("tls.hsts_subdomains"), s.bool("tls.hsts_preload")
	if c.HSTS == 0 {
		c.HSTS = -1
	}
	c.APIKeyHeader = s.text("auth.api_key_header")
	c.Limits.Default, c.Limits.Login = s.text("limits.default"), s.text("limits.login")
	c.Limits.Register, c.Limits.Mail, c.Limits.Guesses = s.text("limits.register"), s.text("limits.mail"), s.text("limits.guesses")
	c.Limits.Nodes = s.int("limits.nodes")
}

// wallMistakes returns what is wrong with the wall where single keys are well.
func (s settings) wallMistakes() (errs []error) {
	c := server.Config{BaseURL: s.baseURL()}
	if rest, plain := strings.CutPrefix(c.BaseURL, "http://"); plain && s.tlsOn() { // a mistake that tlsMistakes reports
		c.BaseURL = "https://" + rest
	}
	s.wall(&c)
	for _, e := range server.CheckWall(c) {
		errs = append(errs, fmt.Errorf("%s = %q (from %s): %s. %s", e.Key, e.Value, s[e.Key].source, e.Reason, strings.TrimSuffix(e.Fix, ".")))
	}
	return errs
}

// masterKey returns the key itself or the file it is in.
func (s settings) masterKey() (key, file string) {
	v := s["keys.master"]
	if strings.HasPrefix(v.source, "environment") {
		return v.text, ""
	}
	return "", v.text
}

// checkMasterKey looks at a key that stands in the environment itself.
func checkMasterKey(v value) error {
	if b, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(v.text)); err != nil || len(b) != 32 {
		return fmt.Errorf("keys.master = (not shown) (from %s): it is not the base64 of 32 bytes. Make one with: openssl rand -base64 32. The path of a key file belongs into the configuration file, or --set keys.master=FILE", v.source)
	}
	return nil
}
