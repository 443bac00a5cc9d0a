package taskstore

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/store/sqldb"
)

// Share is the owner and namespace that a task counts for. Ready tasks are claimed in a fair order: owners take turns, the
// namespaces of one owner take turns within them, and tasks of one share run in the order of dispatch.
type Share struct {
	Owner     string
	Namespace string
}

// ready is the condition of tasks that are first in all their queues, not claimed and not ended. The partial indexes have it.
const ready = `unblocked IS NOT NULL AND lease_until IS NULL AND finished IS NULL`

// claimable is the condition of ready tasks that can be claimed at the time $3 by workers that can use the signing services in the
// JSON list $2, or all services ($1). It excludes postponed tasks. Every worker can claim a task whose service was removed, to fail
// it.
const claimable = ready + ` AND unblocked <= $3
	AND (service_id IS NULL OR $1 OR service_id IN (SELECT j.value FROM json_each($2) j)
	     OR NOT EXISTS (SELECT 1 FROM signing_service v WHERE v.id = service_id))`

// placeTurn and placeLap place a task among those of its class (long or short) by start-time fair queueing. Its turn is the current
// turn of the class, or the one after the latest turn of its owner, so a task of an owner without tasks precedes all but the
// current ones. The lap is the same among the namespaces of one owner. {long}, {owner} and {namespace} are the task's columns. Each
// part is one index lookup, also for a planner without statistics.
const (
	placeTurn = `(SELECT COALESCE(MAX(p.v), 0) FROM (
		SELECT r.v FROM (SELECT o.turn AS v FROM task o WHERE o.lease_until IS NOT NULL AND o.long = {long} ORDER BY o.turn DESC LIMIT 1) r
		UNION ALL SELECT w.v FROM (SELECT o.turn AS v FROM task o WHERE {ready} AND o.long = {long} ORDER BY o.turn LIMIT 1) w
		UNION ALL SELECT m.v + 1 FROM (SELECT o.turn AS v FROM task o WHERE {live} AND o.long = {long} AND o.owner = {owner} ORDER BY o.turn DESC LIMIT 1) m) p)`
	placeLap = `(SELECT COALESCE(MAX(p.v), 0) FROM (
		SELECT r.v FROM (SELECT o.lap AS v FROM task o WHERE o.lease_until IS NOT NULL AND o.long = {long} AND o.owner = {owner} ORDER BY o.lap DESC LIMIT 1) r
		UNION ALL SELECT w.v FROM (SELECT o.lap AS v FROM task o WHERE {ready} AND o.long = {long} AND o.owner = {owner} ORDER BY o.lap LIMIT 1) w
		UNION ALL SELECT m.v + 1 FROM (SELECT o.lap AS v FROM task o WHERE {live} AND o.long = {long} AND o.owner = {owner} AND o.namespace = {namespace}
			ORDER BY o.lap DESC LIMIT 1) m) p)`
)

// place returns placeTurn and placeLap for a task with these expressions as columns.
func place(long, owner, namespace string) (turn, lap string) {
	r := strings.NewReplacer(
		"{ready}", "o.unblocked IS NOT NULL AND o.lease_until IS NULL AND o.finished IS NULL", "{live}", "o.unblocked IS NOT NULL AND o.finished IS NULL", "{long}", long, "{owner}", owner, "{namespace}", namespace)
	return r.Replace(placeTurn), r.Replace(placeLap)
}

// Wanted selects the ready tasks that a worker accepts.
type Wanted struct {
	WorkerID string
	Services []string // the signing services that the worker can use; nil: all
	Lease    time.Duration
	Long     bool  // long tasks; else short ones
	Except   Share // share whose tasks the worker skips; none if Owner is empty
}

// ClaimNext claims the next ready task for a worker and returns it, running; nil if no task is ready.
func (s *Store) ClaimNext(ctx context.Context, w Wanted) (*Task, error) {
	if w.Long || w.Except.Owner != "" { // idle slots ask often: this avoids a write
		if wait, err := s.TasksWait(ctx, w.Long, w.Except); !wait || err != nil {
			return nil, err
		}
	}
	for _, from := range candidates(w.Except) {
		if k, err := s.claim(ctx, w, from); k != nil || err != nil {
			return k, err
		}
	}
	return nil, nil
}

// candidate selects a part of the ready tasks: head chooses the next owner, pick one of that owner's tasks.
type candidate struct{ head, order, pick string }

// candidates returns the parts in which ClaimNext searches: the tasks of other owners, then those of the excepted owner's other
// namespaces. Each part first checks whether it has any task, so that waiting tasks of the excepted share are not read.
func candidates(except Share) []candidate {
	if except.Owner == "" {
		return []candidate{{"", "turn, seq", ""}}
	}
	return []candidate{
		{` AND owner <> $7 AND (` + some("$6", "owner < $7", "owner") + ` OR ` + some("$6", "owner > $7", "owner") + `)`, "turn, seq", ""},
		{` AND owner = $7`, "turn", ` AND namespace <> $8 AND (` +
			some("$6", "owner = $7 AND namespace < $8", "namespace") + ` OR ` + some("$6", "owner = $7 AND namespace > $8", "namespace") + `)`},
	}
}

// some returns the condition that a ready task of a class satisfies a further condition. The order names an index; without it,
// planners may scan the table, and in an EXISTS they would ignore it.
func some(long, condition, order string) string {
	return `(SELECT 1 FROM task WHERE ` + ready + ` AND long = ` + long + ` AND ` + condition + ` ORDER BY ` + order + ` LIMIT 1) IS NOT NULL`
}

// claim claims the next task of the next owner. It exchanges the turns of the claimed task and the owner's first task.
func (s *Store) claim(ctx context.Context, w Wanted, from candidate) (*Task, error) {
	return sqldb.InStatement(ctx, s.db, func(t *sqldb.Tx) (claimed *Task, err error) {
		args := []any{w.Services == nil, sqldb.ToJSON(append([]string{}, w.Services...)), t.Now, w.WorkerID, t.Now + w.Lease.Microseconds(), w.Long}
		if from.head != "" {
			args = append(args, w.Except.Owner)
		}
		if from.pick != "" {
			args = append(args, w.Except.Namespace)
		}
		rows, err := sqldb.Collect(t.Ctx, t, ScanTask, `
			WITH head (head_id, head_owner, head_turn) AS MATERIALIZED (
				SELECT id, owner, turn FROM task WHERE `+claimable+` AND long = $6`+from.head+` ORDER BY `+from.order+` LIMIT 1`+t.Dialect.ForUpdateFree+`),
			pick (pick_id, pick_turn) AS MATERIALIZED (
				SELECT id, turn FROM task WHERE `+claimable+` AND long = $6 AND owner = (SELECT head_owner FROM head)`+from.pick+`
				 ORDER BY lap, seq LIMIT 1`+t.Dialect.ForUpdateFree+`)
			UPDATE task AS k SET turn = CASE WHEN k.id = pick_id THEN head_turn ELSE pick_turn END, updated = CASE WHEN k.id = pick_id THEN $3 ELSE k.updated END,
				state = CASE WHEN k.id = pick_id THEN 'running' ELSE k.state END, attempt = k.attempt + CASE WHEN k.id = pick_id THEN 1 ELSE 0 END,
				worker_id = CASE WHEN k.id = pick_id THEN $4 ELSE k.worker_id END, lease_until = CASE WHEN k.id = pick_id THEN CAST($5 AS BIGINT) END,
				started = CASE WHEN k.id = pick_id THEN COALESCE(k.started, $3) ELSE k.started END
			  FROM head, pick WHERE k.id IN (head_id, pick_id) RETURNING `+returnedTask, args...)
		for _, k := range rows {
			if k.State == TaskRunning {
				claimed = &k
			}
		}
		return claimed, err
	})
}

// waitsBesides selects whether tasks of the class $1 are ready outside the share of owner $2 and namespace $3.
var waitsBesides = `SELECT ` + some("$1", "owner < $2", "owner") + ` OR ` + some("$1", "owner > $2", "owner") + ` OR ` +
	some("$1", "owner = $2 AND namespace < $3", "namespace") + ` OR ` + some("$1", "owner = $2 AND namespace > $3", "namespace")

// ClaimTask claims a task for a worker regardless of turns and returns it, running; nil if the task is not ready or needs a signing
// service that is not among services. A nil services stands for all.
func (s *Store) ClaimTask(ctx context.Context, workerID, id string, services []string, lease time.Duration) (*Task, error) {
	return sqldb.InStatement(ctx, s.db, func(t *sqldb.Tx) (*Task, error) {
		k, err := ScanTask(t.Row(`
			UPDATE task AS k SET state = 'running', attempt = attempt + 1, worker_id = $4, lease_until = $5, started = COALESCE(started, $3), updated = $3
			 WHERE id = $6 AND `+claimable+` RETURNING `+returnedTask,
			services == nil, sqldb.ToJSON(append([]string{}, services...)), t.Now, workerID, t.Now+lease.Microseconds(), id))
		if errors.Is(err, sql.ErrNoRows) {
			return nil, nil
		}
		return &k, err
	})
}

// ReadyTasks returns the ids of at most limit tasks that workers with these signing services (nil: all) can claim now: short tasks
// before long ones, each in the order of turns.
func (s *Store) ReadyTasks(ctx context.Context, services []string, limit int) ([]string, error) {
	return sqldb.Collect(ctx, s.db.Read(), sqldb.ScanString,
		`SELECT id FROM task WHERE `+claimable+` ORDER BY long, turn, seq LIMIT $4`, services == nil, sqldb.ToJSON(append([]string{}, services...)), sqldb.Micros(s.db.Now()), limit)
}

// TasksWait reports whether long or short tasks outside a share are ready. An empty Owner excepts no share.
func (s *Store) TasksWait(ctx context.Context, long bool, except Share) (wait bool, err error) {
	if except.Owner == "" {
		err = s.db.Read().QueryRowContext(ctx, `SELECT `+some("$1", "TRUE", "turn"), long).Scan(&wait)
	} else {
		err = s.db.Read().QueryRowContext(ctx, waitsBesides, long, except.Owner, except.Namespace).Scan(&wait)
	}
	return wait, err
}
