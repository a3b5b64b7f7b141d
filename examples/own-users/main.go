// Command own-users is a service that has a users table already, with bcrypt hashes,
// and keeps it: people sign in with what stands there. Tokens, sessions, API keys,
// roles, second factors and lockout are Sallyport's, in a database of its own beside it.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/sqlite"
)

// schema is the service's own. AUTOINCREMENT: an id is never given to somebody else.
const schema = `
	CREATE TABLE IF NOT EXISTS users (
		id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE COLLATE NOCASE, email TEXT UNIQUE COLLATE NOCASE,
		password TEXT NOT NULL, active BOOLEAN NOT NULL DEFAULT TRUE);
	CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE, text TEXT NOT NULL)`

// users is the table as Sallyport asks it: account.Users.
type users struct{ db *sql.DB }

const columns = "SELECT id, name, COALESCE(email, ''), password, NOT active FROM users WHERE "

func (t users) ByLogin(ctx context.Context, login string) (account.OwnUser, bool, error) {
	return one(t.db.QueryRowContext(ctx, columns+"name = ?1 OR email = ?1 ORDER BY name <> ?1 LIMIT 1", login))
}

func (t users) ByID(ctx context.Context, id string) (account.OwnUser, bool, error) {
	return one(t.db.QueryRowContext(ctx, columns+"id = ?", id))
}

func (t users) UpdateHash(ctx context.Context, id, old, hash string) (bool, error) {
	return changed(t.db.ExecContext(ctx, "UPDATE users SET password = ? WHERE id = ? AND password = ?", hash, id, old))
}

// one reads a user. The service has verified each address before it stored it.
func one(row *sql.Row) (u account.OwnUser, found bool, err error) {
	err = row.Scan(&u.ID, &u.Username, &u.Email, &u.Hash, &u.Disabled)
	if errors.Is(err, sql.ErrNoRows) {
		return u, false, nil
	}
	u.EmailVerified = u.Email != ""
	return u, err == nil, err
}

func changed(res sql.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

func main() {
	addr, dir := flag.String("listen", "127.0.0.1:8080", "address"), flag.String("data", ".", "folder of both databases")
	admin := flag.String("admin", "", "id in the users table of who is to be administrator")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *addr, *dir, *admin); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, addr, dir, admin string) error {
	// The service's own database, by the driver that store/sqlite has.
	own, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "service.db")+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)&_pragma=foreign_keys(1)")
	if err != nil {
		return err
	}
	defer own.Close()
	if _, err := own.ExecContext(ctx, schema); err != nil {
		return err
	}
	db, err := sqlite.Open(filepath.Join(dir, "sallyport.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	sp, err := server.New(ctx, server.Config{DB: db, BaseURL: "http://" + addr, Users: users{own}, Log: slog.Default()})
	if err != nil {
		return err
	}
	defer sp.Close()
	h, err := handler(sp, own)
	if err != nil {
		return err
	}
	if admin != "" { // need not have signed in yet
		id, err := sp.SubjectOf(ctx, admin)
		if err == nil {
			err = sp.SetRoles(ctx, id, "user", "admin")
		}
		if err != nil {
			return err
		}
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return server.Serve(ctx, ln, h, slog.Default())
}

// service is the handlers that were there before.
type service struct {
	sp     *server.Server
	db     *sql.DB
	hasher *password.Hasher
}

func handler(sp *server.Server, db *sql.DB) (http.Handler, error) {
	hasher, err := password.New(password.Config{})
	s := &service{sp, db, hasher}
	a, mux := sp.API(), sallyport.NewMux(sp)
	api.Post(a, "/sign-up", sallyport.Public(), s.signUp, api.Doc("People", "Sign up", ""), api.Status(201), api.Errors(409), api.BodyLimit(api.MaxAuthBody),
		api.Limit(sallyport.Limit{Rate: "20/hour"}))
	api.Delete(a, "/me", authn.FreshSession(), s.leave, api.Doc("People", "Leave", "Deletes the caller, signed in a moment ago."), api.Status(204))
	api.Put(a, "/people/{id}/active", sallyport.Role("admin"), s.setActive, api.Doc("People", "Let in, or not", ""), api.Status(204), api.Errors(404))
	api.Get(a, "/notes", sallyport.SignedIn(), s.notes, api.Doc("Notes", "Own notes", ""))
	api.Post(a, "/notes", sallyport.SignedIn(), s.addNote, api.Doc("Notes", "Add a note", ""), api.Status(204))
	mux.Mount("/", sp.Routes()) // /token, /users/me, /2fa/setup, /api-keys, /docs …
	return sp.Guard(mux), err
}

type signUp struct {
	Body struct {
		Name     string `json:"name" minLength:"1" maxLength:"64"`
		Password string `json:"password" maxLength:"1024"`
	}
}

func (s *service) signUp(ctx context.Context, in *signUp) (*api.Body[api.Message], error) {
	if f := password.Check(in.Body.Password, in.Body.Name); f != nil {
		return nil, sallyport.Invalid(sallyport.Field{Pointer: "/password", Code: f.Code, Detail: f.Detail})
	}
	hash, err := s.hasher.Hash(ctx, in.Body.Password)
	if err != nil {
		return nil, err
	}
	ok, err := changed(s.db.ExecContext(ctx, "INSERT INTO users (name, password) VALUES (?, ?) ON CONFLICT DO NOTHING", in.Body.Name, hash))
	if err == nil && !ok {
		err = &sallyport.Error{Status: http.StatusConflict, Code: "name_taken", Message: "Somebody else has this name. Choose another."}
	}
	return &api.Body[api.Message]{Body: api.Message{Message: "Welcome. Sign in at POST /token."}}, err
}

func (s *service) leave(ctx context.Context, _ *api.None) (*api.None, error) {
	id, err := s.sp.OwnID(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := s.db.ExecContext(ctx, "DELETE FROM users WHERE id = ?", id); err != nil {
		return nil, err
	}
	return nil, s.sp.UserChanged(ctx, id) // after it is stored: nothing of theirs is good any more
}

type active struct {
	ID   int64 `path:"id" doc:"Id in the users table"`
	Body struct {
		Active bool `json:"active"`
	}
}

func (s *service) setActive(ctx context.Context, in *active) (*api.None, error) {
	ok, err := changed(s.db.ExecContext(ctx, "UPDATE users SET active = ? WHERE id = ?", in.Body.Active, in.ID))
	if err == nil && !ok {
		err = sallyport.NotFound("user")
	}
	if err != nil {
		return nil, err
	}
	return nil, s.sp.UserChanged(ctx, strconv.FormatInt(in.ID, 10))
}

func (s *service) notes(ctx context.Context, _ *api.None) (*api.Body[[]string], error) {
	id, err := s.sp.OwnID(ctx) // the key that the service's other tables have
	if err != nil {
		return nil, err
	}
	rows, err := s.db.QueryContext(ctx, "SELECT text FROM notes WHERE user_id = ? ORDER BY id", id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := []string{}
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return &api.Body[[]string]{Body: all}, rows.Err()
}

type note struct {
	Body struct {
		Text string `json:"text" minLength:"1" maxLength:"1000"`
	}
}

func (s *service) addNote(ctx context.Context, in *note) (*api.None, error) {
	id, err := s.sp.OwnID(ctx)
	if err == nil {
		_, err = s.db.ExecContext(ctx, "INSERT INTO notes (user_id, text) VALUES (?, ?)", id, in.Body.Text)
	}
	return nil, err
}
