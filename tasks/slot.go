package tasks

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/countersign/countersign/internal/store/taskstore"
)

// A worker with N slots runs N tasks at a time. It has a few additional slots, so that neither the tasks of one
// owner nor long tasks (which mostly wait for the network) occupy all of them.
const (
	spareSlots = 1 // slots that accept every task; long tasks of one share never occupy all slots that accept long tasks
	shortSlots = 2 // slots that accept short tasks only, each of a different share
)

// longTasks maps the name of a task to whether it is long. A long task may run for hours, because it waits for
// other servers or reads everything, and must not occupy the slots that signatures and changes of content need.
var longTasks = map[string]bool{
	Sync: true, Repair: true, RepairAll: true, ReclaimSpace: true, Adopt: true, Compare: true, Purge: true, CleanOrphans: true,
	Sign: false, SignMissing: false, Tag: false, Untag: false, AddContent: false, RemoveContent: false,
	RemoveSignatures: false, Restore: false, DeleteVersion: false,
	Create: false, Edit: false, Delete: false, DeleteDistribution: false, Migrate: false,
}

// IsLong reports whether tasks with this name are long. Names that longTasks does not contain are not known and
// count as short.
func IsLong(name string) (long, known bool) {
	long, known = longTasks[name]
	return long, known
}

// Names returns the names of all tasks, sorted.
func Names() []string { return slices.Sorted(maps.Keys(longTasks)) }

// share returns the share of the slots that a task counts against: the owner's (for tasks of the server, the
// namespace is the owner) and, within it, the namespace's.
func share(from Origin, spec Spec) taskstore.Share {
	s := taskstore.Share{Owner: string(from.Kind), Namespace: spec.Namespace}
	switch from.Kind {
	case taskstore.OriginUser:
		s.Owner += ":" + strconv.FormatInt(from.User, 10)
	case taskstore.OriginSystem:
		s.Owner += ":" + spec.Namespace
	case taskstore.OriginCommand, taskstore.OriginUnknown:
	}
	return s
}

// pool counts the running tasks of each share in some of a process's slots. It makes one claim at a time, so
// that the limit is never exceeded.
type pool struct {
	most int // limit of running tasks for each share

	mu   sync.Mutex
	held map[taskstore.Share]int
}

// claim claims a task of a share that is below the limit. The claim function receives the share to exclude:
// while a slot is free, at most one share is at the limit.
func (p *pool) claim(claim func(except taskstore.Share) (*taskstore.Task, error)) (*taskstore.Task, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var except taskstore.Share
	for s, n := range p.held {
		if n >= p.most {
			except = s
		}
	}
	t, err := claim(except)
	if t != nil {
		if p.held == nil {
			p.held = map[taskstore.Share]int{}
		}
		p.held[t.Share]++
	}
	return t, err
}

func (p *pool) release(t *taskstore.Task) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[t.Share]--; p.held[t.Share] == 0 {
		delete(p.held, t.Share)
	}
}

// slot runs one task at a time.
type slot struct {
	worker    *Worker
	short     bool // accepts short tasks only
	longFirst bool // tries long tasks first at the next claim, while tasks of both classes wait
}

// newSlots returns the slots of a worker. A worker that only runs immediate tasks has none.
func (w *Worker) newSlots() []*slot {
	if w.slots == 0 {
		return nil
	}
	var all []*slot
	for range w.slots + spareSlots {
		all = append(all, &slot{worker: w})
	}
	for range shortSlots {
		all = append(all, &slot{worker: w, short: true})
	}
	return all
}

// Slots returns the number of tasks that the worker can run at a time.
func (w *Worker) Slots() int { return len(w.newSlots()) }

// takeTasks runs one task after another until ctx ends. Each task runs in the context running.
func (s *slot) takeTasks(ctx, running context.Context) {
	for ctx.Err() == nil {
		if s.runNext(running) {
			continue
		}
		if s.short { // the announcement that woke this slot may have been for a long task
			select {
			case s.worker.foundLong <- struct{}{}:
			default:
			}
		}
		if err := s.worker.wait(ctx, !s.short); err != nil && ctx.Err() == nil {
			s.worker.log.WarnContext(ctx, "the queue does not answer; this slot checks for tasks again", slog.Any("err", err))
			sleep(ctx, sweepInterval)
		}
	}
}

// runNext claims the next task and runs it to its end. It reports whether it ran one.
func (s *slot) runNext(ctx context.Context) bool {
	t, release, err := s.claim(ctx)
	if err != nil {
		s.worker.notClaimed(ctx, err)
		return false
	}
	if t == nil {
		return false
	}
	defer release()
	s.worker.work(ctx, t)
	return true
}

// claim claims the next task for the slot. It returns the task and a function to call when the task has ended,
// or nil if no task is ready.
func (s *slot) claim(ctx context.Context) (*taskstore.Task, func(), error) {
	w := s.worker
	wanted := taskstore.Wanted{WorkerID: w.self.ID, Services: w.services(), Lease: w.lease}
	from := func(p *pool) (*taskstore.Task, func(), error) {
		t, err := p.claim(func(except taskstore.Share) (*taskstore.Task, error) {
			wanted.Except = except
			return w.store.Tasks.ClaimNext(ctx, wanted)
		})
		return t, func() { p.release(t) }, err
	}
	if s.short {
		return from(&w.reserved)
	}
	classes := []bool{false, true}
	if s.longFirst && w.longWait.Load() {
		classes = []bool{true, false}
	}
	s.longFirst = !s.longFirst
	for _, long := range classes {
		if wanted.Long = long; long {
			if t, release, err := from(&w.long); t != nil || err != nil {
				return t, release, err
			}
			w.longWait.Store(false)
			continue
		}
		wanted.Except = taskstore.Share{}
		if t, err := w.store.Tasks.ClaimNext(ctx, wanted); t != nil || err != nil {
			return t, func() {}, err
		}
	}
	return nil, nil, nil
}
