package taskstore

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Beat stores the heartbeat of a worker, inserting its row if there is none.
func (s *Store) Beat(ctx context.Context, w pulp.Worker) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		_, err := t.Exec(`
			INSERT INTO worker (id, name, versions, services, started, heartbeat) VALUES ($1, $2, $3, $4, $5, $5)
			ON CONFLICT (id) DO UPDATE SET heartbeat = excluded.heartbeat, services = excluded.services`,
			w.ID, w.Name, sqldb.ToJSON(w.Versions), sqldb.ToJSON(append([]string{}, w.Services...)), t.Now)
		return err
	})
}

// RemoveWorker deletes a worker that has stopped, and with everyone all others too. Tasks keep its id.
func (s *Store) RemoveWorker(ctx context.Context, id string, everyone bool) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		_, err := t.Exec(`DELETE FROM worker WHERE id = $1 OR $2`, id, everyone)
		return err
	})
}

// ForgetWorkers deletes the workers without a heartbeat since a time. Tasks keep their ids.
func (s *Store) ForgetWorkers(ctx context.Context, since time.Time) error {
	return s.db.InStatement(ctx, func(t *sqldb.Tx) error {
		_, err := t.Exec(`DELETE FROM worker WHERE heartbeat < $1`, sqldb.Micros(since))
		return err
	})
}

// WorkerColumns are the columns of a worker w that ScanWorker reads.
const WorkerColumns = `w.id, w.name, w.versions, w.services, w.started, w.heartbeat,
	COALESCE((SELECT k.id FROM task k WHERE k.worker_id = w.id AND k.state IN ('running', 'canceling') ORDER BY k.seq LIMIT 1), '')`

// ScanWorker reads a worker with the task that it runs.
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

// Worker returns the worker with an id. The error is NotFound if there is none.
func (s *Store) Worker(ctx context.Context, id string) (pulp.Worker, error) {
	w, err := ScanWorker(s.db.Read().QueryRowContext(ctx, `SELECT `+WorkerColumns+` FROM worker w WHERE w.id = $1`, id))
	return w, sqldb.NotFound(err, "No AppStatus matches the given query.")
}
