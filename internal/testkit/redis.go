package testkit

import (
	"crypto/rand"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// RedisEnv names the environment variable with the URL of a Redis server on
// which tests may store what expires.
const RedisEnv = "SALLYPORT_TEST_REDIS"

// Redis returns the URL of the test server and a prefix for keys that no other
// test has. Where RedisEnv names no server the test is skipped; under CI it fails.
// Tests do not flush it: others use it, too.
func Redis(t testing.TB) (url, prefix string) {
	t.Helper()
	url = os.Getenv(RedisEnv)
	if url == "" {
		noRedis(t, RedisEnv+" is not set")
	}
	return url, "t_" + strings.ToLower(rand.Text()) + ":"
}

// RedisServer returns the path of redis-server, for tests that stop one. They are
// skipped where Redis skips.
func RedisServer(t testing.TB) string {
	t.Helper()
	Redis(t)
	path, err := exec.LookPath("redis-server")
	if err != nil {
		noRedis(t, err.Error())
	}
	return path
}

func noRedis(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s: under CI nothing is skipped", why)
	}
	t.Skipf("%s: run scripts/redis, or make test", why)
}
