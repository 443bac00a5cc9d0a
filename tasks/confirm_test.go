package tasks_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/memqueue"
)

// TestTasksOfUnconfirmedUsers verifies that a task waits while the source of its user does not answer, and fails if the
// source no longer has the person.
func TestTasksOfUnconfirmedUsers(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	var mu sync.Mutex
	outages := map[string]int{"waiting": 1} // until the source answers
	job := tasks.Job{Run: succeed, Permit: func(context.Context, *tasks.Run, pulp.User) error { return nil }}
	q, log := &memqueue.Queue{}, slog.New(slog.DiscardHandler)
	w := tasks.NewWorker(tasks.WorkerOptions{
		Store: s, Queue: q, Jobs: map[string]tasks.Job{"work": job}, Log: log, Slots: 1, Name: "1@test",
		Confirm: func(_ context.Context, u pulp.User) (pulp.User, error) {
			mu.Lock()
			defer mu.Unlock()
			if outages[u.Username] > 0 {
				outages[u.Username]--
				return u, fault.NewOutage(fault.Directory, errors.New("connection refused"), "The directory does not answer.")
			}
			u.Active = u.Username != "removed"
			return u, nil
		},
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, 0) }()
	dispatcher := tasks.NewDispatcher(s, q, w, log)
	for name, want := range map[string]struct {
		state taskstore.TaskState
		err   string
	}{
		"removed": {taskstore.TaskFailed, "disabled"},
		"present": {taskstore.TaskCompleted, ""},
		"waiting": {taskstore.TaskCompleted, ""},
	} {
		u, err := s.Accounts.PutUser(t.Context(), name, "hash", false, true)
		if err != nil {
			t.Fatal(err)
		}
		k, err := dispatcher.Dispatch(t.Context(), tasks.ByUser(u.ID), tasks.Spec{Name: "work"})
		if err != nil {
			t.Fatal(err)
		}
		k = awaitEnd(t, s, k.ID)
		if k.State != want.state || want.err != "" && (k.Error == nil || !strings.Contains(k.Error.Description, want.err)) {
			t.Errorf("the task of the user %s is %s (%+v), want %+v", name, k.State, k.Error, want)
		}
		if name == "waiting" && k.Attempt != 2 {
			t.Errorf("the task of the waiting user took %d attempts, want 2", k.Attempt)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
}
