package sanitize_test

import (
	"fmt"

	"github.com/sallyport/sallyport/guard/sanitize"
)

func ExampleText() {
	fmt.Println(sanitize.Text("Ada <b>Lovelace</b><script>alert(1)</script>"))
	fmt.Println(sanitize.Text("a < b & c"))
	fmt.Println(sanitize.Text("&lt;b&gt; makes it bold"))
	// Output:
	// Ada Lovelace
	// a < b & c
	// &lt;b&gt; makes it bold
}

func ExampleRich() {
	fmt.Println(sanitize.Rich(`<p onclick="alert(1)">Hello<br><a href="javascript:alert(1)">there</a>`))
	fmt.Println(sanitize.Rich(`<a href="https://example.com">link</a> & more`))
	// Output:
	// <p>Hello<br>there</p>
	// <a href="https://example.com" rel="nofollow noopener noreferrer">link</a> &amp; more
}

// A policy by its name, as a configuration has it; too long a text is an error.
func ExamplePolicy_Sanitize() {
	out, err := sanitize.Policy("text").Sanitize("<i>x</i>")
	fmt.Println(out, err)
	_, err = sanitize.Policy("text").Sanitize(string(make([]byte, sanitize.MaxBytes+1)))
	fmt.Println(err)
	// Output:
	// x <nil>
	// sanitize: the text is longer than 1048576 bytes
}
