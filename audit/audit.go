// Package audit records what happened: who did what to whom, from where, with
// what result, and why.
//
// It decides that an event of a change stands or falls with the change: it is
// written in the same transaction. Refusals have no change; they are written
// behind the request, in batches and bounded, so that refusing costs the
// server no more than it costs the caller. Events hold no secrets: no
// passwords, tokens, codes or keys, not even parts of them.
//
// Begin with Log, which finds events: a program has its server's,
// server.Server.Audit. Chain shows whether they are as they were recorded.
package audit

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// Result is how it ended.
type Result string

// The results.
const (
	Success Result = "success"
	Failure Result = "failure" // tried and did not prove who they are
	Denied  Result = "denied"  // known, and not allowed
)

// Event is one thing that happened. Actor, address and request id come from
// the context.
type Event struct {
	Action string // what was done: "session.started"; see docs/audit.md
	Result Result // Success if empty
	Target string // id or name of what it was done to
	Reason string // why it was refused, for the operator's eyes
	Detail map[string]string
	// DecisionID names the decision that refused, as the answer did.
	DecisionID string
	Actor      string // set where the context cannot know it: a sign-in's account
	// ActorKind is the kind of Actor; "user" if empty.
	ActorKind string
}

// Record is a stored event.
type Record struct {
	ID         string            `json:"id" doc:"UUIDv7"`
	At         time.Time         `json:"at"`
	Action     string            `json:"action" doc:"What was done, for example session.started"`
	Result     Result            `json:"result" enum:"success,failure,denied" doc:"failure: did not prove who they are; denied: known, and not allowed"`
	Actor      string            `json:"actor" doc:"Id of who did it, or the name of an operator"`
	ActorKind  string            `json:"actor_kind" doc:"user, api_key, client, anonymous, operator"`
	Target     string            `json:"target" doc:"Id or name of what it was done to"`
	Reason     string            `json:"reason,omitempty" doc:"Why, for the operator's eyes"`
	Session    string            `json:"session,omitempty" doc:"Session that the request came with"`
	Address    string            `json:"address,omitempty" doc:"The client's IP address"`
	UserAgent  string            `json:"user_agent,omitempty" doc:"Program, version and system that the client names, if they are known ones"`
	RequestID  string            `json:"request_id,omitempty"`
	DecisionID string            `json:"decision_id,omitempty" doc:"The decision that refused, as the answer named it"`
	Detail     map[string]string `json:"detail,omitempty"`
}

// Bounds of texts in bytes. Details are names that the code puts there: of all
// grants of an account, for example, and none of them may be missing.
const (
	maxText   = 256
	maxDetail = 32 << 10
)

func record(ctx context.Context, e Event, now time.Time) Record {
	i := reqctx.InfoFrom(ctx)
	r := Record{
		ID: uuid.Must(uuid.NewV7()).String(), At: now, Action: e.Action, Result: e.Result,
		Actor: i.Actor, ActorKind: i.ActorKind, Target: clip(e.Target, maxText), Reason: clip(e.Reason, maxText),
		Session: i.Session, Address: i.Address, UserAgent: agent(i.UserAgent), RequestID: i.RequestID, DecisionID: clip(e.DecisionID, maxText),
	}
	if r.Result == "" {
		r.Result = Success
	}
	if e.Actor != "" {
		r.Actor = e.Actor
		switch {
		case e.ActorKind != "":
			r.ActorKind = e.ActorKind
		case r.ActorKind == "anonymous":
			r.ActorKind = "user"
		}
	}
	// A map of its own: callers may share theirs, and transactions run side by side.
	r.Detail = make(map[string]string, len(e.Detail)+1)
	for k, v := range e.Detail {
		r.Detail[k] = clip(v, maxDetail)
	}
	if i.Key != "" {
		r.Detail["api_key"] = i.Key
	}
	return r
}

func clip(s string, limit int) string {
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return s
}

// Append records e in the transaction of the change it tells of.
func Append(ctx context.Context, tx *db.Tx, e Event) error {
	return insert(tx, record(ctx, e, time.Now()))
}

// encoded is Detail as it is stored.
func (r Record) encoded() string {
	if len(r.Detail) == 0 {
		return "{}"
	}
	b, err := json.Marshal(r.Detail)
	if err != nil {
		panic(err) // strings always marshal
	}
	return string(b)
}
