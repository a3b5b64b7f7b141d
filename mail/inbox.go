package mail

import (
	"context"
	"log/slog"
	"slices"
	"sync"
)

// MaxInbox is how many letters an Inbox holds; older ones are forgotten.
const MaxInbox = 200

// Inbox keeps letters in memory, for development: the page /dev/inbox shows them,
// and link and code stand in the log.
type Inbox struct {
	log  *slog.Logger
	next Sender

	mu  sync.Mutex
	all []Message // newest first
}

// NewInbox returns an Inbox. What is sent to it goes on to next, if that is not
// nil.
func NewInbox(log *slog.Logger, next Sender) *Inbox {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Inbox{log: log, next: next}
}

// Send implements Sender.
func (b *Inbox) Send(ctx context.Context, m Message) error {
	b.put(m)
	if b.next == nil {
		return nil
	}
	return b.next.Send(ctx, m)
}

// put keeps a message; one that is sent again is the same.
func (b *Inbox) put(m Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if slices.ContainsFunc(b.all, func(has Message) bool { return has.ID == m.ID }) {
		return
	}
	b.all = append([]Message{m}, b.all[:min(len(b.all), MaxInbox-1)]...)
	b.log.Info("letter", "kind", string(m.Kind), "to", m.To, "subject", m.Subject, "link", m.Link, "code", m.Code)
}

// All returns the letters, newest first.
func (b *Inbox) All() []Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.all)
}

// Find returns one of them.
func (b *Inbox) Find(id string) (Message, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.IndexFunc(b.all, func(m Message) bool { return m.ID == id }); i >= 0 {
		return b.all[i], true
	}
	return Message{}, false
}
