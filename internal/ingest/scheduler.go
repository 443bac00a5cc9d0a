package ingest

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
)

// Limits bound the fetches of absent blobs. Zero values mean the defaults.
type Limits struct {
	Fetches int // at the same time
	Waiting int // requests that wait for a place, or for the end of another request's fetch
	// Patience is the maximum time that a request waits for a place.
	Patience time.Duration
	// Total is the maximum duration of a fetch.
	Total time.Duration
	// Watch is the interval at which a fetch checks that its remote exists and is unchanged.
	Watch time.Duration
}

// The defaults of Limits.
const (
	defaultFetches  = 128
	defaultWaiting  = 4096
	defaultPatience = 30 * time.Second
	defaultTotal    = 6 * time.Hour
	defaultWatch    = 3 * time.Second
)

func (l Limits) orDefault() Limits {
	return Limits{
		Fetches: orDefault(l.Fetches, defaultFetches), Waiting: orDefault(l.Waiting, defaultWaiting),
		Patience: orDefault(l.Patience, defaultPatience), Total: orDefault(l.Total, defaultTotal),
		Watch: orDefault(l.Watch, defaultWatch),
	}
}

func orDefault[T int | time.Duration](value, otherwise T) T {
	if value <= 0 {
		return otherwise
	}
	return value
}

// Shares of the places, and of the waiting requests, that one client, remote or host may have: one part in so many.
const (
	clientPart = 8
	remotePart = 5
	hostPart   = 2
	// scarcePart is the part of all places that is reserved for those with few of them: with less than a quarter of
	// their share.
	scarcePart = 4
)

// fetchKey identifies a fetch that several requests can share.
type fetchKey struct {
	digest             digest.Digest
	repository, remote string
}

// fetch is a download that holds a place. err is set before ended is closed.
type fetch struct {
	fetchRequest
	ended chan struct{}
	once  sync.Once
	err   error // for the requests that waited; nil: they look for the blob again
}

// fetchRequest is a client's request for an absent blob.
type fetchRequest struct {
	key                  fetchKey
	client, remote, host string
	exclusive            bool // it does not share its fetch
}

// holders returns the names under which a request counts, each with its part of the whole.
func (r fetchRequest) holders() map[string]int {
	return map[string]int{"client " + r.client: clientPart, "remote " + r.remote: remotePart, "host " + r.host: hostPart}
}

// waiter is a request that waits for a place.
type waiter struct {
	fetchRequest
	place chan place // with a buffer of one
}

// place is the result of a request: a fetch of its own, or another request's fetch to wait for.
type place struct {
	*fetch
	own bool
}

// scheduler assigns places to fetches: a limited number at the same time, of which one client, one remote and one
// host have a share each. It is safe for concurrent use.
type scheduler struct {
	limits Limits

	mu      sync.Mutex
	running map[fetchKey]*fetch
	taken   int
	shares  map[string]int // places taken, by holder
	queue   list.List      // of *waiter, in the order of arrival
	waiting map[string]int // waiting requests, by holder; the empty name counts all
}

func newScheduler(l Limits) *scheduler {
	return &scheduler{limits: l.orDefault(), running: map[fetchKey]*fetch{}, shares: map[string]int{}, waiting: map[string]int{}}
}

// errBusy refuses a request that gets no place in time.
var errBusy = &fault.Error{
	Kind:       fault.TooMany,
	Msg:        "Too many blobs are being fetched from remotes for this client or from this remote; try again later.",
	RetryAfter: 10 * time.Second,
}

// acquire returns a place for a request. It waits if none is free, at most Limits.Patience, and then returns errBusy.
// The caller ends its own fetch with finish and release.
func (s *scheduler) acquire(ctx context.Context, r fetchRequest) (place, error) {
	s.mu.Lock()
	if other := s.running[r.key]; other != nil && !r.exclusive {
		s.mu.Unlock()
		return place{other, false}, nil
	}
	if s.free(r) {
		p := place{s.start(r), true}
		s.assign()
		s.mu.Unlock()
		return p, nil
	}
	if !s.addWaiting(r) {
		s.mu.Unlock()
		return place{}, errBusy
	}
	w := &waiter{r, make(chan place, 1)}
	element := s.queue.PushBack(w)
	s.mu.Unlock()
	defer s.removeWaiting(r)
	return s.await(ctx, w, element)
}

// await waits for the place of a waiter in the queue.
func (s *scheduler) await(ctx context.Context, w *waiter, element *list.Element) (place, error) {
	patience := time.NewTimer(s.limits.Patience)
	defer patience.Stop()
	var err error
	select {
	case p := <-w.place:
		return p, nil
	case <-patience.C:
		err = errBusy
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.mu.Lock()
	s.queue.Remove(element)
	s.mu.Unlock()
	select {
	case p := <-w.place: // assigned at the last moment
		if errors.Is(err, errBusy) {
			return p, nil
		}
		if p.own {
			s.finish(p.fetch, nil)
			s.release(p.fetch)
		}
	default:
	}
	return place{}, err
}

// join waits for the end of another request's fetch. If it returns no error the caller looks for the blob again.
func (s *scheduler) join(ctx context.Context, f *fetch, r fetchRequest) error {
	s.mu.Lock()
	ok := s.addWaiting(r)
	s.mu.Unlock()
	if !ok {
		return errBusy
	}
	defer s.removeWaiting(r)
	select {
	case <-f.ended:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finish ends a fetch for the requests that wait for it: with an error, or with nil so that they look for the blob
// again. Only the first call has an effect.
func (s *scheduler) finish(f *fetch, err error) {
	f.once.Do(func() {
		s.mu.Lock()
		if s.running[f.key] == f {
			delete(s.running, f.key)
		}
		s.mu.Unlock()
		f.err = err
		close(f.ended)
	})
}

// release frees the place of a fetch for the next request that may have it.
func (s *scheduler) release(f *fetch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	for holder := range f.holders() {
		if s.shares[holder]--; s.shares[holder] == 0 {
			delete(s.shares, holder)
		}
	}
	s.assign()
}

// free reports whether a request may have a place. The caller holds mu.
func (s *scheduler) free(r fetchRequest) bool {
	if s.taken >= s.limits.Fetches {
		return false
	}
	scarce := s.taken >= s.limits.Fetches-s.limits.Fetches/scarcePart
	for holder, part := range r.holders() {
		most := max(1, s.limits.Fetches/part)
		if scarce {
			most = max(1, most/scarcePart)
		}
		if s.shares[holder] >= most {
			return false
		}
	}
	return true
}

// start takes a place. The caller holds mu.
func (s *scheduler) start(r fetchRequest) *fetch {
	f := &fetch{fetchRequest: r, ended: make(chan struct{})}
	s.taken++
	for holder := range r.holders() {
		s.shares[holder]++
	}
	if !r.exclusive {
		s.running[r.key] = f
	}
	return f
}

// assign gives places to the waiting requests that may have one, or whose blob another request fetches, in the order
// of their arrival. The caller holds mu.
func (s *scheduler) assign() {
	for assigned := true; assigned; {
		assigned = false
		for e := s.queue.Front(); e != nil; {
			w, next := e.Value.(*waiter), e.Next() //nolint:forcetypeassert // the queue has only waiters
			other := s.running[w.key]
			switch {
			case other != nil && !w.exclusive:
				w.place <- place{other, false}
			case s.free(w.fetchRequest):
				w.place <- place{s.start(w.fetchRequest), true}
			default:
				e = next
				continue
			}
			s.queue.Remove(e)
			assigned = true
			e = next
		}
	}
}

// addWaiting counts one more waiting request, unless there are too many. The caller holds mu.
func (s *scheduler) addWaiting(r fetchRequest) bool {
	holders := r.holders()
	holders[""] = 1
	for holder, part := range holders {
		if s.waiting[holder] >= max(1, s.limits.Waiting/part) {
			return false
		}
	}
	for holder := range holders {
		s.waiting[holder]++
	}
	return true
}

// removeWaiting counts one waiting request less.
func (s *scheduler) removeWaiting(r fetchRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	holders := r.holders()
	holders[""] = 1
	for holder := range holders {
		if s.waiting[holder]--; s.waiting[holder] == 0 {
			delete(s.waiting, holder)
		}
	}
}
