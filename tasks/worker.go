package tasks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/telemetry"
)

// What a worker waits for, and how long.
const (
	keepAfter     = 20 * time.Millisecond  // a task that is over by then is not watched for a cancel
	beatsPerLease = 3                      // how often a lease is extended, and the worker shows that it lives, in the time of one, at least
	longestBeat   = 5 * time.Second        // and however long a lease is: workers that have not shown for a while count as gone, and cancels wait for it without the queue
	putOff        = 2 * time.Second        // how long a task waits at least whose key was away
	rememberDead  = time.Hour              // how long a worker is listed that shows no more that it lives
	sweepEvery    = time.Second            // how often tasks are looked for that nobody announced
	progressEvery = 300 * time.Millisecond // how often progress is stored
	popWait       = time.Minute            // how long one look at the queue waits
	endingTime    = 10 * time.Second       // how long the last write of a task may take
	announceLimit = 100                    // how many ready tasks one sweep announces
)

// Why a task's context ends.
var (
	errCanceled = errors.New("the task was canceled")
	errStopping = errors.New("the worker is being stopped")
)

// Worker runs tasks.
type Worker struct {
	store *store.Store
	queue Queue
	jobs  map[string]Job
	log   *slog.Logger
	slots int
	found chan struct{} // taken by an idle slot when the sweep has found a task for it

	foundLong chan struct{} // taken by an idle slot that takes long tasks, when another has heard of what may be one
	longWait  atomic.Bool   // whether long tasks were ready at the last look
	reserved  pool          // the slots for short tasks only
	long      pool          // the long tasks

	show  func(any) any
	lease time.Duration
	self  pulp.Worker // but for Services

	findUsable func(context.Context) ([]pulp.SigningService, error)
	usable     atomic.Pointer[[]pulp.SigningService] // what findUsable said last; nil: nothing yet
}

// WorkerOptions say what a worker needs.
type WorkerOptions struct {
	Store    *store.Store
	Queue    Queue
	Jobs     map[string]Job // by the task's name
	Log      *slog.Logger
	Slots    int    // how many tasks at a time, beside those that the spare slots take; 0: only immediate ones
	Name     string // <pid>@<host>
	Versions map[string]string
	Show     func(any) any // what clients are shown of an object that a task answers; nil: nothing
	// Usable returns the signing services that this process can use; nil: all that there are.
	Usable func(context.Context) ([]pulp.SigningService, error)
	// Lease is how long a task without a sign of life is still its worker's; 0 is DefaultLease.
	Lease time.Duration
}

// DefaultLease is how long a worker may show no sign of life before its task is another's.
const DefaultLease = 30 * time.Second

// NewWorker returns a worker that runs nothing yet.
func NewWorker(o WorkerOptions) *Worker {
	if o.Show == nil { // an object may hold secrets
		o.Show = func(any) any { return nil }
	}
	return &Worker{
		store: o.Store, queue: o.Queue, jobs: o.Jobs, log: o.Log, slots: o.Slots, show: o.Show, findUsable: o.Usable,
		found: make(chan struct{}), foundLong: make(chan struct{}), reserved: pool{most: 1}, long: pool{most: max(1, o.Slots)}, lease: cmp.Or(o.Lease, DefaultLease), self: pulp.Worker{ID: pulp.NewID(), Name: o.Name, Versions: o.Versions},
	}
}

// Run takes tasks and runs them until ctx ends. Then it takes no more, lets those that run go on for at most grace, stops the rest, which
// go back to be run again, and returns.
func (w *Worker) Run(ctx context.Context, grace time.Duration) error {
	if err := errors.Join(w.lookForServices(ctx), w.beat(ctx)); err != nil {
		if ctx.Err() != nil { // stopped before it began
			return nil
		}
		return fmt.Errorf("register worker: %w", err)
	}
	running, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	var slots sync.WaitGroup
	for _, s := range w.newSlots() {
		slots.Go(func() { s.takeTasks(ctx, running) })
	}
	slots.Go(func() { w.sweep(ctx) })
	<-ctx.Done()
	timeout := time.AfterFunc(grace, func() { stop(errStopping) })
	defer timeout.Stop()
	slots.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), endingTime)
	defer cancel()
	return w.store.RemoveWorker(last, w.self.ID, false)
}

// hear waits until the queue says that there is a task, or the sweep has found one for this process, at most for popWait. long is whether the slot that waits takes long
// tasks.
func (w *Worker) hear(ctx context.Context, long bool) error {
	var foundLong chan struct{}
	if long {
		foundLong = w.foundLong
	}
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-w.found:
			stop()
		case <-foundLong:
			stop()
		case <-waiting.Done():
		}
	}()
	_, err := w.queue.Pop(waiting, popWait)
	if waiting.Err() != nil {
		return nil
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// sweep announces ready tasks that nobody announced (a command line made them, or the queue forgot them), takes back those of dead
// workers, and shows that this worker lives.
func (w *Worker) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
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
			w.log.WarnContext(ctx, "signing services not looked for", slog.Any("err", err))
		}
		if time.Since(beat) >= w.beatEvery() || !slices.Equal(before, w.services()) {
			beat = time.Now()
			if err := errors.Join(w.beat(ctx), w.reclaim(ctx)); err != nil && ctx.Err() == nil {
				w.log.WarnContext(ctx, "worker has no database", slog.Any("err", err))
			}
		}
		w.announceReady(ctx)
	}
}

// lookForServices finds out which signing services this process can use: one may just have been made, or a key plugged in.
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

// services returns the ids of the services that this process can use; nil stands for all.
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

func (w *Worker) beatEvery() time.Duration { return min(w.lease/beatsPerLease, longestBeat) }

// beat shows that the worker lives, and what it can sign with.
func (w *Worker) beat(ctx context.Context) error {
	self := w.self
	if found := w.usable.Load(); found != nil {
		for _, v := range *found {
			self.Services = append(self.Services, v.Name)
		}
	}
	return w.store.Beat(ctx, self)
}

func (w *Worker) reclaim(ctx context.Context) error {
	r, err := w.store.ReclaimTasks(ctx, false)
	if err == nil {
		err = w.store.ForgetWorkers(ctx, time.Now().Add(-rememberDead))
	}
	if r != (store.Reclaimed{}) {
		w.log.WarnContext(ctx, "took tasks back whose worker is gone",
			slog.Int("waiting", r.Waiting), slog.Int("failed", r.Failed), slog.Int("canceled", r.Ended))
	}
	return err
}

// announceReady says on the queue which tasks can be claimed. What is announced a process may hear that cannot use the task's key, so this process's own
// idle slots are told here.
func (w *Worker) announceReady(ctx context.Context) {
	ids, err := w.store.ReadyTasks(ctx, w.services(), announceLimit)
	if err == nil && len(ids) > 0 {
		var long bool
		long, err = w.store.TasksWait(ctx, true, store.Share{})
		w.longWait.Store(long)
	}
	if err == nil {
		for range min(len(ids), w.slots+spareSlots+shortSlots) {
			select {
			case w.found <- struct{}{}:
			default: // nobody is idle
			}
		}
		err = w.queue.Push(ctx, ids...)
	}
	if err != nil && ctx.Err() == nil {
		w.log.WarnContext(ctx, "ready tasks not announced", slog.Any("err", err))
	}
}

// runTask claims a task and runs it to its end, unless it is not ready.
func (w *Worker) runTask(ctx context.Context, id string) {
	t, err := w.store.ClaimTask(ctx, w.self.ID, id, w.services(), w.lease)
	if err != nil {
		w.notClaimed(ctx, err)
	}
	if t != nil {
		w.work(ctx, t)
	}
}

// notClaimed waits for a moment after a claim that failed.
func (w *Worker) notClaimed(ctx context.Context, err error) {
	if ctx.Err() == nil {
		w.log.ErrorContext(ctx, "task not claimed", slog.Any("err", err))
		sleep(ctx, sweepEvery)
	}
}

// work runs a claimed task to its end.
func (w *Worker) work(ctx context.Context, t *store.Task) {
	ctx = telemetry.WithCorrelation(ctx, t.CID)
	log := w.log.With(slog.String("task", t.ID), slog.String("name", t.Name))
	r := &Run{Task: *t, store: w.store, log: log, job: w.jobs[t.Name]}
	r.permit = func(ctx context.Context) error { return w.permit(ctx, r) }
	r.Claim = &store.Claim{TaskID: t.ID, Attempt: t.Attempt, Show: w.show, Permit: r.stillPermitted}
	log.InfoContext(ctx, "task started", slog.Int64("attempt", t.Attempt))
	err, cause := w.attempt(ctx, r)
	w.end(ctx, r, err, cause)
	// Those that waited for this one are for whoever is idle. Its own announcement is not taken by anybody while all are busy.
	if err := errors.Join(w.queue.Push(ctx, r.Claim.Freed()...), w.queue.Remove(ctx, t.ID)); err != nil && ctx.Err() == nil {
		log.WarnContext(ctx, "queue does not answer; the sweep will announce what is ready", slog.Any("err", err))
	}
}

// attempt runs the task's job beside its keepers, and returns its error and why its context ended, if it did.
func (w *Worker) attempt(ctx context.Context, r *Run) (err, cause error) {
	if r.job.Run == nil {
		return fault.New(fault.Invalid, "This worker has no task named %s.", r.Task.Name), nil
	}
	if err := r.permit(ctx); err != nil {
		return err, nil
	}
	working, cancel := context.WithCancelCause(ctx)
	var keepers sync.WaitGroup
	keepers.Go(func() { r.flushEvery(working, progressEvery) })
	keepers.Go(func() { w.keep(working, r, cancel) })
	err = guard(func() error { return r.job.Run(working, r) })
	cause = context.Cause(working)
	cancel(nil)
	keepers.Wait()
	return err, cause
}

// keep extends the lease and watches for a cancel until ctx ends; when the task is canceled or lost it ends ctx.
func (w *Worker) keep(ctx context.Context, r *Run, cancel context.CancelCauseFunc) {
	if sleep(ctx, keepAfter); ctx.Err() != nil {
		return
	}
	canceled, stop, err := w.queue.Canceled(ctx, r.Task.ID)
	if err != nil {
		r.log.WarnContext(ctx, "no cancel signals; the lease will tell", slog.Any("err", err))
	} else {
		defer stop()
	}
	if mine, err := w.store.StillClaimed(ctx, r.Claim); err == nil && !mine { // a cancel that came before the watch began
		cancel(store.ErrFenced)
	}
	tick := time.NewTicker(w.beatEvery())
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-canceled:
			cancel(errCanceled)
			return
		case <-tick.C:
			w.checkLease(ctx, r, cancel)
			w.checkPermission(ctx, r, cancel)
		}
	}
}

func (w *Worker) checkLease(ctx context.Context, r *Run, cancel context.CancelCauseFunc) {
	err := w.store.ExtendLease(ctx, r.Claim, w.lease)
	switch {
	case errors.Is(err, store.ErrFenced):
		cancel(store.ErrFenced)
	case err != nil && ctx.Err() == nil:
		r.log.WarnContext(ctx, "lease not extended", slog.Any("err", err))
	}
}

// guard turns a job's panic into its error.
func guard(job func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return job()
}

// end stores how an attempt ended. A store that does not take it leaves the task to the end of its lease.
func (w *Worker) end(ctx context.Context, r *Run, jobErr, cause error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endingTime)
	defer cancel()
	var err error
	result := "completed"
	if fault.Is(cause, fault.Denied) && !r.Claim.Ended() { // it says more than the error that the end of the context caused
		jobErr = cause
	}
	if jobErr == nil && !r.Claim.Ended() {
		if err = w.complete(ctx, r); fault.Is(err, fault.Denied) {
			jobErr, err = err, nil
		}
	}
	switch {
	case jobErr == nil:
	case errors.Is(cause, errStopping):
		result = "returned"
		err = w.store.ReturnTask(ctx, r.Claim, 0)
	case cause == nil && isAgain(jobErr):
		result = "put off"
		err = errors.Join(r.flush(ctx), w.store.ReturnTask(ctx, r.Claim, putOff))
	case cause == nil && store.Away(jobErr): // no fault of the task's: it counts as if its worker had been lost
		result = "left to the end of its lease"
	case errors.Is(cause, errCanceled), errors.Is(cause, store.ErrFenced), errors.Is(jobErr, store.ErrFenced):
		result = "canceled"
		r.end(store.TaskCanceled)
		err = errors.Join(r.flush(ctx), w.store.EndCanceled(ctx, r.Claim))
	default:
		result = "failed"
		r.end(store.TaskFailed)
		err = errors.Join(r.flush(ctx), w.store.FailTask(ctx, r.Claim, sentence(jobErr)))
	}
	if errors.Is(err, store.ErrFenced) {
		// Completing or failing lost a race with a cancel: then the task is canceling and this ends it. Otherwise it is another worker's.
		result = "canceled or taken over"
		err = w.store.EndCanceled(ctx, r.Claim)
	}
	if err != nil && !errors.Is(err, store.ErrFenced) {
		r.log.ErrorContext(ctx, "task's end not stored", slog.Any("err", err))
	}
	ended := []slog.Attr{slog.String("result", result)}
	if jobErr != nil {
		ended = append(ended, slog.Any("err", jobErr))
	}
	r.log.LogAttrs(ctx, slog.LevelInfo, "task ended", ended...)
}

// complete ends a task whose job stored its results, if any, through other means.
func (w *Worker) complete(ctx context.Context, r *Run) error {
	r.end(store.TaskCompleted)
	return errors.Join(r.flush(ctx), w.store.CompleteTask(ctx, r.Claim, store.Outcome{}))
}

func isAgain(err error) bool {
	_, ok := errors.AsType[again](err)
	return ok
}

// sentence is what a task says of the error it failed with: only what is safe to show.
func sentence(err error) string {
	if msg, ok := fault.Message(err); ok {
		return msg
	}
	return "Internal error; the server's log has the details under the task's logging_cid."
}
