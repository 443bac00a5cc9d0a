package tasks_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/memqueue"
)

// startOn starts a worker whose PostgreSQL connections have the application name "cut". It returns the worker's
// store and another client of the same database.
func startOn(t *testing.T, lease time.Duration, jobs func(*store.Store) map[string]work) (*store.Store, *sql.DB) {
	t.Helper()
	url := pgtest.Database(t)
	s, err := store.Open(t.Context(), url+"&application_name=cut")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.DB.Close() })
	if err := s.DB.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	w := tasks.NewWorker(tasks.WorkerOptions{
		Store: s, Queue: &memqueue.Queue{}, Jobs: jobsOf(jobs(s)), Log: slog.New(slog.DiscardHandler), Slots: 1, Name: "1@test", Lease: lease,
	})
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- w.Run(ctx, 0) }()
	t.Cleanup(func() {
		stop()
		if err := <-stopped; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	return s, db
}

// TestTaskOutlivesItsConnections terminates the connections of a task until one of its reads or writes fails.
// The database accepts new connections all the time, so the worker could store a failure. It must not: a task
// that loses its database connection is run again.
func TestTaskOutlivesItsConnections(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(context.Context, *store.Store, *tasks.Run) error{
		"reads": func(ctx context.Context, s *store.Store, r *tasks.Run) error {
			_, err := s.Tasks.Task(ctx, r.Task.ID)
			return err
		},
		"writes": func(ctx context.Context, s *store.Store, r *tasks.Run) error {
			return s.Tasks.Beat(ctx, pulp.Worker{ID: r.Task.ID})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cut := make(chan error, 10)
			s, db := startOn(t, 3*time.Second, func(s *store.Store) map[string]work {
				return map[string]work{"work": func(ctx context.Context, r *tasks.Run) error {
					for r.Task.Attempt == 1 {
						if err := use(ctx, s, r); err != nil {
							cut <- err
							return err
						}
					}
					return nil
				}}
			})
			k, err := s.Tasks.CreateTask(t.Context(), taskstore.NewTask{Name: "work", Origin: taskstore.OriginSystem})
			if err != nil {
				t.Fatal(err)
			}
			eventually.True(t, time.Minute, func() bool {
				if k, err = s.Tasks.Task(t.Context(), k.ID); err != nil {
					t.Fatal(err)
				}
				return k.State == taskstore.TaskRunning
			}, "the worker runs the task")
			eventually.True(t, time.Minute, func() bool {
				if _, err := db.ExecContext(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
					WHERE application_name = 'cut' AND datname = current_database()`); err != nil {
					t.Fatal(err)
				}
				return len(cut) > 0
			}, "a connection is terminated while the task uses it")
			lost := <-cut
			ended := awaitEnd(t, s, k.ID)
			if ended.State != taskstore.TaskCompleted || ended.Attempt != 2 {
				t.Errorf("the task is %s in attempt %d (%+v) after %v, want completed in attempt 2", ended.State, ended.Attempt, ended.Error, lost)
			}
		})
	}
}

// TestTaskThatAlwaysLosesItsDatabaseFails expects an end to the retries: the task itself may break the
// connections.
func TestTaskThatAlwaysLosesItsDatabaseFails(t *testing.T) {
	t.Parallel()
	s, _ := startOn(t, time.Second, func(*store.Store) map[string]work {
		return map[string]work{"work": func(context.Context, *tasks.Run) error { return sql.ErrConnDone }}
	})
	k, err := s.Tasks.CreateTask(t.Context(), taskstore.NewTask{Name: "work", Origin: taskstore.OriginSystem})
	if err != nil {
		t.Fatal(err)
	}
	k = awaitEnd(t, s, k.ID)
	if k.State != taskstore.TaskFailed || k.Attempt != taskstore.MaxLosses || k.Error == nil || !strings.Contains(k.Error.Description, "3 times") {
		t.Errorf("the task is %s in attempt %d (%+v), want failed in attempt %d", k.State, k.Attempt, k.Error, taskstore.MaxLosses)
	}
}

// TestUnreachableRemoteFailsTask expects that a network error that does not come from the database fails the
// task at its first attempt.
func TestUnreachableRemoteFailsTask(t *testing.T) {
	t.Parallel()
	broken := fault.Wrap(fault.Unavailable, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}, "Cannot reach the remote.")
	s, _ := startOn(t, time.Second, func(*store.Store) map[string]work {
		return map[string]work{"work": func(context.Context, *tasks.Run) error { return broken }}
	})
	k, err := s.Tasks.CreateTask(t.Context(), taskstore.NewTask{Name: "work", Origin: taskstore.OriginSystem})
	if err != nil {
		t.Fatal(err)
	}
	k = awaitEnd(t, s, k.ID)
	if k.State != taskstore.TaskFailed || k.Attempt != 1 || k.Error == nil || k.Error.Description != broken.Msg {
		t.Errorf("the task is %s in attempt %d (%+v), want failed in attempt 1 with %q", k.State, k.Attempt, k.Error, broken.Msg)
	}
}

// TestDeadWorkersAreForgotten expects that workers without a heartbeat for an hour are deleted, and no others.
func TestDeadWorkersAreForgotten(t *testing.T) {
	t.Parallel()
	s, db := startOn(t, time.Second, func(*store.Store) map[string]work { return nil })
	gone, silent := pulp.NewID(), pulp.NewID()
	for id, age := range map[string]time.Duration{gone: 61 * time.Minute, silent: 59 * time.Minute} {
		if err := s.Tasks.Beat(t.Context(), pulp.Worker{ID: id, Name: "2@test " + id}); err != nil {
			t.Fatal(err)
		}
		if _, err := db.ExecContext(t.Context(), `UPDATE worker SET heartbeat = $2 WHERE id = $1`, id, time.Now().Add(-age).UnixMicro()); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	eventually.True(t, time.Minute, func() bool {
		_, err = s.Tasks.Worker(t.Context(), gone)
		return err != nil
	}, "the dead worker is deleted")
	if !fault.Is(err, fault.NotFound) {
		t.Errorf("Worker = %v, want NotFound", err)
	}
	left, _, err := s.Lists.Workers(t.Context(), list.Query{Limit: 10})
	if _, silentErr := s.Tasks.Worker(t.Context(), silent); errors.Join(err, silentErr) != nil || len(left) != 2 {
		t.Errorf("%d workers are left, %v, %v, want the worker itself and the silent one", len(left), err, silentErr)
	}
}
