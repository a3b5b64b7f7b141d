package sallyport_test

import (
	"testing"

	"github.com/sallyport/sallyport"
)

// Who logs a refusal learns which member it is about, on lines that a caller cannot
// add to.
func TestErrorNamesItsMembers(t *testing.T) {
	e := sallyport.Invalid(sallyport.Field{Pointer: "/roles/0", Code: "unknown_role", Detail: "There is no such role."},
		sallyport.Field{Pointer: "/a\nlevel=INFO", Code: "unknown_member", Detail: "Leave it out."})
	want := "validation_failed: " + e.Message + "\n" + `"/roles/0" unknown_role: There is no such role.` + "\n" + `"/a\nlevel=INFO" unknown_member: Leave it out.`
	if got := e.Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := sallyport.NotFound("role").Error(); got != "not_found: "+sallyport.NotFound("role").Message {
		t.Errorf("without members: %q", got)
	}
}
