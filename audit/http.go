package audit

import (
	"context"
	"net/http"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
)

type listInput struct {
	Action     string `query:"action" maxLength:"64" doc:"What was done, for example session.started"`
	Actor      string `query:"actor" maxLength:"256" doc:"Id of who did it"`
	Target     string `query:"target" maxLength:"256" doc:"Id or name of what it was done to"`
	Result     string `query:"result" enum:"success,failure,denied" doc:"How it ended"`
	Address    string `query:"address" maxLength:"64" doc:"The client's IP address"`
	RequestID  string `query:"request_id" maxLength:"64" doc:"X-Request-Id of the request"`
	DecisionID string `query:"decision_id" maxLength:"256" doc:"decision_id of a refusal"`
	Since      string `query:"since" maxLength:"64" doc:"From this time on (RFC 3339)"`
	Until      string `query:"until" maxLength:"64" doc:"Before this time (RFC 3339)"`
	Limit      int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
	Cursor     string `query:"cursor" maxLength:"512" doc:"next_cursor of the page before"`
}

func (in *listInput) filter() (Filter, error) {
	f := Filter{
		Action: in.Action, Actor: in.Actor, Target: in.Target, Result: Result(in.Result),
		Address: in.Address, RequestID: in.RequestID, DecisionID: in.DecisionID,
	}
	for _, t := range []struct {
		name, text string
		into       *time.Time
	}{{"?since", in.Since, &f.Since}, {"?until", in.Until, &f.Until}} {
		if t.text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, t.text)
		if err != nil {
			return f, sallyport.Invalid(sallyport.Field{Pointer: t.name, Code: "invalid_format", Detail: "Write a time as 2026-11-22T14:00:00Z (RFC 3339)."})
		}
		*t.into = at
	}
	return f, f.Check()
}

// Routes registers the operations on the audit log.
func Routes(a *api.API, l Log, c *Chain) {
	read := sallyport.Permission("read:audit")

	api.Get(a, "/audit", read, func(ctx context.Context, in *listInput) (*api.Body[api.Page[Record]], error) {
		f, err := in.filter()
		if err != nil {
			return nil, err
		}
		events, next, err := l.List(ctx, f, in.Cursor, in.Limit)
		if err != nil {
			return nil, err
		}
		for i := range events {
			events[i].At = sayable(events[i].At)
		}
		return &api.Body[api.Page[Record]]{Body: api.NewPage(events, next)}, nil
	}, api.Doc("Audit", "Read the audit log", "Newest first. All filters that are given must fit."), api.Errors(400))

	api.Get(a, "/audit/head", read, func(ctx context.Context, _ *api.None) (*api.Body[Head], error) {
		h, found, err := c.Head(ctx)
		if err == nil && !found {
			err = &sallyport.Error{Status: http.StatusNotFound, Code: "not_found", Message: "Nothing was sealed yet: the audit log is empty. Ask again in a second."}
		}
		if err != nil {
			return nil, err
		}
		return &api.Body[Head]{Body: h}, nil
	}, api.Doc("Audit", "The head of the audit log", "The signed end of its chain. Who keeps it elsewhere can show later that nothing up to it was removed: sallyport audit verify --head FILE."), api.Errors(404))
}
