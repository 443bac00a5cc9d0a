package taskstore_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/events"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// TestEventsOfTasks ends tasks in each way and compares the events.
func TestEventsOfTasks(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	r := storetest.Target(t, s, "acme/app").Repository
	of := []taskstore.Resource{{Href: pulp.RepositoryHref(r.Type, r.ID), Exclusive: true}, {Href: "/pulp/api/v3/remotes/container/container/x/"}}
	alice := storetest.User(t, s, "alice")
	all := storetest.AddWebhook(t, s, "all", nil, "*").ID
	acme := storetest.AddWebhook(t, s, "acme", func(w *pulp.Webhook) { w.EventTypes = []string{string(events.TaskEnded)} }, "acme/*").ID

	start := func(name string, by int64, resources ...taskstore.Resource) *taskstore.Claim {
		t.Helper()
		n := taskstore.NewTask{Name: name, Origin: taskstore.OriginSystem, Resources: resources, CID: "cid"}
		if by != 0 {
			n.Origin, n.CreatedBy = taskstore.OriginUser, by
		}
		k, err := s.Tasks.CreateTask(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Tasks.ClaimTask(t.Context(), "worker", k.ID, nil, time.Minute)
		if err != nil || got == nil {
			t.Fatalf("claim: %v, %v", got, err)
		}
		return &taskstore.Claim{TaskID: k.ID, Attempt: got.Attempt}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	version := taskstore.Created{Href: pulp.VersionHref(r.Type, r.ID, 7)}
	must(s.Tasks.CompleteTask(t.Context(), start(taskstore.SyncTask, alice.ID, of...), taskstore.Outcome{Created: []taskstore.Created{version}}))
	must(s.Tasks.FailTask(t.Context(), start("sign", 0, of...), "The key is gone."))
	must(s.Tasks.CompleteTask(t.Context(), start("purge", 0), taskstore.Outcome{}))
	must(s.Tasks.CompleteTask(t.Context(), start(taskstore.PushSigningTask, 0, of...), taskstore.Outcome{}))
	canceling := start("canceled", 0, of...)
	_, _, err := s.Tasks.CancelTask(t.Context(), canceling.TaskID)
	must(err)
	must(s.Tasks.EndCanceled(t.Context(), canceling))
	waits, err := s.Tasks.CreateTask(t.Context(), taskstore.NewTask{Name: "waiting", Origin: taskstore.OriginCommand, Resources: of})
	must(err)
	_, _, err = s.Tasks.CancelTask(t.Context(), waits.ID)
	must(err)
	lost := start("lost", 0, of...)
	for range taskstore.MaxLosses {
		_, err := s.Tasks.ReclaimTasks(t.Context(), true)
		must(err)
		_, err = s.Tasks.ClaimTask(t.Context(), "worker", lost.TaskID, nil, time.Minute)
		must(err)
	}

	wantTasks(t, s, all, []string{
		"io.countersign.sync.ended.v1 acme/app of alice: completed version 7",
		"io.countersign.task.ended.v1 acme/app of alice: completed version 7",
		"io.countersign.task.ended.v1 acme/app of system: failed The key is gone.",
		"io.countersign.task.ended.v1  of system: completed",
		"io.countersign.task.ended.v1 acme/app of system: canceled",
		"io.countersign.task.ended.v1 acme/app of command line: canceled",
		"io.countersign.task.ended.v1 acme/app of system: failed The task lost its worker 3 times.",
	})
	wantTasks(t, s, acme, []string{
		"io.countersign.task.ended.v1 acme/app of alice: completed version 7",
		"io.countersign.task.ended.v1 acme/app of system: failed The key is gone.",
		"io.countersign.task.ended.v1 acme/app of system: canceled",
		"io.countersign.task.ended.v1 acme/app of command line: canceled",
		"io.countersign.task.ended.v1 acme/app of system: failed The task lost its worker 3 times.",
	})
}

// wantTasks compares the events of a webhook in short.
func wantTasks(t *testing.T, s *store.Store, webhook string, want []string) {
	t.Helper()
	var got []string
	for _, d := range storetest.Deliveries(t, s, webhook) {
		var data events.TaskData
		if err := json.Unmarshal(d.Event.Data, &data); err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%s %s of %s: %s", d.Event.Type, d.Event.Subject, data.Actor.Name, data.Task.State)
		if data.Version != nil {
			line += fmt.Sprintf(" version %d", data.Version.Number)
		}
		if data.Task.Error != nil {
			line += " " + *data.Task.Error
		}
		if (data.Repository == nil) != (d.Event.Subject == "") || data.Task.FinishedAt.IsZero() {
			t.Errorf("%s: %s", line, d.Event.Data)
		}
		got = append(got, line)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}
