// Package mail writes to people: links that prove an address, and notices of what
// happened to their account.
//
// It decides what a letter says and when it is sent. A letter is stored in the
// transaction of the change that it tells of, sealed, because it may hold a link
// that opens an account; it is deleted when it has been sent. A mail server that is
// away loses nothing and holds up nobody. Links are made from the configured base
// URL and from nothing that a request says. It never decides what a link is good
// for (package link does).
//
// Begin with NewSMTP, or NewInbox for development, as server.Config.Mail. Outbox is
// what the server makes of it.
package mail

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode"
)

// Kind is a kind of letter, and the name of its template.
type Kind string

// Letters that carry a token.
const (
	Verify        Kind = "verify"         // is the address yours?
	Reset         Kind = "reset"          // choose a new password
	ChangeAddress Kind = "change_address" // to the new one: is it yours?
	SignIn        Kind = "sign_in"        // a link, and a code of six digits
	Invitation    Kind = "invitation"     // somebody made an account for you
)

// Notices.
const (
	// AccountExists goes to the owner of an address with which somebody registered:
	// who registered is told the same as always.
	AccountExists    Kind = "account_exists"
	AddressChanging  Kind = "address_changing" // to the old one: somebody asked for it
	AddressChanged   Kind = "address_changed"  // to the old one
	PasswordChanged  Kind = "password_changed"
	NewDevice        Kind = "new_device"
	RefreshReused    Kind = "refresh_reused"
	SecondFactorOn   Kind = "second_factor_on"
	SecondFactorOff  Kind = "second_factor_off"
	RecoveryCodeUsed Kind = "recovery_code_used"
	AccountDeleted   Kind = "account_deleted"
	// Test is what “sallyport mail test” sends.
	Test Kind = "test"
)

// Kinds returns all kinds of letters.
func Kinds() []Kind {
	return []Kind{
		Verify, Reset, ChangeAddress, SignIn, Invitation,
		AccountExists, AddressChanging, AddressChanged, PasswordChanged, NewDevice, RefreshReused,
		SecondFactorOn, SecondFactorOff, RecoveryCodeUsed, AccountDeleted, Test,
	}
}

// Letter is what is to be written, and to whom.
type Letter struct {
	Kind Kind
	// To is the address. "" is nobody: the letter takes the same work as another, and
	// is never sent.
	To      string
	Subject string // id of the account, with which the letter is deleted; "" for none
	Facts   Facts
	// Until is when it is worth nothing any more, and is not sent; zero is
	// NoticeLife.
	Until time.Time
}

// NoticeLife is how long it is tried to send a letter that has no end of its own.
const NoticeLife = 3 * 24 * time.Hour

// Facts are what a letter tells. What a template does not use may be missing.
type Facts struct {
	Name    string    `json:"name,omitempty"`    // what the person is called
	Token   string    `json:"token,omitempty"`   // a secret; the letter has a link with it
	Code    string    `json:"code,omitempty"`    // a secret: six digits
	Address string    `json:"address,omitempty"` // another mail address than the letter's
	Client  string    `json:"client,omitempty"`  // IP address from which it was done
	Device  string    `json:"device,omitempty"`  // user agent with which it was done
	At      time.Time `json:"at"`                // when it was done; zero is when it is queued
	Until   time.Time `json:"until"`             // how long the link is good; zero: Letter.Until
}

// Message is a letter that has been written.
type Message struct {
	ID      string // the same whenever it is sent again
	Kind    Kind
	From    string // RFC 5322 address, with a display name
	To      string // address
	Subject string // the line
	Text    string
	HTML    string
	Link    string // what Text and HTML hold; "" for none
	Code    string
	Written time.Time
}

// Sender hands a message to whoever delivers it.
type Sender interface {
	// Send returns when the message has been accepted. An error is tried again,
	// unless it is ErrRefused. One that is ErrAway is not about this message:
	// nothing is sent for a while.
	Send(ctx context.Context, m Message) error
}

// ErrAway says that whoever delivers takes nothing at the moment: it cannot be
// reached, does not accept who we are, or the sender.
var ErrAway = errors.New("the mail server takes no letters")

// ErrRefused says that an address cannot be written to, and that trying again
// changes nothing.
var ErrRefused = errors.New("the address was refused for good")

// secrets are what of a message stands in no log.
func (m Message) secrets() []string {
	_, token, _ := strings.Cut(m.Link, "#token=")
	local, _, _ := strings.Cut(m.To, "@")
	return []string{m.Link, token, m.Code, m.To, local}
}

// maxFailure bounds the text of a failure, in bytes.
const maxFailure = 300

// scrub makes what a mail server said fit for the log and the audit log: one line,
// without addresses, links and what else is secret. Servers like to say again what
// they were told.
func scrub(text string, secrets ...string) string {
	var out []string
	size := 0
	for _, word := range strings.Fields(oneLine(strings.ToValidUTF8(text, ""))) {
		hide := strings.Contains(word, "@") || strings.Contains(word, "://")
		for _, secret := range secrets {
			hide = hide || len(secret) > 2 && strings.Contains(word, secret)
		}
		if hide {
			word = "(hidden)"
		}
		if size += len(word) + 1; size > maxFailure {
			out = append(out, "…")
			break
		}
		out = append(out, word)
	}
	return strings.Join(out, " ")
}

// oneLine makes every run of spaces and control characters, line breaks among
// them, one space.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069
	}), " ")
}

// Recipient is whose account it is, for notices.
type Recipient struct {
	Address string
	Name    string
}
