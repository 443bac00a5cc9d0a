package tasks

import (
	"context"
	"log/slog"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/telemetry"
)

// Dispatcher makes tasks and cancels them.
type Dispatcher struct {
	store  *store.Store
	queue  Queue
	worker *Worker // runs immediate tasks; never nil
	log    *slog.Logger
}

// NewDispatcher returns a Dispatcher that announces its tasks on a queue and runs immediate ones through a worker.
func NewDispatcher(s *store.Store, q Queue, w *Worker, log *slog.Logger) *Dispatcher {
	return &Dispatcher{store: s, queue: q, worker: w, log: log}
}

// Dispatch stores a task that comes from an origin, with the context's correlation id, and announces it when it is ready. An immediate one that is ready has run when Dispatch returns; what it
// returns is the task as it is then.
func (d *Dispatcher) Dispatch(ctx context.Context, from Origin, spec Spec) (store.Task, error) {
	long, _ := IsLong(spec.Name)
	t, err := d.store.CreateTask(ctx, store.NewTask{
		Name: spec.Name, Args: spec.Args, CID: telemetry.Correlation(ctx), Resources: spec.Resources, ServiceID: spec.ServiceID,
		Origin: from.Kind, CreatedBy: from.User, Long: long, Share: share(from, spec),
	})
	if err != nil || t.Unblocked == nil {
		return t, err
	}
	if spec.Immediate {
		d.worker.runTask(context.WithoutCancel(ctx), t.ID)
		return d.store.Task(ctx, t.ID)
	}
	d.announce(ctx, t.ID)
	return t, nil
}

// announce says on the queue that tasks are ready. A queue that does not answer delays them until the next sweep, no more.
func (d *Dispatcher) announce(ctx context.Context, ids ...string) {
	if err := d.queue.Push(ctx, ids...); err != nil {
		d.log.WarnContext(ctx, "tasks not announced; the sweep will find them", slog.Any("tasks", ids), slog.Any("err", err))
	}
}

// upstreamHref is what tasks about the upstream reserve: one of them runs at a time.
const upstreamHref = pulp.Root + "upstream/"

// AdoptSpec is a task that adopts the upstream's repositories whose names match a pattern. who is who asks, where that is no user.
func AdoptSpec(pattern, who string) Spec {
	return Spec{Name: Adopt, Args: AdoptArgs{Pattern: pattern, Who: who}, Resources: []store.Resource{{Href: upstreamHref, Exclusive: true}}}
}

// CompareSpec is a task that holds the repositories whose names match a pattern against the upstream. who is who asks, where that is no user.
func CompareSpec(pattern string, deep bool, who string) Spec {
	return Spec{Name: Compare, Args: CompareArgs{Pattern: pattern, Deep: deep, Who: who}, Resources: []store.Resource{{Href: upstreamHref, Exclusive: true}}}
}

// Cancel cancels a task and returns it: a waiting one is canceled, a running one canceling until it has stopped. A task that has ended otherwise is
// returned unchanged with a Conflict.
func (d *Dispatcher) Cancel(ctx context.Context, id string) (store.Task, error) {
	t, freed, err := d.store.CancelTask(ctx, id)
	if len(freed) > 0 {
		d.announce(ctx, freed...)
	}
	if err == nil && t.State == store.TaskCanceling {
		if err := d.queue.Cancel(ctx, id); err != nil {
			d.log.WarnContext(ctx, "cancel not announced; the next heartbeat will see it", slog.String("task", id), slog.Any("err", err))
		}
	}
	return t, err
}
