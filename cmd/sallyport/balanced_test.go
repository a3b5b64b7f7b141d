package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/testkit"
)

// cluster is what scripts/cluster starts: three nodes behind nginx.
type cluster struct {
	dir   string
	front *running // through nginx
	nodes [3]*running
}

func startCluster(t *testing.T, env ...string) *cluster {
	t.Helper()
	for _, name := range []string{"nginx", "redis-server", "go", "setsid"} {
		if _, err := exec.LookPath(name); err != nil {
			testkit.Missing(t, "%s is not here, which scripts/cluster needs", name)
		}
	}
	if os.Getenv(testkit.PostgresEnv) == "" { // without it, PostgreSQL may not be here
		testkit.Missing(t, "%s is not set: run scripts/postgres, or make test", testkit.PostgresEnv)
	}
	// Below a folder that the user postgres may enter, which t.TempDir is not.
	dir, err := os.MkdirTemp("/tmp", "sallyport-cluster.")
	if err != nil {
		t.Fatal(err)
	}
	run := func(what string) string {
		c := exec.Command("../../scripts/cluster", what, dir)
		c.Env = append(os.Environ(), env...)
		var stderr bytes.Buffer
		c.Stderr = &stderr
		out, err := c.Output()
		if err != nil {
			t.Fatalf("scripts/cluster %s: %v\n%s", what, err, &stderr)
		}
		return strings.TrimSpace(string(out))
	}
	t.Cleanup(func() {
		run("stop")
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	})
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	t.Cleanup(client.CloseIdleConnections)
	c := &cluster{dir: dir, front: &running{base: run("start"), client: client}}
	if again := run("start"); again != c.front.base {
		t.Errorf("started again, it is at %s and not %s", again, c.front.base)
	}
	for i := range c.nodes {
		c.nodes[i] = &running{base: c.read(t, i, "url"), client: client, log: filepath.Join(dir, fmt.Sprintf("node%d.log", i+1))}
	}
	return c
}

// read returns what a file of a node holds.
func (c *cluster) read(t *testing.T, node int, ext string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.dir, fmt.Sprintf("node%d.%s", node+1, ext)))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// cli runs a command as the folder's first lines say.
func (c *cluster) cli(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(c.dir, "sallyport"), append(args, "--config", filepath.Join(c.dir, "sallyport.toml"))...)
	cmd.Stdin = strings.NewReader(testPassword + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sallyport %v: %v\n%s", args, err, out)
	}
}

// TestBalancedCluster has the README's first minutes of three nodes behind nginx:
// whichever node answers, it is one service.
func TestBalancedCluster(t *testing.T) {
	const registrations = 20
	c := startCluster(t, fmt.Sprintf("SALLYPORT_LIMITS_REGISTER=%d/hour", registrations), "SALLYPORT_LIMITS_DEFAULT=off") // all come from one address
	all := append(c.nodes[:], c.front)

	c.cli(t, "admin", "create", "--username", "root", "--email", "root@example.com", "--password-stdin")
	_, ada := c.nodes[0].register(t, "ada")
	for i, r := range all {
		if got := r.get(t, "/users/me", ada); got != http.StatusOK {
			t.Errorf("signed in on node 1, on %d: %d", i+1, got)
		}
		if got := r.get(t, "/users", ada); got != http.StatusForbidden {
			t.Errorf("not allowed, on %d: %d", i+1, got)
		}
	}
	c.cli(t, "grant", "ada", "moderator")
	for i, r := range all {
		if got := r.get(t, "/users", ada); got != http.StatusOK {
			t.Errorf("granted by a command, on %d: %d", i+1, got)
		}
	}

	// A refresh token is used on one node, and again on another: a lost answer
	// first, later a theft.
	second := c.nodes[1].refresh(t, ada.refresh)
	if again := c.nodes[2].refresh(t, ada.refresh); again.refresh != second.refresh {
		t.Error("used again at once on another node, it has another successor")
	}

	// Logout on one node, refused on the others.
	_, stays := c.front.register(t, "stays")
	control := c.front.stream(t, gated, stays, 2, 5*time.Millisecond)
	for i, from := range c.nodes {
		to := c.nodes[(i+1)%3]
		session := from.signIn(t, "ada")
		wantHonoured(t, to, time.Second, change{"logout", gated, 401, []tokens{session}, func() { from.must(t, "POST", "/logout", session, nil) }})
		for _, r := range all {
			r.wantRefused(t, session)
		}
	}
	control.wantAll(t)

	c.wantSharedLimit(t, registrations)
	c.wantUnnoticedKill(t, stays)

	for i, r := range c.nodes {
		if i == 1 {
			continue // killed
		}
		if strings.Contains(r.output(t), `"level":"ERROR"`) {
			t.Errorf("node %d: %s", i+1, r.output(t))
		}
	}
}

// wantSharedLimit sends as many requests as a limit lets through three times over,
// to all nodes at once, as one client behind the balancer.
func (c *cluster) wantSharedLimit(t *testing.T, limit int) {
	t.Helper()
	eve, ada := from(t, "127.0.0.6"), from(t, "127.0.0.5")
	ask := func(client *http.Client, r *running) int {
		return r.ask(client, "POST", "/auth/register", "", map[string]string{"email": "not an address", "password": "x"}).status
	}
	var through, refused atomic.Int64
	var wg sync.WaitGroup
	for range 3 * limit {
		wg.Go(func() {
			switch got := ask(eve, c.front); got {
			case http.StatusUnprocessableEntity:
				through.Add(1)
			case http.StatusTooManyRequests:
				refused.Add(1)
			default:
				t.Errorf("registering: %d", got)
			}
		})
	}
	wg.Wait()
	if int(through.Load()) != limit || int(refused.Load()) != 2*limit {
		t.Errorf("%d of %d requests passed a limit of %d", through.Load(), 3*limit, limit)
	}
	if got := ask(ada, c.front); got != http.StatusUnprocessableEntity {
		t.Errorf("another client: %d", got)
	}
	total := 0.0
	for i := range c.nodes {
		res, err := c.front.client.Get(c.read(t, i, "metrics"))
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		_, err = b.ReadFrom(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		total += metricIn(t, b.String(), `sallyport_limit_refusals_total{limit="register"}`)
		if got := metricIn(t, b.String(), "sallyport_limits_shared"); got != 1 {
			t.Errorf("node %d counts for itself", i+1)
		}
	}
	if int(total) != 2*limit {
		t.Errorf("the nodes' metrics say %v refusals", total)
	}
}

// metricIn returns a value, 0 if there is none.
func metricIn(t *testing.T, text, series string) float64 {
	t.Helper()
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

// wantUnnoticedKill kills a node under requests of somebody who asks nginx: all of
// them are answered.
func (c *cluster) wantUnnoticedKill(t *testing.T, tk tokens) {
	t.Helper()
	s := c.front.stream(t, "/users/me", tk, 4, 2*time.Millisecond)
	s.until(t, 10*time.Second, 50, time.Time{}, is(http.StatusOK))
	pid, err := strconv.Atoi(c.read(t, 1, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.until(t, 10*time.Second, 200, killed, is(http.StatusOK))
	s.wantAll(t)
	if a := c.nodes[1].ask(c.front.client, "GET", "/livez", "", nil); a.err == nil {
		t.Errorf("the node that was killed answers: %v", a)
	}
	// Nor is anything lost that it had acknowledged.
	c.front.refresh(t, tk.refresh)
	c.front.signIn(t, "ada")
}
