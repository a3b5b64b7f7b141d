package server_test

import (
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/testkit"
	"github.com/sallyport/sallyport/mail"
	"github.com/sallyport/sallyport/server"
)

// TestF_ACommandLeavesLettersToTheServer: what only queues claims nothing, so that
// no letter is stranded when it ends; and another server of the database sends it.
func TestF_ACommandLeavesLettersToTheServer(t *testing.T) {
	t.Parallel()
	testkit.EachDB(t, func(t *testing.T, d *db.DB) {
		var none, box mailbox
		command := newWorld(t, d, nil, withMail(&none), func(c *server.Config) { c.QueueOnly = true })
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			return command.sv.Mail.Queue(t.Context(), tx, mail.Letter{Kind: mail.Reset, To: "ada@example.com", Facts: mail.Facts{Token: "rs_queued"}, Until: time.Now().Add(time.Minute)})
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond) // more than a server waits
		st, err := command.sv.Mail.Status(t.Context())
		if err != nil || st.Waiting != 1 || !st.Tried.IsZero() || len(none.got) != 0 {
			t.Fatalf("%+v %v, sent %d", st, err, len(none.got))
		}
		command.sv.Close()
		cfg := command.cfg
		cfg.QueueOnly, cfg.Mail = false, &box
		sv, err := server.New(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer sv.Close()
		command.sv = sv
		if token := box.token(command, "ada@example.com", mail.Reset); token != "rs_queued" {
			t.Errorf("token %q", token)
		}
	})
}
