package auth

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/countersign/countersign/internal/fault"
)

// Limits of logins by password.
const (
	maxFailures     = 10          // an address with so many failures within failureWindow is refused
	failureWindow   = time.Minute // also the longest Retry-After
	maxAddresses    = 10_000      // addresses whose failures are kept; the least recently used are dropped
	maxWaiting      = 4096        // attempts that wait for a hash computation, of all addresses
	maxWaitingOfOne = 256         // and of one address
)

var errBusy = &fault.Error{Kind: fault.TooMany, Msg: "Too many logins at a time. Try again.", RetryAfter: time.Second}

// limiter decides when a login may compute a password hash. It refuses addresses with too many failures, and shares the computations among the
// addresses that wait, so that one address cannot delay the others. It is safe for concurrent use.
type limiter struct {
	slots      int // hash computations at a time
	perAddress int // and for one address
	now        func() time.Time

	mu       sync.Mutex
	running  int
	waiting  int
	turn     uint64                                // of the attempt that was admitted last
	queues   map[netip.Prefix]*queue               // of addresses with attempts that run or wait
	failures *lru.Cache[netip.Prefix, []time.Time] // the latest maxFailures of each address, oldest first
}

// queue holds the attempts of one address.
type queue struct {
	running int
	waiting []chan error // each receives nil when its attempt is admitted, or the refusal
	turn    uint64       // the higher, the later the address was served, or began to wait
}

func newLimiter(slots int, now func() time.Time) *limiter {
	failures, err := lru.New[netip.Prefix, []time.Time](maxAddresses)
	if err != nil { // the size is a positive constant
		panic(err)
	}
	return &limiter{slots: slots, perAddress: max(1, slots/2), now: now, queues: map[netip.Prefix]*queue{}, failures: failures}
}

// acquire waits until an attempt from an address may compute a hash; the caller then calls release. The error is TooMany when the address has too
// many failures, also when they come up while the attempt waits, or when too many attempts wait; or that of the context.
func (l *limiter) acquire(ctx context.Context, from netip.Prefix) error {
	admitted, err := l.enter(from)
	if err != nil {
		return err
	}
	select {
	case err := <-admitted:
		return err
	case <-ctx.Done():
		l.leave(from, admitted)
		return ctx.Err()
	}
}

// enter appends an attempt to the queue of its address.
func (l *limiter) enter(from netip.Prefix) (chan error, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refusal(from); err != nil {
		return nil, err
	}
	q := l.queues[from]
	if q == nil {
		q = &queue{turn: l.nextTurn()}
	}
	if len(q.waiting) >= maxWaitingOfOne || l.waiting >= maxWaiting && !l.evict(len(q.waiting)) {
		return nil, errBusy
	}
	admitted := make(chan error, 1)
	l.queues[from] = q
	q.waiting = append(q.waiting, admitted)
	l.waiting++
	l.dispatch()
	return admitted, nil
}

// leave withdraws an attempt whose caller no longer waits.
func (l *limiter) leave(from netip.Prefix, admitted chan error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[from]
	if q == nil { // refused meanwhile
		return
	}
	if i := slices.Index(q.waiting, admitted); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
		l.waiting--
	} else if len(admitted) > 0 && <-admitted == nil { // admitted meanwhile
		q.running--
		l.running--
	}
	l.tidy(from, q)
	l.dispatch()
}

// release ends an admitted attempt. With failed it counts against its address, and blocked reports that the address is refused from now on.
func (l *limiter) release(from netip.Prefix, failed bool) (blocked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	q := l.queues[from]
	q.running--
	q.turn = l.nextTurn()
	if failed {
		blocked = l.count(from)
	}
	l.tidy(from, q)
	l.dispatch()
	return blocked
}

// dispatch admits attempts while there are free slots: those of the address with the fewest failures first, and among equals of the one that was
// served the longest time ago.
func (l *limiter) dispatch() {
	for l.running < l.slots && l.waiting > 0 {
		var next *queue
		fewest := maxFailures
		for from, q := range l.queues {
			failed := len(l.recent(from))
			if len(q.waiting) == 0 || q.running >= l.perAddress || failed+q.running >= maxFailures {
				continue
			}
			if failed < fewest || failed == fewest && q.turn < next.turn {
				next, fewest = q, failed
			}
		}
		if next == nil {
			return
		}
		next.waiting[0] <- nil
		next.waiting = next.waiting[1:]
		next.turn = l.nextTurn()
		next.running++
		l.running++
		l.waiting--
	}
}

func (l *limiter) nextTurn() uint64 {
	l.turn++
	return l.turn
}

// evict refuses the latest attempt of the address with the most waiting ones, to make room for one of an address that has so many waiting. It
// reports false when no address has at least two more.
func (l *limiter) evict(own int) bool {
	var longest *queue
	most := own + 1
	for _, q := range l.queues {
		if len(q.waiting) > most {
			longest, most = q, len(q.waiting)
		}
	}
	if longest == nil {
		return false
	}
	last := len(longest.waiting) - 1
	longest.waiting[last] <- errBusy
	longest.waiting = longest.waiting[:last]
	l.waiting--
	return true
}

// tidy forgets a queue without attempts.
func (l *limiter) tidy(from netip.Prefix, q *queue) {
	if q.running == 0 && len(q.waiting) == 0 {
		delete(l.queues, from)
	}
}

// recent returns an address's failures within the window, oldest first.
func (l *limiter) recent(from netip.Prefix) []time.Time {
	all, _ := l.failures.Peek(from)
	since := l.now().Add(-failureWindow)
	for len(all) > 0 && !all[0].After(since) {
		all = all[1:]
	}
	return all
}

// refusal returns the error for an address with too many failures; nil for others.
func (l *limiter) refusal(from netip.Prefix) error {
	recent := l.recent(from)
	if len(recent) < maxFailures {
		return nil
	}
	wait := recent[0].Add(failureWindow).Sub(l.now())
	return &fault.Error{Kind: fault.TooMany, Msg: "Too many failed logins from this address. Try again later.", RetryAfter: wait}
}

// count adds a failure of an address. If the address is refused from now on, count refuses its attempts that wait, and reports true.
func (l *limiter) count(from netip.Prefix) (blocked bool) {
	l.failures.Add(from, append(l.recent(from), l.now()))
	err := l.refusal(from)
	if err == nil {
		return false
	}
	if q := l.queues[from]; q != nil {
		l.waiting -= len(q.waiting)
		for _, admitted := range q.waiting {
			admitted <- err
		}
		q.waiting = nil
		l.tidy(from, q)
	}
	return true
}

// fail counts a failure for which no hash was computed. blocked is that of release. The error is TooMany when the address was refused already.
func (l *limiter) fail(from netip.Prefix) (blocked bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refusal(from); err != nil {
		return false, err
	}
	return l.count(from), nil
}
