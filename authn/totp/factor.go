package totp

import (
	"bytes"
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/internal/cleanup"
	"github.com/sallyport/sallyport/internal/db"
)

// setupFor is how long a secret that was shown waits for its first code.
const setupFor = 10 * time.Minute

// Config is what a Service needs.
type Config struct {
	DB   *db.DB
	Keys *keyring.Ring
	// RecoveryKey is a secret of the server, of 16 bytes or more, that is used for
	// nothing else: recovery codes are stored as digests under it.
	RecoveryKey []byte
	Now         func() time.Time // default time.Now
}

// Service keeps second factors.
type Service struct{ cfg Config }

// New returns a Service.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{cfg}
}

// purpose binds a sealed secret to its owner: in another one's row it does not
// open.
func purpose(subject string) string { return "second factor " + subject }

// Setup makes a new secret for a subject and stores it, to be confirmed within
// ten minutes; one that waits already is forgotten. allowed runs first, in the
// same transaction. ok is false if the subject has a second factor: nothing is
// changed then. The secret cannot be had again.
func (s *Service) Setup(ctx context.Context, subject string, allowed func(*db.Tx) error) (secret []byte, ok bool, err error) {
	secret, enrolment := NewSecret(), uuid.Must(uuid.NewV7()).String()
	err = s.cfg.Keys.StoreSealed(ctx, purpose(subject), secret, func(tx *db.Tx, sealed []byte) error {
		if err := allowed(tx); err != nil {
			return err
		}
		var err error
		ok, err = putSecret(tx, subject, enrolment, sealed, s.cfg.Now())
		return err
	})
	if err != nil || !ok {
		return nil, false, err
	}
	return secret, true, nil
}

// Factor is a subject's second factor, or the one that is being set up, ready to
// be tried inside a transaction. The zero Factor is none, and accepts nothing.
type Factor struct {
	subject   string
	enrolment string
	secret    []byte
	recovery  []byte // key of the digests
	confirmed bool
}

// String keeps a factor's secret out of what is printed.
func (f Factor) String() string { return "second factor of " + f.subject }

// GoString does the same for %#v.
func (f Factor) GoString() string { return f.String() }

// Confirmed reports whether the factor is on.
func (f Factor) Confirmed() bool { return f.confirmed }

// SettingUp reports whether the factor waits for its first code.
func (f Factor) SettingUp() bool { return f.enrolment != "" && !f.confirmed }

// Load reads and unseals a subject's factor for a code that is going to be tried.
// The secret of one that is on is not needed, and not opened, for a recovery
// code: a secret that is lost keeps nobody out who has one.
func (s *Service) Load(ctx context.Context, subject, code string) (Factor, error) {
	r, found, err := readSecret(s.cfg.DB.View(ctx), subject)
	if err != nil || !found || !r.confirmed && s.cfg.Now().Sub(r.created) >= setupFor {
		return Factor{}, err
	}
	f := Factor{subject: subject, enrolment: r.enrolment, recovery: s.cfg.RecoveryKey, confirmed: r.confirmed}
	if isCode(code) {
		f.secret, err = s.unseal(ctx, subject, r)
	}
	return f, err
}

// maxUnseal bounds how often a secret is read again that is sealed anew meanwhile.
const maxUnseal = 5

// unseal opens a secret that was read. If the master key has been replaced since,
// it is read again.
func (s *Service) unseal(ctx context.Context, subject string, r row) (secret []byte, err error) {
	for range maxUnseal {
		if secret, err = s.cfg.Keys.Unseal(ctx, purpose(subject), r.sealed); err == nil {
			return secret, nil
		}
		now, found, rerr := readSecret(s.cfg.DB.View(ctx), subject)
		if rerr != nil || !found || now.enrolment != r.enrolment || bytes.Equal(now.sealed, r.sealed) {
			return nil, err
		}
		r = now
	}
	return nil, err
}

// isCode tells a code of the app from a recovery code.
func isCode(code string) bool {
	if len(code) != Default.Digits {
		return false
	}
	for _, c := range []byte(code) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// Method is what proved the second factor.
type Method string

// The methods, as mfa_methods names them. None means that the code was not good.
const (
	None         Method = ""
	App          Method = "totp"
	RecoveryCode Method = "recovery_code"
)

// Methods lists what a second factor can be proved with.
func Methods() []string { return []string{string(App), string(RecoveryCode)} }

// Use uses a code up and says what it was. It is good once: whatever else the
// transaction does, of all that use the same code one commits.
func (f Factor) Use(tx *db.Tx, code string, now time.Time) (Method, error) {
	if f.enrolment == "" {
		return None, nil
	}
	if isCode(code) {
		last, found, err := readLastStep(tx, f.subject, f.enrolment)
		if err != nil || !found || f.secret == nil { // set up anew, or gone
			return None, err
		}
		step, ok := Default.Match(f.secret, code, now, last)
		if !ok {
			return None, nil
		}
		if ok, err = useStep(tx, f.subject, f.enrolment, step); err != nil || !ok {
			return None, err
		}
		return App, nil
	}
	text, ok := readRecoveryCode(code)
	if !ok || !f.confirmed {
		return None, nil
	}
	if ok, err := useRecovery(tx, f.subject, digest(f.recovery, f.subject, text), now); err != nil || !ok {
		return None, err
	}
	return RecoveryCode, nil
}

// Confirm turns on a factor that was being set up, and reports whether it did.
func (f Factor) Confirm(tx *db.Tx) (bool, error) { return confirm(tx, f.subject, f.enrolment) }

// NewRecoveryCodes returns recovery codes to be stored with ReplaceRecoveryCodes.
func NewRecoveryCodes() []string {
	codes := make([]string, RecoveryCodes)
	for i := range codes {
		codes[i] = newRecoveryCode()
	}
	return codes
}

// ReplaceRecoveryCodes stores recovery codes in place of those that there are.
func (s *Service) ReplaceRecoveryCodes(tx *db.Tx, subject string, codes []string) error {
	if err := deleteRecovery(tx, subject); err != nil {
		return err
	}
	for _, code := range codes {
		text, ok := readRecoveryCode(code)
		if !ok {
			panic("totp: not a recovery code")
		}
		if err := insertRecovery(tx, subject, digest(s.cfg.RecoveryKey, subject, text)); err != nil {
			return err
		}
	}
	return nil
}

// RecoveryCodesLeft returns how many recovery codes are good.
func RecoveryCodesLeft(rd db.Reader, subject string) (int, error) { return recoveryLeft(rd, subject) }

// Delete forgets a subject's factor, confirmed or not, with its recovery codes,
// and reports whether there was one.
func Delete(tx *db.Tx, subject string) (bool, error) {
	if err := deleteRecovery(tx, subject); err != nil {
		return false, err
	}
	return deleteSecret(tx, subject)
}

// Cleanup says what is old: secrets that were shown and not confirmed in time.
func (s *Service) Cleanup() []cleanup.Step {
	return []cleanup.Step{{Table: "sp_totp", Delete: func(tx *db.Tx, before time.Time, limit int) (int64, error) {
		return deleteUnconfirmed(tx, before.Add(-setupFor), limit)
	}}}
}
