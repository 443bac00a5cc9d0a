package tasks

import (
	"context"
	"log/slog"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// withActor returns a context whose actor is the one that started the task. user is the task's user, if it has one.
func withActor(ctx context.Context, t taskstore.Task, user pulp.User) context.Context {
	by := actor.BySystem()
	switch {
	case t.Origin == taskstore.OriginCommand:
		by = actor.ByCommand()
	case t.Origin != taskstore.OriginSystem:
		if requester := actor.From(ctx); requester.ID != 0 && requester.ID == t.CreatedBy {
			return ctx // the request that started the task runs it
		}
		by = actor.Actor{ID: t.CreatedBy, Name: user.Username, Kind: actor.Kind(user.Kind)}
		if user.ID == 0 { // deleted
			by.Kind = actor.User
		}
	}
	return actor.With(ctx, by)
}

// recordFailure writes the audit entry of a task that was refused or failed. The entry of its start says that it was
// accepted. Tasks of the server itself have neither.
func (w *Worker) recordFailure(ctx context.Context, r *Run, jobErr error) {
	if r.Task.Origin == taskstore.OriginSystem {
		return
	}
	user := r.User()
	if user.ID == 0 && r.Task.CreatedBy != 0 { // refused before its user was read
		if u, err := w.store.Accounts.User(ctx, r.Task.CreatedBy); err == nil {
			user = u
		}
	}
	entry := audit.Entry{Action: "run task", Object: pulp.Href(pulp.TaskCollection, r.Task.ID), Result: audit.Failed}
	if fault.Is(jobErr, fault.Denied) {
		entry.Result = audit.Denied
	}
	w.audit.Record(withActor(ctx, r.Task, user), entry,
		slog.String("name", r.Task.Name), slog.String("error", sentence(jobErr)))
}
