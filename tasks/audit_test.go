package tasks_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/memqueue"
)

// TestTasksActAsTheirCreators runs tasks of each origin. The job's context has the actor, and tasks of users and of the
// command line that fail or are refused have an audit entry.
func TestTasksActAsTheirCreators(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	user, err := s.Accounts.PutUser(t.Context(), "alice", "", false, true)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var acted actor.Actor
	var permitted error
	job := func(failure error) tasks.Job {
		return tasks.Job{Run: func(ctx context.Context, _ *tasks.Run) error {
			mu.Lock()
			defer mu.Unlock()
			acted = actor.From(ctx)
			return failure
		}, Permit: func(context.Context, *tasks.Run, pulp.User) error { return permitted }}
	}
	var lines bytes.Buffer
	quiet, queue := slog.New(slog.DiscardHandler), &memqueue.Queue{}
	w := tasks.NewWorker(tasks.WorkerOptions{
		Store: s, Queue: queue, Log: quiet, Audit: audit.New(audit.Options{Log: slog.New(slog.NewTextHandler(&lines, nil))}),
		Jobs: map[string]tasks.Job{"good": job(nil), "bad": job(fault.New(fault.Invalid, "It is bad.")), "internal": job(errors.New("secret"))},
	})
	d := tasks.NewDispatcher(s, queue, w, quiet)
	alice := actor.Actor{ID: user.ID, Name: "alice", Kind: actor.User}
	request := actor.Actor{ID: user.ID, Name: "alice", Kind: actor.User, Identity: "token 1", Address: "192.0.2.1"}
	other := actor.Actor{ID: user.ID + 1, Name: "bob", Kind: actor.User, Address: "192.0.2.2"}
	for name, tt := range map[string]struct {
		from    tasks.Origin
		by      actor.Actor // of the request
		denied  error
		want    actor.Actor // of the job; none: it does not run
		entries map[string]string
	}{
		"a user's, in the request": {from: tasks.ByUser(user.ID), by: request, want: request, entries: map[string]string{
			"bad":      `who=alice kind=user action="run task" object=TASK result=failed identity="token 1" address=192.0.2.1 name=bad error="It is bad."`,
			"internal": `who=alice kind=user action="run task" object=TASK result=failed identity="token 1" address=192.0.2.1 name=internal error="Internal error;`,
		}},
		"a user's, later": {from: tasks.ByUser(user.ID), by: other, want: alice, entries: map[string]string{
			"bad": `who=alice kind=user action="run task" object=TASK result=failed name=bad`,
		}},
		"a user's without the permission": {
			from: tasks.ByUser(user.ID), by: other, denied: fault.New(fault.Denied, "Not any more."),
			entries: map[string]string{"good": `who=alice kind=user action="run task" object=TASK result=denied name=good error="Not any more."`},
		},
		"the command line's": {from: tasks.ByCommand(), by: other, want: actor.ByCommand(), entries: map[string]string{
			"bad": `who="command line" kind=command action="run task" object=TASK result=failed name=bad`,
		}},
		"the server's": {from: tasks.BySystem(), by: other, want: actor.BySystem()},
	} {
		for _, job := range []string{"good", "bad", "internal"} {
			lines.Reset()
			acted, permitted = actor.Actor{}, tt.denied
			k, err := d.Dispatch(actor.With(t.Context(), tt.by), tt.from, tasks.Spec{Name: job, Immediate: true})
			if err != nil || !k.State.Final() {
				t.Fatalf("%s: %s, %v", name, k.State, err)
			}
			if acted != tt.want {
				t.Errorf("%s, %s: the job's actor is %+v, want %+v", name, job, acted, tt.want)
			}
			got := lines.String()
			want, some := tt.entries[job]
			want = strings.ReplaceAll(want, "TASK", pulp.Href(pulp.TaskCollection, k.ID))
			if some && (strings.Count(got, "msg=audit") != 1 || !strings.Contains(got, want)) || strings.Contains(got, "secret") {
				t.Errorf("%s, %s: entries\n%swant\n%s", name, job, got, want)
			}
			if job == "good" && tt.denied == nil && got != "" || tt.from == tasks.BySystem() && got != "" {
				t.Errorf("%s, %s: entries of a task that is done, or of the server:\n%s", name, job, got)
			}
		}
	}
}
