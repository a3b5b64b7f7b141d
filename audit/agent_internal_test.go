package audit

import "testing"

func TestAgent(t *testing.T) {
	for in, want := range map[string]string{
		"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0":                                                                          "Firefox/140.0 Linux",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36 Edg/131.0.0.0":                   "Edg/131.0.0.0 Windows",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1 eyJhbGc": "Safari/604.1 iPhone",
		"curl/8.5.0":        "curl/8.5.0",
		"Go-http-client/2.": "Go-http-client/2.",
		"curl/rt_AQGiA9":    "curl/",
		"rt_AQGiA9RtlXXX":   "",
		"xcurl/8":           "",
		"curl/1234567890123456789012345678901234567890": "curl/123456789012",
		"": "",
	} {
		if got := agent(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
