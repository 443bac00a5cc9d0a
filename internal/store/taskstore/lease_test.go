package taskstore_test

import (
	"errors"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// claimNext claims the next short task.
func claimNext(t *testing.T, s *store.Store) *taskstore.Task {
	t.Helper()
	k, err := s.Tasks.ClaimNext(t.Context(), taskstore.Wanted{WorkerID: "worker", Lease: leaseForTests})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestOutdatedClaims verifies that a claim which another attempt has replaced can change nothing.
func TestOutdatedClaims(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	outdated := storetest.StartTask(t, s)
	if err := s.Tasks.ReturnTask(t.Context(), outdated, 0); err != nil {
		t.Fatal(err)
	}
	current := claimNext(t, s)
	for name, call := range map[string]func() error{
		"ExtendLease": func() error { return s.Tasks.ExtendLease(t.Context(), outdated, time.Hour) },
		"ReportProgress": func() error {
			return s.Tasks.ReportProgress(t.Context(), outdated, []taskstore.Progress{{Done: 1}})
		},
		"KeepArgs": func() error { return s.Tasks.KeepArgs(t.Context(), outdated, "changed") },
		"CompleteTask": func() error {
			return s.Tasks.CompleteTask(t.Context(), outdated, taskstore.Outcome{Result: "changed"})
		},
		"FailTask":    func() error { return s.Tasks.FailTask(t.Context(), outdated, "changed") },
		"EndCanceled": func() error { return s.Tasks.EndCanceled(t.Context(), outdated) },
		"ReturnTask":  func() error { return s.Tasks.ReturnTask(t.Context(), outdated, 0) },
	} {
		if err := call(); !errors.Is(err, taskstore.ErrFenced) {
			t.Errorf("%s with an outdated claim = %v, want ErrFenced", name, err)
		}
	}
	if outdated.Ended() {
		t.Error("the outdated claim has ended the task")
	}
	k := wantState(t, s, current.ID, taskstore.TaskRunning)
	if k.Attempt != current.Attempt || string(k.Args) != string(current.Args) || len(k.Progress) != 0 ||
		k.Result != nil ||
		k.Error != nil {
		t.Errorf("the task was changed to %+v", k)
	}
	for c, want := range map[*taskstore.Claim]bool{outdated: false, {TaskID: k.ID, Attempt: k.Attempt}: true} {
		if got, err := s.Tasks.StillClaimed(t.Context(), c); err != nil || got != want {
			t.Errorf("StillClaimed with attempt %d = %t, %v, want %t", c.Attempt, got, err, want)
		}
	}
}

// TestKeepArgs verifies that the next attempt gets the changed arguments, and that an ended task has none.
func TestKeepArgs(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	c := storetest.StartTask(t, s)
	if err := s.Tasks.KeepArgs(t.Context(), c, map[string]string{"page": "2"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Tasks.ReturnTask(t.Context(), c, 0); err != nil {
		t.Fatal(err)
	}
	k := claimNext(t, s)
	if string(k.Args) != `{"page":"2"}` {
		t.Errorf("arguments of the next attempt: %s", k.Args)
	}
	c = &taskstore.Claim{TaskID: k.ID, Attempt: k.Attempt}
	if err := s.Tasks.FailTask(t.Context(), c, "The remote does not answer."); err != nil {
		t.Fatal(err)
	}
	failed := wantState(t, s, k.ID, taskstore.TaskFailed)
	if string(failed.Args) != "{}" || failed.Error == nil || failed.Error.Description != "The remote does not answer." {
		t.Errorf("the failed task has the arguments %s and the error %+v", failed.Args, failed.Error)
	}
}

// TestReturnTaskWithWait verifies that a returned task is not claimed before the wait is over.
func TestReturnTaskWithWait(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	now := time.Now()
	s.DB.SetClock(func() time.Time { return now })
	c := storetest.StartTask(t, s)
	if err := s.Tasks.ReturnTask(t.Context(), c, time.Minute); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		passes    time.Duration
		wantReady int
	}{{passes: 0, wantReady: 0}, {passes: 59 * time.Second, wantReady: 0}, {passes: time.Second, wantReady: 1}} {
		now = now.Add(step.passes)
		ready, err := s.Tasks.ReadyTasks(t.Context(), nil, 10)
		if err != nil || len(ready) != step.wantReady {
			t.Errorf("ready tasks: %v, %v, want %d", ready, err, step.wantReady)
		}
		if k := claimNext(t, s); (k != nil) != (step.wantReady > 0) {
			t.Errorf("claimed %+v, want %d tasks", k, step.wantReady)
		}
	}
}

// TestPermit verifies the account that Permit is called with, and that its error keeps the task from completing.
func TestPermit(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	alice, err := s.Accounts.PutUser(t.Context(), "alice", "hash", false, true)
	if err != nil {
		t.Fatal(err)
	}
	refused := errors.New("refused")
	byAlice := taskstore.NewTask{Origin: taskstore.OriginUser, CreatedBy: alice.ID}
	for name, tt := range map[string]struct {
		task       taskstore.NewTask
		refuse     error
		wantCalled bool
		wantState  taskstore.TaskState
	}{
		"user":         {task: byAlice, wantCalled: true, wantState: taskstore.TaskCompleted},
		"refused user": {task: byAlice, refuse: refused, wantCalled: true, wantState: taskstore.TaskRunning},
		"system": {
			task: taskstore.NewTask{Origin: taskstore.OriginSystem}, refuse: refused, wantState: taskstore.TaskCompleted,
		},
		"command": {
			task: taskstore.NewTask{Origin: taskstore.OriginCommand}, refuse: refused, wantState: taskstore.TaskCompleted,
		},
	} {
		c := startTask(t, s, tt.task)
		called := false
		c.Permit = func(u *pulp.User) error {
			called = true
			if u == nil || u.ID != alice.ID || u.Username != "alice" {
				t.Errorf("%s: Permit(%+v), want the account %+v", name, u, alice)
			}
			return tt.refuse
		}
		err := s.Tasks.CompleteTask(t.Context(), c, taskstore.Outcome{})
		if called != tt.wantCalled || (err != nil) != (tt.wantState == taskstore.TaskRunning) ||
			err != nil && !errors.Is(err, refused) {
			t.Errorf("%s: CompleteTask = %v, Permit called: %t", name, err, called)
		}
		wantState(t, s, c.TaskID, tt.wantState)
		if c.Ended() != (err == nil) {
			t.Errorf("%s: the claim has ended: %t", name, c.Ended())
		}
	}
}

// TestPermitWithoutAccount verifies that Permit gets nil for a deleted account, and is not called for a deleted task.
func TestPermitWithoutAccount(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	bob, err := s.Accounts.PutUser(t.Context(), "bob", "hash", false, true)
	if err != nil {
		t.Fatal(err)
	}
	c := startTask(t, s, taskstore.NewTask{Origin: taskstore.OriginUser, CreatedBy: bob.ID})
	storetest.Exec(t, s, `DELETE FROM account WHERE id = $1`, bob.ID)
	gone := errors.New("the account was deleted")
	c.Permit = func(u *pulp.User) error {
		if u != nil {
			t.Errorf("Permit(%+v), want nil", u)
		}
		return gone
	}
	if err := s.Tasks.CompleteTask(t.Context(), c, taskstore.Outcome{}); !errors.Is(err, gone) {
		t.Errorf("CompleteTask = %v, want the error of Permit", err)
	}
	missing := &taskstore.Claim{TaskID: pulp.NewID(), Attempt: 1, Permit: func(*pulp.User) error { return gone }}
	if err := s.Tasks.CompleteTask(t.Context(), missing, taskstore.Outcome{}); !errors.Is(err, taskstore.ErrFenced) {
		t.Errorf("CompleteTask of a missing task = %v, want ErrFenced", err)
	}
}

// startTask creates a task and claims it.
func startTask(t *testing.T, s *store.Store, n taskstore.NewTask) *taskstore.Claim {
	t.Helper()
	n.Name = "test"
	made, err := s.Tasks.CreateTask(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	k, err := s.Tasks.ClaimTask(t.Context(), "worker", made.ID, nil, leaseForTests)
	if err != nil || k == nil {
		t.Fatalf("ClaimTask = %+v, %v", k, err)
	}
	return &taskstore.Claim{TaskID: k.ID, Attempt: k.Attempt}
}

// TestOutcome verifies the stored form of an outcome.
func TestOutcome(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	c := storetest.StartTask(t, s)
	c.Show = func(v any) any { return map[string]any{"shown": v} }
	outcome := taskstore.Outcome{
		Created: []taskstore.Created{{Href: "/made/", PRN: "prn:made"}},
		Result:  1,
		Progress: []taskstore.Progress{
			{Message: "Syncing", Code: "sync", State: taskstore.TaskCompleted, Total: new(int64(2)), Done: 2},
		},
	}
	former := []taskstore.Progress{{Message: "former"}, {Message: "reports"}}
	if err := s.Tasks.ReportProgress(t.Context(), c, former); err != nil {
		t.Fatal(err)
	}
	if err := s.Tasks.CompleteTask(t.Context(), c, outcome); err != nil {
		t.Fatal(err)
	}
	k := wantState(t, s, c.TaskID, taskstore.TaskCompleted)
	if string(k.Result) != `{"shown":1}` || len(k.Created) != 1 || k.Created[0] != outcome.Created[0] {
		t.Errorf("result %s, created %+v, want %+v", k.Result, k.Created, outcome)
	}
	if len(k.Progress) != 1 || k.Progress[0].Message != "Syncing" || *k.Progress[0].Total != 2 ||
		k.Progress[0].Suffix != nil {
		t.Errorf("progress reports %+v, want %+v", k.Progress, outcome.Progress)
	}
}
