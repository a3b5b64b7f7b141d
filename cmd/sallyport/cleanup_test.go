package main

import (
	"database/sql"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/testkit"
)

// One of two processes deletes what is old. When it is killed, the other takes over.
func TestCleanUpOutlivesItsNode(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	url := testkit.PostgresURL(t)
	p.env = append(p.env, "SALLYPORT_DATABASE="+url, "SALLYPORT_CLEANUP_EVERY=1s")
	raw, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	nodes := []*running{p.serve(t), p.serve(t)}

	// plant adds a row that is old, and waits until it is gone.
	plant := func() {
		t.Helper()
		if _, err := raw.Exec("INSERT INTO sp_attempts (account, network, failures, last_at, until, held, seen_at, forget_at) VALUES ('a', 'n', 1, 0, 0, '', 0, 1)"); err != nil {
			t.Fatal(err)
		}
		left := 1
		for deadline := time.Now().Add(time.Minute); left > 0; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("what is old stays\n%s\n%s", nodes[0].output(t), nodes[1].output(t))
			}
			if err := raw.QueryRow("SELECT COUNT(*) FROM sp_attempts").Scan(&left); err != nil {
				t.Fatal(err)
			}
		}
	}
	// plantWith returns the node that deletes such a row. Its log is written after the
	// commit.
	plantWith := func() *running {
		t.Helper()
		deleted := func(n *running) int { return strings.Count(n.output(t), `"table":"sp_attempts"`) }
		before := []int{deleted(nodes[0]), deleted(nodes[1])}
		plant()
		var who *running
		nodes[0].until(t, 10*time.Second, "a node says that it deleted", func() bool {
			for i, n := range nodes {
				if deleted(n) > before[i] {
					who = n
				}
			}
			return who != nil
		})
		return who
	}
	plantWith()
	first := plantWith()
	first.kill()
	second := plantWith()
	if second == first {
		t.Fatal("a process that was killed deletes")
	}

	// One that is stopped gives its turn back.
	second.terminate(t)
	var holder string
	if err := raw.QueryRow("SELECT holder FROM sp_cleanup").Scan(&holder); err != nil || holder != "" {
		t.Errorf("after its end it is still the turn of %q, %v", holder, err)
	}
}
