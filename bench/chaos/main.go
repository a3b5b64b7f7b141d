// Command chaos starts real servers, has clients use them, and makes go wrong what
// goes wrong: processes are killed, the database and Redis stop, the network loses
// what it is given. Clients keep a ledger of what was acknowledged, and at the end of
// each scenario all of it is compared with every node.
//
//	go run ./bench/chaos                        all of it, about half an hour
//	go run ./bench/chaos -short                 the same in seconds
//	go run ./bench/chaos -only kill,rolling     some of it
//
// CHAOS_KILLS (50) is how often nodes are killed, CHAOS_SOAK (3m) how long the soak
// lasts. It prints a table, and exits with 1 if anything was lost, came back, was
// answered wrongly, or took more than 5 s to recover.
//
// It needs PostgreSQL, Redis and nginx to be installed, and starts its own.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// options are how much of everything there is.
type options struct {
	only      []string // names of scenarios; empty: all
	clients   int
	pause     time.Duration // between the requests of one
	kills     int
	terms     int
	rolls     int
	rotations int
	outages   time.Duration
	soaks     time.Duration
	goal      time.Duration // how soon everything must work again
	spare     float64       // bytes that a node may grow while it soaks, beside a tenth
	strict    bool          // in calm scenarios a 503 is a failure, too
	brief     bool          // only what the short form has
	say       func(format string, args ...any)
}

// long is what make chaos runs, short what is part of the tests. That runs beside
// other tests on a machine that may be busy with them: it shows that nothing is lost
// or comes back, and leaves the promises about time to the long one.
var (
	long  = options{clients: 8, pause: 10 * time.Millisecond, kills: 50, terms: 50, rolls: 10, rotations: 20, outages: 10 * time.Second, soaks: 3 * time.Minute, goal: 5 * time.Second, spare: 16 << 20, strict: true}
	short = options{clients: 4, pause: 20 * time.Millisecond, kills: 3, terms: 2, rolls: 1, rotations: 2, outages: 3 * time.Second, soaks: 2 * time.Second, goal: time.Minute, spare: 128 << 20, brief: true}
)

// place is a service that scenarios run on, one after the other.
type place struct {
	start func(*world) (*service, error)
}

// The places. The first scenario on one starts it.
var (
	sqlite     = &place{(*world).sqlite}
	onPostgres = &place{(*world).postgres}
	cluster    = &place{(*world).cluster}
)

// scenarios are in the order of the report.
var scenarios = []scenario{
	{"kill", "`kill -9` of the node", sqlite, (*run).kill, true},
	{"kill", "`kill -9` of one of three nodes", onPostgres, (*run).kill, true},
	{"term", "SIGTERM of the node", sqlite, (*run).terminate, true},
	{"term", "SIGTERM of one of three nodes", onPostgres, (*run).terminate, false},
	{"rolling", "rolling restart behind nginx", cluster, (*run).rolling, true},
	{"standing", "PostgreSQL stands still (SIGSTOP)", onPostgres, (*run).standing, false},
	{"stopped", "PostgreSQL is stopped and started", onPostgres, (*run).stopped, true},
	{"slow", "PostgreSQL 200 ms away, 2 s, gone", onPostgres, (*run).slow, false},
	{"cut", "a node without notifications, then cut off", onPostgres, (*run).cutOff, true},
	{"redis", "Redis flushed, standing still, killed", onPostgres, (*run).limits, true},
	{"keys", "a new signing key every second", sqlite, (*run).keys, false},
	{"keys", "a new signing key every second", onPostgres, (*run).keys, true},
	{"soak", "the load alone", sqlite, (*run).soak, true},
	{"soak", "the load alone", onPostgres, (*run).soak, false},
}

func main() {
	o := long
	brief := flag.Bool("short", false, "seconds instead of minutes")
	only := flag.String("only", "", "`names` of scenarios, with commas: "+strings.Join(scenarioNames(), ", "))
	flag.Parse()
	if *brief {
		o = short
	}
	if err := o.environment(os.Getenv); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(2)
	}
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	o.say = func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
	}
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "chaos: %q is not understood. go doc ./bench/chaos says what is\n", flag.Args())
		os.Exit(2)
	}
	outcomes, err := o.run()
	report(os.Stdout, outcomes)
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
	}
	if err != nil || slices.ContainsFunc(outcomes, outcome.bad) {
		os.Exit(1)
	}
}

func scenarioNames() (names []string) {
	for _, sc := range scenarios {
		if !slices.Contains(names, sc.name) {
			names = append(names, sc.name)
		}
	}
	return names
}

// environment reads what may be set for the long form.
func (o *options) environment(get func(string) string) error {
	if v := get("CHAOS_KILLS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return fmt.Errorf("CHAOS_KILLS = %q is not a number of kills. 200, for example", v)
		}
		o.kills = n
	}
	if v := get("CHAOS_SOAK"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil || d < time.Second {
			return fmt.Errorf("CHAOS_SOAK = %q is not a time. 10m, for example", v)
		}
		o.soaks = d
	}
	return nil
}

// missing says what this machine has not.
func missing() (lacks []string) {
	for _, program := range []string{"go", "nginx", "redis-server", "redis-cli", "setsid"} {
		if _, err := exec.LookPath(program); err != nil {
			lacks = append(lacks, program)
		}
	}
	return lacks
}

// outcome is what became of a scenario.
type outcome struct {
	counts
	what, database string
	failures       []string
	took           time.Duration
}

func (o outcome) bad() bool { return o.lost > 0 || o.resurrected > 0 || o.wrong > 0 }

// run runs scenarios, those on one service one after the other. Services of their
// own run side by side only in short runs: there nobody reads how long it took.
func (o options) run() (outcomes []outcome, err error) {
	for _, name := range o.only {
		if !slices.Contains(scenarioNames(), name) {
			return nil, fmt.Errorf("there is no scenario %q: %s", name, strings.Join(scenarioNames(), ", "))
		}
	}
	if lacks := missing(); lacks != nil {
		return nil, fmt.Errorf("not here: %s. On Debian: apt-get install nginx-light redis-server postgresql, and Go from https://go.dev/dl", strings.Join(lacks, ", "))
	}
	w, err := newWorld(o.say)
	if err != nil {
		return nil, err
	}
	// What was started ends also if this is interrupted: PostgreSQL, Redis and nginx
	// would go on without it.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-interrupted:
			w.close()
			os.Exit(130)
		case <-ended:
			signal.Stop(interrupted)
		}
	}()
	defer w.close()

	chosen := slices.DeleteFunc(slices.Clone(scenarios), func(sc scenario) bool {
		if len(o.only) > 0 {
			return !slices.Contains(o.only, sc.name)
		}
		return o.brief && !sc.brief
	})
	var mu sync.Mutex
	results := make([]*outcome, len(chosen))
	work := func(on *place) error {
		var s *service
		for i, sc := range chosen {
			if sc.on != on {
				continue
			}
			if s == nil {
				var err error
				if s, err = on.start(w); err != nil {
					return err
				}
			}
			got, err := o.one(s, sc)
			mu.Lock()
			results[i] = &got
			mu.Unlock()
			if err != nil {
				return fmt.Errorf("%s on %s: %w", sc.name, s.database, err)
			}
		}
		return nil
	}
	var errs []error
	var beside sync.WaitGroup
	for _, on := range []*place{sqlite, onPostgres, cluster} {
		f := func() {
			err := work(on)
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
		}
		if o.brief {
			beside.Go(f)
		} else {
			f()
		}
	}
	beside.Wait()
	for _, r := range results {
		if r != nil {
			outcomes = append(outcomes, *r)
		}
	}
	return outcomes, errors.Join(errs...)
}

// one runs one scenario with a ledger of its own.
func (o options) one(s *service, sc scenario) (outcome, error) {
	began := time.Now()
	r := &run{options: o, s: s, l: &ledger{}}
	overdue := time.AfterFunc(2*time.Minute+10*o.soaks+time.Duration(o.kills+o.terms)*10*time.Second, func() { r.overdue(sc.name) })
	err := sc.run(r)
	overdue.Stop()
	if err != nil && r.w != nil {
		r.w.end()
	}
	got := outcome{counts: r.l.counts, what: sc.what, database: s.database, failures: r.l.failures, took: time.Since(began)}
	o.say("%s on %s, %v: %d operations, %d acknowledged, %d lost, %d resurrected, %d wrong, slowest recovery %v",
		sc.name, s.database, got.took.Round(100*time.Millisecond), got.operations, got.acknowledged, got.lost, got.resurrected, got.wrong, got.slowest.Round(time.Millisecond))
	for _, f := range got.failures {
		o.say("  %s", f)
	}
	return got, err
}

// report prints the table.
func report(out io.Writer, outcomes []outcome) {
	fmt.Fprintln(out, "| Scenario | On | Faults | Operations | Acknowledged | Unknown | Endings tried | Lost | Resurrected | Wrong | Slowest recovery |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|---|---|---|---|---|")
	row := func(what, on string, c counts) {
		slowest := "–"
		if c.slowest > 0 {
			slowest = fmt.Sprintf("%.2f s", c.slowest.Seconds())
		}
		fmt.Fprintf(out, "| %s | %s | %d | %d | %d | %d | %d | %d | %d | %d | %s |\n",
			what, on, c.faults, c.operations, c.acknowledged, c.unknown, c.endings, c.lost, c.resurrected, c.wrong, slowest)
	}
	var all counts
	for _, o := range outcomes {
		row(o.what, o.database, o.counts)
		all.add(o.counts)
	}
	row("all", "", all)
}
