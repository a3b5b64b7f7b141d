package server

import (
	"errors"
	"strconv"
	"time"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn/link"
	"github.com/sallyport/sallyport/authn/totp"
	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/session"
	"github.com/sallyport/sallyport/signin"
)

// LostHistory says what happens when the database has lost changes.
type LostHistory string

// What may happen.
const (
	EndSessions LostHistory = "end_sessions" // what they had ended may be back
	OnlyLog     LostHistory = "log"
)

// settleBehind ends what came back where the database went back, behind the reading
// that has found it. Until that is done, every request that needs the database is
// refused.
func (s *Server) settleBehind(found error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.settling {
		return
	}
	s.settling = true
	s.stopped.Go(func() {
		lost, _ := errors.AsType[*db.WentBack](found) // otherwise another node has found it
		err := s.settleHistory(lost)
		if err != nil && s.background.Err() == nil {
			s.cfg.Log.Error("what the database has brought back could not be ended; requests that need the database are refused until it is, and it is tried again", "error", err)
			time.Sleep(settlePause)
		}
		s.mu.Lock()
		s.settling = false
		s.mu.Unlock()
	})
}

// settlePause keeps a database that fails from being asked, and the log from being
// written, all the time.
const settlePause = time.Second

// settleHistory ends what may be alive again of what was over. lost is nil if that
// is known already.
func (s *Server) settleHistory(lost *db.WentBack) error {
	if lost != nil {
		s.DB.CountWentBack()
		s.cfg.Log.Error("the database has lost changes that were committed: what they had ended or taken may be back. docs/database.md says what to look after",
			"lost", lost.Error(), "then", string(s.onLostHistory()))
		if err := s.DB.WriteBehind(s.background, func(tx *db.Tx) error {
			ours, err := db.Unsettle(tx, lost, s.cfg.Now())
			if err != nil || !ours {
				return err
			}
			e := audit.Event{Action: "database.went_back", Target: lost.Change, Reason: lost.Error(), Detail: map[string]string{"then": string(s.onLostHistory())}}
			if err := audit.Append(s.background, tx, e); err != nil || s.onLostHistory() == EndSessions {
				return err
			}
			_, err = db.Settled(tx)
			return err
		}); err != nil || s.onLostHistory() == OnlyLog {
			return err
		}
	}
	now := s.cfg.Now()
	ended := map[string]string{}
	for _, e := range []struct {
		what string
		end  func(tx *db.Tx) (int64, error)
	}{
		{"sessions", func(tx *db.Tx) (int64, error) {
			return session.EndEvery(tx, "the database went back", now, settleBatch)
		}},
		{"sign-ins under way", func(tx *db.Tx) (int64, error) { return signin.ForgetEvery(tx, settleBatch) }},
		{"links sent by mail", func(tx *db.Tx) (int64, error) { return link.VoidEvery(tx, settleBatch) }},
		{"one-time codes of this minute", func(tx *db.Tx) (int64, error) { return totp.UseEvery(tx, now, settleBatch) }},
	} {
		n, err := inBatches(s.background, s.DB.WriteBehind, func(tx *db.Tx) (int64, error) {
			// Once another node is done, people sign in again.
			if due, err := db.Unsettled(tx); err != nil || !due {
				return 0, err
			}
			return e.end(tx)
		})
		if err != nil {
			return err
		}
		ended[e.what] = strconv.FormatInt(n, 10)
	}
	settled := false
	if err := s.DB.WriteBehind(s.background, func(tx *db.Tx) (err error) {
		if settled, err = db.Settled(tx); err != nil || !settled {
			return err
		}
		return audit.Append(s.background, tx, audit.Event{Action: "database.settled", Detail: ended})
	}); err != nil || !settled {
		return err
	}
	s.cfg.Log.Warn("what the database may have brought back is ended; everybody signs in again", "sessions", ended["sessions"])
	return nil
}

func (s *Server) onLostHistory() LostHistory {
	if s.cfg.OnLostHistory == OnlyLog {
		return OnlyLog
	}
	return EndSessions
}
