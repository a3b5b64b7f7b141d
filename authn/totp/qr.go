package totp

import (
	"fmt"
	"strings"

	"rsc.io/qr"
)

// Picture is an address as a QR code.
type Picture struct{ code *qr.Code }

// NewPicture returns the QR code of an address, at level M: 15 % of it may be
// unreadable. It fails for texts of more than two thousand bytes.
func NewPicture(uri string) (Picture, error) {
	code, err := qr.Encode(uri, qr.M)
	if err != nil {
		return Picture{}, fmt.Errorf("totp: a QR code: %w", err)
	}
	code.Scale = 6
	return Picture{code}, nil
}

// quiet is the empty frame that readers need, in modules (ISO/IEC 18004, 9.1).
const quiet = 4

// PNG returns the picture as PNG.
func (p Picture) PNG() []byte { return p.code.PNG() }

// SVG returns the picture as SVG: squares of one path, and no text.
func (p Picture) SVG() string {
	var b strings.Builder
	side := p.code.Size + 2*quiet
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" shape-rendering="crispEdges"><path fill="#fff" d="M0 0h%dv%dH0z"/><path d="`,
		side, side, side*p.code.Scale, side*p.code.Scale, side, side)
	for y := range p.code.Size {
		for x := 0; x < p.code.Size; {
			from := x
			for x < p.code.Size && p.code.Black(x, y) {
				x++
			}
			if x == from {
				x++
				continue
			}
			fmt.Fprintf(&b, "M%d %dh%dv1h-%dz", from+quiet, y+quiet, x-from, x-from)
		}
	}
	b.WriteString(`"/></svg>`)
	return b.String()
}
