package redis_test

import (
	"fmt"
	"os"
	"strings"

	"github.com/sallyport/sallyport/guard/ratelimit"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/redis"
)

// Nodes count together over Redis, and each for itself while it is away.
func ExampleClient_Limits() {
	limits := server.Limits{Share: func(secret []byte) (ratelimit.Store, error) {
		client, err := redis.Open(os.Getenv("REDIS_URL"), redis.Options{Secret: secret})
		if err != nil {
			return nil, err
		}
		return ratelimit.NewFallback(ratelimit.FallbackConfig{Shared: client.Limits()})
	}}
	_ = server.Config{BaseURL: "https://id.example.com", Limits: limits}
}

// What is wrong with a URL is known before anything is connected to, and no message
// holds its password.
func ExampleCheckURL() {
	for _, url := range []string{
		"rediss://default:s3cret@redis.example.com:6379/1",
		"redis://default:s3cret@redis.example.com:6379?timeout=5s",
	} {
		err := redis.CheckURL(url)
		fmt.Println(err == nil, strings.Contains(fmt.Sprint(err), "s3cret"))
	}
	// Output:
	// true false
	// false false
}
