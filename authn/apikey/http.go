package apikey

import (
	"context"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// view is a key as its owner sees it.
type view struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Prefix    string     `json:"prefix" doc:"The first characters of the key, to recognise it by"`
	Scopes    []string   `json:"scopes" doc:"What the key may do, as far as its owner may"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at" doc:"null: never"`
	Active    bool       `json:"is_active"`
}

type created struct {
	view
	Key string `json:"key" doc:"Send it in the header. It is shown this once and cannot be shown again"`
}

type listed struct {
	view
	LastUsedAt *time.Time `json:"last_used_at" doc:"To the minute, and some seconds behind; null: not yet"`
}

type createInput struct {
	Body struct {
		Name      string     `json:"name" minLength:"1" maxLength:"100" doc:"What the key is for" example:"nightly report"`
		Scopes    []string   `json:"scopes" maxItems:"64" doc:"Permissions, or “role:” and a role, that you hold. Empty: the key only says whose it is" example:"[\"read:users\"]"`
		ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"In the future, at most 10 years from now; left out: never"`
	}
}

type patchInput struct {
	ID   string `path:"id" maxLength:"64" doc:"Id of the key, not the key"`
	Body struct {
		Name   *string `json:"name,omitempty" minLength:"1" maxLength:"100"`
		Active *bool   `json:"is_active,omitempty" doc:"false: refused from the next request on, until it is true again"`
	}
}

type idInput struct {
	ID string `path:"id" maxLength:"64" doc:"Id of the key, not the key"`
}

func (r Record) view() view {
	return view{r.ID, r.Name, r.Prefix, r.Scopes, r.CreatedAt, orNull(r.ExpiresAt), r.Active}
}

func (r Record) listed() listed { return listed{r.view(), orNull(r.LastUsedAt)} }

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Routes registers the operations on one's own keys.
func (s *Service) Routes(a *api.API) {
	// A key is always scoped; what kinds are named says it twice.
	person := authn.OwnSession()

	api.Post(a, "/api-keys", person, func(ctx context.Context, in *createInput) (*api.Body[created], error) {
		p := sallyport.From(ctx)
		n := NewKey{Owner: p.ID(), Name: in.Body.Name, Scopes: in.Body.Scopes}
		if in.Body.ExpiresAt != nil {
			n.Expires = *in.Body.ExpiresAt
			if n.Expires.IsZero() { // the year 1, and not “never”
				n.Expires = time.Unix(0, 0)
			}
		}
		r, key, err := s.Create(ctx, n)
		if err != nil {
			return nil, err
		}
		return &api.Body[created]{Body: created{r.view(), key.Reveal()}}, nil
	}, api.Doc("API keys", "Make an API key", "Makes a key for a program of one's own. It may do what its scopes list, as far as its owner may at that moment. At most 100 for each account, and none for machine clients."),
		api.Status(201), api.Errors(404, 409))

	api.Get(a, "/api-keys", person, func(ctx context.Context, _ *api.None) (*api.Body[api.Page[listed]], error) {
		p := sallyport.From(ctx)
		keys, err := s.List(ctx, p.ID())
		if err != nil {
			return nil, err
		}
		out := make([]listed, 0, len(keys))
		for _, k := range keys {
			out = append(out, k.listed())
		}
		return &api.Body[api.Page[listed]]{Body: api.NewPage(out, "")}, nil
	}, api.Doc("API keys", "List own API keys", "All of one's own keys, newest first, on one page: there are at most 100. Keys themselves are not shown again."))

	api.Patch(a, "/api-keys/{id}", person, func(ctx context.Context, in *patchInput) (*api.Body[listed], error) {
		p := sallyport.From(ctx)
		c := Change{Name: in.Body.Name, Active: in.Body.Active}
		if c.Name == nil && c.Active != nil && !*c.Active {
			ctx = reqctx.Leaving(ctx)
		}
		r, err := s.Update(ctx, p.ID(), in.ID, c)
		if err != nil {
			return nil, err
		}
		return &api.Body[listed]{Body: r.listed()}, nil
	}, api.Doc("API keys", "Rename, deactivate or activate an API key", "A key that is deactivated is refused from the next request on. Another's key is answered as one that does not exist."), api.Errors(404))

	api.Delete(a, "/api-keys/{id}", person, func(ctx context.Context, in *idInput) (*api.None, error) {
		p := sallyport.From(ctx)
		_, err := s.Delete(reqctx.Leaving(ctx), p.ID(), in.ID)
		return nil, err
	}, api.Doc("API keys", "Delete an API key", "The key is refused from the next request on. Another's key is answered as one that does not exist."), api.Status(204), api.Errors(404))
}
