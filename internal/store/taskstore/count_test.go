package taskstore_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
)

func TestCountTasks(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	now := time.UnixMicro(1_000_000_000)
	s.DB.SetClock(func() time.Time { return now })
	create := func(name, resource string) taskstore.Task {
		t.Helper()
		k, err := s.Tasks.CreateTask(t.Context(), taskstore.NewTask{
			Name: name, Origin: taskstore.OriginCommand, Resources: []taskstore.Resource{{Href: resource, Exclusive: true}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if counts, err := s.Tasks.CountTasks(t.Context()); err != nil || len(counts) > 0 {
		t.Fatalf("CountTasks without tasks = %v, %v", counts, err)
	}
	first := now
	running := create("sign", "/a")
	create("sign", "/a") // waits behind it
	now = now.Add(time.Minute)
	second := now
	create("sign", "/b")
	create("sync", "/c")
	ended := create("sync", "/d")
	claim := func(k taskstore.Task) {
		t.Helper()
		if got, err := s.Tasks.ClaimTask(t.Context(), "worker", k.ID, nil, time.Minute); err != nil || got == nil {
			t.Fatalf("ClaimTask = %v, %v", got, err)
		}
	}
	claim(running)
	claim(ended)
	if err := s.Tasks.CompleteTask(t.Context(), &taskstore.Claim{TaskID: ended.ID, Attempt: 1}, taskstore.Outcome{}); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	postponed := create("sync", "/e")
	claim(postponed)
	if err := s.Tasks.ReturnTask(t.Context(), &taskstore.Claim{TaskID: postponed.ID, Attempt: 1}, time.Hour); err != nil {
		t.Fatal(err)
	}
	counts, err := s.Tasks.CountTasks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(counts, func(a, b taskstore.Count) int {
		return strings.Compare(a.Name+string(a.State), b.Name+string(b.State))
	})
	want := []taskstore.Count{
		{Name: "sign", State: taskstore.TaskRunning, Tasks: 1, OldestCreated: first},
		{Name: "sign", State: taskstore.TaskWaiting, Tasks: 2, Ready: 1, OldestCreated: first, OldestReady: second},
		{Name: "sync", State: taskstore.TaskWaiting, Tasks: 2, Ready: 1, OldestCreated: second, OldestReady: second},
	}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("CountTasks (-want +got):\n%s", diff)
	}
}

func TestOnlineWorkers(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	now := time.Now()
	s.DB.SetClock(func() time.Time { return now })
	beat := func(id, name string, services ...string) {
		t.Helper()
		if err := s.Tasks.Beat(t.Context(), pulp.Worker{ID: id, Name: name, Services: services}); err != nil {
			t.Fatal(err)
		}
	}
	beat("1", "gone", "release")
	now = now.Add(taskstore.WorkerTTL + time.Second)
	beat("2", "b")
	beat("3", "a", "release", "test")
	got, err := s.Tasks.OnlineWorkers(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	want := []taskstore.OnlineWorker{{Name: "a", Services: []string{"release", "test"}}, {Name: "b", Services: []string{}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("OnlineWorkers (-want +got):\n%s", diff)
	}
}
