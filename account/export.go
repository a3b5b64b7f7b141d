package account

import (
	"context"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/apikey"
	"github.com/sallyport/sallyport/authn/totp"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/mail"
)

// MaxExported is how many events an export has, the newest: a few megabytes. The
// operator has the others.
const MaxExported = 10_000

// Export is everything that is held about a person, without secrets.
type Export struct {
	Schema               string            `json:"schema" example:"sallyport.export/v1"`
	ExportedAt           time.Time         `json:"exported_at"`
	Account              User              `json:"account"`
	EffectivePermissions []string          `json:"effective_permissions" doc:"Those of roles included; of an administrator, who may do everything, those that a role names"`
	PasswordSet          bool              `json:"password_set"`
	Sessions             []ExportedSession `json:"sessions" doc:"Those that are live"`
	APIKeys              []ExportedKey     `json:"api_keys"`
	SecondFactor         ExportedFactor    `json:"second_factor"`
	Networks             []ExportedNetwork `json:"networks" doc:"From where the account was signed in to, or tried to be, as far as that is remembered"`
	Devices              []time.Time       `json:"devices" doc:"When each device was last seen from which somebody signed in, to the day; what it is, is kept as a digest"`
	Letters              []ExportedLetter  `json:"letters" doc:"Links that were sent in the last day, and letters that have not been sent yet"`
	Events               []ExportedEvent   `json:"events" doc:"What the person did and what was done to the account, newest first"`
	EventsComplete       bool              `json:"events_complete" doc:"false: there are more than 10,000 events, and these are the newest"`
}

// ExportedSession is a session in an Export.
type ExportedSession struct {
	ID         string    `json:"id"`
	ClientID   string    `json:"client_id"`
	Scope      []string  `json:"scope"`
	AMR        []string  `json:"amr" doc:"How it was signed in (RFC 8176)"`
	CreatedAt  time.Time `json:"created_at"`
	LastUsedAt time.Time `json:"last_used_at"`
	ExpiresAt  time.Time `json:"expires_at"`
	Address    string    `json:"address"`
	UserAgent  string    `json:"user_agent"`
}

// ExportedKey is an API key in an Export, without the key.
type ExportedKey struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Prefix     string     `json:"prefix"`
	Scopes     []string   `json:"scopes"`
	IsActive   bool       `json:"is_active"`
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at"`
	LastUsedAt *time.Time `json:"last_used_at"`
}

// ExportedFactor is a second factor in an Export.
type ExportedFactor struct {
	Enabled           bool `json:"enabled"`
	RecoveryCodesLeft int  `json:"recovery_codes_left"`
}

// ExportedNetwork is a network in an Export.
type ExportedNetwork struct {
	Network      string     `json:"network"`
	Failures     int        `json:"failures" doc:"In a row"`
	LastSignInAt *time.Time `json:"last_sign_in_at"`
}

// ExportedLetter is a letter in an Export.
type ExportedLetter struct {
	Kind      string    `json:"kind"`
	State     string    `json:"state" enum:"good,over,waiting" doc:"Of a link: good, or over; waiting: not sent yet"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
}

// ExportedEvent is an event in an Export. Where somebody else did it, it does not say
// who, or from where.
type ExportedEvent struct {
	At         time.Time         `json:"at"`
	Action     string            `json:"action"`
	Result     string            `json:"result"`
	By         string            `json:"by" enum:"person,other,unknown" doc:"person: whoever acted as the person, or tried to; unknown: the server, or somebody who was not signed in"`
	Target     string            `json:"target"`
	Reason     string            `json:"reason,omitempty"`
	Session    string            `json:"session,omitempty"`
	Address    string            `json:"address,omitempty"`
	UserAgent  string            `json:"user_agent,omitempty"`
	RequestID  string            `json:"request_id,omitempty"`
	DecisionID string            `json:"decision_id,omitempty"`
	Detail     map[string]string `json:"detail,omitempty"`
}

// Export returns everything that is held about a person. That it was asked for is
// recorded.
func (s *Service) Export(ctx context.Context, id string) (out Export, err error) {
	if err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if _, found, err := readUser(tx, id); err != nil {
			return err
		} else if !found {
			return sallyport.NotFound("user") // a machine client, for one, is no account
		}
		return audit.Append(ctx, tx, audit.Event{Action: "account.exported", Target: id})
	}); err != nil {
		return out, err
	}
	view := s.cfg.DB.View(ctx)
	out = Export{
		Schema: "sallyport.export/v1", ExportedAt: s.cfg.Now().UTC(),
		Sessions: []ExportedSession{}, APIKeys: []ExportedKey{}, Networks: []ExportedNetwork{}, Devices: []time.Time{}, Letters: []ExportedLetter{}, Events: []ExportedEvent{},
	}
	for _, part := range []func(context.Context, db.View, string, *Export) error{
		s.exportAccount, s.exportSessions, exportKeys, s.exportNetworks, s.exportDevices, s.exportLetters, exportEvents,
	} {
		if err := part(ctx, view, id, &out); err != nil {
			return Export{}, err
		}
	}
	return out, nil
}

func (s *Service) exportAccount(_ context.Context, view db.View, id string, out *Export) error {
	u, found, err := readUser(view, id)
	if err != nil {
		return err
	}
	if !found {
		return sallyport.NotFound("user")
	}
	l, _, err := ReadLogin(view, id)
	if err != nil {
		return err
	}
	grants, err := role.GrantsOf(view, id)
	if err != nil {
		return err
	}
	left, err := totp.RecoveryCodesLeft(view, id)
	out.Account, out.PasswordSet, out.EffectivePermissions = u, l.Hash != "", grants.Permissions().Names()
	out.SecondFactor = ExportedFactor{u.MFAEnabled, left}
	return err
}

func (s *Service) exportSessions(ctx context.Context, _ db.View, id string, out *Export) error {
	sessions, err := s.cfg.Sessions.List(ctx, id)
	for _, se := range sessions {
		out.Sessions = append(out.Sessions, ExportedSession{
			se.ID, se.Client, append([]string{}, se.Scope...), se.AMR, se.Created, se.LastUsed, se.Expires, se.Address, se.UserAgent,
		})
	}
	return err
}

func exportKeys(_ context.Context, view db.View, id string, out *Export) error {
	all, err := apikey.Of(view, id)
	for _, k := range all {
		out.APIKeys = append(out.APIKeys, ExportedKey{k.ID, k.Name, k.Prefix, k.Scopes, k.Active, k.CreatedAt, unlessZero(k.ExpiresAt), unlessZero(k.LastUsedAt)})
	}
	return err
}

func (s *Service) exportNetworks(_ context.Context, view db.View, id string, out *Export) error {
	all, err := s.cfg.Lockout.NetworksOf(view, id)
	for _, n := range all {
		out.Networks = append(out.Networks, ExportedNetwork{n.Network, n.Failures, unlessZero(n.Seen)})
	}
	return err
}

func (s *Service) exportDevices(_ context.Context, view db.View, id string, out *Export) error {
	if s.cfg.Devices == nil {
		return nil
	}
	seen, err := s.cfg.Devices(view, id)
	out.Devices = append(out.Devices, seen...)
	return err
}

func (s *Service) exportLetters(_ context.Context, view db.View, id string, out *Export) error {
	sent, err := s.cfg.Links.Letters(view, id)
	if err != nil {
		return err
	}
	for _, l := range sent {
		state := "good"
		if l.Used || !s.cfg.Now().Before(l.Expires) {
			state = "over"
		}
		out.Letters = append(out.Letters, ExportedLetter{string(l.Purpose), state, l.Created, l.Expires})
	}
	waiting, err := mail.WaitingOf(view, id)
	for _, w := range waiting {
		out.Letters = append(out.Letters, ExportedLetter{string(w.Kind), "waiting", w.Written, w.Until})
	}
	return err
}

func exportEvents(_ context.Context, view db.View, id string, out *Export) error {
	all, err := audit.About(view, id, MaxExported+1)
	if err != nil {
		return err
	}
	out.EventsComplete = len(all) <= MaxExported
	for _, e := range all[:min(len(all), MaxExported)] {
		x := ExportedEvent{At: e.At, Action: e.Action, Result: string(e.Result), By: "person", Target: e.Target, Reason: e.Reason, Session: e.Session, Address: e.Address, UserAgent: e.UserAgent, RequestID: e.RequestID, DecisionID: e.DecisionID, Detail: e.Detail}
		switch e.Actor {
		case id:
		case "":
			x.By = "unknown"
		default:
			// Where they came from is theirs.
			x.By, x.Session, x.Address, x.UserAgent, x.RequestID, x.DecisionID = "other", "", "", "", "", ""
		}
		out.Events = append(out.Events, x)
	}
	return nil
}

func unlessZero(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
