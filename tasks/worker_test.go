package tasks_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/internal/telemetry"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/memqueue"
)

// shop is a worker and a dispatcher with a real store.
type shop struct {
	t          *testing.T
	store      *store.Store
	queue      *memqueue.Queue
	dispatcher *tasks.Dispatcher
	stop       context.CancelFunc
	stopped    chan error
}

type work = func(context.Context, *tasks.Run) error

// jobsOf returns jobs without Permit, which run for the server and the command line.
func jobsOf(all map[string]work) map[string]tasks.Job {
	jobs := map[string]tasks.Job{}
	for name, do := range all {
		jobs[name] = tasks.Job{Run: do}
	}
	return jobs
}

// openShop starts a worker with so many slots; with none it only runs immediate tasks.
func openShop(t *testing.T, slots int, jobs map[string]work) *shop {
	t.Helper()
	s := storetest.Open(t)
	log := slog.New(slog.DiscardHandler)
	q := &memqueue.Queue{}
	w := tasks.NewWorker(tasks.WorkerOptions{Store: s, Queue: q, Jobs: jobsOf(jobs), Log: log, Slots: slots, Name: "1@test"})
	ctx, stop := context.WithCancel(t.Context())
	o := &shop{t: t, store: s, queue: q, dispatcher: tasks.NewDispatcher(s, q, w, log), stop: stop, stopped: make(chan error, 1)}
	if slots > 0 {
		go func() { o.stopped <- w.Run(ctx, 0) }()
		t.Cleanup(func() {
			stop()
			if err := <-o.stopped; err != nil {
				t.Errorf("Run = %v", err)
			}
		})
	}
	return o
}

func (o *shop) dispatch(spec tasks.Spec) taskstore.Task {
	o.t.Helper()
	k, err := o.dispatcher.Dispatch(telemetry.WithCorrelation(o.t.Context(), "cid"), tasks.BySystem(), spec)
	if err != nil {
		o.t.Fatal(err)
	}
	return k
}

// awaitEnd waits until a task has ended and returns it.
func awaitEnd(t *testing.T, s *store.Store, id string) (k taskstore.Task) {
	t.Helper()
	eventually.NoError(t, 3*time.Minute, func() (err error) {
		if k, err = s.Tasks.Task(t.Context(), id); err == nil && !k.State.Final() {
			err = fmt.Errorf("it is %s in attempt %d", k.State, k.Attempt)
		}
		return err
	}, "task %s ends", id)
	return k
}

// ended waits until a task has ended, compares its state and returns it.
func (o *shop) ended(id string, want taskstore.TaskState) taskstore.Task {
	o.t.Helper()
	k := awaitEnd(o.t, o.store, id)
	if k.State != want {
		o.t.Errorf("the task is %s (%+v), want %s", k.State, k.Error, want)
	}
	return k
}

func TestHowTasksEnd(t *testing.T) {
	t.Parallel()
	const internalError = "Internal error; the server's log has the details under the task's logging_cid."
	o := openShop(t, 2, map[string]work{
		"done": func(ctx context.Context, r *tasks.Run) error {
			var args struct{ N int }
			if err := r.Decode(&args); err != nil || args.N != 7 || telemetry.Correlation(ctx) != "cid" {
				return errors.New("wrong arguments")
			}
			report := r.Report("code", "Message", 2)
			report.Add(2)
			return report.Complete(ctx)
		},
		"no result":      succeed,
		"public error":   func(context.Context, *tasks.Run) error { return fault.New(fault.Invalid, "The key is gone.") },
		"internal error": func(context.Context, *tasks.Run) error { return errors.New("pq: password=secret") },
		"panic":          func(context.Context, *tasks.Run) error { panic("nil map") },
		"unfinished report": func(_ context.Context, r *tasks.Run) error {
			r.Report("code", "Message", -1).Add(3)
			return errors.New("no")
		},
	})
	tests := map[string]struct {
		state       taskstore.TaskState
		description string
	}{
		"done":              {state: taskstore.TaskCompleted},
		"no result":         {state: taskstore.TaskCompleted},
		"public error":      {state: taskstore.TaskFailed, description: "The key is gone."},
		"internal error":    {state: taskstore.TaskFailed, description: internalError},
		"panic":             {state: taskstore.TaskFailed, description: internalError},
		"unfinished report": {state: taskstore.TaskFailed, description: internalError},
	}
	for name, tt := range tests {
		k := o.ended(o.dispatch(tasks.Spec{Name: name, Args: map[string]int{"N": 7}}).ID, tt.state)
		description := ""
		if k.Error != nil {
			description = k.Error.Description
		}
		if description != tt.description {
			t.Errorf("%s: the task's error is %q, want %q", name, description, tt.description)
		}
		if k.CID != "cid" || k.WorkerID == "" || k.Started == nil || k.Finished == nil {
			t.Errorf("%s: the task lacks its correlation id, worker or times: %+v", name, k)
		}
		for _, p := range k.Progress {
			done := p.Done == 3 && p.Total == nil
			if name == "done" {
				done = p.Done == 2 && *p.Total == 2
			}
			if p.State != tt.state || !done {
				t.Errorf("%s: progress %+v", name, p)
			}
		}
	}
}

// succeed is a job without a result.
func succeed(context.Context, *tasks.Run) error { return nil }

func TestCancelOfARunningTask(t *testing.T) {
	t.Parallel()
	began := make(chan struct{})
	o := openShop(t, 1, map[string]work{
		"waits": func(ctx context.Context, _ *tasks.Run) error {
			close(began)
			<-ctx.Done()
			return context.Cause(ctx)
		},
		"next": succeed,
	})
	on := []taskstore.Resource{{Href: "/a/", Exclusive: true}}
	k := o.dispatch(tasks.Spec{Name: "waits", Resources: on})
	<-began
	next := o.dispatch(tasks.Spec{Name: "next", Resources: on})
	if next.Unblocked != nil {
		t.Error("a task on a reserved resource is ready")
	}
	if got, err := o.dispatcher.Cancel(t.Context(), k.ID); err != nil || got.State != taskstore.TaskCanceling {
		t.Errorf("Cancel = %s, %v", got.State, err)
	}
	if got := o.ended(k.ID, taskstore.TaskCanceled); got.Error != nil {
		t.Errorf("a canceled task has the error %+v", got.Error)
	}
	o.ended(next.ID, taskstore.TaskCompleted)
	if got, err := o.dispatcher.Cancel(t.Context(), next.ID); !fault.Is(err, fault.Conflict) || got.State != taskstore.TaskCompleted {
		t.Errorf("Cancel of a completed task = %s, %v, want Conflict", got.State, err)
	}
}

func TestStoppedWorkerReturnsItsTask(t *testing.T) {
	t.Parallel()
	began := make(chan struct{}, 2)
	o := openShop(t, 1, map[string]work{"waits": func(ctx context.Context, _ *tasks.Run) error {
		began <- struct{}{}
		<-ctx.Done()
		return context.Cause(ctx)
	}})
	k := o.dispatch(tasks.Spec{Name: "waits"})
	<-began
	o.stop()
	err := <-o.stopped
	o.stopped <- err
	got, err := o.store.Tasks.Task(t.Context(), k.ID)
	if err != nil || got.State != taskstore.TaskWaiting || got.Attempt != 1 {
		t.Errorf("the task is %s, attempt %d, %v, want waiting", got.State, got.Attempt, err)
	}
}

func TestUnannouncedTasksRun(t *testing.T) {
	t.Parallel()
	o := openShop(t, 1, map[string]work{"done": succeed})
	k, err := o.store.Tasks.CreateTask(t.Context(), taskstore.NewTask{Name: "done", Origin: taskstore.OriginSystem}) // as a command line does
	if err != nil {
		t.Fatal(err)
	}
	o.ended(k.ID, taskstore.TaskCompleted)
}

// deaf is a queue that delivers nothing to this process: other processes, which cannot use the key that a task
// needs, receive all announcements.
type deaf struct {
	memqueue.Queue
	waiting atomic.Int64
}

// Pop implements tasks.Queue.
func (q *deaf) Pop(ctx context.Context, wait time.Duration) (string, error) {
	q.waiting.Add(1)
	defer q.waiting.Add(-1)
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	<-ctx.Done()
	return "", nil
}

// TestTasksAnnouncedToOthersRun expects that the sweep wakes an idle slot although other processes receive all
// announcements.
func TestTasksAnnouncedToOthersRun(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	ran := make(chan struct{}, 1)
	q := &deaf{}
	w := tasks.NewWorker(tasks.WorkerOptions{
		Store: s, Queue: q, Log: slog.New(slog.DiscardHandler), Slots: 2, Name: "1@test",
		Jobs: jobsOf(map[string]work{"work": func(context.Context, *tasks.Run) error { ran <- struct{}{}; return nil }}),
	})
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- w.Run(ctx, 0) }()
	eventually.True(t, time.Minute, func() bool { return q.waiting.Load() == 5 }, "the worker's five slots wait for the queue")
	if _, err := s.Tasks.CreateTask(t.Context(), taskstore.NewTask{Name: "work", Origin: taskstore.OriginSystem}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ran:
	case <-time.After(50 * time.Second): // shorter than a slot's wait for the queue, a minute
		t.Error("the task does not run")
	}
	stop()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestImmediateTasks(t *testing.T) {
	t.Parallel()
	var ran atomic.Int64
	o := openShop(t, 0, map[string]work{"now": func(context.Context, *tasks.Run) error { ran.Add(1); return nil }})
	on := []taskstore.Resource{{Href: "/a/", Exclusive: true}}
	if k := o.dispatch(tasks.Spec{Name: "now", Resources: on, Immediate: true}); k.State != taskstore.TaskCompleted || ran.Load() != 1 {
		t.Errorf("an immediate task is %s", k.State)
	}
	waiting := o.dispatch(tasks.Spec{Name: "later", Resources: on})
	if k := o.dispatch(tasks.Spec{Name: "now", Resources: on, Immediate: true}); k.State != taskstore.TaskWaiting || ran.Load() != 1 {
		t.Errorf("an immediate task behind another is %s", k.State)
	}
	if _, err := o.dispatcher.Cancel(t.Context(), waiting.ID); err != nil {
		t.Fatal(err)
	}
}

// TestUnknownKindIsLeftToNewerWorkers expects that a worker returns a task of a newer version's kind, which a newer worker
// runs, and fails it when none has run it for an hour.
func TestUnknownKindIsLeftToNewerWorkers(t *testing.T) {
	t.Parallel()
	o := openShop(t, 1, map[string]work{"known": succeed})
	forNewer, expired := o.dispatch(tasks.Spec{Name: "newer"}), o.dispatch(tasks.Spec{Name: "unknown"})
	err := o.store.DB.InTx(t.Context(), func(x *sqldb.Tx) error {
		_, err := x.Exec(`UPDATE task SET created = created - $1 WHERE id = $2`, time.Hour.Microseconds(), expired.ID)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	k := o.ended(expired.ID, taskstore.TaskFailed)
	if k.Error == nil || !strings.HasPrefix(k.Error.Description, "No worker knows the task unknown.") {
		t.Errorf("the error of an old task of an unknown kind is %+v", k.Error)
	}
	o.ended(o.dispatch(tasks.Spec{Name: "known"}).ID, taskstore.TaskCompleted)
	eventually.True(t, time.Minute, func() bool {
		k, err := o.store.Tasks.Task(t.Context(), forNewer.ID)
		return err == nil && k.Attempt > 0 && k.State == taskstore.TaskWaiting
	}, "the older worker has returned the task")
	newer := tasks.NewWorker(tasks.WorkerOptions{
		Store: o.store, Queue: o.queue, Jobs: jobsOf(map[string]work{"newer": succeed}), Log: slog.New(slog.DiscardHandler), Slots: 1, Name: "2@test",
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- newer.Run(ctx, 0) }()
	o.ended(forNewer.ID, taskstore.TaskCompleted)
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
}

// TestRetryLaterFailsNoTask expects that a task waits as often as its dependency is unavailable, and that other
// tasks run meanwhile.
func TestRetryLaterFailsNoTask(t *testing.T) {
	t.Parallel()
	o := openShop(t, 1, map[string]work{
		"dependent": func(_ context.Context, r *tasks.Run) error {
			if r.Task.Attempt <= taskstore.MaxLosses {
				return tasks.RetryLater(fault.New(fault.Unavailable, "The token is not available."))
			}
			return nil
		},
		"other": func(context.Context, *tasks.Run) error { return nil },
	})
	dependent := o.dispatch(tasks.Spec{Name: "dependent"})
	other := o.ended(o.dispatch(tasks.Spec{Name: "other"}).ID, taskstore.TaskCompleted)
	k := o.ended(dependent.ID, taskstore.TaskCompleted)
	if k.Attempt != taskstore.MaxLosses+1 || k.Finished.Before(*other.Finished) {
		t.Errorf("the task took %d attempts, want %d; it ended %v, the other %v", k.Attempt, taskstore.MaxLosses+1, k.Finished, other.Finished)
	}
}
