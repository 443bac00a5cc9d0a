package taskstore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// MaxLosses is the number of lost workers after which a task fails (compatibility.md#lost-workers).
const MaxLosses = 3

// Reclaimed counts the tasks of lost workers by their new state.
type Reclaimed struct {
	Waiting int // to be claimed again
	Failed  int // after MaxLosses
	Ended   int // canceled, because they were canceling
}

// ReclaimTasks ends the claims on tasks whose lease has ended; they can be claimed again until MaxLosses. With everyone it ends all
// claims; a process does that when it has become the only owner of the database.
func (s *Store) ReclaimTasks(ctx context.Context, everyone bool) (Reclaimed, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (Reclaimed, error) {
		var r Reclaimed
		lost, err := sqldb.Collect(t.Ctx, t, sqldb.ScanString,
			`SELECT id FROM task WHERE lease_until IS NOT NULL AND (lease_until < $1 OR $2) ORDER BY seq`+t.Dialect.ForUpdateFree, t.Now, everyone)
		if err != nil {
			return r, err
		}
		for _, id := range lost {
			if err := reclaim(t, id, &r); err != nil {
				return r, err
			}
		}
		return r, nil
	})
}

// reclaim ends the claim on a task and counts it in r.
func reclaim(t *sqldb.Tx, id string, r *Reclaimed) error {
	var state TaskState
	var losses int64
	var reserved string
	err := t.Row(`UPDATE task SET losses = losses + 1, lease_until = NULL WHERE id = $1 RETURNING state, losses, `+reservations, id).Scan(&state, &losses, &reserved)
	if err != nil {
		return err
	}
	end := func(state TaskState, failure any) error {
		_, err := t.Exec(`UPDATE task SET state = $2, error = $3, finished = $4, updated = $4, args = '{}' WHERE id = $1`, id, state, failure, t.Now)
		if err == nil {
			err = announce(t, id)
		}
		if err != nil {
			return err
		}
		_, err = release(t, id, strings.Fields(reserved))
		return err
	}
	switch {
	case state == TaskCanceling:
		r.Ended++
		return end(TaskCanceled, nil)
	case losses >= MaxLosses:
		r.Failed++
		return end(TaskFailed, sqldb.ToJSON(TaskError{Description: fmt.Sprintf("The task lost its worker %d times.", losses)}))
	}
	r.Waiting++
	_, err = t.Exec(`UPDATE task SET state = 'waiting', updated = $2 WHERE id = $1`, id, t.Now)
	return err
}

// ReturnTask ends the claim on a running task, which can be claimed again after a wait: its worker is being stopped, or a system
// that the task needs does not answer. It does not count as a lost worker.
func (s *Store) ReturnTask(ctx context.Context, c *Claim, after time.Duration) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		n, err := t.Exec(`
			UPDATE task SET state = 'waiting', lease_until = NULL, updated = $3, unblocked = CASE WHEN $5 THEN CAST($4 AS BIGINT) ELSE unblocked END
			 WHERE id = $1 AND attempt = $2 AND state = 'running'`, c.TaskID, c.Attempt, t.Now, t.Now+after.Microseconds(), after > 0)
		return fenced(n, err)
	})
}

// DeleteTask deletes a task that has ended. The error is NotFound if there is none and Conflict if it has not ended.
func (s *Store) DeleteTask(ctx context.Context, id string) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		k, err := task(t.Ctx, t, id)
		if err != nil {
			return err
		}
		if !k.State.Final() {
			return fault.New(fault.Conflict, "The task has not ended.")
		}
		_, err = t.Exec(`DELETE FROM task WHERE id = $1`, id)
		return err
	})
}

// PurgeTasks deletes at most limit tasks that ended before a time in one of these states, and returns their number.
func (s *Store) PurgeTasks(ctx context.Context, before time.Time, states []TaskState, limit int) (int64, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (n int64, err error) {
		for _, state := range states {
			removed, err := t.Exec(`
				DELETE FROM task WHERE id IN (
					SELECT id FROM task WHERE finished IS NOT NULL AND finished < $1 AND state = $2 ORDER BY finished LIMIT $3)`,
				sqldb.Micros(before), state, int64(limit)-n)
			if err != nil {
				return 0, err
			}
			n += removed
		}
		return n, nil
	})
}
