package taskstore_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/catalog"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
)

const leaseForTests = time.Minute

func exclusive(names ...string) []taskstore.Resource { return resources(true, names) }

func shared(names ...string) []taskstore.Resource { return resources(false, names) }

func resources(exclusive bool, names []string) []taskstore.Resource {
	var r []taskstore.Resource
	for _, n := range names {
		r = append(r, taskstore.Resource{Href: n, Exclusive: exclusive})
	}
	return r
}

func createTask(t *testing.T, s *store.Store, r ...taskstore.Resource) taskstore.Task {
	t.Helper()
	k, err := s.Tasks.CreateTask(t.Context(), taskstore.NewTask{
		Name: "test", Origin: taskstore.OriginSystem, Args: map[string]int{"n": 1}, CID: "cid", Resources: r,
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func wantState(t *testing.T, s *store.Store, id string, want taskstore.TaskState) taskstore.Task {
	t.Helper()
	k, err := s.Tasks.Task(t.Context(), id)
	if err != nil || k.State != want {
		t.Errorf("task is %s, %v, want %s", k.State, err, want)
	}
	return k
}

func TestTaskLife(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	made := createTask(t, s, exclusive("a")...)
	if made.State != taskstore.TaskWaiting || made.Unblocked == nil || made.Started != nil {
		t.Errorf("a new task = %+v", made)
	}
	k, err := s.Tasks.ClaimNext(t.Context(), taskstore.Wanted{WorkerID: "worker", Lease: leaseForTests})
	if err != nil || k == nil || k.ID != made.ID || k.State != taskstore.TaskRunning || k.Attempt != 1 ||
		k.Started == nil {
		t.Fatalf("ClaimTask = %+v, %v", k, err)
	}
	c := &taskstore.Claim{TaskID: k.ID, Attempt: k.Attempt}
	reports := []taskstore.Progress{{Message: "m", Code: "c", State: taskstore.TaskRunning, Done: 3}}
	if err := s.Tasks.ReportProgress(t.Context(), c, reports); err != nil {
		t.Fatal(err)
	}
	if err := s.Tasks.CompleteTask(t.Context(), c, taskstore.Outcome{Result: map[string]int{"n": 1}}); err != nil {
		t.Fatal(err)
	}
	k2 := wantState(t, s, k.ID, taskstore.TaskCompleted)
	if string(k2.Result) != `{"n":1}` || k2.Finished == nil || k2.WorkerID != "worker" || len(k2.Progress) != 1 ||
		k2.CID != "cid" {
		t.Errorf("the completed task = %+v", k2)
	}
	if err := s.Tasks.CompleteTask(t.Context(), c, taskstore.Outcome{}); !errors.Is(err, taskstore.ErrFenced) {
		t.Errorf("completing it again = %v, want ErrFenced", err)
	}
	if _, _, err := s.Tasks.CancelTask(t.Context(), k.ID); !fault.Is(err, fault.Conflict) {
		t.Errorf("canceling it = %v, want Conflict", err)
	}
	if err := s.Tasks.DeleteTask(t.Context(), k.ID); err != nil {
		t.Errorf("deleting it = %v", err)
	}
	if err := s.Tasks.DeleteTask(t.Context(), k.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("deleting it again = %v, want NotFound", err)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	running := storetest.StartTask(t, s, exclusive("a")...)
	waiting := createTask(t, s, exclusive("a")...)
	behind := createTask(t, s, exclusive("a")...)
	if k, _, err := s.Tasks.CancelTask(t.Context(), waiting.ID); err != nil || k.State != taskstore.TaskCanceled ||
		k.Started != nil {
		t.Errorf("canceling a waiting task = %+v, %v", k, err)
	}
	if k, _, err := s.Tasks.CancelTask(t.Context(), waiting.ID); err != nil || k.State != taskstore.TaskCanceled {
		t.Errorf("canceling it again = %+v, %v", k, err)
	}
	if k, _, err := s.Tasks.CancelTask(t.Context(), running.TaskID); err != nil || k.State != taskstore.TaskCanceling {
		t.Errorf("canceling a running task = %+v, %v", k, err)
	}
	if err := s.Tasks.DeleteTask(t.Context(), running.TaskID); !fault.Is(err, fault.Conflict) {
		t.Errorf("deleting a canceling task = %v, want Conflict", err)
	}
	if err := s.Tasks.CompleteTask(t.Context(), running, taskstore.Outcome{}); !errors.Is(err, taskstore.ErrFenced) {
		t.Errorf("completing a canceling task = %v, want ErrFenced", err)
	}
	if err := s.Tasks.EndCanceled(t.Context(), running); err != nil {
		t.Fatal(err)
	}
	wantState(t, s, running.TaskID, taskstore.TaskCanceled)
	if k := wantState(t, s, behind.ID, taskstore.TaskWaiting); k.Unblocked == nil {
		t.Error("the task behind is still blocked")
	}
}

func TestLostWorkers(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	now := time.Now()
	s.DB.SetClock(func() time.Time { return now })
	c := storetest.StartTask(t, s, exclusive("a")...)
	for loss := 1; loss <= taskstore.MaxLosses; loss++ {
		now = now.Add(leaseForTests - time.Second)
		if r, err := s.Tasks.ReclaimTasks(t.Context(), false); err != nil || r != (taskstore.Reclaimed{}) {
			t.Fatalf("a task under its lease was taken back: %+v, %v", r, err)
		}
		now = now.Add(2 * time.Second)
		r, err := s.Tasks.ReclaimTasks(t.Context(), false)
		if err != nil || r.Waiting+r.Failed != 1 {
			t.Fatalf("loss %d: %+v, %v", loss, r, err)
		}
		if err := s.Tasks.ExtendLease(t.Context(), c, leaseForTests); !errors.Is(err, taskstore.ErrFenced) {
			t.Errorf("loss %d: the lost worker's beat = %v, want ErrFenced", loss, err)
		}
		if loss < taskstore.MaxLosses {
			k, err := s.Tasks.ClaimNext(t.Context(), taskstore.Wanted{WorkerID: "another", Lease: leaseForTests})
			if err != nil || k == nil {
				t.Fatalf("loss %d: %v, %v", loss, k, err)
			}
			c = &taskstore.Claim{TaskID: k.ID, Attempt: k.Attempt}
		}
	}
	k := wantState(t, s, c.TaskID, taskstore.TaskFailed)
	if k.Error == nil || k.Error.Description != "The task lost its worker 3 times." {
		t.Errorf("error = %+v", k.Error)
	}
}

func TestReturnedTaskRunsAgain(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	c := storetest.StartTask(t, s)
	for range 2 * taskstore.MaxLosses { // being stopped is no loss
		if err := s.Tasks.ReturnTask(t.Context(), c, 0); err != nil {
			t.Fatal(err)
		}
		k, err := s.Tasks.ClaimNext(t.Context(), taskstore.Wanted{WorkerID: "worker", Lease: leaseForTests})
		if err != nil || k == nil {
			t.Fatalf("claim = %v, %v", k, err)
		}
		c.Attempt = k.Attempt
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	for i := range 3 {
		c := storetest.StartTask(t, s)
		var err error
		if i == 0 {
			err = s.Tasks.FailTask(t.Context(), c, "no")
		} else {
			err = s.Tasks.CompleteTask(t.Context(), c, taskstore.Outcome{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	left := createTask(t, s)
	completed := []taskstore.TaskState{taskstore.TaskCompleted}
	n, err := s.Tasks.PurgeTasks(t.Context(), time.Now().Add(time.Hour), completed, 10)
	if err != nil || n != 2 {
		t.Errorf("purged %d, %v, want 2", n, err)
	}
	wantState(t, s, left.ID, taskstore.TaskWaiting)
}

// TestTasksThatNeedAService verifies that a sign task waits for a worker that can use its service, and that every
// worker can claim a task whose service was removed.
func TestTasksThatNeedAService(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	service, err := s.Signatures.AddSigningService(t.Context(), pulp.SigningService{
		Name: "svc", Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript,
	})
	if err != nil {
		t.Fatal(err)
	}
	needy, err := s.Tasks.CreateTask(
		t.Context(),
		taskstore.NewTask{Name: "needy", Origin: taskstore.OriginSystem, ServiceID: service.ID},
	)
	if err != nil {
		t.Fatal(err)
	}
	plain := createTask(t, s)
	claim := func(services ...string) string {
		t.Helper()
		k, err := s.Tasks.ClaimNext(
			t.Context(),
			taskstore.Wanted{WorkerID: "worker", Services: append([]string{}, services...), Lease: leaseForTests},
		)
		if err != nil {
			t.Fatal(err)
		}
		if k == nil {
			return ""
		}
		return k.ID
	}
	if got := claim("other"); got != plain.ID {
		t.Errorf("claimed %q, want the task that needs none", got)
	}
	if got := claim("other"); got != "" {
		t.Errorf("claimed %q without its service", got)
	}
	if got := claim("other", service.ID); got != needy.ID {
		t.Errorf("claimed %q, want the one that needs the service", got)
	}
	orphan, err := s.Tasks.CreateTask(
		t.Context(),
		taskstore.NewTask{Name: "orphan", Origin: taskstore.OriginSystem, ServiceID: pulp.NewID()},
	)
	if err != nil {
		t.Fatal(err)
	}
	if got := claim(); got != orphan.ID {
		t.Errorf("claimed %q, want the one whose service is gone", got)
	}
}

// TestTasksBehindAMigration verifies that tasks which wait for a repository still wait for it, in their order, after
// its href has changed, and become ready.
func TestTasksBehindAMigration(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	target, err := s.Catalog.PushTarget(t.Context(), catalog.FirstPush{BasePath: "acme/app", Type: pulp.ContainerPush})
	if err != nil {
		t.Fatal(err)
	}
	href := pulp.RepositoryHref(pulp.ContainerPush, target.Repository.ID)
	migration := createTask(t, s, exclusive(href)...)
	one := createTask(t, s, exclusive(href)...)
	two := createTask(t, s, exclusive(href)...)
	claim := func(k taskstore.Task) *taskstore.Claim {
		t.Helper()
		claimed, err := s.Tasks.ClaimNext(t.Context(), taskstore.Wanted{WorkerID: "worker", Lease: leaseForTests})
		if err != nil || claimed == nil || claimed.ID != k.ID {
			t.Fatalf("claimed %+v, %v, want task %d", claimed, err, k.Seq)
		}
		return &taskstore.Claim{TaskID: claimed.ID, Attempt: claimed.Attempt}
	}
	c := claim(migration)
	if err := s.Catalog.MigrateRepository(t.Context(), c, target.Repository.ID); err != nil ||
		!slices.Equal(c.Freed(), []string{one.ID}) {
		t.Fatalf("the migration freed %v, %v", c.Freed(), err)
	}
	three := createTask(t, s, exclusive(pulp.RepositoryHref(pulp.Container, target.Repository.ID))...)
	for _, k := range []taskstore.Task{one, two, three} {
		c := claim(k)
		if err := s.Tasks.CompleteTask(t.Context(), c, taskstore.Outcome{}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTaskWithManyResources verifies that a task may reserve more resources than an SQL expression may have terms,
// and waits for each of them.
func TestTaskWithManyResources(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	names := make([]string, 1500)
	for i := range names {
		names[i] = fmt.Sprintf("resource %d", i)
	}
	first := createTask(t, s, shared(names...)...)
	if first.Unblocked == nil {
		t.Error("the first task waits")
	}
	if k := createTask(t, s, append(exclusive(names[1499]), shared("another")...)...); k.Unblocked != nil {
		t.Error("a task that needs a reserved resource alone does not wait")
	}
	if k := createTask(t, s, shared(names[:1499]...)...); k.Unblocked == nil {
		t.Error("a task that shares resources waits")
	}
	if k := createTask(t, s, shared(names...)...); k.Unblocked != nil {
		t.Error("a task behind one that needs a resource alone does not wait")
	}
}
