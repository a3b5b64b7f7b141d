package session

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// TokenResponse is RFC 6749, 5.1.
type TokenResponse struct {
	AccessToken  string `json:"access_token" doc:"Send it as “Authorization: Bearer …”"`
	TokenType    string `json:"token_type" example:"bearer"`
	ExpiresIn    int64  `json:"expires_in" doc:"Life of the access token in seconds"`
	RefreshToken string `json:"refresh_token,omitempty" doc:"Good once, for the next tokens. Machine clients get none: their secret gets the next token"`
	Scope        string `json:"scope" doc:"What the token is limited to; empty if nothing was asked for: it may do what its user may do"`
}

// Response returns the tokens as they go over the wire.
func (t Tokens) Response() TokenResponse {
	return TokenResponse{
		AccessToken: t.Access, TokenType: "bearer", ExpiresIn: int64(t.ExpiresIn / time.Second),
		RefreshToken: t.Refresh, Scope: strings.Join(t.Scope, " "),
	}
}

type sessionView struct {
	ID        string    `json:"id"`
	Current   bool      `json:"current" doc:"The session of this request"`
	ClientID  string    `json:"client_id"`
	Scope     *string   `json:"scope" doc:"What the session is limited to; null if it is not"`
	CreatedAt time.Time `json:"created_at"`
	LastUsed  time.Time `json:"last_used_at" doc:"When it was last refreshed; of a browser's, when it was last used, to two minutes"`
	ExpiresAt time.Time `json:"expires_at"`
	Address   string    `json:"address"`
	UserAgent string    `json:"user_agent"`
}

type refreshInput struct {
	Body struct {
		RefreshToken string `json:"refresh_token" maxLength:"1024"`
	}
}

// signedOut is an answer that also has a browser forget its cookie.
type signedOut struct {
	SetCookie string `header:"Set-Cookie" doc:"Removes the session cookie, if the request came with it"`
}

type signedOutMessage struct {
	SetCookie string `header:"Set-Cookie" doc:"Removes the session cookie, if the request came with it"`
	Body      api.Message
}

type idInput struct {
	ID string `path:"id" maxLength:"64" doc:"Id of the session"`
}

// Routes registers the operations on sessions.
func (s *Service) Routes(a *api.API, refusals *audit.Refusals, cookie *authn.Cookie) {
	// removal has the browser forget the cookie that a request came with.
	removal := func(p sallyport.Principal) string {
		if p.Kind() != sallyport.KindCookie {
			return ""
		}
		return cookie.Removal()
	}

	api.Post(a, "/token/refresh", sallyport.Public(), func(ctx context.Context, in *refreshInput) (*api.Body[TokenResponse], error) {
		t, err := s.Refresh(ctx, in.Body.RefreshToken, FirstParty, false, nil)
		if refused, ok := errors.AsType[*authn.Refused](err); ok {
			refusals.Note(ctx, audit.Event{Action: "refresh.refused", Result: audit.Failure, Reason: refused.Reason, Actor: refused.Subject})
			return nil, &sallyport.Error{
				Status: http.StatusUnauthorized, Code: "invalid_token",
				Message: "The refresh token is not valid, or not any more. Sign in again.",
			}
		}
		if err != nil {
			return nil, err
		}
		return &api.Body[TokenResponse]{Body: t.Response()}, nil
	}, api.Doc("Tokens", "Refresh", "Exchanges a refresh token for new tokens. A token is good once; the same one sent again within ten seconds gets the same answer, later it ends the session."),
		api.BodyLimit(api.MaxAuthBody), api.IgnoreCredentials(), api.Errors(401))

	// An API key has no session to end; to be told that one was signed out while
	// the key goes on would be untrue.
	withSession := sallyport.Via(sallyport.KindBearer, sallyport.KindCookie)

	api.Post(a, "/logout", withSession, func(ctx context.Context, _ *api.None) (*signedOutMessage, error) {
		if err := s.SignOut(ctx); err != nil {
			return nil, err
		}
		return &signedOutMessage{SetCookie: removal(sallyport.From(ctx)), Body: api.Message{Message: "Successfully logged out"}}, nil
	}, api.Doc("Tokens", "Sign out", "Ends the session of this request: its access and refresh tokens, or its cookie, are refused from the next request on."), api.WhileSettingUp())

	api.Post(a, "/auth/logout", withSession, func(ctx context.Context, _ *api.None) (*signedOut, error) {
		if err := s.SignOut(ctx); err != nil {
			return nil, err
		}
		return &signedOut{removal(sallyport.From(ctx))}, nil
	}, api.Doc("Tokens", "Sign out, without a body", "The same as POST /logout, without a body in the answer."), api.Status(204), api.WhileSettingUp())

	api.Post(a, "/logout/all", sallyport.Unscoped(), func(ctx context.Context, _ *api.None) (*signedOutMessage, error) {
		p := sallyport.From(ctx)
		err := s.cfg.DB.Write(reqctx.Leaving(ctx), func(tx *db.Tx) error {
			return s.EndAll(ctx, tx, p.ID(), "", "signed out everywhere")
		})
		if err != nil {
			return nil, err
		}
		return &signedOutMessage{SetCookie: removal(p), Body: api.Message{Message: "Successfully logged out everywhere"}}, nil
	}, api.Doc("Tokens", "Sign out everywhere", "Ends every session of the user."), api.WhileSettingUp())

	api.Get(a, "/users/me/sessions", sallyport.Unscoped(), func(ctx context.Context, _ *api.None) (*api.Body[api.Page[sessionView]], error) {
		p := sallyport.From(ctx)
		sessions, err := s.List(ctx, p.ID())
		if err != nil {
			return nil, err
		}
		out := make([]sessionView, 0, len(sessions))
		for _, se := range sessions {
			out = append(out, se.view(p.SessionID()))
		}
		return &api.Body[api.Page[sessionView]]{Body: api.NewPage(out, "")}, nil
	}, api.Doc("Own account", "List own sessions", "Live sessions, newest first, 500 at most."))

	api.Delete(a, "/users/me/sessions/{id}", sallyport.Unscoped(), func(ctx context.Context, in *idInput) (*signedOut, error) {
		p := sallyport.From(ctx)
		err := s.cfg.DB.Write(reqctx.Leaving(ctx), func(tx *db.Tx) error {
			ended, err := s.End(ctx, tx, p.ID(), in.ID, "ended by its user")
			if err == nil && !ended {
				err = sallyport.NotFound("session")
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		out := &signedOut{}
		if in.ID == p.SessionID() {
			out.SetCookie = removal(p)
		}
		return out, nil
	}, api.Doc("Own account", "End a session", "Signs that device out. Another user's session is answered as one that does not exist."), api.Status(204), api.Errors(404))
}

// SignOut ends the session of the request. One that ended meanwhile is a
// credential that is not good: 401.
func (s *Service) SignOut(ctx context.Context) error {
	p := sallyport.From(ctx)
	return s.cfg.DB.Write(reqctx.Leaving(ctx), func(tx *db.Tx) error {
		_, err := s.End(ctx, tx, p.ID(), p.SessionID(), "signed out")
		return err
	})
}

func (se Session) view(current string) sessionView {
	v := sessionView{
		ID: se.ID, Current: se.ID == current, ClientID: se.Client, CreatedAt: se.Created, LastUsed: se.LastUsed,
		ExpiresAt: earlier(se.Expires, se.IdleUntil), Address: se.Address, UserAgent: se.UserAgent,
	}
	if se.Scoped {
		scope := strings.Join(se.Scope, " ")
		v.Scope = &scope
	}
	return v
}
