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

// Final reports whether a task in this state has ended.
func (s TaskState) Final() bool {
	return s == TaskSkipped || s == TaskCompleted || s == TaskFailed || s == TaskCanceled
}

// ErrFenced is the error of a write by an attempt that no longer owns the task: its lease ended and another worker claimed the
// task, or the task was canceled. The write had no effect.
var ErrFenced = errors.New("the task is no longer this attempt's")

// Origin is the source of a task.
type Origin string

// The origins of a task. OriginUnknown belongs to tasks that were queued by versions without origins; no new task may have it. Such
// a task is a user's if Task.CreatedBy is set, and fails otherwise.
const (
	OriginUnknown Origin = ""
	OriginUser    Origin = "user"    // an account, Task.CreatedBy
	OriginCommand Origin = "command" // the command line
	OriginSystem  Origin = "system"  // the server itself
)

// Resource is a resource that a task reserves, exclusively or shared.
type Resource struct {
	Href      string `json:"href"`
	Exclusive bool   `json:"exclusive"`
}

// Created is an object that a task created.
type Created struct {
	Href string `json:"href"`
	PRN  string `json:"prn"`
}

// Progress is one progress report of a task (compatibility.md#tasks). Total is nil if it is unknown.
type Progress struct {
	Message string    `json:"message"`
	Code    string    `json:"code"`
	State   TaskState `json:"state"`
	Total   *int64    `json:"total"`
	Done    int64     `json:"done"`
	Suffix  *string   `json:"suffix"`
}

// TaskError is the reason why a task failed, in a sentence that is safe to show.
type TaskError struct {
	Description string `json:"description"`
	Traceback   string `json:"traceback"`
}

// Task is background work.
type Task struct {
	ID      string
	Seq     int64 // order of dispatch
	Name    string
	State   TaskState
	Attempt int64
	Args    json.RawMessage
	Result  json.RawMessage // nil: null
	Error   *TaskError
	CID     string // correlation id of the request that created it
	// Traceparent is the trace of that request (W3C); empty: none.
	Traceparent string
	Origin      Origin
	CreatedBy   int64  // id of the account that created it; 0 if the account was deleted or Origin is not OriginUser
	WorkerID    string // of the latest attempt
	Long        bool   // it may run for hours
	Share       Share
	Resources   []Resource
	Created     []Created
	Progress    []Progress
	Unblocked   *time.Time
	Started     *time.Time
	Finished    *time.Time
	pulp.Stamps
}

// NewTask is a task to be created.
type NewTask struct {
	Name string
	Args any // encoded as JSON
	CID  string
	// Traceparent is the trace to which the task belongs (W3C); empty: none.
	Traceparent string
	Origin      Origin // required
	CreatedBy   int64  // id of an account; required with OriginUser, 0 with other origins
	Resources   []Resource
	ServiceID   string // signing service that the worker must be able to use; empty: none
	Long        bool   // it may run for hours
	Share       Share
}

// Claim is the right of one attempt to write a task's results. A nil *Claim stands for work outside tasks.
type Claim struct {
	TaskID  string
	Attempt int64
	// Show converts the result of the task to the form that clients see; nil: no conversion.
	Show func(any) any
	// Permit is called in the transaction that completes the task, with the current state of the account that created the
	// task; nil stands for a deleted account. Its error rolls the transaction back. It is not called for OriginCommand and
	// OriginSystem. A nil Permit permits everything.
	Permit func(*pulp.User) error
	ended  bool
	freed  []string
}

// Ended reports whether the task was ended with this claim.
func (c *Claim) Ended() bool { return c.ended }

// Freed returns the ids of the tasks that became ready when this claim's task ended.
func (c *Claim) Freed() []string { return c.freed }

// Outcome is the result of a completed task.
type Outcome struct {
	Created []Created
	Result  any // encoded as JSON, after Claim.Show; nil is null
	// Progress replaces the stored reports; nil: they stay.
	Progress []Progress
}

// TaskColumns are the columns of a task k that ScanTask reads.
const TaskColumns = `k.id, k.seq, k.name, k.state, k.attempt, k.args, k.result, k.error, k.logging_cid, k.traceparent, k.origin, k.long, k.owner, k.namespace, k.created_by, k.worker_id,
	k.resources, k.created_resources, k.progress, k.created, k.updated, k.unblocked, k.started, k.finished`

// returnedTask are TaskColumns without the alias, which SQLite's RETURNING does not accept.
var returnedTask = strings.ReplaceAll(TaskColumns, "k.", "")

// ScanTask reads a task.
func ScanTask(row sqldb.Scanner) (Task, error) {
	var k Task
	var args, created, progress, resources string
	var result, failure, worker sql.NullString
	var by, unblocked, started, finished sql.NullInt64
	var made, updated int64
	err := row.Scan(&k.ID, &k.Seq, &k.Name, &k.State, &k.Attempt, &args, &result, &failure, &k.CID, &k.Traceparent, &k.Origin, &k.Long, &k.Share.Owner, &k.Share.Namespace, &by, &worker,
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

// Task returns the task with an id. The error is NotFound if there is none.
func (s *Store) Task(ctx context.Context, id string) (Task, error) { return task(ctx, s.db.Read(), id) }

func task(ctx context.Context, q sqldb.Querier, id string) (Task, error) {
	k, err := ScanTask(q.QueryRowContext(ctx, `SELECT `+TaskColumns+` FROM task k WHERE k.id = $1`, id))
	return k, sqldb.NotFound(err, "No Task matches the given query.")
}

// CreateTask stores a waiting task with its reservations, which queue behind all earlier ones of the same resources. Unblocked is
// set if the task may be claimed at once. It fails if n has no origin.
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
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (Task, error) {
		// The resources are locked before the task gets its number, so that numbers follow the order of the queues.
		if err := LockResources(t, hrefsOf(n.Resources)); err != nil {
			return Task{}, err
		}
		made, err := insertTask(t, n)
		if err != nil {
			return Task{}, err
		}
		for _, r := range n.Resources {
			if _, err := t.Exec(`INSERT INTO task_resource (task_id, resource, exclusive, seq) VALUES ($1, $2, $3, $4)`,
				made.ID, r.Href, r.Exclusive, made.Seq); err != nil {
				return Task{}, err
			}
		}
		return made, nil
	})
}

// insertTask inserts the row of a task without its reservations.
func insertTask(t *sqldb.Tx, n NewTask) (Task, error) {
	made := Task{
		ID: pulp.NewID(), Name: n.Name, State: TaskWaiting, Args: json.RawMessage(sqldb.ToJSON(n.Args)), CID: n.CID, Traceparent: n.Traceparent, Origin: n.Origin, CreatedBy: n.CreatedBy,
		Long: n.Long, Share: n.Share, Resources: slices.Concat([]Resource{}, n.Resources), Created: []Created{}, Progress: []Progress{},
	}
	exclusive := []string{}
	for _, r := range n.Resources {
		if r.Exclusive {
			exclusive = append(exclusive, r.Href)
		}
	}
	turn, lap := place("$10", "$11", "$12")
	var unblocked sql.NullInt64
	err := t.Row(`
		INSERT INTO task (id, seq, name, state, args, resources, logging_cid, created_by, created, updated, service_id, origin, long, owner, namespace, turn, lap, traceparent, unblocked)
		VALUES ($1, `+t.Dialect.NextSeq+`, $2, 'waiting', $3, $4, $5, $6, $7, $7, $8, $9, $10, $11, $12, `+turn+`, `+lap+`, $15, CASE
			WHEN EXISTS (SELECT 1 FROM (SELECT j.value AS href FROM json_each($13) j) w WHERE `+queued("w.href", " AND r.exclusive")+`) THEN NULL
			WHEN EXISTS (SELECT 1 FROM (SELECT j.value AS href FROM json_each($14) j) w WHERE `+queued("w.href", "")+`) THEN NULL
			ELSE CAST($7 AS BIGINT) END) RETURNING seq, unblocked`,
		made.ID, n.Name, string(made.Args), sqldb.ToJSON(made.Resources), n.CID, sql.NullInt64{Int64: n.CreatedBy, Valid: n.CreatedBy != 0}, t.Now,
		sqldb.NullIfEmpty(n.ServiceID), n.Origin, n.Long, n.Share.Owner, n.Share.Namespace, sqldb.ToJSON(hrefsOf(n.Resources)), sqldb.ToJSON(exclusive), n.Traceparent).
		Scan(&made.Seq, &unblocked)
	made.Unblocked, made.Stamps = sqldb.FromNullMicros(unblocked), record.Stamps(t.Now, t.Now)
	return made, err
}

// PushSigningTask is the name, as older versions stored it, of tasks that sign for a change which another process has made and which waits for the
// signatures. They have no owner, and no list shows them.
const PushSigningTask = "countersign.tasks.seal"

// SyncTask is the name of tasks that sync a repository.
const SyncTask = "pulp_container.app.tasks.synchronize.synchronize"
