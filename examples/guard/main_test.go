package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Each piece refuses what it is there for, and lets pass what stands beside it.
func TestEachPiece(t *testing.T) {
	srv := httptest.NewServer(handler("https://api.example.com", "api.example.com", "https://app.example.com", []string{"127.0.0.1"}))
	defer srv.Close()
	tests := []struct {
		name   string
		change func(*http.Request)
		status int
		code   string
	}{
		{"as it should be", func(*http.Request) {}, 200, ""},
		{"another host", func(r *http.Request) { r.Host = "evil.example" }, 400, "host_not_allowed"},
		{"in clear", func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "http") }, 403, "https_required"},
		{"a form", func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }, 415, "unsupported_media_type"},
		{"too large", func(r *http.Request) { setBody(r, `{"text":"`+strings.Repeat("x", 16<<10)+`"}`) }, 413, "body_too_large"},
		{"a member twice", func(r *http.Request) { setBody(r, `{"text":"a","Text":"b"}`) }, 400, "duplicate_member"},
		{"from a page that may", func(r *http.Request) { r.Header.Set("Origin", "https://app.example.com") }, 200, ""},
		{"from a page that may not", func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, 200, ""},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := post(t, srv.URL, "198.51.100."+string(rune('1'+i)))
			tt.change(r)
			res, body := do(t, r)
			if res.StatusCode != tt.status || !strings.Contains(body, tt.code) {
				t.Errorf("%d %s", res.StatusCode, body)
			}
			for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "frame-ancestors 'none'", "Referrer-Policy": "no-referrer"} {
				if !strings.Contains(res.Header.Get(name), want) {
					t.Errorf("%s: %q", name, res.Header.Get(name))
				}
			}
			if tt.status == 200 {
				if body != `{"text":"hello world"}`+"\n" {
					t.Errorf("the markup is still there, or too much is gone: %s", body)
				}
				if res.Header.Get("Strict-Transport-Security") == "" || res.Header.Get("RateLimit") == "" {
					t.Errorf("headers: %v", res.Header)
				}
			}
			may := ""
			if r.Header.Get("Origin") == "https://app.example.com" {
				may = r.Header.Get("Origin")
			}
			if got := res.Header.Get("Access-Control-Allow-Origin"); got != may {
				t.Errorf("Access-Control-Allow-Origin: %q", got)
			}
		})
	}
}

// Five requests of one client pass, and then those of another.
func TestLimit(t *testing.T) {
	srv := httptest.NewServer(handler("https://api.example.com", "api.example.com", "https://app.example.com", []string{"127.0.0.1"}))
	defer srv.Close()
	send := func(addr string) *http.Response {
		// What a client writes into the header itself does not count.
		res, _ := do(t, post(t, srv.URL, "203.0.113.7, "+addr))
		return res
	}
	for i := range 5 {
		if res := send("198.51.100.1"); res.StatusCode != 200 {
			t.Fatalf("request %d: %d", i, res.StatusCode)
		}
	}
	if res := send("198.51.100.1"); res.StatusCode != 429 || res.Header.Get("Retry-After") != "12" {
		t.Errorf("the sixth: %d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
	}
	if res := send("198.51.100.2"); res.StatusCode != 200 {
		t.Errorf("another client: %d", res.StatusCode)
	}
}

func post(t *testing.T, url, forwarded string) *http.Request {
	t.Helper()
	r, err := http.NewRequest("POST", url+"/comments", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "api.example.com"
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Forwarded-For", forwarded)
	r.Header.Set("X-Forwarded-Proto", "https")
	setBody(r, `{"text":"hello <script>alert(1)</script><b>world</b>"}`)
	return r
}

func setBody(r *http.Request, text string) {
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
}

func do(t *testing.T, r *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}
