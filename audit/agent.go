package audit

import "strings"

// programs and systems that a User-Agent may name, as they write themselves. What is
// first in a list and there is what the client is: browsers name those that they
// want to be taken for, too.
var (
	programs = []string{
		"Edg", "EdgA", "EdgiOS", "OPR", "SamsungBrowser", "FxiOS", "CriOS", "Firefox", "Chrome", "Safari",
		"curl", "Wget", "python-requests", "python-httpx", "aiohttp", "Python-urllib", "Go-http-client", "okhttp", "Dart", "CFNetwork",
		"axios", "node-fetch", "undici", "PostmanRuntime", "Apache-HttpClient", "Java", "libwww-perl", "Ruby", "sallyport",
	}
	systems = []string{"Windows", "Android", "iPhone", "iPad", "CrOS", "Macintosh", "Mac OS X", "Linux"}
)

// maxVersion bounds the version of a program, in bytes.
const maxVersion = 12

// agent returns what is known to be no secret of a User-Agent: the program with its
// version, and the system. The rest is a stranger's text, and people put tokens
// everywhere.
func agent(s string) string {
	var out []string
	for _, name := range programs {
		if at := strings.Index(s, name+"/"); at >= 0 && (at == 0 || s[at-1] == ' ') {
			version := s[at+len(name)+1:]
			if end := strings.IndexFunc(version, func(r rune) bool { return (r < '0' || r > '9') && r != '.' }); end >= 0 {
				version = version[:end]
			}
			out = append(out, name+"/"+version[:min(len(version), maxVersion)])
			break
		}
	}
	for _, name := range systems {
		if strings.Contains(s, name) {
			out = append(out, name)
			break
		}
	}
	return strings.Join(out, " ")
}
