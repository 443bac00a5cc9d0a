package taskstore_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// TestReclaimEveryone verifies that a process which has become the only owner of the database ends all claims: running
// tasks wait again, canceling ones are canceled and free the tasks behind them.
func TestReclaimEveryone(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	running, canceling := storetest.StartTask(t, s, exclusive("a")...), storetest.StartTask(t, s, exclusive("b")...)
	behind := createTask(t, s, exclusive("b")...)
	if _, _, err := s.Tasks.CancelTask(t.Context(), canceling.TaskID); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Tasks.ReclaimTasks(t.Context(), false); err != nil || got != (taskstore.Reclaimed{}) {
		t.Errorf("ReclaimTasks of ended leases = %+v, %v, want none", got, err)
	}
	got, err := s.Tasks.ReclaimTasks(t.Context(), true)
	if want := (taskstore.Reclaimed{Waiting: 1, Ended: 1}); err != nil || got != want {
		t.Errorf("ReclaimTasks of everyone = %+v, %v, want %+v", got, err, want)
	}
	wantState(t, s, running.TaskID, taskstore.TaskWaiting)
	wantState(t, s, canceling.TaskID, taskstore.TaskCanceled)
	ready, err := s.Tasks.ReadyTasks(t.Context(), nil, 10)
	if want := []string{running.TaskID, behind.ID}; err != nil || !slices.Equal(ready, want) {
		t.Errorf("ready tasks: %v, %v, want %v", ready, err, want)
	}
	if err := s.Tasks.EndCanceled(t.Context(), canceling); !errors.Is(err, taskstore.ErrFenced) {
		t.Errorf("EndCanceled after that = %v, want ErrFenced", err)
	}
}

// TestPurgeLimit verifies that the limit holds for all states together, and that the time excludes later ends.
func TestPurgeLimit(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	now := time.Now()
	s.DB.SetClock(func() time.Time { return now })
	for range 3 {
		if err := s.Tasks.CompleteTask(t.Context(), storetest.StartTask(t, s), taskstore.Outcome{}); err != nil {
			t.Fatal(err)
		}
		if err := s.Tasks.FailTask(t.Context(), storetest.StartTask(t, s), "failed"); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Hour)
	}
	both := []taskstore.TaskState{taskstore.TaskCompleted, taskstore.TaskFailed}
	before := now.Add(-90 * time.Minute) // of three hours, the first two
	for _, tt := range []struct {
		limit int
		want  int64
	}{{limit: 3, want: 3}, {limit: 3, want: 1}, {limit: 3, want: 0}} {
		if n, err := s.Tasks.PurgeTasks(t.Context(), before, both, tt.limit); err != nil || n != tt.want {
			t.Errorf("PurgeTasks deleted %d, %v, want %d", n, err, tt.want)
		}
	}
	if n, err := s.Tasks.PurgeTasks(t.Context(), now, both, 10); err != nil || n != 2 {
		t.Errorf("PurgeTasks of all deleted %d, %v, want the 2 of the last hour", n, err)
	}
}

// TestMissingTask verifies the errors for a task that does not exist.
func TestMissingTask(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	id := pulp.NewID()
	if _, err := s.Tasks.Task(t.Context(), id); !fault.Is(err, fault.NotFound) {
		t.Errorf("Task = %v, want NotFound", err)
	}
	if _, _, err := s.Tasks.CancelTask(t.Context(), id); !fault.Is(err, fault.NotFound) {
		t.Errorf("CancelTask = %v, want NotFound", err)
	}
	if k, err := s.Tasks.ClaimTask(t.Context(), "worker", id, nil, leaseForTests); k != nil || err != nil {
		t.Errorf("ClaimTask = %+v, %v, want neither", k, err)
	}
}

// TestCreateTaskOrigins verifies that a task needs an origin, and an account exactly if a user created it.
func TestCreateTaskOrigins(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	u, err := s.Accounts.PutUser(t.Context(), "alice", "hash", false, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		origin  taskstore.Origin
		by      int64
		wantErr bool
	}{
		{origin: taskstore.OriginUser, by: u.ID},
		{origin: taskstore.OriginCommand},
		{origin: taskstore.OriginSystem},
		{origin: taskstore.OriginUser, wantErr: true},
		{origin: taskstore.OriginCommand, by: u.ID, wantErr: true},
		{origin: taskstore.OriginSystem, by: u.ID, wantErr: true},
		{origin: taskstore.OriginUnknown, wantErr: true},
		{origin: "other", by: u.ID, wantErr: true},
	} {
		k, err := s.Tasks.CreateTask(t.Context(), taskstore.NewTask{Name: "test", Origin: tt.origin, CreatedBy: tt.by})
		if (err != nil) != tt.wantErr {
			t.Errorf("CreateTask(origin %q, account %d) = %v, want an error: %t", tt.origin, tt.by, err, tt.wantErr)
		}
		if err != nil {
			continue
		}
		if got, err := s.Tasks.Task(t.Context(), k.ID); err != nil || got.Origin != tt.origin || got.CreatedBy != tt.by {
			t.Errorf("the stored task has the origin %q and account %d, %v", got.Origin, got.CreatedBy, err)
		}
	}
}
