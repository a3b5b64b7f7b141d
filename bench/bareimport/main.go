// Command bareimport is what imports are measured against. With --make it prints
// rows as fastapi-users has them. Otherwise it reads them and inserts them into
// an empty table that is like the one of accounts, indexes included, with one
// prepared statement and transactions of 500: no checks, no roles, no going on
// after a crash. It prints rows per second and processor microseconds per row.
package main

import (
	"bufio"
	"database/sql"
	"encoding/csv"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"syscall"
	"time"

	_ "github.com/sallyport/sallyport/store/sqlite" // the driver "sqlite"
)

func main() {
	n := flag.Int("make", 0, "how many rows to print")
	flag.Parse()
	if *n > 0 {
		w := bufio.NewWriter(os.Stdout)
		fmt.Fprintln(w, "id,email,hashed_password,is_active,is_superuser,is_verified")
		for i := range *n {
			fmt.Fprintf(w, "%08x-0000-4000-8000-%012x,user%d@mail%d.example.com,$2b$12$%021dO%031d,t,f,t\n", i, i, i, i%977, 0, i)
		}
		if err := w.Flush(); err != nil {
			log.Fatal(err)
		}
		return
	}
	if flag.NArg() != 2 {
		log.Fatal("usage: bareimport [--make N] DATABASE CSV")
	}
	if err := insert(flag.Arg(0), flag.Arg(1)); err != nil {
		log.Fatal(err)
	}
}

func insert(database, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	d, err := sql.Open("sqlite", "file:"+database+"?_pragma=journal_mode(wal)&_pragma=synchronous(full)&_txlock=immediate")
	if err != nil {
		return err
	}
	defer d.Close()
	d.SetMaxOpenConns(1)
	for _, q := range []string{
		`CREATE TABLE accounts (id TEXT PRIMARY KEY, username TEXT, username_key TEXT UNIQUE, email TEXT NOT NULL, email_key TEXT NOT NULL UNIQUE,
			email_verified BOOLEAN NOT NULL, full_name TEXT, password_hash TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, last_login_at BIGINT)`,
		`CREATE INDEX accounts_by_creation ON accounts (created_at, id)`,
	} {
		if _, err := d.Exec(q); err != nil {
			return err
		}
	}
	stmt, err := d.Prepare(`INSERT INTO accounts VALUES ($1, NULL, NULL, $2, $3, $4, NULL, $5, $6, $6, NULL)`)
	if err != nil {
		return err
	}
	r := csv.NewReader(bufio.NewReaderSize(f, 64<<10))
	r.ReuseRecord = true
	if _, err := r.Read(); err != nil {
		return err
	}
	cpu, began, rows := processorTime(), time.Now(), 0
	for end := false; !end; {
		tx, err := d.Begin()
		if err != nil {
			return err
		}
		in := tx.Stmt(stmt)
		for range 500 {
			row, err := r.Read()
			if err == io.EOF {
				end = true
				break
			}
			if err != nil {
				return err
			}
			if _, err := in.Exec(row[0], row[1], strings.ToLower(row[1]), row[5] == "t", row[2], began.UnixMicro()); err != nil {
				return err
			}
			rows++
		}
		if err := tx.Commit(); err != nil {
			return err
		}
	}
	fmt.Printf("%.0f %.2f\n", float64(rows)/time.Since(began).Seconds(), float64((processorTime()-cpu).Nanoseconds())/1000/float64(rows))
	return nil
}

// processorTime is what this process has used, in user and system mode.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		log.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
