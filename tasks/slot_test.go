package tasks_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/memqueue"
)

// stage is a store with tasks that block until the test ends them. A task's argument is its label.
type stage struct {
	*testing.T
	store      *store.Store
	queue      *memqueue.Queue
	jobs       map[string]tasks.Job
	dispatcher *tasks.Dispatcher
	users      map[string]int64

	mu      sync.Mutex
	began   []string // labels of tasks, in the order in which they began
	running map[string]chan struct{}
	changed chan struct{}
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := storetest.Open(t)
	g := &stage{T: t, store: s, queue: &memqueue.Queue{}, users: map[string]int64{}, running: map[string]chan struct{}{}, changed: make(chan struct{}, 1000)}
	job := tasks.Job{Run: g.run, Permit: func(context.Context, *tasks.Run, pulp.User) error { return nil }}
	g.jobs = map[string]tasks.Job{tasks.Sync: job, tasks.Sign: job}
	for _, name := range []string{"a", "b", "c", "d"} {
		u, err := s.Accounts.PutUser(t.Context(), name, "", false, true)
		if err != nil {
			t.Fatal(err)
		}
		g.users[name] = u.ID
	}
	quiet := slog.New(slog.DiscardHandler)
	g.dispatcher = tasks.NewDispatcher(s, g.queue, tasks.NewWorker(tasks.WorkerOptions{Store: s, Queue: g.queue, Log: quiet}), quiet)
	return g
}

func (g *stage) run(ctx context.Context, r *tasks.Run) error {
	var label string
	if err := r.Decode(&label); err != nil {
		return err
	}
	end := make(chan struct{})
	g.mu.Lock()
	g.began, g.running[label] = append(g.began, label), end
	g.mu.Unlock()
	g.changed <- struct{}{}
	select {
	case <-end:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// work starts worker processes with so many slots each, until the test ends.
func (g *stage) work(processes, workers int) {
	g.Helper()
	for i := range processes {
		w := tasks.NewWorker(tasks.WorkerOptions{
			Store: g.store, Queue: g.queue, Jobs: g.jobs, Log: slog.New(slog.DiscardHandler), Slots: workers, Name: fmt.Sprintf("%d@test", i),
		})
		ctx, stop := context.WithCancel(g.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- w.Run(ctx, 0) }()
		g.Cleanup(func() {
			stop()
			if err := <-stopped; err != nil {
				g.Errorf("Run = %v", err)
			}
		})
	}
}

func (g *stage) dispatch(user, namespace, name, label string) {
	g.Helper()
	if _, err := g.dispatcher.Dispatch(g.Context(), tasks.ByUser(g.users[user]), tasks.Spec{Name: name, Args: label, Namespace: namespace}); err != nil {
		g.Fatal(err)
	}
}

func (g *stage) labels() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.began)
}

// begins waits until the labels of the tasks that have begun fulfill a condition.
func (g *stage) begins(what string, enough func(began []string) bool) []string {
	g.Helper()
	timeout := time.After(time.Minute)
	for {
		if began := g.labels(); enough(began) {
			return began
		}
		select {
		case <-g.changed:
		case <-timeout:
			g.Fatalf("%s: waited in vain; began %v", what, g.labels())
		}
	}
}

func (g *stage) beginsTask(label string) {
	g.Helper()
	g.begins(label, func(began []string) bool { return slices.Contains(began, label) })
}

func (g *stage) beginsCount(n int) []string {
	g.Helper()
	return g.begins(fmt.Sprint(n), func(began []string) bool { return len(began) >= n })
}

func (g *stage) end(label string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.running[label])
}

// settles waits until no further tasks begin. It waits twice as long as idle slots take to look again.
func (g *stage) settles() []string {
	for {
		before := len(g.labels())
		time.Sleep(2500 * time.Millisecond)
		if now := g.labels(); len(now) == before {
			return now
		}
	}
}

// TestLongTasksLeaveRoom occupies all slots that long tasks may use. Sign tasks of the same user and of another
// user must still begin.
func TestLongTasksLeaveRoom(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ processes, workers int }{{1, 1}, {1, 2}, {2, 1}} {
		t.Run(fmt.Sprintf("%d processes with %d workers", c.processes, c.workers), func(t *testing.T) {
			t.Parallel()
			g := newStage(t)
			for i := range 20 { // sync tasks that never end
				g.dispatch("a", "a", tasks.Sync, fmt.Sprintf("sync a%d", i))
				g.dispatch("b", "b", tasks.Sync, fmt.Sprintf("sync b%d", i))
			}
			g.work(c.processes, c.workers)
			if began, want := g.settles(), c.processes*(c.workers+1); len(began) != want {
				t.Errorf("%d long tasks run (%v), want %d", len(began), began, want)
			}
			g.dispatch("a", "a", tasks.Sign, "sign a")
			g.beginsTask("sign a")
			g.dispatch("b", "b", tasks.Sign, "sign b")
			g.beginsTask("sign b")
		})
	}
}

// TestOneOwnerLeavesRoom occupies all slots that one owner may use, with long and with short tasks that do not
// end. Tasks of other owners must still begin.
func TestOneOwnerLeavesRoom(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ processes, workers int }{{1, 1}, {1, 3}, {2, 1}} {
		t.Run(fmt.Sprintf("%d processes with %d workers", c.processes, c.workers), func(t *testing.T) {
			t.Parallel()
			g := newStage(t)
			for i := range 50 {
				g.dispatch("a", "m", tasks.Sync, fmt.Sprintf("sync a%d", i))
				g.dispatch("a", "m", tasks.Sign, fmt.Sprintf("sign a%d", i))
			}
			g.work(c.processes, c.workers)
			if began, most := g.settles(), c.processes*(c.workers+2); len(began) > most || len(began) == 0 {
				t.Errorf("%d tasks of one owner run, want %d at most", len(began), most)
			}
			g.dispatch("b", "b", tasks.Sign, "sign b") // another user, then the same user in another namespace
			g.beginsTask("sign b")
			g.end("sign b")
			g.dispatch("a", "n", tasks.Sign, "sign n")
			g.beginsTask("sign n")
		})
	}
}

// TestOwnersTakeTurns dispatches 50 tasks of one user before others. While tasks end one by one, tasks of other
// users and of the same user in another namespace must be next.
func TestOwnersTakeTurns(t *testing.T) {
	t.Parallel()
	for _, name := range []string{tasks.Sync, tasks.Sign} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newStage(t)
			for i := range 50 {
				g.dispatch("a", "m", name, fmt.Sprintf("a%d", i))
			}
			g.work(1, 1)
			began := g.settles()
			g.dispatch("a", "n", name, "a, for n")
			g.dispatch("b", "b", name, "b")
			g.dispatch("c", "c", name, "c")
			g.beginsCount(len(began) + 1) // in the slot that one owner cannot occupy
			missing := func() bool {
				return slices.ContainsFunc([]string{"a, for n", "b", "c"}, func(label string) bool { return !slices.Contains(g.labels(), label) })
			}
			for ended := 0; missing(); ended++ {
				if ended > 5 {
					t.Fatalf("others wait for too many tasks of one owner: %v", g.labels())
				}
				before := g.labels()
				g.end(before[ended])
				g.beginsCount(len(before) + 1)
			}
		})
	}
}

// TestTasksOfOneResourceKeepTheirOrder expects that the tasks of one repository run in the order of dispatch,
// even if several users dispatched them.
func TestTasksOfOneResourceKeepTheirOrder(t *testing.T) {
	t.Parallel()
	g := newStage(t)
	var want []string
	for i := range 12 {
		label, user := fmt.Sprint(i), []string{"a", "a", "a", "b"}[i%4]
		want = append(want, label)
		if _, err := g.dispatcher.Dispatch(t.Context(), tasks.ByUser(g.users[user]), tasks.Spec{
			Name: []string{tasks.Sign, tasks.Sync}[i%2], Args: label, Namespace: user, Resources: []taskstore.Resource{{Href: "/r/", Exclusive: true}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	g.work(2, 2)
	for i, label := range want {
		if began := g.beginsCount(i + 1); began[i] != label {
			t.Fatalf("began %v, want %v", began, want)
		}
		g.end(label)
	}
}
