// Package page makes and reads the cursors of lists. A cursor is opaque and
// authenticated: one that was made up, changed, or made for another list is
// refused, so that it can name a position and nothing else.
package page

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"

	"github.com/sallyport/sallyport"
)

const tagSize = 12

// Encode returns a cursor for a position in the list that is named by list,
// which includes its filters.
func Encode(key []byte, list string, position any) string {
	b, err := json.Marshal(position)
	if err != nil {
		panic(err) // positions are plain structs
	}
	return base64.RawURLEncoding.EncodeToString(append(tag(key, list, b), b...))
}

// Decode reads a cursor into position. It returns a 400.
func Decode(key []byte, list, cursor string, position any) error {
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	// Go's decoder skips line breaks: the text itself must be what Encode gave.
	if err != nil || base64.RawURLEncoding.EncodeToString(b) != cursor || len(cursor) > 512 || len(b) < tagSize || !hmac.Equal(b[:tagSize], tag(key, list, b[tagSize:])) || json.Unmarshal(b[tagSize:], position) != nil {
		return &sallyport.Error{
			Status: http.StatusBadRequest, Code: "invalid_cursor",
			Message: "The cursor is not one of this list. Take next_cursor from the page before, with the same filters, or begin without a cursor.",
		}
	}
	return nil
}

func tag(key []byte, list string, b []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte("sallyport cursor\x00" + list + "\x00"))
	m.Write(b)
	return m.Sum(nil)[:tagSize]
}
