// Command silence measures whether the time of an answer tells who has an account:
// registering, asking for the letters that verify an address and choose a new
// password, and signing in, for addresses that have an account and such as have
// none, in turns, over HTTP, with hashes at their real cost.
//
// It prints the medians and their difference. With -check it exits 1 if a
// difference misses its goal.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/sqlite"
)

var (
	samples = flag.Int("samples", 400, "`number` of answers to each of the two kinds of address")
	check   = flag.Bool("check", false, "exit 1 if a difference misses its goal")
)

const (
	// goal is how far the medians may be apart.
	goal = 2 * time.Millisecond
	// perAddress is how many letters an address gets, so that each sample is one.
	perAddress = 3
	chosen     = "violet-anchor-97-marmalade"
)

func main() {
	flag.Parse()
	missed, err := run(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	if missed && *check {
		os.Exit(1)
	}
}

// taken is a mail server that takes everything.
type taken struct{}

func (taken) Send(context.Context, mail.Message) error { return nil }

func run(ctx context.Context) (missed bool, err error) {
	dir, err := os.MkdirTemp("", "silence")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	d, err := sqlite.Open(filepath.Join(dir, "sallyport.db"))
	if err != nil {
		return false, err
	}
	defer d.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return false, err
	}
	url := "http://" + ln.Addr().String()
	sp, err := server.New(ctx, server.Config{
		DB: d, BaseURL: url, Mail: taken{}, VerifyAddress: true,
		// All requests come from one address, and all sign-ins fail.
		Limits: server.Limits{Default: server.LimitOff, Login: server.LimitOff}, NoLockout: true,
	})
	if err != nil {
		return false, err
	}
	defer sp.Close()
	srv := &http.Server{Handler: sp.Guard(sp.Routes()), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(ln) }()
	defer srv.Close()

	if err := people(ctx, d, *samples); err != nil {
		return false, err
	}
	client := &http.Client{Timeout: time.Minute}
	fmt.Printf("%-32s %12s %12s %12s   goal < %v, %d answers each, in turns\n", "medians", "account", "none", "difference", goal, *samples)
	for _, ask := range []struct {
		path string
		want int
		body func(address string) map[string]string
	}{
		{"/auth/register", 202, func(a string) map[string]string {
			return map[string]string{"email": a, "password": "zeppelin-orchard-58-gravel"}
		}},
		{"/auth/request-verify-token", 202, func(a string) map[string]string { return map[string]string{"email": a} }},
		{"/auth/forgot-password", 202, func(a string) map[string]string { return map[string]string{"email": a} }},
		{"/auth/login", 401, func(a string) map[string]string {
			return map[string]string{"username": a, "password": "not-the-password-41"}
		}},
	} {
		var took [2][]time.Duration
		for i := range *samples {
			for _, kind := range rand.Perm(2) { // what one leaves behind is not always the other's
				address := fmt.Sprintf("%s%d@example.com", []string{"known", "unknown"}[kind], i/perAddress)
				t, err := post(client, url+ask.path, ask.body(address), ask.want)
				if err != nil {
					return false, err
				}
				took[kind] = append(took[kind], t)
			}
		}
		known, unknown := median(took[0]), median(took[1])
		apart := (known - unknown).Abs()
		verdict := "ok"
		if apart >= goal {
			verdict, missed = "MISSED", true
		}
		fmt.Printf("%-32s %12v %12v %12v   %s\n", "POST "+ask.path, known.Round(time.Microsecond), unknown.Round(time.Microsecond), apart.Round(time.Microsecond), verdict)
	}
	return missed, nil
}

// people makes accounts known0, known1 … with one password.
func people(ctx context.Context, d *db.DB, n int) error {
	h, err := password.New(password.Config{})
	if err != nil {
		return err
	}
	hash, err := h.Hash(ctx, chosen)
	if err != nil {
		return err
	}
	return d.Write(ctx, func(tx *db.Tx) error {
		for i := range n {
			in := account.Imported{
				ID: uuid.Must(uuid.NewV7()).String(), Email: fmt.Sprintf("known%d@example.com", i), EmailVerified: i%2 == 0,
				Roles: []string{role.User}, Hash: hash, CreatedAt: time.Now(), ImportedAt: time.Now(),
			}
			if f := in.Check(); f != nil {
				return fmt.Errorf("%s: %s", in.Email, f.Detail)
			}
			if ok, err := in.Insert(tx); err != nil || !ok {
				return fmt.Errorf("%s: not inserted: %w", in.Email, err)
			}
		}
		return nil
	})
}

func post(client *http.Client, url string, body map[string]string, want int) (time.Duration, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	res, err := client.Post(url, "application/json", bytes.NewReader(b))
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	took := time.Since(began)
	if err == nil && res.StatusCode != want {
		err = fmt.Errorf("%s: status %d: %.200s", url, res.StatusCode, text)
	}
	return took, err
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
