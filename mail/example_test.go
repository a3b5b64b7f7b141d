package mail_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/sallyport/sallyport/mail"
)

// A letter is written from a template and handed to whoever delivers it. For
// development that is an inbox.
func Example() {
	at := time.Date(2026, 11, 22, 10, 15, 0, 0, time.UTC)
	writer, err := mail.NewWriter(mail.WriterConfig{
		BaseURL: "https://id.example.com", From: "Example <no-reply@example.com>", Service: "Example",
		Now: func() time.Time { return at },
	})
	if err != nil {
		panic(err)
	}
	message, err := writer.Write("1", mail.Reset, "ada@example.com", mail.Facts{
		Name: "Ada", Token: "rs_token", At: at, Until: at.Add(30 * time.Minute),
	})
	if err != nil {
		panic(err)
	}
	inbox := mail.NewInbox(slog.New(slog.DiscardHandler), nil) // in place of mail.NewSMTP
	if err := inbox.Send(context.Background(), message); err != nil {
		panic(err)
	}
	for _, m := range inbox.All() {
		fmt.Println(m.From, "to", m.To)
		fmt.Println(m.Subject)
		fmt.Println(m.Link)
	}
	// Output:
	// Example <no-reply@example.com> to ada@example.com
	// Choose a new password for Example
	// https://id.example.com/account/reset#token=rs_token
}
