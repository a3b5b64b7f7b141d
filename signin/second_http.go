package signin

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/totp"
	"github.com/sallyport/sallyport/internal/reqctx"
	"github.com/sallyport/sallyport/session"
)

type setupAnswer struct {
	Secret     string `json:"secret" doc:"The secret in base 32, to be typed in. It is shown this once"`
	OtpauthURI string `json:"otpauth_uri" doc:"What the QR code says"`
	QRSVG      string `json:"qr_svg" doc:"The QR code as SVG text"`
	QRPNG      string `json:"qr_png" doc:"The QR code as PNG, in a data URI for an img element"`
}

type codeInput struct {
	Body struct {
		Code string `json:"code" maxLength:"64" doc:"A code of the app, or a recovery code"`
	}
}

type recoveryAnswer struct {
	RecoveryCodes []string `json:"recovery_codes" doc:"Each is good once, in place of a code of the app. They are shown this once"`
}

type verifiedAnswer struct {
	Message       string   `json:"message" example:"2FA verified successfully"`
	RecoveryCodes []string `json:"recovery_codes,omitempty" doc:"Only when the second factor was set up. They are shown this once"`
}

// enrolledAnswer is the end of a sign-in on whose way a second factor was set up.
type enrolledAnswer struct {
	session.TokenResponse
	RecoveryCodes []string `json:"recovery_codes" doc:"Each is good once, in place of a code of the app. They are shown this once"`
}

func (s *Service) secondFactorRoutes(a *api.API) {
	setup := huma.Operation{
		Method: http.MethodPost, Path: "/2fa/setup", Tags: []string{"Second factor"}, Summary: "Set up a second factor",
		Description: "Makes a secret for an authenticator app. Nothing is asked for at sign-in until POST /2fa/verify has seen a code of it, within ten minutes; until then it can be asked for anew. " +
			"With Accept: image/png the answer is the QR code alone. Two uses: in a session of one's own whose sign-in is not older than ten minutes, without a body; and while signing in, " +
			"where a second factor is demanded (403 mfa_required with mfa_methods [\"setup\"]), with mfa_token and no other credential.",
		RequestBody: &huma.RequestBody{Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{
			Type: huma.TypeObject, AdditionalProperties: false, Properties: map[string]*huma.Schema{
				"mfa_token": {Type: huma.TypeString, Description: "While signing in: as the refusal gave it"},
			},
		}}}},
		Responses: api.ErrorResponses(a, 400, 401, 403, 409, 413, 415, 422, 429, 500, 503),
	}
	setup.Responses["200"] = &huma.Response{Description: "OK", Content: map[string]*huma.MediaType{
		"application/json": {Schema: api.Schema[setupAnswer](a)},
		"image/png":        {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
	}}
	a.Raw(setup, sallyport.Public(), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Add("Vary", "Accept")
		if err := s.serveSetup(w, r); err != nil {
			a.WriteError(w, r, err)
		}
	}, api.WhileSettingUp())

	verify := huma.Operation{
		Method: http.MethodPost, Path: "/2fa/verify", Tags: []string{"Second factor"}, Summary: "Verify a code",
		Description: "Three uses. With mfa_token, as a sign-in gave it (403 mfa_required): signs in, and no other credential is needed; a session cookie is set if the sign-in was begun with mode=cookie. " +
			"If the second factor was set up on the way, recovery_codes are added; with a cookie the answer is then 200. " +
			"Without it, in a session: turns on the second factor that is being set up, and gives recovery codes; or, when it is on, steps the session up.",
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{
			Type: huma.TypeObject, Required: []string{"code"}, AdditionalProperties: false, Properties: map[string]*huma.Schema{
				"code":      {Type: huma.TypeString, Description: "A code of the app, or a recovery code"},
				"mfa_token": {Type: huma.TypeString, Description: "While signing in: as the refusal gave it. Good for five codes and, unless it is configured otherwise, five minutes"},
			},
		}}}},
		Responses: api.ErrorResponses(a, 400, 401, 403, 409, 413, 415, 422, 429, 500, 503),
	}
	verify.Responses["200"] = &huma.Response{Description: "OK", Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{
		OneOf: []*huma.Schema{api.Schema[session.TokenResponse](a), api.Schema[enrolledAnswer](a), api.Schema[verifiedAnswer](a)},
	}}}}
	verify.Responses["204"] = &huma.Response{Description: "Signed in, where mode=cookie was asked for", Headers: map[string]*huma.Param{
		"Set-Cookie": {Description: "The session cookie", Schema: &huma.Schema{Type: huma.TypeString}},
	}}
	a.Raw(verify, sallyport.Public(), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if err := s.serveVerify(w, r); err != nil {
			a.WriteError(w, r, err)
		}
	}, api.Limit(s.cfg.CodeLimit...), api.WhileSettingUp())

	api.Post(a, "/2fa/recovery-codes", authn.OwnSession(), func(ctx context.Context, in *codeInput) (*api.Body[recoveryAnswer], error) {
		codes, err := s.NewRecoveryCodes(ctx, sallyport.From(ctx).ID(), in.Body.Code)
		if err != nil {
			return nil, err
		}
		return &api.Body[recoveryAnswer]{Body: recoveryAnswer{codes}}, nil
	}, api.Doc("Second factor", "Replace the recovery codes", "Gives ten new ones; those before are worthless from then on."),
		api.BodyLimit(api.MaxAuthBody), api.Errors(409, 429), api.Limit(s.cfg.CodeLimit...))

	api.Delete(a, "/2fa", authn.OwnSession(), func(ctx context.Context, in *codeInput) (*api.None, error) {
		p := sallyport.From(ctx)
		return nil, s.Disable(ctx, p.ID(), p.SessionID(), in.Body.Code)
	}, api.Doc("Second factor", "Switch the second factor off", "Forgets the secret and the recovery codes, and ends all other sessions."),
		api.Status(204), api.BodyLimit(api.MaxAuthBody), api.Errors(409, 429), api.Limit(s.cfg.CodeLimit...))
}

func (s *Service) serveSetup(w http.ResponseWriter, r *http.Request) error {
	if r.URL.RawQuery != "" {
		return sallyport.Invalid(sallyport.Field{Pointer: "?", Code: "unknown_member", Detail: "This operation knows no parameters. Leave them out."})
	}
	secret, id, err := s.beginSetup(r)
	if err != nil {
		return err
	}
	name, err := s.nameOf(r.Context(), id)
	if err != nil {
		return err
	}
	uri := totp.Default.URI(secret, s.cfg.Issuer, name)
	picture, err := totp.NewPicture(uri)
	if err != nil {
		return err
	}
	png := picture.PNG()
	if prefersPNG(r.Header.Values("Accept")) {
		w.Header().Set("Content-Type", "image/png")
		_, _ = w.Write(png)
		return nil
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(setupAnswer{
		Secret: totp.Base32(secret), OtpauthURI: uri, QRSVG: picture.SVG(),
		QRPNG: "data:image/png;base64," + base64.StdEncoding.EncodeToString(png),
	})
}

// beginSetup makes a secret for whoever asks: somebody who is signing in, with an
// mfa_token, or is signed in.
func (s *Service) beginSetup(r *http.Request) (secret []byte, id string, err error) {
	token, signingIn, err := readSetup(r)
	if err != nil {
		return nil, "", err
	}
	if signingIn {
		if secret, id, err = s.SetupPending(r.Context(), token); err != nil {
			if _, ok := errors.AsType[*authn.Refused](err); ok {
				err = overPending()
			}
		}
		return secret, id, err
	}
	p := sallyport.From(r.Context())
	if err := s.require(r, authn.FreshSession(), p); err != nil {
		return nil, "", err
	}
	secret, err = s.Setup(r.Context(), p.ID())
	return secret, p.ID(), err
}

// readSetup reads the body of POST /2fa/setup: none, or one with mfa_token.
func readSetup(r *http.Request) (token string, signingIn bool, err error) {
	if r.ContentLength == 0 {
		return "", false, nil
	}
	b, err := api.ReadJSON(r, api.MaxAuthBody)
	if err != nil {
		return "", false, err
	}
	var members map[string]any
	if json.Unmarshal(b, &members) != nil || members == nil {
		return "", false, sallyport.Invalid(sallyport.Field{Code: "wrong_type", Detail: "An object is expected here."})
	}
	value, signingIn := members["mfa_token"]
	delete(members, "mfa_token")
	token, isText := value.(string)
	switch {
	case len(members) > 0:
		return "", false, sallyport.Invalid(sallyport.Field{Code: "unknown_member", Detail: "The body has a member that this operation does not know. It takes mfa_token, or nothing."})
	case signingIn && !isText:
		return "", false, sallyport.Invalid(sallyport.Field{Pointer: "/mfa_token", Code: "wrong_type", Detail: "A string is expected here."})
	}
	return token, signingIn, nil
}

// require enforces a rule on one of the uses of a public route, as the gate does.
func (s *Service) require(r *http.Request, rule sallyport.Rule, p sallyport.Principal) error {
	facts := sallyport.Facts{Now: s.cfg.Now()}
	if rule.Allows(&p, &facts) {
		return nil
	}
	d := rule.Explain(&p, &facts)
	e := d.Refusal().Decided()
	if e.Code != "unauthenticated" { // nobody signed in is no event
		s.cfg.Refusals.Note(r.Context(), audit.Event{
			Action: audit.AccessDenied, Result: audit.Denied, Reason: "the caller may not use this operation without an mfa_token",
			DecisionID: e.DecisionID, Detail: map[string]string{"method": r.Method, "route": reqctx.Route(r), "rule": d.Rule, "code": e.Code},
		})
	}
	return e
}

// prefersPNG reports whether an Accept header asks for a picture rather than for
// JSON: by name, and with at least the weight of JSON (RFC 9110, 12.5.1).
func prefersPNG(accept []string) bool {
	var png, text float64
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		kind, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		q := 1.0
		if weight, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(weight, 64); err != nil {
				continue
			}
		}
		switch kind {
		case "image/png":
			png = max(png, q)
		case "application/json":
			text = max(text, q)
		}
	}
	return png > 0 && png >= text
}

func (s *Service) serveVerify(w http.ResponseWriter, r *http.Request) error {
	p := sallyport.From(r.Context())
	in, err := readVerify(r)
	if err != nil {
		return err
	}
	if in.signingIn {
		return s.serveContinued(w, r, in)
	}
	if err := s.require(r, authn.OwnSession(), p); err != nil {
		return err
	}
	recovery, err := s.Verify(r.Context(), p.ID(), p.SessionID(), in.code)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(verifiedAnswer{Message: verifiedMessage, RecoveryCodes: recovery})
}

func (s *Service) serveContinued(w http.ResponseWriter, r *http.Request, in verification) error {
	c := Continuation{Token: in.token, Code: in.code, May: func() error { return s.mayKeep(r) }, Replaces: s.replaced(r)}
	t, err := s.SecondFactor(r.Context(), c)
	if _, ok := errors.AsType[*authn.Refused](err); ok {
		return overPending()
	}
	if _, ok := errors.AsType[*WrongCode](err); ok {
		return InvalidCode()
	}
	if errors.Is(err, session.ErrScope) { // it named a role that was deleted meanwhile
		return unknownScope()
	}
	if err != nil {
		return err
	}
	if t.Recovery == nil {
		s.answer(w, t.Tokens)
		return nil
	}
	var body any = enrolledAnswer{t.Response(), t.Recovery}
	if t.Cookie != "" {
		s.cfg.Cookie.Set(w.Header(), t.Cookie, t.ExpiresIn)
		body = verifiedAnswer{Message: verifiedMessage, RecoveryCodes: t.Recovery}
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(body)
}

const verifiedMessage = "2FA verified successfully"

// verification is the body of POST /2fa/verify.
type verification struct {
	signingIn   bool
	token, code string
}

func readVerify(r *http.Request) (v verification, err error) {
	if r.URL.RawQuery != "" {
		return v, sallyport.Invalid(sallyport.Field{Pointer: "?", Code: "unknown_member", Detail: "This operation knows no parameters. The code and mfa_token belong in the body."})
	}
	b, err := api.ReadJSON(r, api.MaxAuthBody)
	if err != nil {
		return v, err
	}
	var members map[string]any
	if json.Unmarshal(b, &members) != nil || members == nil {
		return v, sallyport.Invalid(sallyport.Field{Code: "wrong_type", Detail: "An object is expected here."})
	}
	var fields []sallyport.Field
	for name, value := range members {
		var to *string
		switch name {
		case "code":
			to = &v.code
		case "mfa_token":
			to, v.signingIn = &v.token, true
		default:
			fields = append(fields, sallyport.Field{Code: "unknown_member", Detail: "The body has a member that this operation does not know. It takes code and mfa_token."})
			continue
		}
		var ok bool
		if *to, ok = value.(string); !ok {
			fields = append(fields, sallyport.Field{Pointer: "/" + name, Code: "wrong_type", Detail: "A string is expected here."})
		}
	}
	if _, there := members["code"]; !there {
		fields = append(fields, sallyport.Field{Pointer: "/code", Code: "required", Detail: "This member is required."})
	}
	if fields != nil {
		return v, sallyport.Invalid(fields...)
	}
	return v, nil
}

// mfaProblem is MFARequired over HTTP: problem details, with the members that the
// token endpoint gives as well.
type mfaProblem struct {
	sallyport.Problem
	Error   string   `json:"error"`
	Token   string   `json:"mfa_token"`
	Methods []string `json:"mfa_methods"`
}

func writeMFARequired(w http.ResponseWriter, e *MFARequired) {
	refusal := e.Refusal()
	h := w.Header()
	b, err := json.Marshal(mfaProblem{refusal.Problem(h.Get(sallyport.RequestIDHeader)), refusal.Code, e.Token, e.Methods})
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(refusal.Status)
	_, _ = w.Write(b)
}
