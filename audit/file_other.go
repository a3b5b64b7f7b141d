//go:build !unix

package audit

// fileFlags are none where links are made by administrators only.
const fileFlags = 0
