package tasks

import (
	"context"
	"log/slog"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/internal/telemetry"
)

// Dispatcher creates and cancels tasks. It is safe for concurrent use.
type Dispatcher struct {
	store  *store.Store
	queue  Queue
	worker *Worker // runs immediate tasks; nil: they are announced as others
	log    *slog.Logger
}

// NewDispatcher returns a Dispatcher that announces its tasks on q and runs immediate tasks in w.
func NewDispatcher(s *store.Store, q Queue, w *Worker, log *slog.Logger) *Dispatcher {
	return &Dispatcher{store: s, queue: q, worker: w, log: log}
}

// NewQueueDispatcher returns a Dispatcher that announces all its tasks on q, also immediate ones.
func NewQueueDispatcher(s *store.Store, q Queue, log *slog.Logger) *Dispatcher {
	return &Dispatcher{store: s, queue: q, log: log}
}

// Dispatch stores a task that from started, with the context's correlation id. A task that is ready is
// announced on the queue; an immediate one that is ready runs before Dispatch returns. It returns the task in
// its state at the end of the call.
func (d *Dispatcher) Dispatch(ctx context.Context, from Origin, spec Spec) (taskstore.Task, error) {
	long, _ := IsLong(spec.Name)
	t, err := d.store.Tasks.CreateTask(ctx, taskstore.NewTask{
		Name: spec.Name, Args: spec.Args, CID: telemetry.Correlation(ctx), Traceparent: telemetry.Traceparent(ctx), Resources: spec.Resources, ServiceID: spec.ServiceID,
		Origin: from.Kind, CreatedBy: from.User, Long: long, Share: share(from, spec),
	})
	if err != nil || t.Unblocked == nil {
		return t, err
	}
	if spec.Immediate && d.worker != nil {
		d.worker.runTask(context.WithoutCancel(ctx), t.ID)
		return d.store.Tasks.Task(ctx, t.ID)
	}
	d.announce(ctx, t.ID)
	return t, nil
}

// announce pushes ready tasks to the queue. A failure is only logged: the next sweep announces the tasks again.
func (d *Dispatcher) announce(ctx context.Context, ids ...string) {
	if err := d.queue.Push(ctx, ids...); err != nil {
		d.log.WarnContext(ctx, "cannot announce tasks on the queue; the next sweep announces them",
			slog.Any("tasks", ids), slog.Any("err", err))
	}
}

// upstreamResource is the reservation of all tasks about the upstream, so that one of them runs at a time.
func upstreamResource() []taskstore.Resource {
	return []taskstore.Resource{{Href: pulp.Root + "upstream/", Exclusive: true}}
}

// AdoptSpec returns a task that adopts the upstream's repositories with names that match pattern. requester is the
// name in the audit log if the task is not a user's.
func AdoptSpec(pattern, requester string) Spec {
	return Spec{Name: Adopt, Args: AdoptArgs{Pattern: pattern, Who: requester}, Resources: upstreamResource()}
}

// CompareSpec returns a task that compares the repositories with names that match pattern with the upstream.
// requester is the name in the audit log if the task is not a user's.
func CompareSpec(pattern string, deep bool, requester string) Spec {
	return Spec{Name: Compare, Args: CompareArgs{Pattern: pattern, Deep: deep, Who: requester}, Resources: upstreamResource()}
}

// Cancel cancels a task and returns it in its new state: canceled if it was waiting, canceling if a worker
// still has to stop it. If the task has ended otherwise, Cancel returns it unchanged with a Conflict error.
func (d *Dispatcher) Cancel(ctx context.Context, id string) (taskstore.Task, error) {
	t, freed, err := d.store.Tasks.CancelTask(ctx, id)
	if len(freed) > 0 {
		d.announce(ctx, freed...)
	}
	if err == nil && t.State == taskstore.TaskCanceling {
		if err := d.queue.Cancel(ctx, id); err != nil {
			d.log.WarnContext(ctx, "cannot announce a cancel on the queue; it takes effect at the task's next heartbeat",
				slog.String("task", id), slog.Any("err", err))
		}
	}
	return t, err
}
