package prove

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// State is what has become of a credential.
type State string

// The states of credentials that are made.
const (
	Good    State = ""
	Expired State = "expired"
	Ended   State = "ended" // its session was ended, its key switched off
)

// Given is a credential that somebody else made.
type Given struct {
	Name       string // in words
	Holding    Holding
	Value      string // as it is sent: a token, a key, a cookie's value, “name:password”
	State      State
	Disposable bool // may be lost
}

// Options say what credentials there are.
type Options struct {
	// Make lists the schemes of which credentials can be made, by name. The plan then
	// asks for every principal that a rule calls for.
	Make []string
	// Implied returns what comes with a role: permissions and other roles. All tells
	// that it brings every permission.
	Implied func(role string) (permissions, roles []string, all bool)
	// Exists reports whether a permission can be held; nil: each can.
	Exists func(permission string) bool
	// Sparing sends one forgery to each operation, in turn, and not all: servers count
	// what nobody has as guesses of its address, and others may come from there.
	Sparing bool
	// Demanded tells that everybody must have a second factor, and Strong that some
	// must: then no principal is without one that is not to be.
	Demanded, Strong bool
	// Given are credentials in place of made ones.
	Given []Given
	// Harmless names operations, as method and path, that may be called although
	// nothing would stop them.
	Harmless []string
}

// Case is one call and what should come of it.
type Case struct {
	Op        *Operation
	Principal string // in words
	Expected  Expected
	Sends     []Sent
}

// Sent is a credential of a case.
type Sent struct {
	Scheme  string
	Holding Holding // of one that is to be made
	State   State
	Forge   Forge  // of one that is not genuine
	Value   string // of one that is there already
}

// Forge is a way to make something up that is no credential.
type Forge string

// The ways. What they make is made of a good token where there is one.
const (
	Nonsense  Forge = "nonsense"  // no token at all
	Signature Forge = "signature" // a signature of nobody's
	None      Forge = "none"      // alg "none", and no signature
)

// Untried is an operation that was not tried, or a case of it, and why.
type Untried struct {
	Operation string `json:"operation"`
	Principal string `json:"principal,omitempty"`
	Why       string `json:"why"`
}

// Plan returns the calls to make, those that nothing stops last, and the
// operations that it leaves out. It decides everything and asks nobody.
func Plan(d *Document, opt Options) (cases []Case, left []Untried) {
	p := planner{d: d, opt: opt, lost: map[string]bool{}}
	for _, o := range d.Operations {
		p.names = append(p.names, o.Rule.named(opPermission, opScope)...)
	}
	p.names = union(p.names, nil)
	if opt.Exists != nil {
		p.names = slices.DeleteFunc(p.names, func(n string) bool { return !opt.Exists(n) })
	}
	var last []Case
	for _, o := range d.Operations {
		_, why := o.stop()
		harmless := slices.Contains(opt.Harmless, o.Name())
		switch {
		case o.flaw != "":
			left = append(left, Untried{Operation: o.Name(), Why: o.flaw})
		case why != "" && !harmless:
			left = append(left, Untried{Operation: o.Name(), Why: why})
		case why != "":
			last = append(last, p.of(o, true)...)
		default:
			cases = append(cases, p.of(o, false)...)
		}
	}
	return append(cases, last...), left
}

type planner struct {
	d     *Document
	opt   Options
	names []string // of all permissions and scopes that rules name
	lost  map[string]bool
	turn  int // of forgeries

	o     *Operation
	out   []Case
	seen  map[string]bool
	loose bool // nothing stops the operation
}

func (p *planner) of(o *Operation, loose bool) []Case {
	p.o, p.out, p.seen, p.loose = o, nil, map[string]bool{}, loose
	if o.Rule.Public() {
		p.add("nobody", Expected{Admitted: true})
	} else {
		p.add("nobody", refused(http.StatusUnauthorized))
	}
	if o.Rule.Public() && o.scarce {
		return p.out // letters, registrations: nobody's share is used up by this
	}
	p.bad()
	if len(p.opt.Make) > 0 {
		p.made()
	} else {
		p.given()
	}
	return p.out
}

func (p *planner) add(principal string, e Expected, sends ...Sent) {
	e.Public = p.o.Rule.Public()
	key := fmt.Sprint(sends)
	if !p.seen[key] {
		p.seen[key] = true
		p.out = append(p.out, Case{p.o, principal, e, sends})
	}
}

const severalCode = "several_credentials" // of Sallyport's refusal of two credentials

// bad adds credentials that are not good. What a public operation does with them
// is declared by Sallyport's documents only.
func (p *planner) bad() {
	e := refused(http.StatusUnauthorized)
	switch {
	case p.o.Rule.Public() && !p.d.Sallyport:
		return
	case p.o.Ignores:
		e = Expected{Admitted: true}
	}
	for _, name := range p.read("bearer") {
		if p.o.Ignores { // one shows that they are not looked at
			p.add("a forged token", e, Sent{Scheme: name, Forge: Signature})
			return
		}
		p.forged(e, forgery{"a forged token", name, Signature}, forgery{"a text that is no token", name, Nonsense}, forgery{"a token with alg none", name, None})
		if slices.Contains(p.opt.Make, name) {
			all := p.session(name)
			p.add("an expired token", e, Sent{Scheme: name, Holding: all, State: Expired})
			p.add("the token of a session that was ended", e, Sent{Scheme: name, Holding: all, State: Ended})
		}
	}
	for _, name := range p.read("api_key") {
		switch {
		case slices.Contains(p.opt.Make, name): // one that nobody has would count as a guess
			p.add("an API key that was switched off", e, Sent{Scheme: name, Holding: p.key(name, p.names), State: Ended})
		case len(p.opt.Make) == 0:
			p.forged(e, forgery{"an API key that nobody has", name, Nonsense})
		}
	}
	for _, name := range p.read("cookie") {
		if slices.Contains(p.opt.Make, name) {
			p.add("the cookie of a session that was ended", e, Sent{Scheme: name, Holding: p.session(name), State: Ended})
		}
	}
	for _, g := range p.opt.Given {
		if g.State != Good && (slices.Contains(p.o.Schemes, g.Holding.Scheme) || p.d.Sallyport) {
			p.add(g.Name, e, Sent{Scheme: g.Holding.Scheme, Value: g.Value, State: g.State})
		}
	}
}

type forgery struct {
	principal, scheme string
	forge             Forge
}

// forged adds all of them, or the one whose turn it is. Alone it is every fourth.
func (p *planner) forged(e Expected, all ...forgery) {
	if p.opt.Sparing && p.d.Sallyport {
		p.turn++
		if len(all) == 1 && p.turn%4 != 0 {
			return
		}
		all = all[p.turn%len(all):][:1]
	}
	for _, f := range all {
		p.add(f.principal, e, Sent{Scheme: f.scheme, Forge: f.forge})
	}
}

// read lists the document's schemes of a kind that the operation reads: Sallyport
// reads these everywhere, others what security names.
func (p *planner) read(kind string) (out []string) {
	for name, s := range p.d.Schemes {
		if s.Kind() == kind && (p.d.Sallyport || slices.Contains(p.o.Schemes, name)) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// session is a session that may do everything that the document names, with a
// second factor, begun just now.
func (p *planner) session(scheme string) Holding {
	return Holding{Scheme: scheme, Kind: p.d.Schemes[scheme].Kind(), Permissions: p.names, Roles: p.o.Rule.named(opRole), MFA: true}
}

// key is an API key with a scope, of somebody who may do everything.
func (p *planner) key(scheme string, scopes []string) Holding {
	h := p.session(scheme)
	h.MFA, h.Age, h.Scoped = false, -1, true
	h.Scopes = slices.Clone(scopes)
	for _, r := range h.Roles {
		h.Scopes = append(h.Scopes, "role:"+r)
	}
	return h
}

// made adds the principals that the rule calls for.
func (p *planner) made() {
	if p.o.Rule.Public() {
		for _, name := range p.read("bearer") {
			if slices.Contains(p.opt.Make, name) {
				p.holding("a session with everything", p.session(name))
			}
		}
		return
	}
	names, roles := p.o.Rule.named(opPermission, opScope), p.o.Rule.named(opRole)
	ways := p.o.Rule.ways()
	for _, scheme := range p.opt.Make {
		s := p.d.Schemes[scheme]
		named := slices.Contains(p.o.Schemes, scheme)
		switch s.Kind() {
		case "bearer":
			p.sessions(scheme, names, roles, ways)
		case "cookie":
			p.holding("a browser's session with everything", p.session(scheme))
		case "api_key":
			p.holding("an API key with everything", p.key(scheme, p.names))
			for _, n := range names {
				p.holding("an API key whose scope lacks "+n, p.key(scheme, without(p.names, n)))
			}
			for _, w := range ways {
				h := p.key(scheme, nil)
				h.Permissions, h.Roles, h.Scopes = w.permissions, w.roles, scopesOf(w)
				p.holding("an API key with "+w.String(), h)
			}
		case "client", "basic":
			if !named {
				continue
			}
			h := p.session(scheme)
			h.MFA, h.Age = false, -1
			p.holding("a client's secret, with everything", h)
			for _, n := range names {
				h.Permissions = without(p.names, n)
				p.holding("a client's secret, with everything but "+n, h)
			}
		}
	}
	if p.d.Sallyport && !p.o.Ignores {
		b, k := p.read("bearer"), p.read("api_key")
		if len(b) > 0 && len(k) > 0 && slices.Contains(p.opt.Make, b[0]) && slices.Contains(p.opt.Make, k[0]) {
			e := refused(http.StatusBadRequest)
			e.Code = severalCode
			p.add("a session and an API key at once", e, Sent{Scheme: b[0], Holding: p.session(b[0])}, Sent{Scheme: k[0], Holding: p.key(k[0], p.names)})
		}
	}
}

func scopesOf(w way) []string {
	out := slices.Clone(w.permissions)
	for _, r := range w.roles {
		out = append(out, "role:"+r)
	}
	return out
}

// String is what the way takes, in words.
func (w way) String() string {
	var parts []string
	if len(w.permissions) > 0 {
		parts = append(parts, strings.Join(w.permissions, ", "))
	}
	for _, r := range w.roles {
		parts = append(parts, "role "+r)
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ") + " alone"
}

// sessions adds access tokens: with everything, with just enough, and with
// everything but one thing.
func (p *planner) sessions(scheme string, names, roles []string, ways []way) {
	all := p.session(scheme)
	p.holding("a session with everything", all)
	for _, w := range ways {
		h := all
		h.Permissions, h.Roles = w.permissions, w.roles
		// The least that satisfies it: not even a second factor, if it is not asked for.
		h.MFA = w.mfa || p.opt.Strong
		p.holding("a session with "+w.String(), h)
		if !w.unscoped && len(scopesOf(w)) > 0 {
			h.Scoped, h.Scopes = true, scopesOf(w)
			p.holding("a token whose scope is "+strings.Join(h.Scopes, " "), h)
		}
	}
	if !slices.ContainsFunc(ways, func(w way) bool { return len(scopesOf(w)) == 0 }) {
		nothing := all
		nothing.Permissions, nothing.Roles = nil, nil
		p.holding("a session with nothing", nothing)
	}
	scoped := func(permissions, roles []string) Holding {
		h := all
		h.Scoped, h.Scopes = true, scopesOf(way{permissions: permissions, roles: roles})
		return h
	}
	p.holding("a token whose scope is everything", scoped(p.names, roles))
	for _, n := range names {
		h := all
		h.Permissions = without(p.names, n)
		p.holding("a session with everything but "+n, h)
		p.holding("a token whose scope lacks "+n, scoped(without(p.names, n), roles))
	}
	if len(names) > 1 {
		h := all
		h.Permissions = without(p.names, names...)
		p.holding("a session with everything but "+strings.Join(names, ", "), h)
		p.holding("a token whose scope lacks "+strings.Join(names, ", "), scoped(without(p.names, names...), roles))
	}
	for _, r := range roles {
		h := all
		h.Roles = without(roles, r)
		p.holding("a session with everything but role "+r, h)
		p.holding("a token whose scope lacks role:"+r, scoped(p.names, without(roles, r)))
	}
	var mfa bool
	var age time.Duration
	p.o.Rule.each(func(leaf Rule) {
		mfa = mfa || leaf.op == opMFA
		age = max(age, leaf.age)
	})
	if p.opt.Demanded && !p.o.Setup {
		h := all
		h.MFA = false
		p.add("a session without the second factor that is demanded of everybody", refused(http.StatusUnauthorized), Sent{Scheme: scheme, Holding: h})
	} else if mfa {
		h := all
		h.MFA = false
		p.holding("a session without a second factor", h)
	}
	if age > 0 {
		h := all
		h.Age = age + time.Minute
		p.holding("a session that was begun "+h.Age.String()+" ago", h)
	}
}

// holding adds a credential that is to be made. One that cannot be, because a
// role brings what should be lacking, is left out.
func (p *planner) holding(principal string, h Holding) {
	if p.opt.Implied != nil {
		for _, r := range h.Roles {
			permissions, roles, all := p.opt.Implied(r)
			if all {
				permissions = p.names
			}
			h.Permissions, h.Roles = union(h.Permissions, permissions), union(h.Roles, roles)
		}
	}
	e, told := p.o.expect(&h)
	if !told {
		return
	}
	p.add(principal, e, Sent{Scheme: h.Scheme, Holding: h})
}

// given adds the credentials that there are.
func (p *planner) given() {
	for _, g := range p.opt.Given {
		if g.State != Good || p.loose && (!g.Disposable || p.lost[g.Name]) || p.o.Rule.Public() && !p.d.Sallyport {
			continue
		}
		h := g.Holding
		if e, told := p.o.expect(&h); told {
			p.lost[g.Name] = p.loose // nothing may be left of it for another such call
			p.add(g.Name, e, Sent{Scheme: h.Scheme, Value: g.Value})
		}
	}
}

// stop says what keeps a call that is let in from changing anything, or why
// nothing does.
func (o *Operation) stop() (how, why string) {
	switch o.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return "it reads", ""
	}
	if o.Strict {
		return "a query parameter that it does not know", ""
	}
	if _, how, ok := o.probeBody(); ok {
		return how, ""
	}
	for _, id := range o.ids {
		if _, nobodys := id.probe(); nobodys && o.Method != http.MethodPut {
			return "an id that nothing has", ""
		}
	}
	return "", "nothing would stop it: it takes no body, and no id that could be of nothing. If calling it does no harm, name it: --call “" + o.Name() + "”"
}

// probeBody returns a body that the operation cannot accept, if there is one. It
// is JSON of a wrong type where the schema says enough, because some servers read
// JSON before they ask who is calling; else it is no JSON.
func (o *Operation) probeBody() (text, how string, ok bool) {
	switch media := o.body.media; {
	case isJSON(media):
		if types := o.body.schema.types(); len(o.body.schema.Required) > 0 && len(types) > 0 && !slices.Contains(types, "string") {
			return `"prove"`, "a body of the wrong type", true
		}
		return "{", "a body that is no JSON", true
	case media == formType && len(o.body.schema.Required) > 0:
		return "prove=1", "a form without the fields that it must have", true
	case media == multipartType && len(o.body.schema.Required) > 0:
		return "--prove\r\nContent-Disposition: form-data; name=\"prove\"\r\n\r\n1\r\n--prove--\r\n", "a form without the fields that it must have", true
	}
	return "", "", false
}

// wellFormed reports whether the body that is sent is JSON, or none.
func (o *Operation) wellFormed() bool {
	text, _, ok := o.probeBody()
	return !ok || text != "{"
}

// nobody is an id that nothing has: drawn once for each program.
var nobody = func() string {
	b := make([]byte, 16)
	rand.Read(b)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}()

// probe returns a value for the parameter, and whether nothing has it.
func (p parameter) probe() (value string, nobodys bool) {
	s := p.schema
	types := s.types()
	switch {
	case s.Const != nil:
		return fmt.Sprint(s.Const), false
	case len(s.Enum) > 0:
		return fmt.Sprint(s.Enum[0]), false
	case slices.Contains(types, "integer"), slices.Contains(types, "number"):
		if s.Maximum != nil && *s.Maximum < 2_000_000_000 {
			return fmt.Sprintf("%.0f", *s.Maximum), false
		}
		return "2000000011", true
	case slices.Contains(types, "boolean"):
		return "true", false
	case s.MaxLength != nil && *s.MaxLength < len(nobody):
		return nobody[:max(*s.MaxLength, 1)], *s.MaxLength >= 8
	}
	return nobody, true
}

// target returns the path with values for its parameters.
func (o *Operation) target() string {
	var b strings.Builder
	rest := o.Path
	for {
		before, after, ok := strings.Cut(rest, "{")
		b.WriteString(before)
		name, tail, closed := strings.Cut(after, "}")
		if !ok || !closed {
			return b.String()
		}
		value := nobody
		for _, id := range o.ids {
			if id.name == strings.TrimSuffix(name, "...") {
				value, _ = id.probe()
			}
		}
		b.WriteString(value)
		rest = tail
	}
}

// forge makes something up, from a good token if there is one.
func forge(f Forge, sample string, now time.Time) string {
	enc := base64.RawURLEncoding
	if f == Nonsense {
		return "prove-" + strings.ReplaceAll(nobody, "-", "")
	}
	header, claims := `{"alg":"HS256","typ":"JWT"}`, fmt.Sprintf(`{"sub":"1","iat":%d,"exp":%d,"scope":"admin"}`, now.Unix(), now.Add(time.Hour).Unix())
	size := 0 // of the sample's signature
	if parts := strings.Split(sample, "."); len(parts) == 3 {
		h, herr := enc.DecodeString(parts[0])
		c, cerr := enc.DecodeString(parts[1])
		s, serr := enc.DecodeString(parts[2])
		if herr == nil && cerr == nil && serr == nil && json.Valid(h) && json.Valid(c) {
			header, claims, size = string(h), string(c), len(s)
		}
	}
	if f == None {
		var h map[string]any
		if json.Unmarshal([]byte(header), &h) == nil {
			h["alg"] = "none"
			if b, err := json.Marshal(h); err == nil {
				header = string(b)
			}
		}
		return enc.EncodeToString([]byte(header)) + "." + enc.EncodeToString([]byte(claims)) + "."
	}
	signed := enc.EncodeToString([]byte(header)) + "." + enc.EncodeToString([]byte(claims))
	key := make([]byte, 32)
	rand.Read(key)
	m := hmac.New(sha256.New, key)
	m.Write([]byte(signed))
	signature := m.Sum(nil)
	if size > 0 && size != len(signature) { // of another algorithm: as long as its own
		signature = make([]byte, size)
		rand.Read(signature)
	}
	return signed + "." + enc.EncodeToString(signature)
}
