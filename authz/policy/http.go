package policy

import (
	"context"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/audit"
)

type listInput struct {
	Limit  int    `query:"limit" default:"50" minimum:"1" maximum:"200" doc:"Most policies of a page"`
	Cursor string `query:"cursor" maxLength:"1000" doc:"next_cursor of the page before"`
}

type idInput struct {
	ID      string `path:"id" doc:"Name of the policy" maxLength:"64"`
	IfMatch string `header:"If-Match" maxLength:"64" doc:"The version that it must have, as in ETag; otherwise nothing is changed and the answer is 412"`
}

type putInput struct {
	ID      string `path:"id" doc:"Name of the policy" maxLength:"64"`
	IfMatch string `header:"If-Match" maxLength:"64" doc:"The version that it must have, as in ETag; otherwise nothing is changed and the answer is 412"`
	Body    struct {
		Cedar       string `json:"cedar" minLength:"1" maxLength:"16384" doc:"One policy in Cedar"`
		Description string `json:"description" required:"false" maxLength:"200" doc:"What the policy is for"`
	}
}

type policyOutput struct {
	ETag string `header:"ETag" doc:"The version, in quotes"`
	Body Stored
}

type checkInput struct{ Body Question }

// Answer is what POST /policies/check answers.
type Answer struct {
	Decision    string             `json:"decision" enum:"allow,deny"`
	Explanation string             `json:"explanation" doc:"The reasons as sentences, for a person"`
	Reasons     []sallyport.Reason `json:"reasons" doc:"How each part of the rule was decided, and each policy that applies to the action"`
	Errors      []string           `json:"errors" doc:"What is wrong with policies that could not be evaluated; any of them denies"`
	DecisionID  string             `json:"decision_id"`
}

// AnswerOf words a decision.
func AnswerOf(d sallyport.Decision) Answer {
	a := Answer{Decision: "deny", Explanation: Sentence(d), Reasons: d.Reasons, Errors: []string{}, DecisionID: d.ID}
	if d.Allowed {
		a.Decision = "allow"
	}
	for _, r := range d.Reasons {
		a.Errors = append(a.Errors, r.Errors...)
	}
	return a
}

// match reads If-Match (RFC 9110, 13.1.1): a version in quotes; none for whatever
// there is.
func match(header string) (int64, error) {
	if header == "" {
		return 0, nil
	}
	quoted, ok := strings.CutPrefix(header, `"`)
	n, err := strconv.ParseInt(strings.TrimSuffix(quoted, `"`), 10, 64)
	if !ok || err != nil || n < 1 {
		return 0, sallyport.Invalid(sallyport.Field{Pointer: "If-Match", Code: "invalid_format", Detail: `Write the version in quotes, as ETag has it: "7".`})
	}
	return n, nil
}

func etag(s Stored) *policyOutput {
	return &policyOutput{ETag: `"` + strconv.FormatInt(s.Version, 10) + `"`, Body: s}
}

// Routes registers the operations on policies.
func (s *Service) Routes(a *api.API) {
	read, write := sallyport.Permission("read:policies"), sallyport.Permission("write:policies")
	api.Get(a, "/policies", read, func(ctx context.Context, in *listInput) (*api.Body[api.Page[Stored]], error) {
		all, next, err := s.List(ctx, in.Limit, in.Cursor)
		if err != nil {
			return nil, err
		}
		return &api.Body[api.Page[Stored]]{Body: api.NewPage(all, next)}, nil
	}, api.Doc("Policies", "List policies", "Every policy in Cedar, in the order of their names."), api.Errors(400))
	api.Get(a, "/policies/{id}", read, func(ctx context.Context, in *struct {
		ID string `path:"id" maxLength:"64"`
	},
	) (*policyOutput, error) {
		st, err := s.Get(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		return etag(st), nil
	}, api.Doc("Policies", "One policy", "A policy with its version."), api.Errors(404))
	api.Put(a, "/policies/{id}", write, func(ctx context.Context, in *putInput) (*policyOutput, error) {
		version, err := match(in.IfMatch)
		if err != nil {
			return nil, err
		}
		st, err := s.Put(ctx, ByPrincipal(sallyport.From(ctx)), in.ID, in.Body.Cedar, in.Body.Description, version)
		if err != nil {
			return nil, err
		}
		return etag(st), nil
	}, api.Doc("Policies", "Create or replace a policy", "The policy is read and checked before it is stored: names of actions, roles, types and attributes must exist, and types must fit. It holds on every node within a second. Nobody can write one about a permission that they do not hold."), api.Errors(409, 412))
	api.Delete(a, "/policies/{id}", write, func(ctx context.Context, in *idInput) (*api.None, error) {
		version, err := match(in.IfMatch)
		if err != nil {
			return nil, err
		}
		return nil, s.Delete(ctx, ByPrincipal(sallyport.From(ctx)), in.ID, version)
	}, api.Doc("Policies", "Delete a policy", "Its versions are kept."), api.Status(204), api.Errors(404, 412))
	api.Post(a, "/policies/check", read, func(ctx context.Context, in *checkInput) (*api.Body[Answer], error) {
		set, err := s.Current(ctx)
		if err != nil {
			return nil, err
		}
		d, id, err := s.Ask(ctx, set, in.Body)
		if err != nil {
			return nil, err
		}
		d.ID = sallyport.NewDecisionID()
		out := AnswerOf(d)
		s.cfg.Refusals.Note(ctx, audit.Event{Action: audit.PolicyChecked, Target: id, DecisionID: d.ID, Detail: map[string]string{
			"action": in.Body.Action, "decision": out.Decision,
		}})
		return &api.Body[Answer]{Body: out}, nil
	}, api.Doc("Policies", "Ask what would be decided", "Whether somebody may do something, with all reasons: each condition, what it looked at, and what would have allowed it. With a route or no resource it decides as a rule with that permission; with a resource, as a rule with a policy."), api.Errors(404))
}
