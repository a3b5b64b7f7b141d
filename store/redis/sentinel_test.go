package redis

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/guard/ratelimit"
	"github.com/sallyport/sallyport/internal/testkit"
)

// onPort starts a Redis server of the test's own on a port of loopback, with the
// lines of a configuration, and returns what kills it as kill -9 does.
func onPort(t *testing.T, port string, flags []string, lines ...string) (kill func()) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "redis.conf") // Sentinel writes what it finds out into it
	lines = append(lines, "port "+port, "bind 127.0.0.1", "dir "+dir)
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(testkit.RedisServer(t), append([]string{file}, flags...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill() // it may have been killed
		_ = cmd.Wait()
	}
	t.Cleanup(kill)
	return kill
}

func freePorts(t *testing.T, n int) (ports []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports
}

// Q: Sentinel promotes a replica when the primary is killed. Limits go on
// meanwhile, each node with its part, and are shared again without a restart.
func TestSentinelPromotes(t *testing.T) {
	t.Parallel()
	ports := freePorts(t, 5)
	primary, replica, sentinels := ports[0], ports[1], ports[2:]
	memory := []string{"save \"\"", "appendonly no", "repl-diskless-sync-delay 0"}
	killPrimary := onPort(t, primary, nil, memory...)
	onPort(t, replica, nil, append(memory, "replicaof 127.0.0.1 "+primary)...)
	for _, port := range sentinels {
		onPort(t, port, []string{"--sentinel"},
			"sentinel monitor limits 127.0.0.1 "+primary+" 2",
			"sentinel down-after-milliseconds limits 500",
			"sentinel failover-timeout limits 5000")
	}
	// until waits. What is waited for are the servers' own periods: they look at each
	// other every second, and for each other every two.
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not within a minute: %s", what)
			}
		}
	}
	ask := func(port string, command ...string) string {
		c, err := Open("redis://127.0.0.1:"+port, Options{Timeout: time.Second})
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		text, err := c.redis.Do(t.Context(), c.redis.B().Arbitrary(command...).Build()).ToString()
		return text + fmt.Sprint(err)
	}
	until("the replica follows", func() bool { return strings.Contains(ask(replica, "INFO", "replication"), "master_link_status:up") })
	for _, port := range sentinels {
		until("the sentinels know each other and the replica", func() bool {
			return strings.Contains(ask(port, "INFO", "sentinel"), "status=ok,address=127.0.0.1:"+primary+",slaves=1,sentinels=3")
		})
	}

	url := "redis://127.0.0.1:" + sentinels[0] + "?addr=127.0.0.1:" + sentinels[1] + "&addr=127.0.0.1:" + sentinels[2] + "&master_set=limits"
	const nodes = 2
	var all []*ratelimit.Fallback
	for range nodes {
		f, err := ratelimit.NewFallback(ratelimit.FallbackConfig{Shared: open(t, url, Options{}).Limits(), Retry: 100 * time.Millisecond, Share: nodes})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	rate := ratelimit.Rate{Count: 10, Per: time.Hour}
	pass := func(key string) (passed []int) {
		for _, f := range all {
			n := 0
			for range 15 {
				if take(t, f, key, 1, rate).Allowed {
					n++
				}
			}
			passed = append(passed, n)
		}
		return passed
	}
	if n := fmt.Sprint(pass("ada")); n != "[10 0]" {
		t.Fatalf("%s passed on two nodes, want 10 on the first", n)
	}

	killPrimary()
	killed := time.Now()
	// Nobody can have been promoted yet, unless this machine stood still.
	if n := fmt.Sprint(pass("eve")); time.Since(killed) < 500*time.Millisecond && (n != "[5 5]" || !all[0].Down() || !all[1].Down()) {
		t.Errorf("without a primary %s passed, want the part of each, 5 and 5 (down: %v, %v)", n, all[0].Down(), all[1].Down())
	}
	until("limits are shared again", func() bool {
		for i, f := range all {
			take(t, f, fmt.Sprint("somebody ", i), 1, rate)
		}
		return !all[0].Down() && !all[1].Down()
	})
	t.Logf("shared again %v after the primary was killed", time.Since(killed).Round(100*time.Millisecond))
	if n := fmt.Sprint(pass("bob")); n != "[10 0]" {
		t.Errorf("on the new primary %s passed on two nodes, want 10 on the first", n)
	}
	if role := ask(replica, "INFO", "replication"); !strings.Contains(role, "role:master") {
		t.Errorf("the replica is not the primary: %s", role)
	}
}
