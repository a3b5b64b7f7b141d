package cleanup

import (
	"time"

	"github.com/sallyport/sallyport/internal/db"
)

// turn is whose turn it is to delete, and how far that process has come.
type turn struct {
	holder string
	beat   int64
}

func readTurn(rd db.Reader) (t turn, err error) {
	_, err = rd.Row("SELECT holder, beat FROM sp_cleanup WHERE id = 1", nil, &t.holder, &t.beat)
	return t, err
}

// takeTurn takes the turn from whoever had it and has done nothing since; of any
// number of processes one can.
func takeTurn(tx *db.Tx, from turn, me string) (bool, error) {
	n, err := tx.Exec("UPDATE sp_cleanup SET holder = $3, beat = beat + 1 WHERE id = 1 AND holder = $1 AND beat = $2", from.holder, from.beat, me)
	return n == 1, err
}

// beat undoes the transaction of a process whose turn it is not any more.
func beat(tx *db.Tx, me string) error {
	return stillMine(tx.Exec("UPDATE sp_cleanup SET beat = beat + 1 WHERE id = 1 AND holder = $1", me))
}

func finish(tx *db.Tx, me string, now time.Time) error {
	return stillMine(tx.Exec("UPDATE sp_cleanup SET beat = beat + 1, finished_at = $2 WHERE id = 1 AND holder = $1", me, db.Micros(now)))
}

func stillMine(n int64, err error) error {
	if err == nil && n != 1 {
		err = errLost
	}
	return err
}

func giveTurn(tx *db.Tx, me string) error {
	return tx.Later("UPDATE sp_cleanup SET holder = '', beat = beat + 1 WHERE id = 1 AND holder = $1", me)
}

// readFinished reads when everything was done last.
func readFinished(rd db.Reader) (at time.Time, found bool, err error) {
	var micros int64
	found, err = rd.Row("SELECT finished_at FROM sp_cleanup WHERE id = 1 AND finished_at > 0", nil, &micros)
	return db.Time(micros), found, err
}
