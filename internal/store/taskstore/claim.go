package taskstore

import (
	"context"
	"database/sql"
	"errors"
	"github.com/countersign/countersign/internal/store/sqldb"
	"strings"
	"time"
)

// Share is whose share of the workers a task uses: an owner's, and within it a namespace's. Ready tasks are claimed in a fair order: owners take turns, and within the
// tasks of one owner its namespaces do, each task in the order of dispatch.
type Share struct {
	Owner     string
	Namespace string
}

// ready are the tasks that stand first in all their queues, that nobody has and that have not ended: the condition of the partial indexes.
const ready = `unblocked IS NOT NULL AND lease_until IS NULL AND finished IS NULL`

// claimable are the ready tasks that can be claimed now ($3) by workers that can use the services in a JSON list ($2), or all ($1): not those that need another service
// or that were put off. A task whose service was removed can be claimed by every worker, to fail.
const claimable = ready + ` AND unblocked <= $3
	AND (service_id IS NULL OR $1 OR service_id IN (SELECT j.value FROM json_each($2) j)
	     OR NOT EXISTS (SELECT 1 FROM signing_service v WHERE v.id = service_id))`

// The place of a task among those of its class (long or not) is start-time fair queueing: its turn is the present turn of the class, or the one after the latest of its
// owner's own. So a task of an owner that has none goes before all but those whose turn it is, however many tasks others have. The lap is the same among one owner's namespaces.
// long, owner and namespace stand for the task's.
// Each part is written so that it is one look into an index for a planner without statistics too.
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

// place returns placeTurn and placeLap for a task whose columns these expressions are.
func place(long, owner, namespace string) (turn, lap string) {
	r := strings.NewReplacer(
		"{ready}", "o.unblocked IS NOT NULL AND o.lease_until IS NULL AND o.finished IS NULL", "{live}", "o.unblocked IS NOT NULL AND o.finished IS NULL", "{long}", long, "{owner}", owner, "{namespace}", namespace)
	return r.Replace(placeTurn), r.Replace(placeLap)
}

// Wanted says which of the ready tasks a worker would claim.
type Wanted struct {
	WorkerID string
	Services []string // tasks that need a signing service are claimed only when it is one of these, or was removed; nil: all services
	Lease    time.Duration
	Long     bool  // long tasks, or the others
	Except   Share // tasks of this share are left to others; with an empty Owner none are
}

// ClaimNext gives the ready task whose turn it is to a worker, running, under a lease; nil when none is ready.
func (s *Store) ClaimNext(ctx context.Context, w Wanted) (*Task, error) {
	if w.Long || w.Except.Owner != "" { // idle slots ask so whenever others get work: it costs no write
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

// candidate is a part of the ready tasks: head chooses the owner whose turn it is, pick among that owner's tasks.
type candidate struct{ head, order, pick string }

// candidates are the parts in which a task is looked for: the others' tasks, then those of the excepted owner's other namespaces. Each part begins with a look whether
// there is any, so that what the excepted share has waiting, however much, is not read.
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

// some is the condition that tasks of a class are ready for which another condition holds. The order, which names an index, keeps planners from reading the table in
// the hope to find one soon; they would drop it from an EXISTS.
func some(long, condition, order string) string {
	return `(SELECT 1 FROM task WHERE ` + ready + ` AND long = ` + long + ` AND ` + condition + ` ORDER BY ` + order + ` LIMIT 1) IS NOT NULL`
}

// claim claims, of the owner whose turn it is, the task whose namespace's turn it is. That task takes the turn that it was, and leaves its own to the task which had that.
func (s *Store) claim(ctx context.Context, w Wanted, from candidate) (*Task, error) {
	var claimed *Task
	err := s.db.InStatement(ctx, func(t *sqldb.Tx) error {
		claimed = nil
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
		return err
	})
	return claimed, err
}

// waitsBesides asks whether tasks of a class ($1) are ready that are not of an owner's ($2) namespace ($3).
var waitsBesides = `SELECT ` + some("$1", "owner < $2", "owner") + ` OR ` + some("$1", "owner > $2", "owner") + ` OR ` +
	some("$1", "owner = $2 AND namespace < $3", "namespace") + ` OR ` + some("$1", "owner = $2 AND namespace > $3", "namespace")

// ClaimTask gives one task to a worker, running, under a lease, whoever's turn it is; nil when it is not ready. It is claimed only when it needs no signing service but
// one of these, or one that was removed; nil stands for all services.
func (s *Store) ClaimTask(ctx context.Context, workerID, id string, services []string, lease time.Duration) (*Task, error) {
	var claimed *Task
	err := s.db.InStatement(ctx, func(t *sqldb.Tx) error {
		claimed = nil
		k, err := ScanTask(t.Row(`
			UPDATE task AS k SET state = 'running', attempt = attempt + 1, worker_id = $4, lease_until = $5, started = COALESCE(started, $3), updated = $3
			 WHERE id = $6 AND `+claimable+` RETURNING `+returnedTask,
			services == nil, sqldb.ToJSON(append([]string{}, services...)), t.Now, workerID, t.Now+lease.Microseconds(), id))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		claimed = &k
		return err
	})
	return claimed, err
}

// ReadyTasks returns the ids of tasks that can be claimed now by workers that can use these services (nil: all), at most limit: short tasks before long ones, each in
// the order of their turns.
func (s *Store) ReadyTasks(ctx context.Context, services []string, limit int) ([]string, error) {
	return sqldb.Collect(ctx, s.db.Read(), sqldb.ScanString,
		`SELECT id FROM task WHERE `+claimable+` ORDER BY long, turn, seq LIMIT $4`, services == nil, sqldb.ToJSON(append([]string{}, services...)), sqldb.Micros(s.db.Now()), limit)
}

// TasksWait reports whether tasks are ready, long or short ones, that are not of the excepted share; with an empty Owner none is excepted.
func (s *Store) TasksWait(ctx context.Context, long bool, except Share) (wait bool, err error) {
	if except.Owner == "" {
		err = s.db.Read().QueryRowContext(ctx, `SELECT `+some("$1", "TRUE", "turn"), long).Scan(&wait)
	} else {
		err = s.db.Read().QueryRowContext(ctx, waitsBesides, long, except.Owner, except.Namespace).Scan(&wait)
	}
	return wait, err
}
