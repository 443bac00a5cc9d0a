package taskstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// TaskState is a state of a task (compatibility.md#tasks).
type TaskState string

// The states of a task.
const (
	TaskWaiting   TaskState = "waiting"
	TaskSkipped   TaskState = "skipped"
	TaskRunning   TaskState = "running"
	TaskCompleted TaskState = "completed"
	TaskFailed    TaskState = "failed"
	TaskCanceled  TaskState = "canceled"
	TaskCanceling TaskState = "canceling"
)

// Final says whether a task in this state has ended.
func (s TaskState) Final() bool {
	return s == TaskSkipped || s == TaskCompleted || s == TaskFailed || s == TaskCanceled
}

// ErrFenced says that a task is no longer this attempt's: its lease ran out and another took it, or it was canceled. What
// the attempt wanted to store is not stored.
var ErrFenced = errors.New("the task is no longer this attempt's")

// Origin says where a task comes from.
type Origin string

// The origins of a task. OriginUnknown is the origin of tasks that a version queued which did not record it; no new task may have it. Such a task is a user's if
// Task.CreatedBy is set; otherwise nobody may run it.
const (
	OriginUnknown Origin = ""
	OriginUser    Origin = "user"    // an account, Task.CreatedBy
	OriginCommand Origin = "command" // the command line
	OriginSystem  Origin = "system"  // the server itself
)

// Resource is what a task reserves: alone, or together with others that share it.
type Resource struct {
	Href      string `json:"href"`
	Exclusive bool   `json:"exclusive"`
}

// Created is an object that a task made.
type Created struct {
	Href string `json:"href"`
	PRN  string `json:"prn"`
}

// Progress is one progress report of a task (compatibility.md#tasks). Total is nil when it is not known.
type Progress struct {
	Message string    `json:"message"`
	Code    string    `json:"code"`
	State   TaskState `json:"state"`
	Total   *int64    `json:"total"`
	Done    int64     `json:"done"`
	Suffix  *string   `json:"suffix"`
}

// TaskError is why a task failed: a sentence that is safe to show.
type TaskError struct {
	Description string `json:"description"`
	Traceback   string `json:"traceback"`
}

// Task is a piece of work for the background.
type Task struct {
	ID        string
	Seq       int64 // order of dispatch
	Name      string
	State     TaskState
	Attempt   int64
	Args      json.RawMessage
	Result    json.RawMessage // nil: null
	Error     *TaskError
	CID       string // the correlation id of the request that made it
	Origin    Origin
	CreatedBy int64  // the id of the account that made it; 0 if the account was deleted, or if Origin is not OriginUser
	WorkerID  string // the worker that runs or ran it
	Long      bool   // it may run for hours
	Share     Share
	Resources []Resource
	Created   []Created
	Progress  []Progress
	Unblocked *time.Time
	Started   *time.Time
	Finished  *time.Time
	pulp.Stamps
}

// NewTask is a task to be made.
type NewTask struct {
	Name      string
	Args      any // encoded as JSON
	CID       string
	Origin    Origin // required
	CreatedBy int64  // the id of an account; required with OriginUser, 0 with other origins
	Resources []Resource
	ServiceID string // the signing service that whoever claims it must be able to use; empty: none
	Long      bool   // it may run for hours
	Share     Share
}

// Claim is the right of one attempt to write a task's results. A nil *Claim stands for work outside any task.
type Claim struct {
	TaskID  string
	Attempt int64
	// Show turns the object that a task answers into what clients are shown of it; nil: it is shown as it is.
	Show func(any) any
	// Permit is called in the transaction that completes the task, with the account that made the task as it is then; nil stands for a deleted
	// account. Its error undoes the transaction. It is not called for tasks with OriginCommand and OriginSystem; a nil Permit permits everything.
	Permit func(*pulp.User) error
	ended  bool
	freed  []string
}

// Ended says whether the task was ended through this claim.
func (c *Claim) Ended() bool { return c.ended }

// Freed returns the ids of tasks that became ready when this claim's task ended.
func (c *Claim) Freed() []string { return c.freed }

// Outcome is what a completed task made and answered.
type Outcome struct {
	Created []Created
	Result  any // encoded as JSON, after Claim.Show; nil is null
	// Progress takes the place of the reports that were stored; nil: they stay.
	Progress []Progress
}

const TaskColumns = `k.id, k.seq, k.name, k.state, k.attempt, k.args, k.result, k.error, k.logging_cid, k.origin, k.long, k.owner, k.namespace, k.created_by, k.worker_id,
	k.resources, k.created_resources, k.progress, k.created, k.updated, k.unblocked, k.started, k.finished`

// returnedTask are taskColumns without the name that SQLite's RETURNING does not know.
var returnedTask = strings.ReplaceAll(TaskColumns, "k.", "")

func ScanTask(row sqldb.Scanner) (Task, error) {
	var k Task
	var args, created, progress, resources string
	var result, failure, worker sql.NullString
	var by, unblocked, started, finished sql.NullInt64
	var made, updated int64
	err := row.Scan(&k.ID, &k.Seq, &k.Name, &k.State, &k.Attempt, &args, &result, &failure, &k.CID, &k.Origin, &k.Long, &k.Share.Owner, &k.Share.Namespace, &by, &worker,
		&resources, &created, &progress, &made, &updated, &unblocked, &started, &finished)
	if err != nil {
		return Task{}, err
	}
	k.Args, k.CreatedBy, k.WorkerID, k.Stamps = json.RawMessage(args), by.Int64, worker.String, record.Stamps(made, updated)
	k.Unblocked, k.Started, k.Finished = sqldb.FromNullMicros(unblocked), sqldb.FromNullMicros(started), sqldb.FromNullMicros(finished)
	if result.Valid {
		k.Result = json.RawMessage(result.String)
	}
	if failure.Valid {
		k.Error = &TaskError{}
		if err := sqldb.FromJSON("task.error", failure.String, k.Error); err != nil {
			return Task{}, err
		}
	}
	return k, errors.Join(sqldb.FromJSON("task.created_resources", created, &k.Created),
		sqldb.FromJSON("task.progress", progress, &k.Progress), sqldb.FromJSON("task.resources", resources, &k.Resources))
}

// Task returns the task with this id. NotFound when there is none.
func (s *Store) Task(ctx context.Context, id string) (Task, error) { return task(ctx, s.db.Read(), id) }

func task(ctx context.Context, q sqldb.Querier, id string) (Task, error) {
	k, err := ScanTask(q.QueryRowContext(ctx, `SELECT `+TaskColumns+` FROM task k WHERE k.id = $1`, id))
	return k, sqldb.NotFound(err, "No Task matches the given query.")
}

// CreateTask stores a waiting task with its reservations, which stand behind all earlier ones of the same resources. Its Unblocked is
// set when it may be claimed at once. It fails if n does not say its origin.
func (s *Store) CreateTask(ctx context.Context, n NewTask) (Task, error) {
	switch n.Origin {
	case OriginUser, OriginCommand, OriginSystem:
	case OriginUnknown:
		fallthrough
	default:
		return Task{}, fmt.Errorf("create task %s: unknown origin %q", n.Name, n.Origin)
	}
	if (n.Origin == OriginUser) != (n.CreatedBy != 0) {
		return Task{}, fmt.Errorf("create task %s: origin %q and account %d contradict each other", n.Name, n.Origin, n.CreatedBy)
	}
	made := Task{
		ID: pulp.NewID(), Name: n.Name, State: TaskWaiting, Args: json.RawMessage(sqldb.ToJSON(n.Args)), CID: n.CID, Origin: n.Origin, CreatedBy: n.CreatedBy, Long: n.Long, Share: n.Share,
		Resources: slices.Concat([]Resource{}, n.Resources), Created: []Created{}, Progress: []Progress{},
	}
	err := s.db.InTx(ctx, func(t *sqldb.Tx) error {
		// The resources are locked before the number is taken: so the order of numbers is the order in which tasks stand in their queues.
		if err := LockResources(t, hrefsOf(n.Resources)); err != nil {
			return err
		}
		var exclusive []string
		for _, r := range n.Resources {
			if r.Exclusive {
				exclusive = append(exclusive, r.Href)
			}
		}
		turn, lap := place("$10", "$11", "$12")
		var unblocked sql.NullInt64
		err := t.Row(`
			INSERT INTO task (id, seq, name, state, args, resources, logging_cid, created_by, created, updated, service_id, origin, long, owner, namespace, turn, lap, unblocked)
			VALUES ($1, `+t.Dialect.NextSeq+`, $2, 'waiting', $3, $4, $5, $6, $7, $7, $8, $9, $10, $11, $12, `+turn+`, `+lap+`, CASE
				WHEN EXISTS (SELECT 1 FROM (SELECT j.value AS href FROM json_each($13) j) w WHERE `+queued("w.href", " AND r.exclusive")+`) THEN NULL
				WHEN EXISTS (SELECT 1 FROM (SELECT j.value AS href FROM json_each($14) j) w WHERE `+queued("w.href", "")+`) THEN NULL
				ELSE CAST($7 AS BIGINT) END) RETURNING seq, unblocked`,
			made.ID, n.Name, string(made.Args), sqldb.ToJSON(made.Resources), n.CID, sql.NullInt64{Int64: n.CreatedBy, Valid: n.CreatedBy != 0}, t.Now, sqldb.NullIfEmpty(n.ServiceID), n.Origin,
			n.Long, n.Share.Owner, n.Share.Namespace, sqldb.ToJSON(hrefsOf(n.Resources)), sqldb.ToJSON(append([]string{}, exclusive...))).Scan(&made.Seq, &unblocked)
		if err != nil {
			return err
		}
		made.Unblocked, made.Stamps = sqldb.FromNullMicros(unblocked), record.Stamps(t.Now, t.Now)
		for _, r := range n.Resources {
			if _, err := t.Exec(`INSERT INTO task_resource (task_id, resource, exclusive, seq) VALUES ($1, $2, $3, $4)`,
				made.ID, r.Href, r.Exclusive, made.Seq); err != nil {
				return err
			}
		}
		return nil
	})
	return made, err
}

// ExtendLease says that a claimed task is still worked on. ErrFenced when it is another's or canceled.
func (s *Store) ExtendLease(ctx context.Context, c *Claim, lease time.Duration) error {
	return s.db.InStatement(ctx, func(t *sqldb.Tx) error {
		n, err := t.Exec(`UPDATE task SET lease_until = $3 WHERE id = $1 AND attempt = $2 AND state = 'running'`,
			c.TaskID, c.Attempt, t.Now+lease.Microseconds())
		return fenced(n, err)
	})
}

// StillClaimed says whether a claimed task is still this attempt's and not canceled.
func (s *Store) StillClaimed(ctx context.Context, c *Claim) (mine bool, err error) {
	err = s.db.Read().QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM task WHERE id = $1 AND attempt = $2 AND state = 'running')`, c.TaskID, c.Attempt).Scan(&mine)
	return mine, err
}

// ReportProgress stores the progress reports of a task that has not ended in the place of the earlier ones. ErrFenced when it is another's.
func (s *Store) ReportProgress(ctx context.Context, c *Claim, reports []Progress) error {
	return s.db.InStatement(ctx, func(t *sqldb.Tx) error {
		n, err := t.Exec(`UPDATE task SET progress = $3, updated = $4 WHERE id = $1 AND attempt = $2 AND state IN ('running', 'canceling')`,
			c.TaskID, c.Attempt, sqldb.ToJSON(reports), t.Now)
		return fenced(n, err)
	})
}

// KeepArgs gives a running task other arguments, for the next attempt at it to begin with. ErrFenced when it is another's.
func (s *Store) KeepArgs(ctx context.Context, c *Claim, args any) error {
	return s.db.InStatement(ctx, func(t *sqldb.Tx) error {
		n, err := t.Exec(`UPDATE task SET args = $3, updated = $4 WHERE id = $1 AND attempt = $2 AND state = 'running'`, c.TaskID, c.Attempt, sqldb.ToJSON(args), t.Now)
		return fenced(n, err)
	})
}

// CompleteTask ends a running task that stored its results, if any, through other means.
func (s *Store) CompleteTask(ctx context.Context, c *Claim, o Outcome) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error { return Complete(t, c, o) })
}

// complete ends the claim's task in the transaction that stores its results: if the task is another's by now, nothing is stored. A nil
// claim is work outside a task.
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

// permit asks the claim whether the account that made the task may still have it done. The account cannot change before the transaction ends. Its row is locked
// before the task's, in the order of a deletion of the account.
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

// end gives the claim's task a final state, with other members set, and frees what it has reserved. ErrFenced when the task is another's or in another state.
func end(t *sqldb.Tx, c *Claim, state TaskState, set, in string, args ...any) error {
	var reserved string
	// Nobody needs the arguments any more, and they may be secrets.
	err := t.Row(`
		UPDATE task SET state = $3, finished = $4, updated = $4, lease_until = NULL, args = '{}', `+set+`
		 WHERE id = $1 AND attempt = $2 AND `+in+` RETURNING `+reservations, append([]any{c.TaskID, c.Attempt, state, t.Now}, args...)...).Scan(&reserved)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrFenced
	} else if err != nil {
		return err
	}
	freed, err := release(t, c.TaskID, strings.Fields(reserved))
	t.OnCommit(func() { c.ended, c.freed = true, freed })
	return err
}

// FailTask ends a running task with a sentence that is safe to show.
func (s *Store) FailTask(ctx context.Context, c *Claim, sentence string) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		return end(t, c, TaskFailed, `error = $5`, "state = 'running'", sqldb.ToJSON(TaskError{Description: sentence}))
	})
}

// CancelTask cancels a task: a waiting one is canceled at once, a running one is canceling until its worker has stopped
// (EndCanceled). A canceled or canceling one stays as it is; a task that ended otherwise is returned unchanged with a Conflict. It returns also
// the ids of tasks that waited for this one only.
func (s *Store) CancelTask(ctx context.Context, id string) (Task, []string, error) {
	var k Task
	var freed []string
	err := s.db.InTx(ctx, func(t *sqldb.Tx) error {
		freed = nil
		var reserved string
		if err := t.Row(`SELECT `+reservations+` FROM task WHERE id = $1`, id).Scan(&reserved); err != nil {
			return sqldb.NotFound(err, "No Task matches the given query.")
		}
		// In the order of those who end tasks: first the queues, then tasks that wait in them.
		if err := LockResources(t, strings.Fields(reserved)); err != nil {
			return err
		}
		n, err := t.Exec(`UPDATE task SET state = 'canceled', finished = $2, updated = $2, args = '{}' WHERE id = $1 AND state = 'waiting'`, id, t.Now)
		if err != nil {
			return err
		}
		if n > 0 {
			if freed, err = release(t, id, strings.Fields(reserved)); err != nil {
				return err
			}
		} else if _, err := t.Exec(`UPDATE task SET state = 'canceling', updated = $2 WHERE id = $1 AND state = 'running'`, id, t.Now); err != nil {
			return err
		}
		k, err = task(t.Ctx, t, id)
		return err
	})
	if err == nil && k.State.Final() && k.State != TaskCanceled {
		err = fault.New(fault.Conflict, "The task has ended.")
	}
	return k, freed, err
}

// EndCanceled makes a canceling task canceled: its worker has stopped.
func (s *Store) EndCanceled(ctx context.Context, c *Claim) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		return end(t, c, TaskCanceled, `worker_id = worker_id`, "state = 'canceling'")
	})
}

func fenced(changed int64, err error) error {
	if err == nil && changed == 0 {
		return ErrFenced
	}
	return err
}

// PushSigningTask is the name of tasks that sign for a change which another process has made and which waits for the
// signatures. They have no owner, and no list shows them.
const PushSigningTask = "countersign.tasks.seal"
