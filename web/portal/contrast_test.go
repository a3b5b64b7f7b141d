package portal_test

import (
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var colour = regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]{6});`)

// What can be read can be told from what is behind it: 4.5 to 1 for text, 3 to 1
// for edges and the mark of focus (WCAG 2.2, 1.4.3 and 1.4.11), by day and by
// night.
func TestContrast(t *testing.T) {
	css, err := os.ReadFile("assets/portal.css")
	if err != nil {
		t.Fatal(err)
	}
	light, dark, ok := strings.Cut(string(css), "@media (prefers-color-scheme: dark)")
	if !ok {
		t.Fatal("no dark colours")
	}
	dark, _, _ = strings.Cut(dark, "\n}\n")
	names := 0
	for mode, text := range map[string]string{"light": light, "dark": dark} {
		colours := map[string]float64{}
		for _, m := range colour.FindAllStringSubmatch(text, -1) {
			colours[m[1]] = luminance(t, m[2])
		}
		if names != 0 && names != len(colours) {
			t.Errorf("%s: %d colours, and %d in the other mode", mode, len(colours), names)
		}
		names = len(colours)
		for _, pair := range []struct {
			front, back string
			least       float64
		}{
			{"text", "page", 4.5},
			{"text", "card", 4.5},
			{"text", "bad-back", 4.5},
			{"text", "good-back", 4.5},
			{"quiet", "card", 4.5},
			{"link", "card", 4.5},
			{"bad", "card", 4.5},
			{"bad", "bad-back", 4.5},
			{"on-button", "button", 4.5},
			{"line", "card", 3},
			{"button", "card", 3},
			{"bad", "page", 3},
			{"good", "good-back", 3},
			{"focus", "card", 3},
			{"focus", "page", 3},
			{"focus", "button", 1.2},
		} {
			a, ok := colours[pair.front]
			b, ok2 := colours[pair.back]
			if !ok || !ok2 {
				t.Fatalf("%s: no colour %s or %s", mode, pair.front, pair.back)
			}
			if got := (max(a, b) + 0.05) / (min(a, b) + 0.05); got < pair.least {
				t.Errorf("%s: %s on %s is %.2f to 1, want %.1f", mode, pair.front, pair.back, got, pair.least)
			}
		}
	}
	// Any colour besides would not be held to it, but for the white behind a QR code.
	rest := colour.ReplaceAllString(string(css), "")
	if found := regexp.MustCompile(`#[0-9a-f]{3,8}\b`).FindAllString(rest, -1); len(found) != 1 || found[0] != "#ffffff" {
		t.Errorf("other colours: %v", found)
	}
}

// luminance is relative luminance as WCAG 2.2 defines it.
func luminance(t *testing.T, hex string) (l float64) {
	t.Helper()
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		n, err := strconv.ParseUint(hex[1+2*i:3+2*i], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		c := float64(n) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		l += weight * c
	}
	return l
}
