package taskstore

import (
	"context"
	"database/sql"
	"time"

	"github.com/countersign/countersign/internal/store/sqldb"
)

// WorkerTTL is the time after its last heartbeat during which a worker counts as online
// (compatibility.md#task-groups-and-workers).
const WorkerTTL = 30 * time.Second

// Count is the number of tasks of one kind and state that have not ended.
type Count struct {
	Name  string
	State TaskState
	Tasks int64
	Ready int64 // of Tasks: waiting, and nothing but a worker is missing
	// OldestCreated is the creation of the oldest task.
	OldestCreated time.Time
	// OldestReady is the time at which the first of the ready tasks became ready; zero without ready tasks.
	OldestReady time.Time
}

// MaxCounted is the number of tasks of each state that CountTasks reads.
const MaxCounted = 50_000

// CountTasks counts the tasks that have not ended: of each state the oldest MaxCounted at most. Ended tasks, of which there are
// many, cost nothing.
func (s *Store) CountTasks(ctx context.Context) ([]Count, error) {
	return sqldb.Collect(ctx, s.db.Read(), scanCount, `
		SELECT name, state, COUNT(*), COUNT(CASE WHEN state = 'waiting' AND unblocked <= $1 THEN 1 END), MIN(created),
		       MIN(CASE WHEN state = 'waiting' AND unblocked <= $1 THEN unblocked END)
		  FROM (`+oldestOf("waiting")+` UNION ALL `+oldestOf("running")+` UNION ALL `+oldestOf("canceling")+`) k
		 GROUP BY name, state`, sqldb.Micros(s.db.Now()), MaxCounted)
}

// oldestOf selects the $2 oldest tasks of a state.
func oldestOf(state TaskState) string {
	return `SELECT * FROM (SELECT name, state, created, unblocked FROM task WHERE state = '` + string(state) + `' ORDER BY created LIMIT $2) ` + string(state)
}

func scanCount(row sqldb.Scanner) (Count, error) {
	var c Count
	var created int64
	var ready sql.NullInt64
	err := row.Scan(&c.Name, &c.State, &c.Tasks, &c.Ready, &created, &ready)
	c.OldestCreated = sqldb.FromMicros(created)
	if ready.Valid {
		c.OldestReady = sqldb.FromMicros(ready.Int64)
	}
	return c, err
}

// OnlineWorker is a worker with a recent heartbeat.
type OnlineWorker struct {
	Name     string
	Services []string // names of the signing services that it can use
}

// OnlineWorkers returns at most limit workers that are online.
func (s *Store) OnlineWorkers(ctx context.Context, limit int) ([]OnlineWorker, error) {
	return sqldb.Collect(ctx, s.db.Read(), func(row sqldb.Scanner) (OnlineWorker, error) {
		var w OnlineWorker
		var services string
		if err := row.Scan(&w.Name, &services); err != nil {
			return OnlineWorker{}, err
		}
		return w, sqldb.FromJSON("worker.services", services, &w.Services)
	}, `SELECT name, services FROM worker WHERE heartbeat >= $1 ORDER BY name LIMIT $2`, sqldb.Micros(s.db.Now().Add(-WorkerTTL)), limit)
}
