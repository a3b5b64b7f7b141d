package totp_test

import (
	"bytes"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"image"
	"image/color"
	"image/png"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/authn/totp"
	"github.com/sallyport/sallyport/internal/testkit"
)

// RFC 4226, appendix D.
func TestRFC4226(t *testing.T) {
	for step, want := range []string{"755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"} {
		if got := totp.Default.Code([]byte("12345678901234567890"), int64(step)); got != want {
			t.Errorf("counter %d: %s, want %s", step, got, want)
		}
	}
}

// RFC 6238, appendix B, with the keys of its reference implementation.
func TestRFC6238(t *testing.T) {
	const digits = "1234567890123456789012345678901234567890123456789012345678901234"
	keys := map[totp.Alg]string{totp.SHA1: digits[:20], totp.SHA256: digits[:32], totp.SHA512: digits}
	for _, tt := range []struct {
		at   int64
		want map[totp.Alg]string
	}{
		{59, map[totp.Alg]string{totp.SHA1: "94287082", totp.SHA256: "46119246", totp.SHA512: "90693936"}},
		{1111111109, map[totp.Alg]string{totp.SHA1: "07081804", totp.SHA256: "68084774", totp.SHA512: "25091201"}},
		{1111111111, map[totp.Alg]string{totp.SHA1: "14050471", totp.SHA256: "67062674", totp.SHA512: "99943326"}},
		{1234567890, map[totp.Alg]string{totp.SHA1: "89005924", totp.SHA256: "91819424", totp.SHA512: "93441116"}},
		{2000000000, map[totp.Alg]string{totp.SHA1: "69279037", totp.SHA256: "90698825", totp.SHA512: "38618901"}},
		{20000000000, map[totp.Alg]string{totp.SHA1: "65353130", totp.SHA256: "77737706", totp.SHA512: "47863826"}},
	} {
		for alg, want := range tt.want {
			p := totp.Params{Alg: alg, Digits: 8}
			if got := p.Code([]byte(keys[alg]), totp.StepAt(time.Unix(tt.at, 0))); got != want {
				t.Errorf("%s at %d: %s, want %s", alg, tt.at, got, want)
			}
		}
	}
}

// The same and more, as others have published and recomputed them.
func TestPublishedVectors(t *testing.T) {
	b, err := os.ReadFile(testkit.Vectors(t, "otp/hotp_totp_rfc4226_rfc6238.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		HOTP struct {
			Secret string   `json:"secret_base32"`
			Codes  []string `json:"codes"`
		} `json:"hotp"`
		TOTP []struct {
			Time   int64    `json:"time"`
			Alg    totp.Alg `json:"alg"`
			Digits int      `json:"digits"`
			Period int      `json:"period"`
			Secret string   `json:"secret_base32"`
			Code   string   `json:"code"`
		} `json:"totp"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	secret := func(text string) []byte {
		b, err := base32.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for i, want := range v.HOTP.Codes {
		if got := totp.Default.Code(secret(v.HOTP.Secret), int64(i)); got != want {
			t.Errorf("counter %d: %s, want %s", i, got, want)
		}
	}
	ran := 0
	for _, c := range v.TOTP {
		if c.Period != 30 {
			continue
		}
		ran++
		if got := (totp.Params{Alg: c.Alg, Digits: c.Digits}).Code(secret(c.Secret), totp.StepAt(time.Unix(c.Time, 0))); got != c.Code {
			t.Errorf("%+v: %s", c, got)
		}
	}
	if len(v.HOTP.Codes) < 10 || ran < 18 {
		t.Errorf("%d and %d vectors", len(v.HOTP.Codes), ran)
	}
}

// Codes of another implementation are ours, for every algorithm and length.
func TestOathtool(t *testing.T) {
	tool, err := exec.LookPath("oathtool")
	if err != nil {
		testkit.Missing(t, "oathtool is not here (Debian package oathtool)")
	}
	secret := totp.NewSecret()
	for _, alg := range []totp.Alg{totp.SHA1, totp.SHA256, totp.SHA512} {
		for _, digits := range []int{6, 8} {
			for _, at := range []int64{0, 59, 1_790_000_000} {
				out, err := exec.CommandContext(t.Context(), tool, "--totp="+string(alg), "--digits="+strconv.Itoa(digits),
					"--now="+time.Unix(at, 0).UTC().Format("2006-01-02 15:04:05 UTC"), hex.EncodeToString(secret)).CombinedOutput()
				if err != nil {
					t.Fatalf("oathtool: %v: %s", err, out)
				}
				p := totp.Params{Alg: alg, Digits: digits}
				if step, ok := p.Match(secret, strings.TrimSpace(string(out)), time.Unix(at, 0), -1); !ok || step != at/30 {
					t.Errorf("%s, %d digits, at %d: %s is not ours (step %d)", alg, digits, at, out, step)
				}
			}
		}
	}
}

func TestMatch(t *testing.T) {
	secret := []byte("12345678901234567890")
	at := time.Unix(1_700_000_010, 0)
	now := totp.StepAt(at)
	for shift, want := range map[int64]bool{-3: false, -2: false, -1: true, 0: true, 1: true, 2: false, 3: false} {
		step, ok := totp.Default.Match(secret, totp.Default.Code(secret, now+shift), at, -1)
		if ok != want || ok && step != now+shift {
			t.Errorf("%+d steps: %v, step %d", shift, ok, step-now)
		}
	}
	code := totp.Default.Code(secret, now)
	for after, want := range map[int64]bool{now - 1: true, now: false, now + 1: false, now + 100: false} {
		if _, ok := totp.Default.Match(secret, code, at, after); ok != want {
			t.Errorf("after step %+d: %v", after-now, ok)
		}
	}
	// A code of a clock that was set back comes from a step that is used up.
	if _, ok := totp.Default.Match(secret, totp.Default.Code(secret, now-120), at.Add(-time.Hour), now); ok {
		t.Error("a clock that was set back opens what was used")
	}
	for _, bad := range []string{"", "0", code[:5], code + "0", " " + code, code + "\n", "٠١٢٣٤٥", strings.Repeat("0", 1<<16)} {
		if _, ok := totp.Default.Match(secret, bad, at, -1); ok {
			t.Errorf("%.20q is accepted", bad)
		}
	}
	for _, early := range []time.Time{{}, time.Unix(0, 0), time.Unix(-100, 0)} {
		if step, ok := totp.Default.Match(secret, totp.Default.Code(secret, 0), early, -1); !ok || step != 0 {
			t.Errorf("at %v: %v, %d", early, ok, step)
		}
	}
}

func TestParams(t *testing.T) {
	for p, want := range map[totp.Params]bool{
		totp.Default: true, {Alg: totp.SHA512, Digits: 8}: true,
		{}: false, {Alg: totp.SHA1}: false, {Alg: totp.SHA1, Digits: 7}: false, {Alg: "MD5", Digits: 6}: false, {Alg: "sha1", Digits: 6}: false,
	} {
		if err := p.Check(); (err == nil) != want {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

func TestURI(t *testing.T) {
	secret := []byte("Hello!\xde\xad\xbe\xef")
	got := totp.Default.URI(secret, "auth.example.com", "ada@example.com")
	if want := "otpauth://totp/auth.example.com:ada%40example.com?secret=JBSWY3DPEHPK3PXP&issuer=auth.example.com&algorithm=SHA1&digits=6&period=30"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	for _, name := range []string{"ada", "a:b", "a b", "a+b@x.org", "50 %", "ä/ö?x=y&z#f", "日本", `"<>\`} {
		u, err := url.Parse(totp.Default.URI(secret, name, name+"!"))
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		raw := strings.Split(strings.TrimPrefix(u.EscapedPath(), "/"), ":")
		if len(raw) != 2 {
			t.Errorf("%q: label %q", name, u.EscapedPath())
			continue
		}
		issuer, err1 := url.PathUnescape(raw[0])
		account, err2 := url.PathUnescape(raw[1])
		if err1 != nil || err2 != nil || issuer != name || account != name+"!" || u.Query().Get("issuer") != name || u.Query().Get("secret") != "JBSWY3DPEHPK3PXP" || len(u.Query()) != 5 || u.Fragment != "" {
			t.Errorf("%q: %s", name, u)
		}
		if strings.Contains(u.String(), "+") {
			t.Errorf("%q: a plus, which some apps show as it is: %s", name, u)
		}
	}
}

func TestPictures(t *testing.T) {
	for _, account := range []string{"a", "ada@example.com", strings.Repeat("long.", 48) + "@example.com"} {
		uri := totp.Default.URI(totp.NewSecret(), "auth.example.com", account)
		p, err := totp.NewPicture(uri)
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(bytes.NewReader(p.PNG()))
		if err != nil {
			t.Fatal(err)
		}
		if got := testkit.ReadQR(t, img); got != uri {
			t.Errorf("PNG: %s\nwant %s", got, uri)
		}
		if got := testkit.ReadQR(t, raster(t, p.SVG())); got != uri {
			t.Errorf("SVG: %s\nwant %s", got, uri)
		}
	}
	if _, err := totp.NewPicture(strings.Repeat("x", 5000)); err == nil {
		t.Error("a text that does not fit has a picture")
	}
}

// raster draws what the one path of an SVG of ours says.
func raster(t *testing.T, svg string) image.Image {
	t.Helper()
	var doc struct {
		ViewBox string `xml:"viewBox,attr"`
		Paths   []struct {
			D string `xml:"d,attr"`
		} `xml:"path"`
	}
	if err := xml.Unmarshal([]byte(svg), &doc); err != nil {
		t.Fatal(err)
	}
	box := strings.Fields(doc.ViewBox)
	if len(box) != 4 || len(doc.Paths) != 2 {
		t.Fatalf("%.300s", svg)
	}
	atoi := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const scale = 4
	side := atoi(box[2])
	img := image.NewGray(image.Rect(0, 0, side*scale, side*scale))
	for i := range img.Pix {
		img.Pix[i] = 255
	}
	for _, m := range regexp.MustCompile(`M(\d+) (\d+)h(\d+)v1h-\d+z`).FindAllStringSubmatch(doc.Paths[1].D, -1) {
		x, y, w := atoi(m[1]), atoi(m[2]), atoi(m[3])
		for dy := range scale {
			for dx := range w * scale {
				img.SetGray(x*scale+dx, y*scale+dy, color.Gray{})
			}
		}
	}
	return img
}

func TestSecretsAndRecoveryCodes(t *testing.T) {
	if a, b := totp.NewSecret(), totp.NewSecret(); len(a) != 20 || bytes.Equal(a, b) {
		t.Errorf("%x, %x", a, b)
	}
	form := regexp.MustCompile(`^[0-9a-hjkmnp-tv-z]{5}-[0-9a-hjkmnp-tv-z]{5}$`)
	seen, letters := map[string]bool{}, map[rune]int{}
	for range 300 {
		for _, code := range totp.NewRecoveryCodes() {
			if !form.MatchString(code) || seen[code] {
				t.Fatalf("recovery code %q", code)
			}
			seen[code] = true
			for _, c := range strings.ReplaceAll(code, "-", "") {
				letters[c]++
			}
		}
	}
	// 30,000 letters: of each about 938, with a deviation of 30.
	if len(letters) != 32 {
		t.Errorf("%d letters", len(letters))
	}
	for c, n := range letters {
		if n < 700 || n > 1180 {
			t.Errorf("%c came %d times of 30000", c, n)
		}
	}
}

func FuzzMatch(f *testing.F) {
	secret := []byte("12345678901234567890")
	f.Add("287082", int64(59), int64(-1))
	f.Fuzz(func(t *testing.T, code string, at, after int64) {
		moment := time.Unix(at%(1<<40), 0)
		step, ok := totp.Default.Match(secret, code, moment, after)
		if !ok {
			return
		}
		d := step - totp.StepAt(moment)
		if d < -1 || d > 1 || step <= after || totp.Default.Code(secret, step) != code {
			t.Errorf("%q at %d after %d matches step %d", code, at, after, step)
		}
	})
}
