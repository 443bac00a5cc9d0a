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

// Limits bound the fetches of absent blobs. Zero values stand for the defaults.
type Limits struct {
	Fetches int // at a time
	Waiting int // requests that wait for a place, or for the end of another request's fetch
	// Patience is how long a request waits for a place.
	Patience time.Duration
	// Total is how long a fetch may take.
	Total time.Duration
	// Watch is how often a fetch checks that its remote is still there and unchanged.
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
	for _, n := range []struct {
		of   *int
		when int
	}{{&l.Fetches, defaultFetches}, {&l.Waiting, defaultWaiting}} {
		if *n.of <= 0 {
			*n.of = n.when
		}
	}
	for _, d := range []struct {
		of   *time.Duration
		when time.Duration
	}{{&l.Patience, defaultPatience}, {&l.Total, defaultTotal}, {&l.Watch, defaultWatch}} {
		if *d.of <= 0 {
			*d.of = d.when
		}
	}
	return l
}

// Shares of the places, and of the waiting requests, that one holder may have: one part in so many.
const (
	clientPart = 8
	remotePart = 5
	hostPart   = 2
	// scarcePart is the part of all places that is left to holders with few of them: to those below a quarter of their share.
	scarcePart = 4
)

// flightKey identifies a fetch that several requests can share.
type flightKey struct {
	digest             digest.Digest
	repository, remote string
}

// flight is one fetch. err is set before ended is closed.
type flight struct {
	passenger
	ended chan struct{}
	once  sync.Once
	err   error // for the requests that waited; nil: they look again
}

// passenger is a request for a fetch.
type passenger struct {
	key                  flightKey
	client, remote, host string
	alone                bool // it shares its fetch with nobody
}

// parts returns the shares that a passenger takes from, with their parts of the whole.
func (p passenger) parts() map[string]int {
	return map[string]int{"client " + p.client: clientPart, "remote " + p.remote: remotePart, "host " + p.host: hostPart}
}

// ticket is a request that waits for a place.
type ticket struct {
	passenger
	seat chan seat // holds one
}

// seat is what a request gets: a fetch of its own, or another request's to wait for.
type seat struct {
	*flight
	own bool
}

// flights hands out places: so many at a time, of which one client, one remote and one host have a share each. It is safe for concurrent use.
type flights struct {
	limits Limits

	mu      sync.Mutex
	running map[flightKey]*flight
	taken   int
	shares  map[string]int // places taken, by holder
	queue   list.List      // of *ticket, in the order of arrival
	waits   map[string]int // waiting requests, by holder; the empty name counts all
}

func newFlights(l Limits) *flights {
	return &flights{limits: l.orDefault(), running: map[flightKey]*flight{}, shares: map[string]int{}, waits: map[string]int{}}
}

// errBusy refuses a request for which there is no place in time.
var errBusy = &fault.Error{
	Kind: fault.TooMany, Msg: "Too many blobs are being fetched from remotes for this client or from this remote; try again later.", RetryAfter: 10 * time.Second,
}

// board returns a seat for a request, after waiting for a place where there is none. The caller ends its own flight with land and leave.
func (f *flights) board(ctx context.Context, p passenger) (seat, error) {
	f.mu.Lock()
	if other := f.running[p.key]; other != nil && !p.alone {
		f.mu.Unlock()
		return seat{other, false}, nil
	}
	if f.room(p) {
		s := seat{f.start(p), true}
		f.admit()
		f.mu.Unlock()
		return s, nil
	}
	if !f.wait(p) {
		f.mu.Unlock()
		return seat{}, errBusy
	}
	t := &ticket{p, make(chan seat, 1)}
	place := f.queue.PushBack(t)
	f.mu.Unlock()
	defer f.waited(p)
	patience := time.NewTimer(f.limits.Patience)
	defer patience.Stop()
	var err error
	select {
	case s := <-t.seat:
		return s, nil
	case <-patience.C:
		err = errBusy
	case <-ctx.Done():
		err = ctx.Err()
	}
	f.mu.Lock()
	f.queue.Remove(place)
	f.mu.Unlock()
	select {
	case s := <-t.seat: // it came at the last moment
		if errors.Is(err, errBusy) {
			return s, nil
		}
		if s.own {
			f.land(s.flight, nil)
			f.leave(s.flight)
		}
	default:
	}
	return seat{}, err
}

// join waits for the end of another request's flight. With no error the caller looks for the blob again.
func (f *flights) join(ctx context.Context, fl *flight, p passenger) error {
	f.mu.Lock()
	ok := f.wait(p)
	f.mu.Unlock()
	if !ok {
		return errBusy
	}
	defer f.waited(p)
	select {
	case <-fl.ended:
		return fl.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// land ends a flight for those who wait for it: with an error, or so that they look again. Only the first call counts.
func (f *flights) land(fl *flight, err error) {
	fl.once.Do(func() {
		f.mu.Lock()
		if f.running[fl.key] == fl {
			delete(f.running, fl.key)
		}
		f.mu.Unlock()
		fl.err = err
		close(fl.ended)
	})
}

// leave gives a flight's place to the next request that may have it.
func (f *flights) leave(fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken--
	for holder := range fl.parts() {
		if f.shares[holder]--; f.shares[holder] == 0 {
			delete(f.shares, holder)
		}
	}
	f.admit()
}

// room reports whether a request may have a place. The caller holds mu.
func (f *flights) room(p passenger) bool {
	if f.taken >= f.limits.Fetches {
		return false
	}
	scarce := f.taken >= f.limits.Fetches-f.limits.Fetches/scarcePart
	for holder, part := range p.parts() {
		most := max(1, f.limits.Fetches/part)
		if scarce {
			most = max(1, most/scarcePart)
		}
		if f.shares[holder] >= most {
			return false
		}
	}
	return true
}

// start takes a place. The caller holds mu.
func (f *flights) start(p passenger) *flight {
	fl := &flight{passenger: p, ended: make(chan struct{})}
	f.taken++
	for holder := range p.parts() {
		f.shares[holder]++
	}
	if !p.alone {
		f.running[p.key] = fl
	}
	return fl
}

// admit seats the waiting requests for which there is room, or whose blob is on its way, in the order of their arrival. The caller holds mu.
func (f *flights) admit() {
	for seated := true; seated; {
		seated = false
		for e := f.queue.Front(); e != nil; {
			t, next := e.Value.(*ticket), e.Next() //nolint:forcetypeassert // the queue has no others
			other := f.running[t.key]
			switch {
			case other != nil && !t.alone:
				t.seat <- seat{other, false}
			case f.room(t.passenger):
				t.seat <- seat{f.start(t.passenger), true}
			default:
				e = next
				continue
			}
			f.queue.Remove(e)
			seated = true
			e = next
		}
	}
}

// wait counts one more waiting request, unless there are too many. The caller holds mu.
func (f *flights) wait(p passenger) bool {
	parts := p.parts()
	parts[""] = 1
	for holder, part := range parts {
		if f.waits[holder] >= max(1, f.limits.Waiting/part) {
			return false
		}
	}
	for holder := range parts {
		f.waits[holder]++
	}
	return true
}

// waited counts a waiting request off.
func (f *flights) waited(p passenger) {
	f.mu.Lock()
	defer f.mu.Unlock()
	parts := p.parts()
	parts[""] = 1
	for holder := range parts {
		if f.waits[holder]--; f.waits[holder] == 0 {
			delete(f.waits, holder)
		}
	}
}
