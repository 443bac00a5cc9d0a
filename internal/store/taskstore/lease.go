package taskstore

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// ExtendLease extends the lease of a claimed task. The error is ErrFenced if the claim has ended or the task was canceled.
func (s *Store) ExtendLease(ctx context.Context, c *Claim, lease time.Duration) error {
	return s.db.InStatement(ctx, func(t *sqldb.Tx) error {
		n, err := t.Exec(`UPDATE task SET lease_until = $3 WHERE id = $1 AND attempt = $2 AND state = 'running'`,
			c.TaskID, c.Attempt, t.Now+lease.Microseconds())
		return fenced(n, err)
	})
}

// StillClaimed reports whether the claim is still valid and the task not canceled.
func (s *Store) StillClaimed(ctx context.Context, c *Claim) (mine bool, err error) {
	err = s.db.Read().QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM task WHERE id = $1 AND attempt = $2 AND state = 'running')`, c.TaskID, c.Attempt).Scan(&mine)
	return mine, err
}

// ReportProgress replaces the progress reports of a running task. The error is ErrFenced if the claim has ended.
func (s *Store) ReportProgress(ctx context.Context, c *Claim, reports []Progress) error {
	return s.db.InStatement(ctx, func(t *sqldb.Tx) error {
		n, err := t.Exec(`UPDATE task SET progress = $3, updated = $4 WHERE id = $1 AND attempt = $2 AND state IN ('running', 'canceling')`,
			c.TaskID, c.Attempt, sqldb.ToJSON(reports), t.Now)
		return fenced(n, err)
	})
}

// KeepArgs replaces the arguments of a running task, for its next attempt. The error is ErrFenced if the claim has ended.
func (s *Store) KeepArgs(ctx context.Context, c *Claim, args any) error {
	return s.db.InStatement(ctx, func(t *sqldb.Tx) error {
		n, err := t.Exec(`UPDATE task SET args = $3, updated = $4 WHERE id = $1 AND attempt = $2 AND state = 'running'`, c.TaskID, c.Attempt, sqldb.ToJSON(args), t.Now)
		return fenced(n, err)
	})
}

// CompleteTask completes a running task whose results are stored already.
func (s *Store) CompleteTask(ctx context.Context, c *Claim, o Outcome) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error { return Complete(t, c, o) })
}

// Complete completes the claim's task in the transaction that stores its results. The error is ErrFenced if the claim has ended,
// and rolls the transaction back. With a nil claim it does nothing.
func Complete(t *sqldb.Tx, c *Claim, o Outcome) error {
	if c == nil {
		return nil
	}
	if err := permit(t, c); err != nil {
		return err
	}
	var result sql.NullString
	if o.Result != nil && c.Show != nil {
		o.Result = c.Show(o.Result)
	}
	if o.Result != nil {
		result = sql.NullString{String: sqldb.ToJSON(o.Result), Valid: true}
	}
	if o.Created == nil {
		o.Created = []Created{}
	}
	var progress sql.NullString
	if o.Progress != nil {
		progress = sql.NullString{String: sqldb.ToJSON(o.Progress), Valid: true}
	}
	return end(t, c, TaskCompleted, `created_resources = $5, result = $6, progress = COALESCE($7, progress)`, "state = 'running'", sqldb.ToJSON(o.Created), result, progress)
}

// permit calls the claim's Permit with the account that created the task. The account cannot change before the transaction ends.
// Its row is locked before the task's, in the order of a deletion of the account.
func permit(t *sqldb.Tx, c *Claim) error {
	if c.Permit == nil {
		return nil
	}
	var origin Origin
	var by sql.NullInt64
	if err := t.Row(`SELECT origin, created_by FROM task WHERE id = $1`, c.TaskID).Scan(&origin, &by); errors.Is(err, sql.ErrNoRows) {
		return ErrFenced
	} else if err != nil || origin == OriginCommand || origin == OriginSystem {
		return err
	}
	u, err := record.ScanUser(t.Row(`SELECT `+record.AccountColumns+` FROM account WHERE id = $1`+t.Dialect.ForShare, by))
	if errors.Is(err, sql.ErrNoRows) {
		return c.Permit(nil)
	} else if err != nil {
		return err
	}
	return c.Permit(&u)
}

// end moves the claim's task from the states of the condition in to a final state, sets further columns, and releases its
// reservations. The error is ErrFenced if the claim has ended or the task is in another state.
func end(t *sqldb.Tx, c *Claim, state TaskState, set, in string, args ...any) error {
	var reserved string
	// The arguments are not needed any more and may contain secrets.
	err := t.Row(`
		UPDATE task SET state = $3, finished = $4, updated = $4, lease_until = NULL, args = '{}', `+set+`
		 WHERE id = $1 AND attempt = $2 AND `+in+` RETURNING `+reservations, append([]any{c.TaskID, c.Attempt, state, t.Now}, args...)...).Scan(&reserved)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrFenced
	} else if err != nil {
		return err
	}
	if err := announce(t, c.TaskID); err != nil {
		return err
	}
	freed, err := release(t, c.TaskID, strings.Fields(reserved))
	t.OnCommit(func() { c.ended, c.freed = true, freed })
	return err
}

// FailTask fails a running task with a sentence that is safe to show.
func (s *Store) FailTask(ctx context.Context, c *Claim, sentence string) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		return end(t, c, TaskFailed, `error = $5`, "state = 'running'", sqldb.ToJSON(TaskError{Description: sentence}))
	})
}

// CancelTask cancels a task. A waiting task is canceled at once; a running one is canceling until its worker calls EndCanceled. A
// canceled or canceling task stays as it is. A task that has ended otherwise is returned unchanged with a Conflict. The ids are
// those of tasks that became ready.
func (s *Store) CancelTask(ctx context.Context, id string) (Task, []string, error) {
	type canceled struct {
		task  Task
		freed []string
	}
	c, err := sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (c canceled, err error) {
		if c.freed, err = cancel(t, id); err != nil {
			return c, err
		}
		c.task, err = task(t.Ctx, t, id)
		return c, err
	})
	if err == nil && c.task.State.Final() && c.task.State != TaskCanceled {
		err = fault.New(fault.Conflict, "The task has ended.")
	}
	return c.task, c.freed, err
}

// cancel makes a waiting task canceled and a running one canceling. It returns the ids of tasks that became ready.
func cancel(t *sqldb.Tx, id string) ([]string, error) {
	var reserved string
	if err := t.Row(`SELECT `+reservations+` FROM task WHERE id = $1`, id).Scan(&reserved); err != nil {
		return nil, sqldb.NotFound(err, "No Task matches the given query.")
	}
	// Queues are locked before the tasks in them, in the order of transactions that end tasks.
	if err := LockResources(t, strings.Fields(reserved)); err != nil {
		return nil, err
	}
	n, err := t.Exec(`UPDATE task SET state = 'canceled', finished = $2, updated = $2, args = '{}' WHERE id = $1 AND state = 'waiting'`, id, t.Now)
	if err != nil {
		return nil, err
	}
	if n > 0 {
		if err := announce(t, id); err != nil {
			return nil, err
		}
		return release(t, id, strings.Fields(reserved))
	}
	_, err = t.Exec(`UPDATE task SET state = 'canceling', updated = $2 WHERE id = $1 AND state = 'running'`, id, t.Now)
	return nil, err
}

// EndCanceled cancels a canceling task after its worker has stopped.
func (s *Store) EndCanceled(ctx context.Context, c *Claim) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		return end(t, c, TaskCanceled, `worker_id = worker_id`, "state = 'canceling'")
	})
}

// fenced returns ErrFenced for a statement that changed no row.
func fenced(changed int64, err error) error {
	if err == nil && changed == 0 {
		return ErrFenced
	}
	return err
}
