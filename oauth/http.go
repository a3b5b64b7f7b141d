package oauth

import (
	"context"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/authz/role"
)

type createInput struct {
	Body struct {
		Name   string   `json:"name" minLength:"1" maxLength:"100" example:"nightly report" doc:"For people"`
		Scopes []string `json:"scopes" required:"false" maxItems:"200" doc:"Permissions that the client holds"`
		Roles  []string `json:"roles" required:"false" maxItems:"50" doc:"Roles that the client has; there is no default role"`
	}
}

type idInput struct {
	ID string `path:"id" maxLength:"64" doc:"The client_id"`
}

type listInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
	Cursor string `query:"cursor" maxLength:"512" doc:"next_cursor of the page before"`
}

// Routes registers the operations on machine clients.
func (c *Clients) Routes(a *api.API) {
	write := sallyport.Permission("write:clients")

	api.Get(a, "/clients", write, func(ctx context.Context, in *listInput) (*api.Body[api.Page[Client]], error) {
		clients, next, err := c.List(ctx, in.Cursor, in.Limit)
		if err != nil {
			return nil, err
		}
		return &api.Body[api.Page[Client]]{Body: api.NewPage(clients, next)}, nil
	}, api.Doc("Machine clients", "List machine clients", "In order of creation, without secrets."), api.Errors(400))

	api.Post(a, "/clients", write, func(ctx context.Context, in *createInput) (*api.Body[NewClient], error) {
		out, err := c.Create(ctx, role.ByPrincipal(sallyport.From(ctx)), in.Body.Name, in.Body.Scopes, in.Body.Roles)
		if err != nil {
			return nil, err
		}
		return &api.Body[NewClient]{Body: out}, nil
	}, api.Doc("Machine clients", "Create a machine client", "A program that acts for itself. It holds what is listed here and nothing else; nobody can give one more than they hold. The secret is shown this once."),
		api.Status(201), api.Errors(409))

	api.Delete(a, "/clients/{id}", write, func(ctx context.Context, in *idInput) (*api.None, error) {
		return nil, c.Delete(ctx, role.ByPrincipal(sallyport.From(ctx)), in.ID)
	}, api.Doc("Machine clients", "Delete a machine client", "Its secret and its tokens are refused at the next request. A client that may do more than the caller cannot be deleted."), api.Status(204), api.Errors(404))
}
