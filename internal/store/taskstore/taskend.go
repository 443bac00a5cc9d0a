package taskstore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// MaxLosses is how often a task may lose its worker before it fails (compatibility.md#lost-workers).
const MaxLosses = 3

// Reclaimed tells what became of tasks whose workers are gone.
type Reclaimed struct {
	Waiting int // are ready again
	Failed  int // lost their worker too often
	Ended   int // were being canceled
}

// ReclaimTasks takes the tasks back whose lease has run out: to be run again, up to MaxLosses times. With everyone it takes
// every running task back, which is right when a process has just become the only owner of the database.
func (s *Store) ReclaimTasks(ctx context.Context, everyone bool) (Reclaimed, error) {
	var r Reclaimed
	err := s.db.InTx(ctx, func(t *sqldb.Tx) error {
		r = Reclaimed{}
		lost, err := sqldb.Collect(t.Ctx, t, sqldb.ScanString,
			`SELECT id FROM task WHERE lease_until IS NOT NULL AND (lease_until < $1 OR $2) ORDER BY seq`+t.Dialect.ForUpdateFree, t.Now, everyone)
		if err != nil {
			return err
		}
		for _, id := range lost {
			if err := reclaim(t, id, &r); err != nil {
				return err
			}
		}
		return nil
	})
	return r, err
}

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

// ReturnTask gives a running task back unfinished, to be claimed again after a while: its worker is being stopped, or what it needs is away. It does not count as a loss.
func (s *Store) ReturnTask(ctx context.Context, c *Claim, after time.Duration) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		n, err := t.Exec(`
			UPDATE task SET state = 'waiting', lease_until = NULL, updated = $3, unblocked = CASE WHEN $5 THEN CAST($4 AS BIGINT) ELSE unblocked END
			 WHERE id = $1 AND attempt = $2 AND state = 'running'`, c.TaskID, c.Attempt, t.Now, t.Now+after.Microseconds(), after > 0)
		return fenced(n, err)
	})
}

// DeleteTask removes a task that has ended. NotFound when there is none, Conflict when it has not ended.
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

// PurgeTasks removes up to limit tasks that ended before a time in one of these states, and returns how many it removed.
func (s *Store) PurgeTasks(ctx context.Context, before time.Time, states []TaskState, limit int) (int64, error) {
	var n int64
	err := s.db.InTx(ctx, func(t *sqldb.Tx) error {
		n = 0
		for _, state := range states {
			removed, err := t.Exec(`
				DELETE FROM task WHERE id IN (
					SELECT id FROM task WHERE finished IS NOT NULL AND finished < $1 AND state = $2 ORDER BY finished LIMIT $3)`,
				sqldb.Micros(before), state, int64(limit)-n)
			if err != nil {
				return err
			}
			n += removed
		}
		return nil
	})
	return n, err
}

// Beat says that a worker lives, making its row when there is none.
func (s *Store) Beat(ctx context.Context, w pulp.Worker) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		_, err := t.Exec(`
			INSERT INTO worker (id, name, versions, services, started, heartbeat) VALUES ($1, $2, $3, $4, $5, $5)
			ON CONFLICT (id) DO UPDATE SET heartbeat = excluded.heartbeat, services = excluded.services`,
			w.ID, w.Name, sqldb.ToJSON(w.Versions), sqldb.ToJSON(append([]string{}, w.Services...)), t.Now)
		return err
	})
}

// RemoveWorker forgets a worker that has stopped, and with everyone all others too. Tasks keep its id.
func (s *Store) RemoveWorker(ctx context.Context, id string, everyone bool) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		_, err := t.Exec(`DELETE FROM worker WHERE id = $1 OR $2`, id, everyone)
		return err
	})
}

// ForgetWorkers forgets the workers that have not shown since a time that they live. Tasks keep their ids.
func (s *Store) ForgetWorkers(ctx context.Context, since time.Time) error {
	return s.db.InStatement(ctx, func(t *sqldb.Tx) error {
		_, err := t.Exec(`DELETE FROM worker WHERE heartbeat < $1`, sqldb.Micros(since))
		return err
	})
}

const WorkerColumns = `w.id, w.name, w.versions, w.services, w.started, w.heartbeat,
	COALESCE((SELECT k.id FROM task k WHERE k.worker_id = w.id AND k.state IN ('running', 'canceling') ORDER BY k.seq LIMIT 1), '')`

func ScanWorker(row sqldb.Scanner) (pulp.Worker, error) {
	var w pulp.Worker
	var versions, services string
	var started, beat int64
	if err := row.Scan(&w.ID, &w.Name, &versions, &services, &started, &beat, &w.TaskID); err != nil {
		return pulp.Worker{}, err
	}
	w.Started, w.Heartbeat = sqldb.FromMicros(started), sqldb.FromMicros(beat)
	if err := sqldb.FromJSON("worker.versions", versions, &w.Versions); err != nil {
		return pulp.Worker{}, err
	}
	return w, sqldb.FromJSON("worker.services", services, &w.Services)
}

// Worker returns the worker with this id. NotFound when there is none.
func (s *Store) Worker(ctx context.Context, id string) (pulp.Worker, error) {
	w, err := ScanWorker(s.db.Read().QueryRowContext(ctx, `SELECT `+WorkerColumns+` FROM worker w WHERE w.id = $1`, id))
	return w, sqldb.NotFound(err, "No AppStatus matches the given query.")
}
