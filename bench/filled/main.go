// Command filled fills two PostgreSQL databases, one a hundredth of the other, has a
// server do everything on each, and compares what auto_explain tells of it.
package main

import (
	"bufio"
	"context"
	"database/sql"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/bench/traffic"
	"github.com/sallyport/sallyport/store/postgres"
)

//go:embed fill.sql
var fill string

const (
	rounds = 3
	visits = 20  // of everything that one person does, in a round
	large  = 0.1 // of the number of accounts: tables with more rows are not read whole
	goal   = 1.3
	least  = 20 // executions of which a median says something
)

// excused are statements that may read a large table from its beginning, by how they
// go on, and why.
var excused = []struct{ part, why string }{
	{"ORDER BY a.created_at, a.id LIMIT", "searching the list of accounts (q, role, disabled) looks at each until there are enough; without a search it is by index"},
	{"IN (SELECT", "a batch of the clean-up: PostgreSQL takes reading a table of some ten thousand rows for cheaper than 500 look-ups"},
	{"IN ( SELECT", "the same"},
}

func excuse(query string) string {
	for _, e := range excused {
		if strings.Contains(query, e.part) && (strings.HasPrefix(query, "DELETE FROM sp_") || strings.HasPrefix(query, "SELECT a.id")) {
			return e.why
		}
	}
	return ""
}

func main() {
	database := flag.String("database", "", "URL of a PostgreSQL server, as a superuser")
	log := flag.String("log", "", "its log")
	accounts := flag.Int("accounts", 1_000_000, "how many accounts the larger one has")
	keep := flag.Bool("keep", false, "leave the databases for another run, which then fills none")
	check := flag.Bool("check", false, "exit 1 if a figure misses its goal")
	flag.Parse()
	missed, err := run(context.Background(), *database, *log, *accounts, *keep)
	if err != nil {
		fmt.Fprintln(os.Stderr, "filled:", err)
		os.Exit(1)
	}
	if missed && *check {
		os.Exit(1)
	}
}

// run fills both databases, and then has everything done on each in turns: what else
// this machine does meets both.
func run(ctx context.Context, base, log string, accounts int, keep bool) (missed bool, err error) {
	server, err := sql.Open("pgx", base)
	if err != nil {
		return false, err
	}
	defer server.Close()
	both := []*measured{{accounts: accounts / 100}, {accounts: accounts}}
	for _, m := range both {
		if err := m.prepare(ctx, server, base); err != nil {
			return false, err
		}
		if !keep {
			defer func() {
				_, dropped := server.ExecContext(ctx, "DROP DATABASE "+m.name()+" WITH (FORCE)")
				err = errors.Join(err, dropped)
			}()
		}
	}
	for round := range rounds {
		for _, m := range both {
			began := time.Now()
			// From here on the log has every statement with its plan.
			file, err := os.Open(log)
			if err != nil {
				return false, err
			}
			_, err = file.Seek(0, io.SeekEnd)
			if err == nil {
				err = m.visit(ctx)
			}
			if err == nil {
				err = m.read(file)
			}
			if err := errors.Join(err, file.Close()); err != nil {
				return false, err
			}
			fmt.Fprintf(os.Stderr, "round %d: %d accounts visited in %v\n", round+1, m.accounts, time.Since(began).Round(time.Second))
		}
	}
	return report(both[0], both[1])
}

func (m *measured) name() string { return fmt.Sprint("scale_", m.accounts) }

// prepare makes and fills the database, unless an earlier run has left it.
func (m *measured) prepare(ctx context.Context, server *sql.DB, base string) error {
	u, err := url.Parse(base)
	if err != nil {
		return err
	}
	u.Path = "/" + m.name()
	m.url, m.rows, m.statements = u.String(), map[string]float64{}, map[string]*statement{}
	var filled bool
	if err := server.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)", m.name()).Scan(&filled); err != nil {
		return err
	}
	if !filled {
		began := time.Now()
		// Under another name until it is whole: a run that is ended leaves no half.
		part := *u
		part.Path += "_part"
		if _, err := server.ExecContext(ctx, "DROP DATABASE IF EXISTS "+m.name()+"_part"); err != nil {
			return err
		}
		if _, err := server.ExecContext(ctx, "CREATE DATABASE "+m.name()+"_part"); err != nil {
			return err
		}
		if err := m.fill(ctx, part.String()); err != nil {
			return err
		}
		if _, err := server.ExecContext(ctx, "ALTER DATABASE "+m.name()+"_part RENAME TO "+m.name()); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "%d accounts filled in %v\n", m.accounts, time.Since(began).Round(time.Second))
	}
	for _, set := range []string{
		"session_preload_libraries = 'auto_explain'", "auto_explain.log_min_duration = 0", "auto_explain.log_analyze = on", "auto_explain.log_buffers = on",
		"auto_explain.log_timing = off", "auto_explain.log_nested_statements = on", "auto_explain.log_format = 'json'",
	} {
		if _, err := server.ExecContext(ctx, "LOAD 'auto_explain'; ALTER DATABASE "+m.name()+" SET "+set); err != nil {
			return err
		}
	}
	return m.count(ctx)
}

// measured is what was told of one database.
type measured struct {
	accounts   int
	url        string
	rows       map[string]float64 // of each table
	statements map[string]*statement
}

type statement struct {
	took  []float64 // milliseconds
	whole []string  // large tables that it read from the beginning
	most  float64   // rows that one execution looked at and left out
}

func (s *statement) median() float64 {
	slices.Sort(s.took)
	return s.took[len(s.took)/2]
}

func (m *measured) fill(ctx context.Context, url string) error {
	d, err := postgres.Open(ctx, url)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.Migrate(ctx); err != nil {
		return err
	}
	hasher, err := password.New(traffic.Hashes)
	if err != nil {
		return err
	}
	hash, err := hasher.Hash(ctx, traffic.Password)
	if err != nil {
		return err
	}
	raw, err := sql.Open("pgx", url+"&default_query_exec_mode=simple_protocol")
	if err != nil {
		return err
	}
	defer raw.Close()
	raw.SetMaxOpenConns(1) // its settings are one session's
	indexes, err := texts(ctx, raw, `SELECT indexdef FROM pg_indexes WHERE left(tablename, 3) = 'sp_' AND indexname NOT IN (SELECT conname FROM pg_constraint) ORDER BY indexname`)
	if err != nil {
		return err
	}
	names, err := texts(ctx, raw, `SELECT indexname FROM pg_indexes WHERE left(tablename, 3) = 'sp_' AND indexname NOT IN (SELECT conname FROM pg_constraint) ORDER BY indexname`)
	if err != nil {
		return err
	}
	if _, err := raw.ExecContext(ctx, "DROP INDEX "+strings.Join(names, ", ")); err != nil {
		return err
	}
	text := strings.NewReplacer("@accounts", fmt.Sprint(m.accounts), "@hash", hash).Replace(fill)
	for each := range strings.SplitSeq(text, ";\n") {
		if strings.TrimSpace(each) == "" {
			continue
		}
		if _, err := raw.ExecContext(ctx, each); err != nil {
			return fmt.Errorf("%w: %.100s", err, each)
		}
	}
	for _, each := range append(indexes, "VACUUM ANALYZE", "CHECKPOINT") {
		if _, err := raw.ExecContext(ctx, each); err != nil {
			return fmt.Errorf("%w: %s", err, each)
		}
	}
	return nil
}

// count learns how large the tables are, and has all of them read into memory: what is
// compared is the work, and not the disk.
func (m *measured) count(ctx context.Context) error {
	raw, err := sql.Open("pgx", m.url)
	if err != nil {
		return err
	}
	defer raw.Close()
	for _, each := range []string{"CREATE EXTENSION IF NOT EXISTS pg_prewarm", "SELECT pg_prewarm(oid) FROM pg_class WHERE relkind IN ('r', 'i') AND left(relname, 3) = 'sp_'"} {
		if _, err := raw.ExecContext(ctx, each); err != nil {
			return fmt.Errorf("%w: %s", err, each)
		}
	}
	rows, err := raw.QueryContext(ctx, "SELECT relname, reltuples FROM pg_class WHERE relkind = 'r' AND left(relname, 3) = 'sp_'")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var n float64
		if err := rows.Scan(&name, &n); err != nil {
			return err
		}
		m.rows[name] = n
	}
	return rows.Err()
}

// texts returns the only column of what a query finds.
func texts(ctx context.Context, raw *sql.DB, query string) (out []string, err error) {
	rows, err := raw.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, rows.Err()
}

// visit has people from everywhere in the tables do everything. Those with a second
// factor are left out: theirs nobody knows.
func (m *measured) visit(ctx context.Context) error {
	if err := m.forgive(ctx); err != nil {
		return err
	}
	d, err := postgres.Open(ctx, m.url)
	if err != nil {
		return err
	}
	defer d.Close()
	town, err := traffic.Start(ctx, d)
	if err != nil {
		return err
	}
	defer town.Close()
	for range visits {
		i := rand.IntN(m.accounts) + 1
		if i%10 == 3 || i%1000 == 0 { // disabled
			i = i/10*10 + 1
		}
		var id string
		if _, err := d.View(ctx).Row("SELECT id FROM sp_accounts WHERE username_key = $1", []any{fmt.Sprint("user", i)}, &id); err != nil {
			return err
		}
		if err := errors.Join(town.Person(ctx, fmt.Sprint("user", i)), town.Admin(ctx, id), town.Newcomer(ctx)); err != nil {
			return err
		}
	}
	return town.Office(ctx)
}

// forgive forgets what was refused in earlier rounds: all come from one address.
func (m *measured) forgive(ctx context.Context) error {
	raw, err := sql.Open("pgx", m.url+"&auto_explain.log_min_duration=-1") // none of the server's statements
	if err != nil {
		return err
	}
	defer raw.Close()
	_, err = raw.ExecContext(ctx, "DELETE FROM sp_attempts WHERE network LIKE '127.%'")
	return err
}

var entry = regexp.MustCompile(`LOG:  duration: ([0-9.]+) ms  plan:$`)

// read reads what auto_explain wrote: a line with the time, and indented JSON.
func (m *measured) read(log io.Reader) error {
	scanner := bufio.NewScanner(log)
	scanner.Buffer(nil, 16<<20)
	var took float64
	var text strings.Builder
	inside := false
	end := func() error {
		if !inside {
			return nil
		}
		inside = false
		var p struct {
			Query string `json:"Query Text"`
			Plan  node
		}
		if err := json.Unmarshal([]byte(text.String()), &p); err != nil {
			return fmt.Errorf("a plan in the log cannot be read: %w", err)
		}
		query := strings.Join(strings.Fields(p.Query), " ")
		if !strings.Contains(query, "sp_") {
			return nil
		}
		s := m.statements[query]
		if s == nil {
			s = &statement{}
			m.statements[query] = s
		}
		s.took = append(s.took, took)
		p.Plan.walk(func(n *node) {
			if n.Type == "Seq Scan" && m.rows[n.Table] > large*float64(m.accounts) && !slices.Contains(s.whole, n.Table) {
				s.whole = append(s.whole, n.Table)
			}
			s.most = max(s.most, n.Removed*n.Loops)
		})
		return nil
	}
	for scanner.Scan() {
		line := scanner.Text()
		if strings.HasPrefix(line, "\t") {
			text.WriteString(line)
			continue
		}
		if err := end(); err != nil {
			return err
		}
		if found := entry.FindStringSubmatch(line); found != nil {
			fmt.Sscan(found[1], &took)
			text.Reset()
			inside = true
		}
	}
	return errors.Join(scanner.Err(), end())
}

// node is a step of a plan.
type node struct {
	Type    string  `json:"Node Type"`
	Table   string  `json:"Relation Name"`
	Removed float64 `json:"Rows Removed by Filter"`
	Loops   float64 `json:"Actual Loops"`
	Plans   []node
}

func (n *node) walk(f func(*node)) {
	f(n)
	for i := range n.Plans {
		n.Plans[i].walk(f)
	}
}

// report prints what was measured, and fails if a large table was read whole.
func report(small, big *measured) (missed bool, err error) {
	fmt.Printf("%s, %d processors; %d accounts and %d sessions, and %d and %d\n\n", runtime.Version(), runtime.NumCPU(), small.accounts, 3*small.accounts, big.accounts, 3*big.accounts)
	fmt.Printf("%8s %9s %9s %7s  %s\n", "times", "µs small", "µs large", "ratio", "statement")
	type line struct {
		text  string
		ratio float64
	}
	var lines []line
	var sums [2]float64
	over, all := 0, 0
	var errs []error
	var notes []string
	for _, query := range slices.Sorted(maps.Keys(big.statements)) {
		s := big.statements[query]
		for _, table := range s.whole {
			if why := excuse(query); why != "" {
				notes = append(notes, fmt.Sprintf("%s, by %.70s…: %s", table, query, why))
				continue
			}
			errs = append(errs, fmt.Errorf("%s is read from its beginning by %s", table, query))
		}
		was := small.statements[query]
		if was == nil || len(s.took) < least || len(was.took) < least {
			continue
		}
		ratio := s.median() / was.median()
		all++
		sums[0] += was.median() * float64(len(was.took))
		sums[1] += s.median() * float64(len(s.took))
		mark := ""
		if ratio > goal {
			over++
			mark = " *"
		}
		lines = append(lines, line{fmt.Sprintf("%8d %9.0f %9.0f %6.2f%-2s %.110s", len(s.took), was.median()*1000, s.median()*1000, ratio, mark, query), ratio})
	}
	slices.SortFunc(lines, func(a, b line) int { return int((b.ratio - a.ratio) * 1000) })
	for _, l := range lines {
		fmt.Println(l.text)
	}
	fmt.Printf("\n%d statements in all, of which %d ran at least %d times on both.\n", len(big.statements), all, least)
	fmt.Printf("Large tables read from their beginning: %d, and %d that are excused.\n", len(errs), len(notes))
	for _, n := range notes {
		fmt.Println("  " + n)
	}
	total := sums[1] / sums[0]
	verdict := "ok"
	if total > goal {
		verdict, missed = "MISSED", true
	}
	fmt.Printf("All of them together, weighted by how often each ran: %.2f times as long (goal: at most %.1f) %s; %d of %d are above that alone (*).\n", total, goal, verdict, over, all)
	fmt.Println("\nRows that an execution looked at and left out, where there were more than 1,000:")
	for _, query := range slices.Sorted(maps.Keys(big.statements)) {
		if s := big.statements[query]; s.most > 1000 {
			fmt.Printf("%10.0f  %.140s\n", s.most, query)
		}
	}
	return missed, errors.Join(errs...)
}
