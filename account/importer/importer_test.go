package importer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/account"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/password"
	"github.com/sallyport/sallyport/authz/role"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
)

// bcryptHash is of the password “U*U” (crypt_blowfish's own vector).
const bcryptHash = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"

func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// accounts returns every account but those that were there, one line each.
func accounts(t testing.TB, d *db.DB) []string {
	t.Helper()
	s := account.New(account.Config{DB: d})
	var out []string
	for cursor := ""; ; {
		users, next, err := s.List(t.Context(), account.Filter{}, cursor, 200)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range users {
			l, _, err := account.ReadLogin(d.View(t.Context()), u.ID)
			if err != nil {
				t.Fatal(err)
			}
			line := u.Email
			for _, more := range []struct {
				is   bool
				text string
			}{
				{u.Username != nil, "name=" + text(u.Username)},
				{u.FullName != nil, "full=" + text(u.FullName)},
				{u.EmailVerified, "verified"},
				{u.Disabled, "disabled"},
				{!slices.Equal(u.Roles, []string{"user"}), "roles=" + strings.Join(u.Roles, ",")},
				{len(u.Permissions) > 0, "may=" + strings.Join(u.Permissions, ",")},
				{l.Hash != bcryptHash, "hash=" + l.Hash},
				{u.CreatedAt.Year() < 2020, "since=" + u.CreatedAt.Format("2006-01-02T15:04:05")},
			} {
				if more.is {
					line += " " + more.text
				}
			}
			out = append(out, line)
		}
		if cursor = next; next == "" {
			slices.Sort(out)
			return out
		}
	}
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// collect runs an import and returns its notes as “line kind”.
func collect(t testing.TB, ctx context.Context, d *db.DB, o Options) (Import, []string, error) {
	t.Helper()
	var notes []string
	m, err := (&Service{DB: d, Batch: 3}).Import(ctx, o, Watch{Note: func(n Note) error {
		for _, secret := range []string{"CCCCCCCC", "ada@"} {
			if strings.Contains(n.Reason, secret) {
				t.Errorf("a note shows what is in the record: %s", n.Reason)
			}
		}
		notes = append(notes, fmt.Sprintf("%d %s", n.Line, n.Kind))
		return nil
	}})
	return m, notes, err
}

func TestSources(t *testing.T) {
	const h = bcryptHash
	own := func(more string) string { return `{"email":"ada@example.com"` + more + "}\n" }
	keycloak := func(users string) string {
		return `{"realm":"r","roles":{"realm":[{"name":"x }] \" {"}]},"n":-1.5e3,"users":[` + users + `],"clients":[{"users":[1]}]}`
	}
	credential := `{"type":"password","secretData":"{\"value\":\"dnqdAgb7PvDnmXbP4RnNDvgvCyBqI1/0Cqqx0DPSRqc=\",\"salt\":\"5p4VYBVpTdIUZgbYt0M0Ew==\"}","credentialData":"{\"hashIterations\":27500,\"algorithm\":\"pbkdf2-sha256\"}"}`
	tests := []struct {
		name   string
		source Source
		text   string
		opts   Options
		want   []string
		notes  []string
	}{
		{
			"fastapi-users as CSV, good and bad", FastAPIUsers,
			"\xef\xbb\xbfid,email,hashed_password,is_active,is_superuser,is_verified,age\r\n" +
				"1,ada@example.com," + h + ",t,f,t,7\r\n" +
				"2,\"bob@example.com\"," + h + ",False,0,false,\r\n\r\n" +
				"3,ADA@EXAMPLE.COM," + h + ",t,f,t,7\r\n" +
				"4,\"two\r\nlines@example.com\"," + h + ",t,f,t,7\r\n" +
				"5,costly@example.com,$2a$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW,t,f,t,7\r\n" +
				"6,weak@example.com,$1$abc$def,t,f,t,7\r\n" +
				"7,odd@example.com," + h + ",maybe,f,t,7\r\n" +
				"8,few@example.com\r\n" +
				"9,qu\"ote@example.com," + h + "\",t,f,t,7\r\n" +
				"10,root@example.com," + h + ",t,f,t,7\r\n" +
				"11,,,t,f,t,7\r\n" +
				"12,none@example.com,,1,1,1,7\r\n" +
				"13,unsaid@example.com," + h + ",,f,t,7",
			Options{},
			[]string{"ada@example.com verified", "bob@example.com disabled", "none@example.com verified hash=", "unsaid@example.com verified disabled"},
			[]string{"2 not_taken_over", "5 twice_in_file", "6 invalid_email", "8 hash_refused", "9 hash_refused", "10 wrong_type", "11 malformed", "12 malformed", "13 account_exists", "14 invalid_email", "15 superuser"},
		},
		{
			"fastapi-users as sqlite3 -json writes it", FastAPIUsers,
			`[{"id":"00","email":"ada@example.com","hashed_password":"` + h + `","is_active":1,"is_superuser":0,"is_verified":1},` + "\n" +
				`{"id":"01","email":"bob@example.com","hashed_password":null,"is_active":0,"is_superuser":1,"is_verified":0}]` + "\n",
			Options{Admins: true},
			[]string{"ada@example.com verified", "bob@example.com disabled roles=admin,user hash="},
			nil,
		},
		{
			"Django's dumpdata", Django,
			`[{"model":"contenttypes.contenttype","pk":1,"fields":{"app_label":"admin"}},` +
				`{"model": "auth.user", "pk": 1, "fields": {"password": "` + h + `", "last_login": null, "is_superuser": true, "username": "ada", "first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.com", "is_staff": true, "is_active": true, "date_joined": "2012-01-02T03:04:05.678Z", "groups": [], "user_permissions": []}},` +
				`{"model":"contenttypes.contenttype","pk":2,"fields":{}},` + "\n" +
				`{"model":"auth.user","pk":2,"fields":{"password":"!unusable","username":"Bob@example.com","first_name":"","last_name":"","email":"bob@EXAMPLE.com","is_active":false,"groups":[1]}},` + "\n" +
				`{"model":"auth.user","pk":3,"fields":{"password":"` + h + `","username":"noaddress","email":""}},` + "\n" +
				`{"model":"auth.user","pk":4,"fields":{"password":"` + h + `","username":"spa ce","email":"space@example.com"}},` + "\n" +
				`{"model":"auth.user","pk":5,"fields":{"password":"` + h + `","email":"a@example.com","email":"b@example.com"}},` + "\n" +
				`{"model":"auth.user","pk":6,"fields":{"password":"` + h + `","username":"late","email":"late@example.com","date_joined":"2999-01-01T00:00:00Z"}},` + "\n" +
				`{"model":"auth.user","pk":7,"fields":{"password":"md5$seasalt$3f86d0d3d465b7b458c231bf3555c0e3","username":"md","email":"md@example.com"}}]`,
			Options{},
			[]string{"ada@example.com name=ada full=Ada Lovelace since=2012-01-02T03:04:05", "bob@EXAMPLE.com disabled hash="},
			[]string{"1 other_records", "1 not_taken_over", "1 superuser", "2 not_taken_over", "3 invalid_email", "4 invalid_username", "5 duplicate_member", "6 invalid_time", "7 hash_refused"},
		},
		{
			"Django's table as CSV", Django,
			"id,password,last_login,is_superuser,username,first_name,last_name,email,is_staff,is_active,date_joined\n" +
				"1," + h + ",2020-01-01 00:00:00+00,f,ada,\"A, \"\"B\"\"\",L,ada@example.com,f,t,2012-01-02 03:04:05.678+00\n",
			Options{},
			[]string{`ada@example.com name=ada full=A, "B" L since=2012-01-02T03:04:05`},
			[]string{"2 not_taken_over", "2 not_taken_over"},
		},
		{
			"another model of Django", Django,
			`{"model":"auth.user","pk":1,"fields":{"email":"no@example.com"}}` + "\n" + `{"model":"shop.person","pk":1,"fields":{"email":"ada@example.com","password":"` + h + `"}}`,
			Options{Model: "shop.person"},
			[]string{"ada@example.com"},
			[]string{"1 other_records"},
		},
		{
			"Auth0's exports", Auth0,
			`{"_id":{"$oid":"60425dc43519d90068f82973"},"email_verified":false,"email":"ada@example.com","passwordHash":"` + h + `","password_set_date":{"$date":"2021-03-05T16:35:16.775Z"},"tenant":"t","connection":"c","_tmp_is_unique":true}` + "\r\n" +
				`{"user_id":"auth0|1","email":"bob@example.com","email_verified":true,"name":"bob@example.com","blocked":true,"user_metadata":{"a":1}}` + "\n" +
				"\n{]\n" +
				`{"email":"x` + strings.Repeat("x", MaxRecord) + `"}` + "\n" +
				`{"email":"eve@example.com","custom_password_hash":{"algorithm":"md5","hash":{"value":"abc"}}}` + "\n" +
				`{"email":"pb@example.com","given_name":"P","family_name":"B","custom_password_hash":{"algorithm":"pbkdf2","hash":{"value":"$pbkdf2-sha256$i=100000,l=32$c2FsdHNhbHRzYWx0$Y2FsY3VsYXRlZC1ieS1ub2JvZHktYXQtYWxsLTAwMTI","encoding":"utf8"}}}` + "\n" +
				`{"email":"sc@example.com","custom_password_hash":{"algorithm":"scrypt","hash":{"value":"Y2FsY3VsYXRlZC1ieS1ub2JvZHk=","encoding":"base64","cost":16384,"blockSize":8,"parallelization":1,"keylen":20},"salt":{"value":"c2FsdHNhbHRzYWx0","encoding":"base64"}}}`,
			Options{},
			[]string{
				"ada@example.com", "bob@example.com verified disabled hash=",
				"pb@example.com full=P B hash=$pbkdf2-sha256$i=100000$c2FsdHNhbHRzYWx0$Y2FsY3VsYXRlZC1ieS1ub2JvZHktYXQtYWxsLTAwMTI",
				"sc@example.com hash=$scrypt$ln=14,r=8,p=1$c2FsdHNhbHRzYWx0$Y2FsY3VsYXRlZC1ieS1ub2JvZHk",
			},
			[]string{"2 not_taken_over", "4 malformed", "5 too_long", "6 hash_refused"},
		},
		{
			"a realm of Keycloak", Keycloak,
			keycloak(`{"id":"1","username":"ada","email":"ada@example.com","emailVerified":true,"firstName":"Ada","lastName":"L","enabled":true,"createdTimestamp":1325473445678,"credentials":[` + credential + `,{"type":"otp"}]},` + "\n" +
				`{"username":"bob","email":"bob@example.com","enabled":false},` + "\n" +
				`{"username":"nil","email":"nil@example.com","enabled":null},` + "\n" +
				`{"username":"unsaid","email":"unsaid@example.com"},` + "\n" +
				`{"username":"service-account-x","email":"s@example.com","serviceAccountClientId":"x"},` + "\n" +
				`{"username":"eve","email":"eve@example.com","credentials":[{"type":"password","secretData":"{}","credentialData":"{}"}]},` + "\n" +
				`{"username":"two","email":"two@example.com","credentials":[` + credential + `,` + credential + `]}`),
			Options{},
			[]string{
				"ada@example.com name=ada full=Ada L verified hash=$pbkdf2-sha256$i=27500$5p4VYBVpTdIUZgbYt0M0Ew$dnqdAgb7PvDnmXbP4RnNDvgvCyBqI1/0Cqqx0DPSRqc since=2012-01-02T03:04:05",
				"bob@example.com name=bob disabled hash=",
				"nil@example.com name=nil disabled hash=",
				"unsaid@example.com name=unsaid disabled hash=",
			},
			[]string{"1 not_taken_over", "5 not_a_person", "6 hash_refused", "7 hash_refused"},
		},
		{
			"our own form", NDJSON,
			own(`,"username":"ada","full_name":"Ada","email_verified":true,"disabled":true,"roles":["moderator","user"],"permissions":["read:audit"],"password_hash":"` + h + `","created_at":"2012-01-02T03:04:05Z","external_id":{"a":[1]}`),
			Options{},
			[]string{"ada@example.com name=ada full=Ada verified disabled roles=moderator,user may=read:audit since=2012-01-02T03:04:05"},
			nil,
		},
		{"a clock that is an hour ahead", NDJSON, own(`,"created_at":"` + time.Now().Add(time.Hour).Format(time.RFC3339) + `"`), Options{}, []string{"ada@example.com hash="}, nil},
		{"a time before 1970", NDJSON, own(`,"created_at":"1969-12-31T00:00:00Z"`), Options{}, nil, []string{"1 invalid_time"}},
		{"a time that is none", NDJSON, own(`,"created_at":"yesterday"`), Options{}, nil, []string{"1 invalid_time"}},
		{"a member that our form does not have", NDJSON, own(`,"passwordhash":"` + h + `"`), Options{}, nil, []string{"1 unknown_member"}},
		{"a role that is not here", NDJSON, own(`,"roles":["editor"]`), Options{}, nil, []string{"1 unknown_role"}},
		{"a permission that is not here", NDJSON, own(`,"permissions":["read:nothing"]`), Options{}, nil, []string{"1 unknown_permission"}},
		{"an administrator unasked", NDJSON, own(`,"roles":["admin"]`), Options{}, nil, []string{"1 administrator"}},
		{"an administrator asked for", NDJSON, own(`,"roles":["admin"]`), Options{Admins: true}, []string{"ada@example.com roles=admin hash="}, nil},
		{"no roles at all", NDJSON, own(`,"roles":[]`), Options{}, []string{"ada@example.com roles= hash="}, nil},
		{"roles of another type", NDJSON, own(`,"roles":"admin"`), Options{Admins: true}, nil, []string{"1 wrong_type"}},
		{"an address of another type", NDJSON, `{"email":["ada@example.com"]}`, Options{}, nil, []string{"1 wrong_type"}},
		{"a member twice, escaped", NDJSON, own(`,"\u0065mail":"eve@example.com"`), Options{}, nil, []string{"1 duplicate_member"}},
		{"not UTF-8", NDJSON, own(`,"full_name":"` + "\xff" + `"`), Options{}, nil, []string{"1 malformed"}},
		{"a line feed in a name", NDJSON, own(`,"full_name":"a\nb"`), Options{}, nil, []string{"1 invalid_text"}},
		{"one user name twice", NDJSON, own(`,"username":"x"`) + `{"email":"b@example.com","username":"X"}`, Options{}, []string{"ada@example.com name=x hash="}, []string{"2 twice_in_file"}},
		{"a user name that is somebody's here", NDJSON, own(`,"username":"ROOT"`), Options{}, nil, []string{"1 account_exists"}},
	}
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		makeRoot(t, d)
		before := accounts(t, d)
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				tt.opts.Source, tt.opts.File = tt.source, write(t, tt.text)
				rehearsed, notes, err := collect(t, db.DryRun(t.Context()), d, tt.opts)
				if err != nil || !slices.Equal(notes, tt.notes) {
					t.Errorf("dry run: %v, notes\n\t%q, want\n\t%q", err, notes, tt.notes)
				}
				if got := accounts(t, d); !slices.Equal(got, before) {
					t.Fatalf("a dry run made accounts: %q", got)
				}
				if list, err := (&Service{DB: d}).List(t.Context()); err != nil || slices.ContainsFunc(list, func(m Import) bool { return m.State != Undone }) {
					t.Fatalf("a dry run left an import: %v, %v", list, err)
				}
				m, notes, err := collect(t, t.Context(), d, tt.opts)
				if err != nil || !slices.Equal(notes, tt.notes) {
					t.Errorf("%v, notes\n\t%q, want\n\t%q", err, notes, tt.notes)
				}
				want := slices.Sorted(slices.Values(append(slices.Clone(before), tt.want...)))
				if got := accounts(t, d); !slices.Equal(got, want) {
					t.Errorf("accounts\n\t%s, want\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
				}
				if m.Counts != rehearsed.Counts || m.State != Done || m.Imported != int64(len(tt.want)) {
					t.Errorf("imported %+v, in the dry run %+v", m.Counts, rehearsed.Counts)
				}
				u, err := (&Service{DB: d, Batch: 2}).Undo(t.Context(), m, func(k Kept) error { t.Errorf("kept %v", k); return nil }, nil)
				if err != nil || u.Deleted != m.Imported {
					t.Errorf("undo: %+v, %v", u, err)
				}
				if got := accounts(t, d); !slices.Equal(got, before) {
					t.Errorf("after the undo: %q", got)
				}
			})
		}
	})
}

func makeRoot(t testing.TB, d *db.DB) {
	t.Helper()
	o := Options{Source: NDJSON, Admins: true, File: write(t, `{"email":"root@example.com","username":"root","roles":["admin"],"password_hash":"`+bcryptHash+`"}`)}
	m, _, err := collect(t, t.Context(), d, o)
	if err != nil || m.Imported != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	// As if it had always been there.
	if err := d.Write(t.Context(), func(tx *db.Tx) error { _, err := tx.Exec("DELETE FROM sp_imports"); return err }); err != nil {
		t.Fatal(err)
	}
}

// What is no file of its source stops before anything is written.
func TestFilesThatCannotBeRead(t *testing.T) {
	d := testkit.SQLite(t)
	for _, tt := range []struct {
		source     Source
		text, want string
	}{
		{NDJSON, "", "the file is empty"},
		{NDJSON, " \n\t\r\n", "the file is empty"},
		{NDJSON, "email,password_hash\n", "begins with neither [ nor {"},
		{FastAPIUsers, "\x1f\x8b\x08", "it is compressed"},
		{FastAPIUsers, "\xff\xfei\x00d\x00", "it is UTF-16"},
		{FastAPIUsers, "SQLite format 3\x00aaaaaaaaaa", "it is a SQLite database"},
		{FastAPIUsers, "PGDMP\x01", "it is a dump of pg_dump"},
		{FastAPIUsers, "id,email,hash\n", "no column hashed_password"},
		{FastAPIUsers, "id;email;hashed_password\n", "no column email"},
		{FastAPIUsers, "email,email,hashed_password\n", "two columns have the same name"},
		{FastAPIUsers, "email,\"hashed\n", "never closed"},
		{Keycloak, "[]", "a realm's export begins with {"},
	} {
		before := rows(t, d)
		_, _, err := collect(t, t.Context(), d, Options{Source: tt.source, File: write(t, tt.text)})
		if e, ok := errors.AsType[*FileError](err); !ok || !strings.Contains(e.Error(), tt.want) {
			t.Errorf("%s %q: %v, want %q", tt.source, tt.text, err, tt.want)
		}
		if after := rows(t, d); after != before {
			t.Errorf("%s %q: something was written", tt.source, tt.text)
		}
	}
	for _, path := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing"), os.DevNull} {
		if _, _, err := collect(t, t.Context(), d, Options{Source: NDJSON, File: path}); err == nil {
			t.Errorf("%s was read", path)
		}
	}
	if _, _, err := collect(t, t.Context(), d, Options{Source: "other", File: write(t, "{}")}); err == nil {
		t.Error("a source that is none was taken")
	}
}

// What goes wrong further on keeps what came before.
func TestFilesThatBreakOff(t *testing.T) {
	for i, tt := range []struct {
		source     Source
		text, want string
		imported   int64
	}{
		{NDJSON, `[{"email":"a@example.com"},{"email":"b@example.com"`, "ends in the middle of this object", 1},
		{NDJSON, `[{"email":"a@example.com"}`, "ends in the middle of a list", 1},
		{NDJSON, `[{"email":"a@example.com"} {"email":"b@example.com"}]`, "without a comma", 1},
		{NDJSON, `[{"email":"a@example.com"},]`, "no element after it", 1},
		{NDJSON, `[{"email":"a@example.com"},1]`, "not an object", 1},
		{NDJSON, `[{"email":"a@example.com"}] x`, "something follows", 1},
		{Keycloak, `{"a":1}`, "no list “users”", 0},
		{Keycloak, `{"users":[{"email":"a@example.com"}],"users":[]}`, "there twice", 1},
		{Keycloak, `{"users":{}}`, "not a list", 0},
		{Keycloak, `{"users":[{"email":"a@example.com"}]`, "ends in the middle", 1},
		{FastAPIUsers, "email,hashed_password\na@example.com,\n\"b@example.com,", "line 3: a quote that is opened here is never closed", 1},
	} {
		d := testkit.SQLite(t)
		m, _, err := collect(t, t.Context(), d, Options{Source: tt.source, File: write(t, tt.text)})
		if e, ok := errors.AsType[*FileError](err); !ok || !strings.Contains(e.Error(), tt.want) {
			t.Errorf("%d: %v, want %q", i, err, tt.want)
		}
		if m.Imported != tt.imported || len(accounts(t, d)) != int(tt.imported) || m.State != Running {
			t.Errorf("%d: %+v with %d accounts", i, m, len(accounts(t, d)))
		}
	}
}

func rows(t testing.TB, d *db.DB) (n int) {
	t.Helper()
	if _, err := d.View(t.Context()).Row("SELECT (SELECT COUNT(*) FROM sp_accounts) + (SELECT COUNT(*) FROM sp_imports) + (SELECT COUNT(*) FROM sp_audit) + (SELECT COUNT(*) FROM sp_subjects)", nil, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// people returns n lines of our own form; some are wrong, and some are twice
// there.
func people(n int) string {
	var b strings.Builder
	for i := range n {
		switch {
		case i%7 == 3:
			b.WriteString("{\"email\":\"nobody\"}\n")
		case i%11 == 5:
			fmt.Fprintf(&b, "{\"email\":\"p%d@example.com\"}\n", i-1)
		default:
			fmt.Fprintf(&b, "{\"email\":\"p%d@example.com\",\"password_hash\":%q}\n", i, bcryptHash)
		}
	}
	return b.String()
}

// An import that is stopped after any batch and gone on with makes what one does
// that is not.
func TestResume(t *testing.T) {
	const n = 40
	whole := testkit.SQLite(t)
	want, notes, err := collect(t, t.Context(), whole, Options{Source: NDJSON, File: write(t, people(n))})
	if err != nil || want.Imported < 20 || want.Refused < 5 {
		t.Fatalf("%+v, %v", want, err)
	}
	wantAccounts := accounts(t, whole)
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		file := write(t, people(n))
		s := &Service{DB: d, Batch: 3}
		var got []string
		stops := 0
		run := func(begin func(context.Context, Watch) (Import, error)) (Import, error) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			batches := 0
			return begin(ctx, Watch{
				Note: func(n Note) error { got = append(got, fmt.Sprintf("%d %s", n.Line, n.Kind)); return nil },
				Progress: func(Progress) {
					if batches++; batches > stops%3 {
						cancel()
					}
				},
			})
		}
		m, err := run(func(ctx context.Context, w Watch) (Import, error) {
			return s.Import(ctx, Options{Source: NDJSON, File: file}, w)
		})
		for errors.Is(err, context.Canceled) {
			if stops++; stops > n {
				t.Fatal("it never ends")
			}
			m, err = run(func(ctx context.Context, w Watch) (Import, error) { return s.Resume(ctx, "", w) })
		}
		if err != nil || stops < 4 || m.State != Done {
			t.Fatalf("%+v after %d stops: %v", m, stops, err)
		}
		if m.Counts != want.Counts || !slices.Equal(got, notes) || !slices.Equal(accounts(t, d), wantAccounts) {
			t.Errorf("%+v, want %+v; notes %q, want %q", m.Counts, want.Counts, got, notes)
		}
		if _, err := s.Resume(t.Context(), m.ID, Watch{}); status(err) != http.StatusNotFound {
			t.Errorf("a finished import was gone on with: %v", err)
		}
	})
}

func status(err error) int {
	if e, ok := errors.AsType[*sallyport.Error](err); ok {
		return e.Status
	}
	return 0
}

// stopped begins an import and stops it after its first batch.
func stopped(t *testing.T, s *Service, file string) Import {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	m, err := s.Import(ctx, Options{Source: NDJSON, File: file}, Watch{Progress: func(Progress) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	return m
}

func TestResumeRefusesAnotherFile(t *testing.T) {
	for name, change := range map[string]func(string) string{
		"longer":         func(s string) string { return s + "\n" },
		"shorter":        func(s string) string { return s[:len(s)-1] },
		"changed before": func(s string) string { return strings.Replace(s, "p0@", "q0@", 1) },
		"the same":       nil,
	} {
		d := testkit.SQLite(t)
		s := &Service{DB: d, Batch: 3}
		file := write(t, people(20))
		m := stopped(t, s, file)
		if change == nil { // the positive control: the same file goes on
			if m, err := s.Resume(t.Context(), m.ID, Watch{}); err != nil || m.State != Done {
				t.Errorf("the same file: %v", err)
			}
			continue
		}
		if err := os.WriteFile(file, []byte(change(people(20))), 0o600); err != nil {
			t.Fatal(err)
		}
		before := rows(t, d)
		if _, err := s.Resume(t.Context(), m.ID, Watch{}); status(err) != http.StatusConflict {
			t.Errorf("%s: %v", name, err)
		}
		if rows(t, d) != before {
			t.Errorf("%s: something was written", name)
		}
	}
}

// Of two that go on with one import, one stops without having written.
func TestResumeTwiceAtOnce(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		s := &Service{DB: d, Batch: 3}
		m := stopped(t, s, write(t, people(20)))
		_, err := s.Resume(t.Context(), m.ID, Watch{Began: func(Import) {
			if m, err := s.Resume(t.Context(), m.ID, Watch{}); err != nil || m.State != Done {
				t.Errorf("the first: %v", err)
			}
		}})
		if status(err) != http.StatusConflict {
			t.Errorf("the second: %v", err)
		}
		if len(accounts(t, d)) != 15 {
			t.Errorf("%d accounts", len(accounts(t, d)))
		}
	})
}

// A transaction's function keeps nothing from an earlier run.
func TestImportRunsAgain(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		d.Rerun()
		m, _, err := collect(t, t.Context(), d, Options{Source: NDJSON, File: write(t, people(20))})
		if err != nil || m.Imported != 15 || m.Refused != 5 || len(accounts(t, d)) != 15 {
			t.Fatalf("%+v, %v", m, err)
		}
		u, err := (&Service{DB: d, Batch: 3}).Undo(t.Context(), m, func(Kept) error { return nil }, nil)
		if err != nil || u.Deleted != 15 || len(accounts(t, d)) != 0 {
			t.Errorf("%+v, %v", u, err)
		}
	})
}

// Undo leaves alone whom somebody has used.
func TestUndoKeepsWhatWasUsed(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		makeRoot(t, d)
		s := &Service{DB: d, Batch: 2}
		uses := []struct {
			name, why string
			use       func(tx *db.Tx, id string) error
		}{
			{"nobody", "", func(*db.Tx, string) error { return nil }},
			{"attacked", "", func(tx *db.Tx, id string) error {
				return audit.Append(t.Context(), tx, audit.Event{Action: audit.SignInRefused, Result: audit.Failure, Actor: id, Target: id})
			}},
			{"signed", "signed in", func(tx *db.Tx, id string) error { return account.TouchLogin(tx, id, time.Now()) }},
			{"basic", "signed in", func(tx *db.Tx, id string) error {
				return audit.Append(t.Context(), tx, audit.Event{Action: "password.accepted", Target: id, Actor: id})
			}},
			{"granted", "changed", func(tx *db.Tx, id string) error {
				return role.Grant(t.Context(), tx, role.Operator(), id, role.Moderator)
			}},
			{"disabled", "changed", func(tx *db.Tx, id string) error { return role.SetDisabled(tx, id, true) }},
			{"password", "changed", func(tx *db.Tx, id string) error {
				_, err := account.ReplaceHash(tx, id, bcryptHash, "", time.Now())
				return err
			}},
			{"renamed", "changed", func(tx *db.Tx, id string) error {
				return audit.Append(t.Context(), tx, audit.Event{Action: "account.changed", Target: id})
			}},
		}
		var file strings.Builder
		for _, u := range uses {
			fmt.Fprintf(&file, "{\"email\":\"%s@example.com\",\"password_hash\":%q}\n", u.name, bcryptHash)
		}
		m, err := s.Import(t.Context(), Options{Source: NDJSON, File: write(t, file.String())}, Watch{})
		if err != nil || m.Imported != int64(len(uses)) {
			t.Fatalf("%+v, %v", m, err)
		}
		want := map[string]string{}
		for i, u := range uses {
			id := accountID(m.ID, int64(i+1))
			if err := d.Write(t.Context(), func(tx *db.Tx) error { return u.use(tx, id) }); err != nil {
				t.Fatal(err)
			}
			if u.why != "" {
				want[id] = u.why
			}
		}
		got := map[string]string{}
		kept := func(k Kept) error { got[k.ID] = k.Reason; return nil }
		before := rows(t, d)
		if _, err := s.Undo(db.DryRun(t.Context()), m, kept, nil); err != nil || rows(t, d) != before {
			t.Errorf("a dry run wrote, or failed: %v", err)
		}
		clear(got)
		u, err := s.Undo(t.Context(), m, kept, nil)
		if err != nil || u.Deleted != 2 || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%+v, %v: kept %v, want %v", u, err, got, want)
		}
		if n := len(accounts(t, d)); n != 1+len(want) {
			t.Errorf("%d accounts are left, want root and %d", n, len(want))
		}
		if _, err := s.Find(t.Context(), m.ID); status(err) != http.StatusNotFound {
			t.Errorf("an import was found to undo that is undone: %v", err)
		}
	})
}

// The last administrator stays, though an import brought them.
func TestUndoKeepsTheLastAdministrator(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		s := &Service{DB: d}
		m, err := s.Import(t.Context(), Options{Source: NDJSON, Admins: true, File: write(t, `{"email":"a@example.com","roles":["admin"]}`+"\n"+`{"email":"b@example.com","roles":["admin"]}`)}, Watch{})
		if err != nil || m.Administrators != 2 {
			t.Fatalf("%+v, %v", m, err)
		}
		var kept []Kept
		u, err := s.Undo(t.Context(), m, func(k Kept) error { kept = append(kept, k); return nil }, nil)
		if err != nil || u.Deleted != 1 || len(kept) != 1 || kept[0].Reason != "the last administrator" {
			t.Errorf("%+v, %v, kept %v", u, err, kept)
		}
	})
}

// Every hash of Django's and passlib's own tests is imported exactly if its
// password can be verified here.
func TestVectors(t *testing.T) {
	type pair struct{ password, hash string }
	var pairs []pair
	var django struct {
		Cases []struct{ Password, Encoded string }
	}
	read(t, "passwords/django_hashes.json", &django)
	for _, c := range django.Cases {
		pairs = append(pairs, pair{c.Password, c.Encoded})
	}
	var passlib struct {
		Files map[string]map[string]struct {
			Known json.RawMessage `json:"known_correct_hashes"`
		}
	}
	read(t, "passwords/passlib_known_hashes.json", &passlib)
	for _, classes := range passlib.Files {
		for _, class := range classes {
			var known []json.RawMessage
			_ = json.Unmarshal(class.Known, &known) // some are an expression
			for _, raw := range known {
				var k []json.RawMessage
				var p pair
				if json.Unmarshal(raw, &k) == nil && len(k) == 2 && json.Unmarshal(k[0], &p.password) == nil && json.Unmarshal(k[1], &p.hash) == nil && p.hash != "" && !strings.HasPrefix(p.password, "<") { // an expression of the tests
					pairs = append(pairs, p)
				}
			}
		}
	}
	var file strings.Builder
	for i, p := range pairs {
		line, err := json.Marshal(map[string]string{"email": fmt.Sprintf("v%d@example.com", i), "password_hash": p.hash})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&file, "%s\n", line)
	}
	d := testkit.SQLite(t)
	m, _, err := collect(t, t.Context(), d, Options{Source: NDJSON, File: write(t, file.String())})
	if err != nil || m.Records != int64(len(pairs)) {
		t.Fatalf("%+v, %v", m, err)
	}
	h, err := password.New(password.Config{})
	if err != nil {
		t.Fatal(err)
	}
	imported, verified := 0, 0
	for i, p := range pairs {
		l, found, err := account.FindLogin(d.View(t.Context()), fmt.Sprintf("v%d@example.com", i))
		if err != nil {
			t.Fatal(err)
		}
		info, identified := password.Identify(p.hash)
		if unusable := errors.Is(identified, password.ErrUnusable); found != (identified == nil || unusable) {
			t.Errorf("%s: imported: %v, but it is %v", p.hash, found, identified)
		}
		if !found || l.Hash == "" {
			continue
		}
		imported++
		if l.Hash != p.hash {
			t.Errorf("%s became %s", p.hash, l.Hash)
		}
		// Plain bcrypt refuses what it would cut; that is the password package's.
		if info.Memory > 65536 || info.Format == "bcrypt" && (len(p.password) > 72 || strings.Contains(p.password, "\x00")) {
			continue
		}
		res, err := h.Verify(t.Context(), l.Hash, p.password)
		if err != nil || !res.OK {
			t.Errorf("%s does not verify its password: %v", p.hash, err)
		}
		verified++
	}
	if imported < 30 || verified < 30 || m.Refused < 30 {
		t.Errorf("only %d of %d were imported, %d verified, %d refused", imported, len(pairs), verified, m.Refused)
	}
}

func read(t *testing.T, name string, into any) {
	t.Helper()
	b, err := os.ReadFile(testkit.Vectors(t, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

// An import that was stopped can be undone, and an import that is undone while it
// runs stops and adds nobody behind the undo.
func TestUndoEndsAnImport(t *testing.T) {
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		s := &Service{DB: d, Batch: 3}
		m := stopped(t, s, write(t, people(20)))
		if n := len(accounts(t, d)); n == 0 {
			t.Fatal("nothing was imported before the stop")
		}
		none := func(k Kept) error { t.Errorf("kept %v", k); return nil }
		if u, err := s.Undo(t.Context(), m, none, nil); err != nil || u.Deleted == 0 || len(accounts(t, d)) != 0 {
			t.Errorf("%+v, %v", u, err)
		}
		if _, err := s.Resume(t.Context(), m.ID, Watch{}); status(err) != http.StatusNotFound {
			t.Errorf("an undone import was gone on with: %v", err)
		}

		undone := false
		_, err := s.Import(t.Context(), Options{Source: NDJSON, File: write(t, people(20))}, Watch{Progress: func(p Progress) {
			if undone {
				t.Error("it went on after the undo")
				return
			}
			undone = true
			m, err := s.Find(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Undo(t.Context(), m, none, nil); err != nil {
				t.Error(err)
			}
		}})
		if status(err) != http.StatusConflict || len(accounts(t, d)) != 0 {
			t.Errorf("%v, %d accounts are left", err, len(accounts(t, d)))
		}
	})
}
