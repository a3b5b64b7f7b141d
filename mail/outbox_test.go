package mail_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
)

// clock is a settable clock.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Now().Truncate(time.Microsecond)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// senderFunc is a mail server in a function.
type senderFunc func(ctx context.Context, m mail.Message) error

func (f senderFunc) Send(ctx context.Context, m mail.Message) error { return f(ctx, m) }

// post is a mail server that counts what it gets.
type post struct {
	mu   sync.Mutex
	got  map[string]int // by recipient
	fail func(m mail.Message) error
	n    int // attempts
}

func (p *post) Send(_ context.Context, m mail.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n++
	if p.fail != nil {
		if err := p.fail(m); err != nil {
			return err
		}
	}
	if p.got == nil {
		p.got = map[string]int{}
	}
	p.got[m.To]++
	return nil
}

func (p *post) set(fail func(mail.Message) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = fail
}

func (p *post) attempts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.n
	p.n = 0
	return n
}

func always(err error) func(mail.Message) error { return func(mail.Message) error { return err } }

var outboxKey = bytes.Repeat([]byte{7}, 32)

func node(t *testing.T, d *db.DB, c *clock, s mail.Sender) *mail.Outbox {
	t.Helper()
	w, err := mail.NewWriter(mail.WriterConfig{BaseURL: base, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	o, err := mail.New(mail.Config{DB: d, Sender: s, Key: outboxKey, Writer: w, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func queue(t *testing.T, d *db.DB, o *mail.Outbox, l mail.Letter) {
	t.Helper()
	if err := d.Write(t.Context(), func(tx *db.Tx) error { return o.Queue(t.Context(), tx, l) }); err != nil {
		t.Fatal(err)
	}
}

func person(i int) string { return fmt.Sprintf("person%d@example.com", i) }

func queueMany(t *testing.T, d *db.DB, o *mail.Outbox, n int) {
	t.Helper()
	if err := d.Write(t.Context(), func(tx *db.Tx) error {
		for i := range n {
			if err := o.Queue(t.Context(), tx, mail.Letter{Kind: mail.NewDevice, To: person(i)}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func deliver(t *testing.T, o *mail.Outbox) {
	t.Helper()
	if err := o.Deliver(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func status(t *testing.T, o *mail.Outbox) mail.Status {
	t.Helper()
	s, err := o.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func events(t *testing.T, d *db.DB, action string) (out []audit.Record) {
	t.Helper()
	all, err := audit.Latest(d.View(t.Context()), 500)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.Action == action {
			out = append(out, e)
		}
	}
	return out
}

// once fails unless each of n people got one letter.
func (p *post) once(t *testing.T, n int) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range n {
		if p.got[person(i)] != 1 {
			t.Errorf("%s got %d letters", person(i), p.got[person(i)])
		}
	}
	if len(p.got) != n {
		t.Errorf("%d people got letters, want %d", len(p.got), n)
	}
}

// TestE_AMailOutageLosesNothing: letters of a real mail server that is away arrive
// when it is back, each once; while it is away it is hardly asked.
func TestE_AMailOutageLosesNothing(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c := newClock()
		srv := testkit.NewMailServer(t, testkit.MailServerConfig{})
		through := smtpFor(t, srv, "tls=starttls")
		p := &post{}
		o := node(t, d, c, senderFunc(func(ctx context.Context, m mail.Message) error {
			_ = p.Send(ctx, m) // counts
			return through.Send(ctx, m)
		}))
		const n = 45
		srv.Away()
		queueMany(t, d, o, n)
		deliver(t, o)
		if tries := p.attempts(); tries < 1 || tries > 4 {
			t.Errorf("%d letters were tried at once with a server that is away", tries)
		}
		s := status(t, o)
		if s.Waiting != n || s.Failed < 1 || !strings.Contains(s.Failure, "the connection failed") || strings.Contains(s.Failure, "example.com") || s.Tried.IsZero() || s.Oldest.IsZero() {
			t.Errorf("%+v", s)
		}
		deliver(t, o)
		if tries := p.attempts(); tries != 0 {
			t.Errorf("%d attempts while it is known that the server is away", tries)
		}
		asked := 0
		for range 60 { // ten minutes
			c.advance(10 * time.Second)
			deliver(t, o)
			asked += p.attempts()
		}
		if asked < 8 || asked > 20 {
			t.Errorf("a server that is away for ten minutes was asked %d times", asked)
		}
		srv.Back()
		c.advance(time.Minute)
		deliver(t, o)
		got := map[string]int{}
		for _, m := range srv.Got() {
			got[m.To]++
		}
		for i := range n {
			if got[person(i)] != 1 {
				t.Errorf("%s got %d letters", person(i), got[person(i)])
			}
		}
		if s := status(t, o); s.Waiting != 0 || len(events(t, d, "mail.sent")) != n || len(events(t, d, "mail.lost")) != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestE_ManyNodesSendEachLetterOnce.
func TestE_ManyNodesSendEachLetterOnce(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c, p := newClock(), &post{}
		const n = 100
		queueMany(t, d, node(t, d, c, p), n)
		var all sync.WaitGroup
		for range 20 {
			o := node(t, d, c, p)
			all.Go(func() {
				if err := o.Deliver(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		p.once(t, n)
		if got := len(events(t, d, "mail.sent")); got != n {
			t.Errorf("%d events", got)
		}
	})
}

// TestF_ALetterWhoseNodeDies is sent by another one, when its claim is over; and if
// the first comes back it neither disturbs that nor stores the letter again.
func TestF_ALetterWhoseNodeDies(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c, p := newClock(), &post{}
		hangs := func() (s mail.Sender, started, end chan struct{}) {
			started, end = make(chan struct{}), make(chan struct{})
			return senderFunc(func(context.Context, mail.Message) error {
				close(started)
				<-end
				return errors.New("too late")
			}), started, end
		}
		first, begun, endFirst := hangs()
		dead := node(t, d, c, first)
		queue(t, d, dead, mail.Letter{Kind: mail.NewDevice, To: person(0)})
		var all sync.WaitGroup
		all.Go(func() { _ = dead.Deliver(t.Context()) })
		<-begun
		alive := node(t, d, c, p)
		deliver(t, alive)
		if p.attempts() != 0 {
			t.Fatal("a letter that is being sent was sent by another node")
		}
		if n, err := alive.Retry(t.Context()); err != nil || n != 0 {
			t.Fatalf("%d letters that are being sent are due: %v", n, err)
		}
		c.advance(6 * time.Minute)
		second, begunAgain, endSecond := hangs()
		other := node(t, d, c, second)
		all.Go(func() { _ = other.Deliver(t.Context()) })
		<-begunAgain
		close(endFirst) // the dead one wakes, and fails: the letter is not its own any more
		time.Sleep(50 * time.Millisecond)
		c.advance(time.Minute) // by which it would be due if it had been postponed
		deliver(t, alive)
		if p.attempts() != 0 {
			t.Fatal("a node gave back what was another's")
		}
		close(endSecond)
		all.Wait()
		c.advance(time.Minute)
		deliver(t, alive)
		p.once(t, 1)
		if s := status(t, alive); s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestLettersThatFail are tried again, each by itself, and hold nobody up.
func TestLettersThatFail(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c, p := newClock(), &post{}
		o := node(t, d, c, p)
		p.set(func(m mail.Message) error {
			switch m.To {
			case person(0):
				return errors.New("451 try later, said " + m.To + " of " + m.Link)
			case person(1):
				panic("a sender that panics")
			case person(2):
				return fmt.Errorf("%w: 550 no %s here", mail.ErrRefused, m.To)
			}
			return nil
		})
		queue(t, d, o, mail.Letter{Kind: mail.Reset, To: person(0), Facts: mail.Facts{Token: "tk_secret"}, Until: c.now().Add(30 * time.Minute)})
		for i := 1; i < 5; i++ {
			queue(t, d, o, mail.Letter{Kind: mail.NewDevice, To: person(i)})
		}
		queue(t, d, o, mail.Letter{Kind: mail.Reset, To: "", Facts: mail.Facts{Token: "tk_secret"}}) // nobody's
		deliver(t, o)
		if n := p.attempts(); n != 5 {
			t.Errorf("%d attempts", n)
		}
		s := status(t, o)
		if s.Waiting != 2 || s.Failed != 2 {
			t.Errorf("%+v", s)
		}
		lost := events(t, d, "mail.lost")
		if len(lost) != 1 || lost[0].Detail["kind"] != string(mail.NewDevice) || strings.Contains(lost[0].Reason, "person") || !strings.Contains(lost[0].Reason, "550") {
			t.Errorf("%+v", lost)
		}
		// The first is tried again after 5 s, 30 s, 2, 5 and 15 minutes, and given up when
		// its link is worth nothing.
		p.set(func(m mail.Message) error {
			if m.To == person(0) {
				return errors.New("451 try later, said " + m.To + " of " + m.Link + " tk_secret")
			}
			return nil
		})
		var tried []int
		for second := range 31 * 60 {
			c.advance(time.Second)
			if second%5 != 0 {
				continue
			}
			deliver(t, o)
			if p.attempts() > 0 {
				tried = append(tried, second+1)
			}
			if s := status(t, o); s.Waiting > 0 && (strings.Contains(s.Failure, "person0") || strings.Contains(s.Failure, "tk_secret") || strings.Contains(s.Failure, "://")) {
				t.Fatalf("the failure is %q", s.Failure)
			}
		}
		if fmt.Sprint(tried) != "[6 36 156 456 1356]" {
			t.Errorf("tried after %v seconds", tried)
		}
		lost = events(t, d, "mail.lost")
		if len(lost) != 2 || lost[0].Reason != "it expired before it could be sent" {
			t.Errorf("%+v", lost)
		}
		if s := status(t, o); s.Waiting != 0 || p.got[person(0)] != 0 || p.got[person(1)] != 1 || p.got[person(4)] != 1 || len(p.got) != 3 {
			t.Errorf("%+v, got %v", s, p.got)
		}
	})
}

// TestManyFailuresAreTheServers: where one letter after the other fails for a while
// it is not asked for every one.
func TestManyFailuresAreTheServers(t *testing.T) {
	d := testkit.SQLite(t)
	c, p := newClock(), &post{}
	o := node(t, d, c, p)
	p.set(always(errors.New("452 too much mail")))
	queueMany(t, d, o, 200)
	deliver(t, o)
	if n := p.attempts(); n < 10 || n > 14 {
		t.Errorf("%d letters were tried", n)
	}
	p.set(nil)
	c.advance(time.Hour)
	deliver(t, o)
	p.once(t, 200)
}

// TestRetryMakesLettersDue.
func TestRetryMakesLettersDue(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c, p := newClock(), &post{}
		o := node(t, d, c, p)
		p.set(always(errors.New("451")))
		queueMany(t, d, o, 3)
		for range 3 {
			deliver(t, o)
			c.advance(time.Minute)
		}
		p.set(nil)
		p.attempts()
		deliver(t, o)
		if n := p.attempts(); n != 0 {
			t.Fatalf("%d letters were due", n)
		}
		if n, err := o.Retry(t.Context()); err != nil || n != 3 {
			t.Fatalf("%d: %v", n, err)
		}
		deliver(t, o)
		p.once(t, 3)
	})
}

// TestF_StoppingTheServer lets a letter that is under way go out, and gives the
// others back at once.
func TestF_StoppingTheServer(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c, p := newClock(), &post{}
		begun, release := make(chan struct{}, 100), make(chan struct{})
		o := node(t, d, c, senderFunc(func(ctx context.Context, m mail.Message) error {
			begun <- struct{}{}
			<-release
			if err := ctx.Err(); err != nil {
				return err
			}
			return p.Send(ctx, m)
		}))
		queueMany(t, d, o, 10)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- o.Deliver(ctx) }()
		for range 4 {
			<-begun
		}
		stop()
		close(release)
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if s := status(t, o); s.Waiting != 6 || len(events(t, d, "mail.sent")) != 4 {
			t.Errorf("%+v", s)
		}
		deliver(t, node(t, d, c, p)) // at the same moment, on another node
		p.once(t, 10)
	})
}

// TestE_LettersThatWaitCannotBeRead: the database holds neither addresses nor
// links, and a letter that was changed, or moved to another place, is not sent.
func TestE_LettersThatWaitCannotBeRead(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		c, p := newClock(), &post{}
		o := node(t, d, c, p)
		secrets := []string{"ada.lovelace", "example.com", "tk_planted-secret", "135790", "Countess", "192.0.2.77"}
		queue(t, d, o, mail.Letter{
			Kind: mail.SignIn, To: "ada.lovelace@example.com",
			Facts: mail.Facts{Name: "Countess", Token: "tk_planted-secret", Code: "135790", Client: "192.0.2.77", Device: "planted"}, Until: c.now().Add(10 * time.Minute),
		})
		if n := leaks(t, d, secrets); n != 0 {
			t.Errorf("%d of the letter can be read in the database", n)
		}
		if d.Dialect() == db.SQLite {
			files, err := filepath.Glob(filepath.Join(d.Dir(), "*"))
			if err != nil || len(files) == 0 {
				t.Fatal(files, err)
			}
			for _, file := range files {
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range secrets {
					if bytes.Contains(b, []byte(s)) {
						t.Errorf("%s holds %s", file, s)
					}
				}
			}
		}
		queue(t, d, o, mail.Letter{Kind: mail.NewDevice, To: person(0)})
		queue(t, d, o, mail.Letter{Kind: mail.NewDevice, To: person(1)})
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec("UPDATE sp_outbox SET sealed = (SELECT sealed FROM sp_outbox WHERE kind = 'sign_in') WHERE id = (SELECT MAX(id) FROM sp_outbox)")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		deliver(t, o)
		if p.got["ada.lovelace@example.com"] != 1 || p.got[person(0)] != 1 || p.got[person(1)] != 0 {
			t.Errorf("got %v", p.got)
		}
		if lost := events(t, d, "mail.lost"); len(lost) != 1 || !strings.Contains(lost[0].Reason, "cannot be opened") {
			t.Errorf("%+v", lost)
		}
		for _, e := range events(t, d, "mail.sent") {
			for _, s := range secrets {
				if strings.Contains(fmt.Sprint(e), s) {
					t.Errorf("the audit log has %s", s)
				}
			}
		}
	})
}

// leaks counts secrets in the rows of the outbox.
func leaks(t *testing.T, d *db.DB, secrets []string) (n int) {
	t.Helper()
	rows := 0
	if err := d.View(t.Context()).Rows("SELECT id, COALESCE(subject_id, ''), kind, sealed, failure FROM sp_outbox", nil, func(scan db.Scan) error {
		var id, subject, kind, failure string
		var sealed []byte
		if err := scan(&id, &subject, &kind, &sealed, &failure); err != nil {
			return err
		}
		rows++
		for _, s := range secrets {
			if strings.Contains(id+subject+kind+failure+string(sealed), s) {
				n++
			}
		}
		return nil
	}); err != nil || rows == 0 {
		t.Fatal(rows, err)
	}
	return n
}

// TestLettersOfTransactionsThatFail are never sent, and where there is no mail
// nothing is stored.
func TestLettersOfTransactionsThatFail(t *testing.T) {
	d := testkit.SQLite(t)
	c, p := newClock(), &post{}
	o := node(t, d, c, p)
	undone := errors.New("undone")
	if err := d.Write(t.Context(), func(tx *db.Tx) error {
		return errors.Join(o.Queue(t.Context(), tx, mail.Letter{Kind: mail.NewDevice, To: person(0)}), undone)
	}); !errors.Is(err, undone) {
		t.Fatal(err)
	}
	off := node(t, d, c, nil)
	if off.Enabled() {
		t.Error("mail is on without a sender")
	}
	queue(t, d, off, mail.Letter{Kind: mail.NewDevice, To: person(1)})
	deliver(t, o)
	if s := status(t, o); s.Waiting != 0 || len(p.got) != 0 {
		t.Errorf("%+v %v", s, p.got)
	}
	queue(t, d, o, mail.Letter{Kind: mail.NewDevice, To: person(2)})
	if _, err := off.Sweep(t.Context()); err != nil || status(t, o).Waiting != 1 {
		t.Fatal(err)
	}
	c.advance(4 * 24 * time.Hour) // and what waits where mail was switched off ends, too
	if _, err := off.Sweep(t.Context()); err != nil || status(t, o).Waiting != 0 || len(events(t, d, "mail.lost")) != 1 {
		t.Fatal(err)
	}
}

// TestInbox keeps the newest letters, each once, and hands them on.
func TestInbox(t *testing.T) {
	var log bytes.Buffer
	p := &post{}
	b := mail.NewInbox(logTo(&log), p)
	for i := range mail.MaxInbox + 10 {
		m := letter(person(i))
		m.ID = fmt.Sprint("id-", i)
		for range 2 {
			if err := b.Send(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
	}
	all := b.All()
	if len(all) != mail.MaxInbox || all[0].To != person(mail.MaxInbox+9) || all[len(all)-1].To != person(10) || p.got[person(0)] != 2 {
		t.Errorf("%d letters, newest %s, oldest %s", len(all), all[0].To, all[len(all)-1].To)
	}
	if _, ok := b.Find("id-0"); ok {
		t.Error("an old letter is still there")
	}
	if m, ok := b.Find("id-50"); !ok || m.To != person(50) {
		t.Errorf("%+v", m)
	}
	if !strings.Contains(log.String(), "#token=rs_secret") || !strings.Contains(log.String(), "code=123456") {
		t.Errorf("the log: %.300s", log.String())
	}
	if err := mail.NewInbox(nil, nil).Send(t.Context(), letter("ada@example.com")); err != nil {
		t.Error(err)
	}
}

func logTo(w *bytes.Buffer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
