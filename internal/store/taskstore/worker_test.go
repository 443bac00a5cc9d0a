package taskstore_test

import (
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// TestBeat verifies that the first heartbeat stores a worker, and a later one changes its time and services only.
func TestBeat(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	start := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	now := start
	s.DB.SetClock(func() time.Time { return now })
	w := pulp.Worker{ID: "w", Name: "1@host", Versions: map[string]string{"container": "2.0"}}
	for _, services := range [][]string{nil, {"signer", "other"}} {
		w.Services = services
		if err := s.Tasks.Beat(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		got, err := s.Tasks.Worker(t.Context(), "w")
		want := w
		want.Services, want.Started, want.Heartbeat = append([]string{}, services...), start, now
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Worker = %+v, %v, want %+v", got, err, want)
		}
		now = now.Add(time.Minute)
	}
}

// TestWorkerTask verifies that a worker shows the task that it runs, also while that is being canceled.
func TestWorkerTask(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	if err := s.Tasks.Beat(t.Context(), pulp.Worker{ID: "worker", Name: "1@host"}); err != nil {
		t.Fatal(err)
	}
	c := storetest.StartTask(t, s)
	wantWorkerTask(t, s, c.TaskID)
	if _, _, err := s.Tasks.CancelTask(t.Context(), c.TaskID); err != nil {
		t.Fatal(err)
	}
	wantWorkerTask(t, s, c.TaskID)
	if err := s.Tasks.EndCanceled(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	wantWorkerTask(t, s, "")
}

func wantWorkerTask(t *testing.T, s *store.Store, want string) {
	t.Helper()
	if w, err := s.Tasks.Worker(t.Context(), "worker"); err != nil || w.TaskID != want {
		t.Errorf("the worker runs %q, %v, want %q", w.TaskID, err, want)
	}
}

// TestRemoveWorkers verifies which workers RemoveWorker and ForgetWorkers delete.
func TestRemoveWorkers(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	now := time.Now()
	s.DB.SetClock(func() time.Time { return now })
	for _, id := range []string{"a", "b", "c", "d"} {
		if err := s.Tasks.Beat(t.Context(), pulp.Worker{ID: id, Name: id}); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Minute)
	}
	wantWorkers := func(want ...string) {
		t.Helper()
		for _, id := range []string{"a", "b", "c", "d"} {
			_, err := s.Tasks.Worker(t.Context(), id)
			exists := false
			for _, w := range want {
				exists = exists || w == id
			}
			if exists && err != nil || !exists && !fault.Is(err, fault.NotFound) {
				t.Errorf("worker %s: %v, want it to exist: %t", id, err, exists)
			}
		}
	}
	if err := s.Tasks.RemoveWorker(t.Context(), "d", false); err != nil {
		t.Fatal(err)
	}
	wantWorkers("a", "b", "c")
	if err := s.Tasks.ForgetWorkers(t.Context(), now.Add(-3*time.Minute)); err != nil { // the heartbeat of b
		t.Fatal(err)
	}
	wantWorkers("b", "c")
	if err := s.Tasks.RemoveWorker(t.Context(), "d", true); err != nil {
		t.Fatal(err)
	}
	wantWorkers()
}

// TestConcurrentClaims lets workers claim tasks at once: each task is claimed once.
func TestConcurrentClaims(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	const tasks = 30
	for range tasks {
		createTask(t, s)
	}
	var mu sync.Mutex
	claims := map[string]int{}
	var workers sync.WaitGroup
	for range 6 {
		workers.Go(func() {
			for misses := 0; misses < 10; { // rows that others have locked are skipped, so one miss is not the end
				k, err := s.Tasks.ClaimNext(t.Context(), taskstore.Wanted{WorkerID: "worker", Lease: leaseForTests})
				if err != nil {
					t.Error(err)
					return
				}
				if k == nil {
					misses++
					continue
				}
				mu.Lock()
				claims[k.ID]++
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	for k := claimNext(t, s); k != nil; k = claimNext(t, s) { // that all workers missed
		claims[k.ID]++
	}
	for id, n := range claims {
		if n != 1 {
			t.Errorf("task %s was claimed %d times", id, n)
		}
	}
	if len(claims) != tasks {
		t.Errorf("%d tasks were claimed, want %d", len(claims), tasks)
	}
}
