package policy

import "errors"

// Broken is a policy that cannot be read.
func Broken(id string, actions ...string) *Policy {
	return brokenPolicy(id, false, actions, errors.New("it is from the future"))
}

// Authorize is what Cedar's corpus is tried on.
var Authorize = authorize
