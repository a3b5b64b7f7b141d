package account

import (
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
)

// Imported is an account that another system kept. Its password is a hash that
// password.Identify accepts, or "" for none.
type Imported struct {
	ID            string
	Email         string
	Username      *string
	FullName      *string
	EmailVerified bool
	Disabled      bool
	Roles         []string // these and no others
	Permissions   []string
	Hash          string
	CreatedAt     time.Time // there
	ImportedAt    time.Time

	keys keys
}

// Check holds names and address against the rules of registration. Insert needs
// what it finds out.
func (in *Imported) Check() *sallyport.Field {
	var f *sallyport.Field
	if in.keys.email, f = checkEmail(in.Email); f != nil {
		return f
	}
	if in.Username != nil {
		key, f := checkUsername(*in.Username)
		if f != nil {
			return f
		}
		in.keys.username = &key
	}
	if in.FullName != nil {
		return checkFullName(*in.FullName)
	}
	return nil
}

// Keys returns the normalised copies under which Check found that the account
// is compared; username is "" if it has none.
func (in *Imported) Keys() (email, username string) {
	if in.keys.username != nil {
		username = *in.keys.username
	}
	return in.keys.email, username
}

// Insert adds an account that was checked. It reports false, and adds nothing,
// if its address or user name is taken: an account that is there is never
// changed.
func (in *Imported) Insert(tx *db.Tx) (bool, error) {
	if err := role.Adopt(tx, in.ID, in.ImportedAt, in.Disabled, in.Roles, in.Permissions); err != nil {
		return false, err
	}
	ok, err := insertImported(tx, in)
	if err == nil && !ok {
		err = role.Discard(tx, in.ID)
	}
	return ok, err
}

// Holder returns the account that has the address, or else the user name, "" if
// nobody has either.
func (in *Imported) Holder(rd db.Reader) (id string, byName bool, err error) {
	return readHolder(rd, in.keys)
}
