package authn

import (
	"time"

	"github.com/sallyport/sallyport"
)

// FreshFor is how long ago somebody may have signed in who does what would keep the
// account's person out, or give everything of theirs away: whoever finds a session
// open must not be able to.
const FreshFor = 10 * time.Minute

// OwnSession is met by a person in an unlimited session of their own. An API key
// proves nobody's presence, and a token for one purpose must not change how its owner
// signs in.
func OwnSession() sallyport.Rule {
	return sallyport.All(ownSession()...)
}

// FreshSession is OwnSession, signed in to within FreshFor.
func FreshSession() sallyport.Rule {
	return sallyport.All(append(ownSession(), sallyport.Fresh(FreshFor))...)
}

func ownSession() []sallyport.Rule {
	return []sallyport.Rule{sallyport.Unscoped(), sallyport.Via(sallyport.KindBearer, sallyport.KindCookie)}
}
