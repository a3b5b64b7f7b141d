// Command logouts measures how soon the other nodes of a cluster refuse what was
// signed out on one of them, while others work. It prints what it saw as JSON.
//
// Each session is asked for all the time on every node but the one where it is
// ended. What counts is when the answer to the logout had come, when the first
// refusal had come, and when the last request that was let in was sent.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	nodes   = flag.String("nodes", "", "base `URLs` of the nodes, separated by commas")
	total   = flag.Int("n", 2000, "`number` of logouts")
	loaders = flag.Int("load", 4, "`number` of clients that ask and refresh without a pause meanwhile")
)

const (
	password = "violet-anchor-97-marmalade"
	// perAccount is how many sessions an account gets: it keeps 500.
	perAccount = 250
	// workers end sessions at the same time.
	workers = 3
	// patience is how long a session that was ended is asked for.
	patience = 5 * time.Second
)

// report is what is printed. Times are in milliseconds since the answer to a logout.
type report struct {
	Logouts     int     `json:"logouts"`
	Refusals    int     `json:"refusals"` // one for each other node
	P50         float64 `json:"p50"`
	P99         float64 `json:"p99"`
	Max         float64 `json:"max"`
	LastSent    float64 `json:"last_sent"`   // the latest that a request was sent which was let in
	Resurrected int     `json:"resurrected"` // let in after a refusal
	Never       int     `json:"never"`       // let in for as long as it was asked for
	Odd         int     `json:"odd"`         // neither 200 nor 401
	Again       int     `json:"again"`       // logouts that were answered 503, and asked for again
	Load        int64   `json:"load"`        // requests of others
	Broken      int64   `json:"broken"`      // of these, not 200
	Seconds     float64 `json:"seconds"`
}

var client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

func main() {
	flag.Parse()
	r, err := run(context.Background(), strings.Split(*nodes, ","))
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		log.Fatal(err)
	}
}

type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

// send returns the status, and reads the answer into into if that is not nil.
func send(ctx context.Context, method, at, bearer string, form url.Values, into any) (int, error) {
	req, err := http.NewRequestWithContext(ctx, method, at, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, err
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if into == nil {
		_, err = io.Copy(io.Discard, res.Body)
	} else {
		err = json.NewDecoder(res.Body).Decode(into)
	}
	return res.StatusCode, err
}

func register(ctx context.Context, node, name string) error {
	body, err := json.Marshal(map[string]string{"username": name, "email": name + "@example.com", "password": password})
	if err != nil {
		return err
	}
	res, err := client.Post(node+"/auth/register", "application/json", strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		return fmt.Errorf("registration: status %d", res.StatusCode)
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// signIn waits where hashes are in demand: a machine that is busy is no fault here.
func signIn(ctx context.Context, node, name string) (t tokens, err error) {
	for attempt := 0; ; attempt++ {
		status, err := send(ctx, "POST", node+"/token", "", url.Values{"grant_type": {"password"}, "username": {name}, "password": {password}}, &t)
		switch {
		case err != nil || status == http.StatusOK:
			return t, err
		case status != http.StatusServiceUnavailable || attempt == 20:
			return t, fmt.Errorf("sign-in: status %d", status)
		}
		time.Sleep(time.Second)
	}
}

func run(ctx context.Context, nodes []string) (r report, err error) {
	if len(nodes) < 2 {
		return r, errors.New("it takes two nodes: -nodes URL,URL")
	}
	// Sessions to end, and those of the load.
	var mu sync.Mutex
	var errs []error
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
	}
	all := make([]tokens, *total+*loaders)
	run := time.Now().UnixMilli() // names of their own at every run
	name := func(i int) string { return fmt.Sprintf("logouts-%d-%d", run, i/perAccount) }
	for i := 0; i < len(all); i += perAccount {
		if err := register(ctx, nodes[0], name(i)); err != nil {
			return r, err
		}
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < len(all); i += 4 {
				var err error
				if all[i], err = signIn(ctx, nodes[i%len(nodes)], name(i)); err != nil {
					fail(err)
					return
				}
			}
		})
	}
	if wg.Wait(); len(errs) > 0 {
		return r, errors.Join(errs...)
	}

	var enough atomic.Bool
	var asked, broken atomic.Int64
	var load sync.WaitGroup
	for _, t := range all[*total:] {
		load.Go(func() {
			for n := 0; !enough.Load(); n++ {
				node := nodes[rand.IntN(len(nodes))]
				method, at, form := "GET", "/users/me", url.Values(nil)
				var into any
				if n%20 == 19 {
					method, at, form, into = "POST", "/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {t.Refresh}}, &t
				}
				bearer := t.Access
				if form != nil {
					bearer = ""
				}
				asked.Add(1)
				if status, err := send(ctx, method, node+at, bearer, form, into); err != nil || status != http.StatusOK {
					broken.Add(1)
				}
			}
		})
	}

	began := time.Now()
	var delays []float64
	var next atomic.Int64
	for w := range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= *total {
					return
				}
				seen, again, err := logout(ctx, nodes, (i+w)%len(nodes), all[i].Access)
				if err != nil {
					fail(err)
					return
				}
				mu.Lock()
				r.Logouts++
				r.Again += again
				for _, s := range seen {
					r.Odd += s.odd
					r.Resurrected += s.resurrected
					r.LastSent = max(r.LastSent, s.lastSent)
					if s.never {
						r.Never++
						continue
					}
					delays = append(delays, s.refused)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	r.Seconds = time.Since(began).Seconds()
	enough.Store(true)
	load.Wait()
	if len(errs) > 0 {
		return r, errors.Join(errs...)
	}
	r.Load, r.Broken, r.Refusals = asked.Load(), broken.Load(), len(delays)
	if len(delays) > 0 {
		slices.Sort(delays)
		r.P50, r.P99, r.Max = delays[len(delays)/2], delays[len(delays)*99/100], delays[len(delays)-1]
	}
	return r, nil
}

// observed is what one other node did.
type observed struct {
	refused, lastSent float64
	resurrected, odd  int
	never             bool
}

// logout ends a session on one node while it is asked for on all others, and
// returns how often that was answered 503 before.
func logout(ctx context.Context, nodes []string, at int, access string) (out []observed, again int, err error) {
	type answer struct {
		sent, came time.Time
		status     int
	}
	streams := make([][]answer, len(nodes))
	var warm, done sync.WaitGroup
	var ended atomic.Int64 // when the answer had come, in Unix nanoseconds
	var first sync.Mutex
	var broken error
	for i, node := range nodes {
		if i == at {
			continue
		}
		warm.Add(1)
		done.Go(func() {
			refusals := 0
			for n := 0; refusals < 3; n++ {
				a := answer{sent: time.Now()}
				status, err := send(ctx, "GET", node+"/users/me", access, nil, nil)
				if err != nil {
					first.Lock()
					broken = err
					first.Unlock()
				}
				a.came, a.status = time.Now(), status
				streams[i] = append(streams[i], a)
				if n <= 2 && status != http.StatusOK && err == nil { // the control
					err = fmt.Errorf("a session that lives: status %d", status)
					first.Lock()
					broken = err
					first.Unlock()
				}
				if n == 2 {
					warm.Done()
				}
				if n >= 2 && status == http.StatusUnauthorized {
					refusals++
				}
				if e := ended.Load(); err != nil || e != 0 && a.came.UnixNano()-e > int64(patience) {
					if n < 2 {
						warm.Done()
					}
					return
				}
				time.Sleep(500 * time.Microsecond)
			}
		})
	}
	warm.Wait()
	status, err := send(ctx, "POST", nodes[at]+"/logout", access, nil, nil)
	for ; err == nil && status == http.StatusServiceUnavailable && again < 10; again++ {
		time.Sleep(time.Second)
		status, err = send(ctx, "POST", nodes[at]+"/logout", access, nil, nil)
	}
	ack := time.Now()
	ended.Store(ack.UnixNano())
	done.Wait()
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("logout: status %d", status)
	}
	if err = errors.Join(err, broken); err != nil {
		return nil, again, err
	}
	ms := func(t time.Time) float64 { return max(0, float64(t.Sub(ack))/float64(time.Millisecond)) }
	for i, answers := range streams {
		if i == at {
			continue
		}
		o := observed{never: true}
		for _, a := range answers {
			switch {
			case a.status == http.StatusUnauthorized && o.never:
				o.never, o.refused = false, ms(a.came)
			case a.status == http.StatusOK && !o.never:
				o.resurrected++
			case a.status == http.StatusOK:
				o.lastSent = max(o.lastSent, ms(a.sent))
			case a.status != http.StatusUnauthorized:
				o.odd++
			}
		}
		out = append(out, o)
	}
	return out, again, nil
}
