package postgres_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/sallyport/sallyport/server"
	"github.com/sallyport/sallyport/store/postgres"
)

// The database exists, its user may create tables in it, and the password is in no
// message.
func ExampleOpenWith() {
	ctx := context.Background()
	db, err := postgres.OpenWith(ctx, os.Getenv("DATABASE_URL"), postgres.Options{MaxConnections: 8})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	sp, err := server.New(ctx, server.Config{DB: db, BaseURL: "https://id.example.com", MasterKeyFile: "/etc/app/master.key"})
	if err != nil {
		log.Fatal(err)
	}
	defer sp.Close()
}

// What is wrong with a URL is known before anything is connected to.
func ExampleCheckURL() {
	for _, url := range []string{
		"postgres://app:s3cret@db1.example.com,db2.example.com/app?sslmode=verify-full",
		"mysql://app:s3cret@db.example.com/app",
	} {
		err := postgres.CheckURL(url)
		fmt.Println(err == nil, strings.Contains(fmt.Sprint(err), "s3cret"))
	}
	// Output:
	// true false
	// false false
}
