// Package api makes typed operations: a function from an input struct to an
// output struct, registered with a method, a path and a Rule. The one
// declaration is what is validated, what is enforced and what the OpenAPI
// document says.
//
// It decides what a well-formed request is: content type, size, strict JSON,
// known members. The rule is enforced by the Mux's gate before a byte of the
// body is read. It stores nothing, and no answer of it repeats a value that
// was sent.
//
// Begin with Get and Post on the API of a server (server.Server.API); New makes one
// alone.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/guard/body"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// Bounds of a request's body in bytes.
const (
	MaxBody     = 1 << 20
	MaxAuthBody = 64 << 10 // on authentication routes
)

// Config describes an API.
type Config struct {
	Title       string
	Version     string
	Description string
	// Path is the prefix under which clients see the operations, such as
	// "/identity"; empty if they stand at the root.
	Path string
	// Schemes are the ways to authenticate, by their OpenAPI names.
	Schemes map[string]*huma.SecurityScheme
	// Kinds says which kind of credential each of Schemes is. One that cannot
	// meet the rule of an operation is not named there; one whose kind is not said
	// is named everywhere.
	Kinds map[string]sallyport.Kind
	// Named lists those of Schemes that count only where a rule names their kind
	// (sallyport.Via).
	Named []string
	// CredentialQuery is a query parameter that holds a credential and belongs to
	// no operation; empty: there is none.
	CredentialQuery string
	// Limited tells that requests of any operation may be refused as too many (429).
	Limited bool
	// Challenges returns the WWW-Authenticate values of an error.
	Challenges func(*sallyport.Error) []string
	// Refused, if not nil, is told when an operation refuses what its rule had
	// let in (403, and 409 for a last administrator), for the audit log.
	Refused func(ctx context.Context, operation string, e *sallyport.Error)
	Log     *slog.Logger
}

// API is a set of typed operations on a Mux.
type API struct {
	cfg     Config
	mux     *sallyport.Mux
	huma    huma.API
	schemes []string
	scopes  map[string]bool

	omitted map[string]bool

	once     sync.Once
	document []byte
}

// New returns an API that registers its operations on mux.
//
// Huma keeps its constructor of errors in package variables; New sets them, so
// that every Huma API of the program answers with problem details that repeat
// no values. Likewise lists are described as never null from then on, unless
// the member is tagged nullable:"true": an output should give an empty slice
// rather than a nil one, as NewPage does.
func New(mux *sallyport.Mux, cfg Config) *API {
	errorsOnce.Do(replaceErrors)
	c := huma.DefaultConfig(cfg.Title, cfg.Version)
	c.Info.Description = cfg.Description
	// Huma's own pages and documents are off: the docs page loads from a CDN,
	// schema links cost time, and its cached document is not synchronised.
	c.OpenAPIPath, c.DocsPath, c.SchemasPath, c.CreateHooks = "", "", "", nil
	c.RejectUnknownQueryParameters = true
	c.Formats = map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat}
	if cfg.Path != "" {
		c.Servers = []*huma.Server{{URL: cfg.Path}}
	}
	c.Components.SecuritySchemes = cfg.Schemes
	a := &API{cfg: cfg, mux: mux, scopes: map[string]bool{}}
	for name := range cfg.Schemes {
		a.schemes = append(a.schemes, name)
		c.Security = append(c.Security, map[string][]string{name: {}})
	}
	slices.Sort(a.schemes)
	slices.SortFunc(c.Security, func(x, y map[string][]string) int { return slices.Compare(keys(x), keys(y)) })
	a.huma = huma.NewAPI(c, adapter{a})
	return a
}

func keys(m map[string][]string) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	return out
}

const ruleKey = "sallyport.rule"

// adapter registers Huma's operations on the Mux, whose gate runs first.
type adapter struct{ a *API }

func (ad adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) { ad.a.mux.ServeHTTP(w, r) }

func (ad adapter) Handle(op *huma.Operation, h func(huma.Context)) {
	rule, _ := op.Metadata[ruleKey].(sallyport.Rule) // the zero Rule, which Mux refuses
	maxBody := op.MaxBodyBytes
	op.MaxBodyBytes = -1 // Huma gets what has been read already
	if c, ok := op.Metadata[sanitizeKey].(*cleaner); ok {
		c.document(op)
	}
	shortcut, _ := op.Metadata[shortcutKey].(func(http.ResponseWriter, *http.Request) bool)
	ad.a.register(op, rule, func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		if header["Cache-Control"] == nil {
			header["Cache-Control"] = noStore
		}
		if shortcut != nil && r.URL.RawQuery == "" && shortcut(w, r) {
			return
		}
		if err := checkTarget(r); err != nil {
			ad.a.WriteError(w, r, err)
			return
		}
		r = ad.a.withoutCredential(r)
		if op.RequestBody != nil && (op.RequestBody.Required || r.ContentLength != 0) {
			b, err := ReadJSON(r, maxBody)
			if err != nil {
				ad.a.WriteError(w, r, err)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(b))
		}
		h(humago.NewContext(op, r, w))
	})
}

// withoutCredential takes the credential out of the query: the gate has read it,
// and operations refuse parameters that they do not know.
func (a *API) withoutCredential(r *http.Request) *http.Request {
	if a.cfg.CredentialQuery == "" || r.URL.RawQuery == "" {
		return r
	}
	q := r.URL.Query()
	if !q.Has(a.cfg.CredentialQuery) {
		return r
	}
	q.Del(a.cfg.CredentialQuery)
	u, c := *r.URL, *r
	u.RawQuery = q.Encode()
	c.URL = &u
	return &c
}

// Without calls f, and leaves out the operations among those it registers that
// are named, each as method and path: “GET /users/me”. It is for who serves these
// in another way.
func (a *API) Without(operations []string, f func()) {
	before := a.omitted
	a.omitted = map[string]bool{}
	for _, name := range operations {
		a.omitted[name] = true
	}
	defer func() { a.omitted = before }()
	f()
}

// Alias serves an operation under one more path, for clients that know it by that:
// a.Alias("POST /login", "POST /auth/login"). Both are written as method and path. It
// is the same operation, with the rule, the limits and the counts of the first, and
// stands in the document beside it. It panics as sallyport.Mux.Alias does.
func (a *API) Alias(pattern, of string) {
	a.mux.Alias(exactly(pattern), exactly(of))
	method, path, _ := strings.Cut(pattern, " ")
	ofMethod, ofPath, _ := strings.Cut(of, " ")
	found := operationOf(a.huma.OpenAPI().Paths[ofPath], ofMethod)
	if found == nil {
		return // a page, which stands in no document
	}
	op := *found
	op.Path, op.OperationID = path, operationID(method, path)
	op.Description = strings.TrimSuffix("The same as "+of+". "+op.Description, " ")
	a.huma.OpenAPI().AddOperation(&op)
}

// exactly is an operation's pattern on the Mux: a path that ends in a slash is that
// path, and not everything below it.
func exactly(pattern string) string {
	if strings.HasSuffix(pattern, "/") {
		return pattern + "{$}"
	}
	return pattern
}

func operationOf(p *huma.PathItem, method string) *huma.Operation {
	if p == nil {
		return nil
	}
	return map[string]*huma.Operation{
		http.MethodGet: p.Get, http.MethodPost: p.Post, http.MethodPut: p.Put, http.MethodPatch: p.Patch, http.MethodDelete: p.Delete,
	}[method]
}

// register puts an operation on the Mux, behind its gate unless it looks at no
// credentials.
func (a *API) register(op *huma.Operation, rule sallyport.Rule, h http.HandlerFunc) {
	pattern := exactly(op.Method + " " + op.Path)
	limits := limitsOf(op)
	var handler http.Handler = h
	if refuse, ok := op.Metadata[refuseKey].(refusal); ok {
		handler = refuser{h, refuse}
	}
	if op.Metadata[openKey] == nil {
		handle := a.mux.Handle
		if op.Metadata[setupKey] != nil {
			handle = a.mux.HandleSetup
		}
		handle(pattern, rule, handler, limits...)
		return
	}
	if rule.Op() != sallyport.OpPublic {
		panic("sallyport: route " + pattern + ": only a public operation can ignore credentials")
	}
	a.mux.Open(pattern, handler, limits...)
}

const (
	openKey     = "sallyport.open"
	setupKey    = "sallyport.setup"
	refuseKey   = "sallyport.refuse"
	shortcutKey = "sallyport.shortcut"
	limitsKey   = "sallyport.limits"
)

// Limit bounds how often the operation is called. It may be given several times.
// What it says stands in the document as x-sallyport-limits.
func Limit(l ...sallyport.Limit) Option {
	return func(op *huma.Operation) {
		if len(l) == 0 {
			return
		}
		set(op, limitsKey, append(limitsOf(op), l...))
		op.Errors = append(op.Errors, http.StatusTooManyRequests)
	}
}

func limitsOf(op *huma.Operation) []sallyport.Limit {
	l, _ := op.Metadata[limitsKey].([]sallyport.Limit)
	return l
}

type refusal = func(http.ResponseWriter, *http.Request, *sallyport.Error)

// refuser words the refusals of the gate before it (authn.Refuser).
type refuser struct {
	http.Handler
	refuse refusal
}

// Refuse answers for the gate.
func (r refuser) Refuse(w http.ResponseWriter, req *http.Request, e *sallyport.Error) {
	r.refuse(w, req, e)
}

// RefuseWith makes a Raw operation answer what its rule refuses in a form of its
// own instead of problem details: OAuth has one. Challenges are in the header
// already.
func RefuseWith(f func(http.ResponseWriter, *http.Request, *sallyport.Error)) Option {
	return func(op *huma.Operation) { set(op, refuseKey, f) }
}

// Shortcut adds a way to answer without the machinery of typed operations, for
// what is asked all the time: f answers exactly as the operation would, or
// returns false. It is called behind the rule and only without a query.
func Shortcut(f func(http.ResponseWriter, *http.Request) bool) Option {
	return func(op *huma.Operation) { set(op, shortcutKey, f) }
}

// IgnoreCredentials makes a public operation look at no credentials: one that
// is sent and not good is not refused. It is for what a client with an expired
// token must reach, and for health checks.
func IgnoreCredentials() Option {
	return func(op *huma.Operation) {
		set(op, openKey, true)
	}
}

// WhileSettingUp opens an operation also to sessions that owe a second factor
// (sallyport.Mux.HandleSetup). It stands in the document as x-sallyport-setup.
func WhileSettingUp() Option {
	return func(op *huma.Operation) {
		set(op, setupKey, true)
		if op.Extensions == nil {
			op.Extensions = map[string]any{}
		}
		op.Extensions["x-sallyport-setup"] = true
	}
}

func set(op *huma.Operation, key string, v any) {
	if op.Metadata == nil {
		op.Metadata = map[string]any{}
	}
	op.Metadata[key] = v
}

var (
	noStore  = []string{"no-store"}
	jsonType = []string{"application/json"}
)

// WriteJSON writes a body that EncodeJSON made.
func WriteJSON(w http.ResponseWriter, body []byte) {
	h := w.Header()
	h["Content-Type"] = jsonType
	_, _ = w.Write(body)
}

// EncodeJSON encodes v as a typed operation's body is encoded.
func EncodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	err := huma.DefaultJSONFormat.Marshal(&b, v)
	return b.Bytes(), err
}

// checkTarget refuses escapes in path and query that stand for a NUL byte or
// for what is not UTF-8. No id, name or cursor holds them, and PostgreSQL
// answers them with an error that looks like a failure of its own.
func checkTarget(r *http.Request) error {
	ok := func(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }
	valid := ok(r.URL.Path)
	if valid && r.URL.RawQuery != "" {
		query, err := url.QueryUnescape(r.URL.RawQuery)
		valid = err == nil && ok(query)
	}
	if !valid {
		return &sallyport.Error{Status: http.StatusBadRequest, Code: "bad_request", Message: "The request target is not valid."}
	}
	return nil
}

// ReadJSON reads a body that is one JSON text and nothing else. Plain handlers
// call it to read as typed operations do.
func ReadJSON(r *http.Request, limit int64) ([]byte, error) {
	if err := body.MediaType(r, "application/json"); err != nil {
		return nil, err
	}
	b, err := body.ReadAll(r, limit)
	if err != nil {
		return nil, err
	}
	if err := body.CheckJSON(b, body.DefaultMaxDepth); err != nil {
		if j, ok := errors.AsType[*body.JSONError](err); ok {
			return nil, j.Refusal()
		}
		return nil, err
	}
	return b, nil
}

// FormType is the media type of HTML forms and of OAuth requests.
const FormType = "application/x-www-form-urlencoded"

// ReadForm reads a form whose fields stand once each.
func ReadForm(r *http.Request, limit int64) (map[string]string, error) {
	if err := body.MediaType(r, FormType); err != nil {
		return nil, err
	}
	b, err := body.ReadAll(r, limit)
	if err != nil {
		return nil, err
	}
	return body.ParseForm(b)
}

// Option adds to an operation.
type Option func(*huma.Operation)

// Doc names and describes the operation.
func Doc(tag, summary, description string) Option {
	return func(op *huma.Operation) {
		op.Tags, op.Summary, op.Description = []string{tag}, summary, description
	}
}

// Status sets the status of success; the default is 200, or 204 without output.
func Status(code int) Option { return func(op *huma.Operation) { op.DefaultStatus = code } }

// BodyLimit bounds the body, in bytes; the default is MaxBody.
func BodyLimit(n int64) Option { return func(op *huma.Operation) { op.MaxBodyBytes = n } }

// Errors lists the statuses of refusals for the document. Those that need not
// be named: 401 and 403 where the rule is not public; 400, 413 and 415 where
// there is a body; and 422, 500 and 503 everywhere.
func Errors(statuses ...int) Option {
	return func(op *huma.Operation) { op.Errors = append(op.Errors, statuses...) }
}

// Handle registers a typed operation. A path that ends in a slash is that path, and
// not everything below it. Like Mux.Handle it panics on a mistake in
// the program: no rule, a conflicting path, a type without a schema.
//
// Text of the input that is tagged sanitize:"text" or sanitize:"rich" loses its
// markup before f sees it (docs/sanitize.md).
//
// f returns a *sallyport.Error for what the caller should know; a failure of
// the database is answered 503, and everything else 500.
func Handle[I, O any](a *API, method, path string, rule sallyport.Rule, f func(context.Context, *I) (*O, error), opts ...Option) {
	if a.omitted[strings.ToUpper(method)+" "+path] {
		return
	}
	op := huma.Operation{
		Method: strings.ToUpper(method), Path: path, MaxBodyBytes: MaxBody, BodyReadTimeout: -1,
		Metadata: map[string]any{ruleKey: rule},
	}
	op.OperationID = operationID(op.Method, path)
	for _, o := range opts {
		o(&op)
	}
	if rule.Op() != sallyport.OpPublic {
		op.Errors = append(op.Errors, http.StatusUnauthorized, http.StatusForbidden)
	}
	if hasBody[I]() {
		op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	if a.cfg.Limited {
		op.Errors = append(op.Errors, http.StatusTooManyRequests)
	}
	// An unknown query parameter is refused everywhere.
	op.Errors = append(op.Errors, http.StatusUnprocessableEntity, http.StatusInternalServerError, http.StatusServiceUnavailable)
	slices.Sort(op.Errors)
	op.Errors = slices.Compact(op.Errors)
	op.Responses = map[string]*huma.Response{}
	a.describe(&op, rule)
	// Such a parameter is refused before f is called, which is how “sallyport prove”
	// stops at the decision.
	if op.Extensions != nil {
		op.Extensions["x-sallyport-strict"] = true
	}
	cleaner := newCleaner(a.huma.OpenAPI().Components.Schemas, op.Method+" "+op.Path, reflect.TypeFor[I]())
	if cleaner != nil {
		set(&op, sanitizeKey, cleaner)
	}
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		if cleaner != nil {
			if err := cleaner.clean(reflect.ValueOf(in).Elem()); err != nil {
				return nil, a.problem(ctx, err)
			}
		}
		out, err := f(ctx, in)
		if err != nil {
			return nil, a.problem(ctx, a.noteRefusal(ctx, op.Method+" "+op.Path, err))
		}
		return out, nil
	})
	for status, res := range op.Responses {
		describeHeaders(status, res)
	}
}

// noteRefusal tells of an operation that refused what its rule had let in, unless it
// has a decision's name: that is told of already. It returns the error to answer with,
// which names the decision that was told of.
func (a *API) noteRefusal(ctx context.Context, operation string, err error) error {
	e, ok := errors.AsType[*sallyport.Error](err)
	if !ok || e.DecisionID != "" || e.Status != http.StatusForbidden && e.Code != "last_administrator" {
		return err
	}
	e = e.Decided()
	if a.cfg.Refused != nil {
		a.cfg.Refused(ctx, operation, e)
	}
	return e
}

func hasBody[I any]() bool {
	t := reflect.TypeFor[I]()
	if t.Kind() != reflect.Struct {
		return false // Huma refuses it with a message
	}
	_, ok := t.FieldByName("Body")
	return ok
}

// Get is Handle for GET; Post, Put, Patch and Delete alike.
func Get[I, O any](a *API, path string, rule sallyport.Rule, f func(context.Context, *I) (*O, error), opts ...Option) {
	Handle(a, http.MethodGet, path, rule, f, opts...)
}

// Post is Handle for POST.
func Post[I, O any](a *API, path string, rule sallyport.Rule, f func(context.Context, *I) (*O, error), opts ...Option) {
	Handle(a, http.MethodPost, path, rule, f, opts...)
}

// Put is Handle for PUT.
func Put[I, O any](a *API, path string, rule sallyport.Rule, f func(context.Context, *I) (*O, error), opts ...Option) {
	Handle(a, http.MethodPut, path, rule, f, opts...)
}

// Patch is Handle for PATCH.
func Patch[I, O any](a *API, path string, rule sallyport.Rule, f func(context.Context, *I) (*O, error), opts ...Option) {
	Handle(a, http.MethodPatch, path, rule, f, opts...)
}

// Delete is Handle for DELETE.
func Delete[I, O any](a *API, path string, rule sallyport.Rule, f func(context.Context, *I) (*O, error), opts ...Option) {
	Handle(a, http.MethodDelete, path, rule, f, opts...)
}

// Raw registers a plain handler and documents it with op, for what is not JSON
// in and JSON out: forms, pages, health. Method and path are taken from op. The
// gate's own refusals are added to its responses.
func (a *API) Raw(op huma.Operation, rule sallyport.Rule, h http.HandlerFunc, opts ...Option) {
	if a.omitted[op.Method+" "+op.Path] {
		return
	}
	for _, o := range opts {
		o(&op)
	}
	a.register(&op, rule, h)
	if op.OperationID == "" {
		op.OperationID = operationID(op.Method, op.Path)
	}
	if rule.Op() != sallyport.OpPublic {
		responses := ErrorResponses(a, http.StatusUnauthorized, http.StatusForbidden)
		maps.Copy(responses, op.Responses)
		op.Responses = responses
	}
	a.describe(&op, rule)
	a.huma.OpenAPI().AddOperation(&op)
}

// Schema returns the schema of T, registered with the document's components.
func Schema[T any](a *API) *huma.Schema {
	return a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, reflect.TypeFor[T]().Name())
}

// operationID makes get-users-by-id of GET /users/{id}, and get-items-index of
// GET /items/.
func operationID(method, path string) string {
	var parts []string
	for p := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if strings.HasPrefix(p, "{") {
			parts = append(parts, "by")
		}
		if p = strings.Trim(p, "{}."); p != "" {
			parts = append(parts, strings.NewReplacer(".", "-", "_", "-").Replace(p))
		}
	}
	if strings.HasSuffix(path, "/") {
		parts = append(parts, "index")
	}
	return strings.ToLower(method) + "-" + strings.Join(parts, "-")
}

// Document returns the OpenAPI 3.1 document. It is made at the first call:
// register everything before.
func (a *API) Document() []byte {
	a.once.Do(func() {
		b, err := json.MarshalIndent(a.huma.OpenAPI(), "", "  ")
		if err != nil {
			panic("sallyport: the OpenAPI document: " + err.Error())
		}
		a.document = b
	})
	return a.document
}

// problem turns an error of a handler into what the caller gets.
func (a *API) problem(ctx context.Context, err error) *problem {
	e := a.visible(ctx, err)
	p := &problem{header: http.Header{}}
	if c := reqctx.From(ctx); c != nil {
		p.Problem = e.Problem(c.ID())
	} else {
		p.Problem = e.Problem("")
	}
	e.SetRetryAfter(p.header)
	if a.cfg.Challenges != nil {
		for _, c := range a.cfg.Challenges(e) {
			p.header.Add("Www-Authenticate", c)
		}
	}
	return p
}

// visible returns the error that a caller may see, and logs the others.
func (a *API) visible(ctx context.Context, err error) *sallyport.Error {
	if e, ok := errors.AsType[*sallyport.Error](err); ok {
		return e
	}
	if errors.Is(err, context.Canceled) {
		return sallyport.Unavailable() // the caller is gone
	}
	if a.cfg.Log != nil {
		a.cfg.Log.ErrorContext(ctx, "a request failed", "error", err)
	}
	if _, ok := errors.AsType[*db.Error](err); ok || errors.Is(err, context.DeadlineExceeded) {
		return sallyport.Unavailable()
	}
	return sallyport.Internal()
}

// Refusal returns what the caller of a plain handler may see of an error, for
// answers in a form of their own. Challenges and Retry-After are set in the header;
// what is not for the caller is logged, and what the audit log has of operations it
// has of this one.
func (a *API) Refusal(w http.ResponseWriter, r *http.Request, err error) *sallyport.Error {
	e := a.visible(r.Context(), a.noteRefusal(r.Context(), r.Pattern, err))
	e.SetRetryAfter(w.Header())
	if a.cfg.Challenges != nil {
		for _, c := range a.cfg.Challenges(e) {
			w.Header().Add("Www-Authenticate", c)
		}
	}
	return e
}

// WriteError answers a plain handler's error as Handle answers an operation's.
func (a *API) WriteError(w http.ResponseWriter, r *http.Request, err error) {
	p := a.problem(r.Context(), err)
	for k, v := range p.header {
		w.Header()[k] = v
	}
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	w.Header().Set("Content-Type", problemType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Problem.Status)
	_, _ = w.Write(b)
}
