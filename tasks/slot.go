package tasks

import (
	"context"
	"log/slog"
	"strconv"
	"sync"

	"github.com/countersign/countersign/internal/store"
)

// How the slots of a process are shared out. A worker of N slots takes N tasks at a time, and has a few slots more that keep any one owner, and long tasks, from holding
// everything: long tasks mostly wait for the network.
const (
	spareSlots = 1 // take every task, but one share's long tasks never hold all slots that take long tasks
	shortSlots = 2 // take short tasks only, of different shares
)

// kinds says of each kind of task whether it is long: it may run for hours because it waits for others or reads everything, so it must not hold the slots that
// signatures and changes of content need.
var kinds = map[string]bool{
	Sync: true, Repair: true, Adopt: true, Compare: true, Purge: true, CleanOrphans: true,
	Sign: false, Seal: false, Tag: false, Untag: false, AddContent: false, RemoveContent: false, RemoveSignatures: false, Restore: false, DeleteVersion: false,
	Create: false, Edit: false, Delete: false, DeleteDistribution: false, Migrate: false,
}

// IsLong reports whether tasks of a kind are long. known is false for a kind that nobody has classified; such tasks count as short.
func IsLong(name string) (long, known bool) {
	long, known = kinds[name]
	return long, known
}

// share is whose share of the slots a task uses: a user's, and there the namespace's that the task is about. Tasks of the server count for the namespace.
func share(from Origin, spec Spec) store.Share {
	s := store.Share{Owner: string(from.Kind), Namespace: spec.Namespace}
	switch from.Kind {
	case store.OriginUser:
		s.Owner += ":" + strconv.FormatInt(from.User, 10)
	case store.OriginSystem:
		s.Owner += ":" + spec.Namespace
	case store.OriginCommand, store.OriginUnknown:
	}
	return s
}

// pool counts how many tasks of each share run in some of a process's slots. Claims for one pool are made one at a time, so that its bound holds.
type pool struct {
	most int // tasks of one share

	mu   sync.Mutex
	held map[store.Share]int
}

// claim claims a task whose share holds less than most slots. At most one share can hold so many while a slot is free.
func (p *pool) claim(claim func(except store.Share) (*store.Task, error)) (*store.Task, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var except store.Share
	for s, n := range p.held {
		if n >= p.most {
			except = s
		}
	}
	t, err := claim(except)
	if t != nil {
		if p.held == nil {
			p.held = map[store.Share]int{}
		}
		p.held[t.Share]++
	}
	return t, err
}

func (p *pool) release(t *store.Task) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[t.Share]--; p.held[t.Share] == 0 {
		delete(p.held, t.Share)
	}
}

// slot runs one task at a time.
type slot struct {
	worker    *Worker
	short     bool // takes short tasks only
	longFirst bool // which class has the first choice next, while tasks of both wait
}

// newSlots returns the slots of a worker; none if the worker takes no tasks.
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

// takeTasks runs one task after the other, each in the context running, until ctx ends.
func (s *slot) takeTasks(ctx, running context.Context) {
	for ctx.Err() == nil {
		if s.runNext(running) {
			continue
		}
		if s.short { // what woke this slot may be a long task
			select {
			case s.worker.foundLong <- struct{}{}:
			default:
			}
		}
		if err := s.worker.hear(ctx, !s.short); err != nil && ctx.Err() == nil {
			s.worker.log.WarnContext(ctx, "queue does not answer", slog.Any("err", err))
			sleep(ctx, sweepEvery)
		}
	}
}

// runNext claims the task whose turn it is and runs it to its end. It reports whether there was one.
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

// claim claims the next task for the slot, and returns it with a function to call at its end; nil when there is none.
func (s *slot) claim(ctx context.Context) (*store.Task, func(), error) {
	w := s.worker
	wanted := store.Wanted{WorkerID: w.self.ID, Services: w.services(), Lease: w.lease}
	from := func(p *pool) (*store.Task, func(), error) {
		t, err := p.claim(func(except store.Share) (*store.Task, error) {
			wanted.Except = except
			return w.store.ClaimNext(ctx, wanted)
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
		wanted.Except = store.Share{}
		if t, err := w.store.ClaimNext(ctx, wanted); t != nil || err != nil {
			return t, func() {}, err
		}
	}
	return nil, nil, nil
}
