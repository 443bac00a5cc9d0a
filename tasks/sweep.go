package tasks

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/store/taskstore"
)

// sweep announces ready tasks that are not in the queue (the command line created them, or the queue lost
// them), reclaims the tasks of dead workers, and sends the worker's heartbeat.
func (w *Worker) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	beat := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		before := w.services()
		if err := w.lookForServices(ctx); err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "cannot determine the usable signing services", slog.Any("err", err))
		}
		if time.Since(beat) >= w.heartbeatInterval() || !slices.Equal(before, w.services()) {
			beat = time.Now()
			if err := errors.Join(w.beat(ctx), w.reclaim(ctx)); err != nil && ctx.Err() == nil {
				w.log.WarnContext(ctx, "cannot store the worker's heartbeat or reclaim tasks", slog.Any("err", err))
			}
		}
		w.announceReady(ctx)
	}
}

// lookForServices updates the list of signing services that this process can use: a service may have been
// created, or a token plugged in.
func (w *Worker) lookForServices(ctx context.Context) error {
	if w.findUsable == nil {
		return nil
	}
	found, err := w.findUsable(ctx)
	if err == nil {
		w.usable.Store(&found)
	}
	return err
}

// services returns the ids of the signing services that this process can use; nil: all.
func (w *Worker) services() []string {
	if w.findUsable == nil {
		return nil
	}
	ids := []string{}
	if found := w.usable.Load(); found != nil {
		for _, v := range *found {
			ids = append(ids, v.ID)
		}
	}
	return ids
}

func (w *Worker) heartbeatInterval() time.Duration {
	return min(w.lease/heartbeatsPerLease, maxHeartbeat)
}

// beat stores the worker's heartbeat and the names of the signing services that it can use.
func (w *Worker) beat(ctx context.Context) error {
	self := w.self
	if found := w.usable.Load(); found != nil {
		for _, v := range *found {
			self.Services = append(self.Services, v.Name)
		}
	}
	return w.store.Tasks.Beat(ctx, self)
}

func (w *Worker) reclaim(ctx context.Context) error {
	r, err := w.store.Tasks.ReclaimTasks(ctx, false)
	if err == nil {
		err = w.store.Tasks.ForgetWorkers(ctx, time.Now().Add(-forgetAfter))
	}
	if r != (taskstore.Reclaimed{}) {
		w.log.WarnContext(ctx, "reclaimed the tasks of dead workers",
			slog.Int("waiting", r.Waiting), slog.Int("failed", r.Failed), slog.Int("canceled", r.Ended))
	}
	return err
}

// announceReady pushes tasks that can be claimed to the queue. It also wakes idle slots of this process,
// because the queue may deliver an announcement to a process that cannot use the task's key.
func (w *Worker) announceReady(ctx context.Context) {
	ids, err := w.store.Tasks.ReadyTasks(ctx, w.services(), announceLimit)
	if err == nil && len(ids) > 0 {
		var long bool
		long, err = w.store.Tasks.TasksWait(ctx, true, taskstore.Share{})
		w.longWait.Store(long)
	}
	if err == nil {
		for range min(len(ids), w.slots+spareSlots+shortSlots) {
			select {
			case w.found <- struct{}{}:
			default: // no slot is idle
			}
		}
		err = w.queue.Push(ctx, ids...)
	}
	if err != nil && ctx.Err() == nil {
		w.log.WarnContext(ctx, "cannot announce ready tasks; the next sweep announces them", slog.Any("err", err))
	}
}
