package authtest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Client is an HTTP client whose requests to the server under test carry a
// credential. Requests to anybody else do not. It follows no redirects.
type Client struct {
	*http.Client

	ID    string // of the account; "" of an anonymous client
	Name  string // its user name
	Token string // the access token, or the API key; "" of others

	s      *Server
	header http.Header
}

func (s *Server) client(header http.Header) *Client {
	c := &Client{s: s, header: header}
	c.Client = &http.Client{
		Transport:     transport{c},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// transport adds the credential to requests that go to the server under test and have
// none.
type transport struct{ c *Client }

func (tr transport) RoundTrip(r *http.Request) (*http.Response, error) {
	c := tr.c
	if c.s.http == nil {
		return http.DefaultTransport.RoundTrip(r)
	}
	if r.URL.Host == c.s.http.Listener.Addr().String() {
		r = r.Clone(r.Context())
		for name, values := range c.header {
			if r.Header.Values(name) == nil {
				r.Header[name] = values
			}
		}
	}
	return c.s.http.Client().Transport.RoundTrip(r)
}

// Call sends a request to a path of the service and returns the whole answer. A body
// that is url.Values is sent as a form, a string as it is, and anything else but nil
// as JSON; the last two with the content type of JSON. header is name, value, name,
// value …, and replaces what would be sent.
func (c *Client) Call(method, path string, body any, header ...string) Reply {
	t := c.s.t
	t.Helper()
	if c.s.http == nil {
		t.Fatal("authtest: nothing is served yet. Call Serve with the handler of the service first.")
	}
	var text []byte
	contentType := "application/json"
	switch b := body.(type) {
	case nil:
		contentType = ""
	case url.Values:
		text, contentType = []byte(b.Encode()), "application/x-www-form-urlencoded"
	case string:
		text = []byte(b)
	default:
		var err error
		if text, err = json.Marshal(b); err != nil {
			t.Fatal(err)
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), method, c.s.URL+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if strings.EqualFold(header[i], "Host") {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return Reply{Status: res.StatusCode, Header: res.Header, Body: string(all), t: t}
}

// Reply is an answer that was read.
type Reply struct {
	Status int
	Header http.Header
	Body   string

	t T
}

// Want reports an error unless the answer has a status and, if code is not empty, this
// stable code of a refusal (docs/errors.md). It returns the answer.
func (r Reply) Want(status int, code string) Reply {
	r.t.Helper()
	if r.Status != status {
		r.t.Errorf("status %d, want %d: %.500s", r.Status, status, r.Body)
	} else if code != "" && r.Code() != code {
		r.t.Errorf("code %q, want %q: %.500s", r.Code(), code, r.Body)
	}
	return r
}

// Code returns the code of a refusal, "" if there is none.
func (r Reply) Code() string {
	var body struct {
		Code  string `json:"code"`
		Error string `json:"error"` // of OAuth (RFC 6749, 5.2)
	}
	if json.Unmarshal([]byte(r.Body), &body) != nil {
		return ""
	}
	if body.Code == "" {
		return body.Error
	}
	return body.Code
}

// Text returns a member of the JSON object that the answer is: of a text the text, of
// anything else its JSON, and "" if there is no such member.
func (r Reply) Text(member string) string {
	var all map[string]json.RawMessage
	if json.Unmarshal([]byte(r.Body), &all) != nil {
		return ""
	}
	var text string
	if json.Unmarshal(all[member], &text) == nil {
		return text
	}
	return string(all[member])
}
