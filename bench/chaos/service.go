package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/internal/netfault"
)

// addressLimit is how many requests a client address may send in an hour. Clients
// of the load change theirs in time; what probes the limit does not.
const addressLimit = 100

// service is Sallyport: nodes on one database.
type service struct {
	database string // its name in the report
	bin      string
	flags    []string // of every command
	env      []string
	nodes    []*node
	doors    []*node // where clients knock: the nodes, or what stands before them
	front    bool    // and it is not known which node answered
	lease    time.Duration
	admin    string // an access token
	pg       *postgres
	redis    *redis
}

// some returns one of the nodes.
func (s *service) some() *node { return s.nodes[rand.IntN(len(s.nodes))] }

// node is one process, which ends and starts again.
type node struct {
	name, base, metrics string
	log                 string // path of what it writes to standard error
	start               func() (*exec.Cmd, error)
	proxy               *netfault.Proxy // before its database; nil on SQLite

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan error
	book  map[string]int // status by request id, 0 where there was no whole answer; nil: not kept
}

func (n *node) note(id string, status int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.book != nil {
		n.book[id] = status
	}
}

// world is what all services stand on.
type world struct {
	root string // of the module
	dir  string
	bin  string
	say  func(format string, args ...any)

	mu    sync.Mutex
	atEnd []func()
}

// newWorld builds the program.
func newWorld(say func(string, ...any)) (*world, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w. Run this in a checkout", err)
	}
	// Below a folder that the user postgres may enter.
	dir, err := os.MkdirTemp("/tmp", "sallyport-chaos.")
	if err != nil {
		return nil, err
	}
	w := &world{root: strings.TrimSpace(string(out)), dir: dir, bin: filepath.Join(dir, "sallyport"), say: say}
	w.later(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, errors.Join(err, w.close())
	}
	build := exec.Command("go", "build", "-o", w.bin, "./cmd/sallyport")
	build.Dir, build.Env = w.root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("go build: %w\n%s", err, out), w.close())
	}
	return w, nil
}

// later has something done at the end; what was begun last ends first.
func (w *world) later(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.atEnd = append(w.atEnd, f)
}

func (w *world) close() error {
	for i := len(w.atEnd) - 1; i >= 0; i-- {
		w.atEnd[i]()
	}
	return nil
}

// commandTime is more than any command takes.
const commandTime = 3 * time.Minute

func (w *world) script(name string, env []string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(w.root, "scripts", name), args...)
	c.WaitDelay = time.Second
	c.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("scripts/%s %s: %w\n%s", name, strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSpace(string(out)), nil
}

// settings are those of every node. Nothing is hashed more cheaply than it is by
// default.
var settings = []string{
	"SALLYPORT_LIMITS_LOGIN=off",
	fmt.Sprintf("SALLYPORT_LIMITS_DEFAULT=%d/hour", addressLimit),
	"SALLYPORT_TOKENS_ACCESS_TTL=12h",
	"SALLYPORT_PROXY_TRUSTED=127.0.0.1",
}

// freePort is one that nothing listens on, below the range from which systems hand
// them out by themselves: it must still be free when a node is started again.
func freePort() (string, error) {
	for range 50 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000))
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		return addr, ln.Close()
	}
	return "", errors.New("no free port was found")
}

// sqlite starts one node on a file.
func (w *world) sqlite() (*service, error) {
	s := &service{database: "SQLite", bin: w.bin, lease: 250 * time.Millisecond}
	return s, w.serve(s, 1, filepath.Join(w.dir, "sqlite"))
}

// margin is added to the lease, for what the harness itself takes.
const margin = 250 * time.Millisecond

// postgres starts three nodes on PostgreSQL, each behind a proxy of its own, with a
// Redis server.
func (w *world) postgres() (*service, error) {
	pg, err := w.startPostgres()
	if err != nil {
		return nil, err
	}
	rd, err := w.startRedis()
	if err != nil {
		return nil, err
	}
	s := &service{database: "PostgreSQL", bin: w.bin, lease: 750*time.Millisecond + margin, pg: pg, redis: rd}
	s.env = []string{"SALLYPORT_DATABASE=" + pg.url, "SALLYPORT_REDIS=" + rd.url}
	return s, w.serve(s, 3, filepath.Join(w.dir, "postgres"))
}

func (w *world) serve(s *service, nodes int, data string) error {
	s.flags = []string{"--data", data}
	s.env = append(s.env, "PATH="+os.Getenv("PATH"), "HOME="+os.Getenv("HOME"), "TMPDIR="+os.TempDir())
	s.env = append(s.env, settings...)
	for i := range nodes {
		listen, err := freePort()
		if err != nil {
			return err
		}
		metrics, err := freePort()
		if err != nil {
			return err
		}
		if i == 0 {
			s.env = append(s.env, "SALLYPORT_BASE_URL=http://"+listen)
		}
		n := &node{
			name: fmt.Sprintf("node %d", i+1), base: "http://" + listen, metrics: "http://" + metrics + "/metrics",
			log: filepath.Join(w.dir, fmt.Sprintf("%s-node%d.log", s.database, i+1)),
		}
		env := s.env
		if s.pg != nil {
			u, err := url.Parse(s.pg.url)
			if err != nil {
				return err
			}
			if n.proxy, err = netfault.New(u.Host); err != nil {
				return err
			}
			w.later(n.proxy.Close)
			u.Host = n.proxy.Addr()
			env = append(env[:len(env):len(env)], "SALLYPORT_DATABASE="+u.String()) // the last one counts
		}
		n.start = func() (*exec.Cmd, error) {
			out, err := os.OpenFile(n.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
			if err != nil {
				return nil, err
			}
			defer out.Close()
			c := exec.Command(s.bin, append([]string{"serve", "--listen", listen, "--set", "metrics.listen=" + metrics}, s.flags...)...)
			c.Env, c.Stderr = env, out
			return c, c.Start()
		}
		s.nodes = append(s.nodes, n)
		w.later(n.kill)
		if i == 0 { // makes the schema and the master key
			if _, err := s.cli("admin", "create", "--username", "root", "--email", "root@example.com", "--password-stdin"); err != nil {
				return err
			}
		}
		if err := n.up(); err != nil {
			return err
		}
	}
	for _, n := range s.nodes {
		if err := n.ready(20 * time.Second); err != nil {
			return err
		}
	}
	s.doors = s.nodes
	return s.enter()
}

// enter signs the administrator in.
func (s *service) enter() error {
	c := newClient(patience)
	defer c.close()
	a := c.do(s.doors[0], signIn("root", password))
	if !a.ok() {
		return fmt.Errorf("the administrator cannot sign in: %v", a)
	}
	s.admin = a.text("access_token")
	return nil
}

// cli runs a command beside the nodes.
func (s *service) cli(args ...string) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	c := exec.CommandContext(ctx, s.bin, append(append(args, "--json"), s.flags...)...)
	c.Env = s.env
	c.Stdin = strings.NewReader(password + "\n")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("sallyport %s: %w\n%s", strings.Join(args, " "), err, &stderr)
	}
	var doc map[string]any
	return doc, json.Unmarshal(out, &doc)
}

// up starts the process.
func (n *node) up() error {
	cmd, err := n.start()
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	n.mu.Lock()
	n.cmd, n.ended = cmd, ended
	n.mu.Unlock()
	go func() { ended <- cmd.Wait() }()
	return nil
}

// ready waits until it says that it is.
func (n *node) ready(limit time.Duration) error {
	c := newClient(2 * time.Second)
	defer c.close()
	var a answer
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if a = c.do(n, call{method: "GET", path: "/readyz"}); a.ok() {
			return nil
		}
	}
	return fmt.Errorf("not ready within %v: %v\n%s", limit, a, tail(n.log))
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-6000):])
}

// kill ends the process as a power failure would.
func (n *node) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill() // it may have ended
	<-n.ended
	n.cmd = nil
}

// terminate asks it to end, which it does with exit code 0.
func (n *node) terminate() error {
	n.mu.Lock()
	cmd, ended := n.cmd, n.ended
	n.mu.Unlock()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-ended:
		n.mu.Lock()
		n.cmd = nil
		n.mu.Unlock()
		return err
	case <-time.After(40 * time.Second):
		return errors.New("it did not end within 40 s")
	}
}

// open begins a book of what is sent to the node.
func (n *node) open() (at int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.book = map[string]int{}
	if i, err := os.Stat(n.log); err == nil {
		at = i.Size()
	}
	return at
}

// compare ends the book and holds it against what the node says that it has
// handled since: each request of that has its whole answer, and was handled once.
// left is how many were sent and not read.
func (n *node) compare(at int64, blame func(string, ...any)) (handled, left int, err error) {
	n.mu.Lock()
	book := n.book
	n.book = nil
	n.mu.Unlock()
	f, err := os.Open(n.log)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return 0, 0, err
	}
	seen := map[string]bool{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		e := entryOf(lines.Bytes())
		status, ours := book[e.ID]
		switch {
		case !ours:
			continue
		case seen[e.ID]:
			blame("%s: %s was handled twice", n.name, e.ID)
		case status != e.Status:
			blame("%s: %s was handled with %d, and its client has %d (0: no whole answer)", n.name, e.ID, e.Status, status)
		}
		seen[e.ID] = true
	}
	for id, status := range book {
		if status == 0 && !seen[id] {
			left++
		}
	}
	return len(seen), left, lines.Err()
}

// metric reads one of the node's metrics, the sum of its series.
func (n *node) metric(name string) (float64, error) {
	c := http.Client{Timeout: 5 * time.Second}
	defer c.CloseIdleConnections()
	res, err := c.Get(n.metrics)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	sum, found := 0.0, false
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, err
		}
		sum, found = sum+v, true
	}
	if err := lines.Err(); err != nil || !found {
		return 0, fmt.Errorf("%s is not among the metrics of %s: %w", name, n.name, errors.Join(err))
	}
	return sum, nil
}

func (n *node) pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd.Process.Pid
}

var residentLine = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB$`)

// resident is how much memory the process has, in bytes.
func (n *node) resident() (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.pid()))
	if err != nil {
		return 0, err
	}
	m := residentLine.FindSubmatch(b)
	if m == nil {
		return 0, errors.New("no VmRSS in /proc")
	}
	kb, err := strconv.ParseFloat(string(m[1]), 64)
	return kb * 1024, err
}

// descriptors is how many it has open.
func (n *node) descriptors() (float64, error) {
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.pid()))
	return float64(len(files)), err
}

// postgres is a server to stop.
type postgres struct {
	w        *world
	dir, url string
}

func (w *world) startPostgres() (*postgres, error) {
	p := &postgres{w: w, dir: filepath.Join(w.dir, "pg")}
	w.later(func() {
		p.signal(syscall.SIGCONT)
		_, _ = w.script("postgres", nil, "stop", p.dir)
	})
	var err error
	p.url, err = w.script("postgres", nil, "start", p.dir)
	return p, err
}

// processes are the server's first one and all that it began.
func (p *postgres) processes() (pids []int) {
	b, err := os.ReadFile(filepath.Join(p.dir, "data", "postmaster.pid"))
	if err != nil {
		return nil
	}
	line, _, _ := strings.Cut(string(b), "\n")
	first, err := strconv.Atoi(line)
	if err != nil {
		return nil
	}
	pids = []int{first}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := bytes.Cut(b, []byte(") ")) // behind the name: state, parent
		fields := strings.Fields(string(rest))
		if len(fields) > 1 && fields[1] == strconv.Itoa(first) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func (p *postgres) signal(sig syscall.Signal) {
	for _, pid := range p.processes() {
		_ = syscall.Kill(pid, sig) // some end by themselves
	}
}

// stop ends the server at once, as a crash does.
func (p *postgres) stop() error {
	pids := p.processes()
	if len(pids) == 0 {
		return errors.New("PostgreSQL does not run")
	}
	if err := syscall.Kill(pids[0], syscall.SIGQUIT); err != nil {
		return err
	}
	for range 1000 {
		if syscall.Kill(pids[0], 0) != nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("PostgreSQL does not end")
}

// again starts it where it was.
func (p *postgres) again() error {
	url, err := p.w.script("postgres", nil, "start", p.dir)
	if err == nil && url != p.url {
		err = fmt.Errorf("PostgreSQL came back elsewhere: another program has taken its port")
	}
	return err
}

// redis is a server to stop.
type redis struct {
	w        *world
	dir, url string
}

func (w *world) startRedis() (*redis, error) {
	r := &redis{w: w, dir: filepath.Join(w.dir, "redis")}
	w.later(func() {
		_ = r.signal(syscall.SIGCONT)
		_, _ = w.script("redis", nil, "stop", r.dir)
	})
	var err error
	r.url, err = w.script("redis", nil, "start", r.dir)
	return r, err
}

func (r *redis) signal(sig syscall.Signal) error {
	b, err := os.ReadFile(filepath.Join(r.dir, "redis.pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	return syscall.Kill(pid, sig)
}

func (r *redis) again() error {
	_, err := r.w.script("redis", nil, "start", r.dir)
	return err
}

func (r *redis) flush() error {
	out, err := exec.Command("redis-cli", "-s", filepath.Join(r.dir, "redis.sock"), "flushall").CombinedOutput()
	if err == nil && strings.TrimSpace(string(out)) != "OK" {
		err = fmt.Errorf("redis-cli flushall: %s", out)
	}
	return err
}

// handled returns the ids of our requests that the node's log has.
func (n *node) handled() (ids []string, err error) {
	f, err := os.Open(n.log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if e := entryOf(lines.Bytes()); strings.HasPrefix(e.ID, "chaos-") {
			ids = append(ids, e.ID)
		}
	}
	return ids, lines.Err()
}

// entry is a line of a node's log that tells of a request.
type entry struct {
	Msg    string
	ID     string `json:"request_id"`
	Status int
}

// entryOf returns the zero entry for any other line.
func entryOf(line []byte) (e entry) {
	if json.Unmarshal(line, &e) != nil || e.Msg != "request" {
		return entry{}
	}
	return e
}
