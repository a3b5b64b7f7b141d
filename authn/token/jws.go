package token

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/sallyport/sallyport/guard/body"
)

// The most that is looked at. A longer token is refused by its length alone.
const (
	maxToken  = 8 << 10 // characters of the whole
	maxHeader = 1 << 10 // bytes of the header's JSON
	maxDepth  = 8       // nesting of the payload, whose own claims need 2
)

// jws is a JWS in compact serialization (RFC 7515, section 7.1), taken apart
// and not verified.
type jws struct {
	alg, kid, typ string // "" where absent
	input         string // what is signed: header and payload, encoded, with the dot
	payload       string // encoded
	signature     string // encoded
}

// parse takes a compact JWS apart. It decodes the header and nothing else.
//
// The header is where JWS libraries are attacked: it may carry or point to the
// key to verify with (jwk, jku, x5c, x5u), change what is signed (b64, crit),
// ask for decompression (zip) or wrap another token (cty). Here it may have
// alg, kid and typ, as strings, and a token with any other member is refused
// whether or not it would matter. Names match by every byte.
func parse(compact string) (jws, error) {
	if len(compact) > maxToken {
		return jws{}, refuse(TooLong, "")
	}
	header, rest, ok := strings.Cut(compact, ".")
	payload, signature, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || strings.Contains(signature, ".") {
		return jws{}, refuse(Malformed, "")
	}
	if len(header) > base64.RawURLEncoding.EncodedLen(maxHeader) {
		return jws{}, refuse(TooLong, "")
	}
	raw, ok := decode(header)
	if !ok {
		return jws{}, refuse(Malformed, "")
	}
	members, err := object(raw, 1)
	if err != nil {
		return jws{}, err
	}
	t := jws{
		input:     compact[:len(header)+1+len(payload)],
		payload:   payload,
		signature: signature,
	}
	known := 0
	for _, m := range [...]struct {
		name string
		to   *string
	}{{"alg", &t.alg}, {"kid", &t.kid}, {"typ", &t.typ}} {
		value, ok := members[m.name]
		if !ok {
			continue
		}
		known++
		if *m.to, ok = text(value); !ok {
			return jws{}, refuse(Malformed, m.name)
		}
	}
	if known < len(members) {
		return jws{}, refuse(UnexpectedHeader, "")
	}
	return t, nil
}

// open verifies t with the key and returns its payload. The payload is decoded
// only after the signature held: nothing looks at what a stranger wrote there.
func (k *Key) open(t jws) ([]byte, error) {
	// The token does not choose the algorithm; it may only agree.
	if t.alg != string(k.alg) {
		return nil, refuse(WrongAlgorithm, "")
	}
	if len(t.signature) != base64.RawURLEncoding.EncodedLen(k.sigSize) {
		return nil, refuse(BadSignature, "")
	}
	sig, ok := decode(t.signature)
	if !ok {
		return nil, refuse(Malformed, "")
	}
	if !k.verify([]byte(t.input), sig) {
		return nil, refuse(BadSignature, "")
	}
	payload, ok := decode(t.payload)
	if !ok {
		return nil, refuse(Malformed, "")
	}
	return payload, nil
}

// strict refuses padding, foreign characters and bits behind the end, so that
// one sequence of bytes has one spelling. It skips line ends all the same.
var strict = base64.RawURLEncoding.Strict()

func decode(s string) ([]byte, bool) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, false
	}
	b, err := strict.DecodeString(s)
	return b, err == nil
}

// object returns the members of a JSON object by their exact names.
//
// encoding/json may do this because body.CheckJSON has ruled out everything it
// would be obliging about (repeated names and case variants, broken text,
// depth), and because it fills a map, where names match exactly.
func object(b []byte, depth int) (map[string]json.RawMessage, error) {
	if body.CheckJSON(b, depth) != nil {
		return nil, refuse(Malformed, "")
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(b, &members) != nil || members == nil { // null leaves nil
		return nil, refuse(Malformed, "")
	}
	return members, nil
}

// text returns the value of a JSON string that object has checked. Without the
// look at the first byte encoding/json would take null for "".
func text(raw json.RawMessage) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	if bytes.IndexByte(raw, '\\') < 0 { // nearly always: nothing to unescape
		return string(raw[1 : len(raw)-1]), true
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}
