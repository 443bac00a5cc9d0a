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
	maxFailures     = 10          // failures within failureWindow that block an address
	failureWindow   = time.Minute // also the longest Retry-After
	maxAddresses    = 10_000      // addresses with recorded failures; the least recently used are evicted
	maxWaiting      = 4096        // waiting attempts of all addresses
	maxWaitingOfOne = 256         // waiting attempts of one address
)

var errBusy = &fault.Error{Kind: fault.TooMany, Msg: "Too many logins at a time. Try again.", RetryAfter: time.Second}

// limiter admits login attempts to compute a password hash. It refuses attempts of addresses with too many failures,
// and shares the computations among the waiting addresses, so that one address cannot delay the others. It is safe for
// concurrent use.
type limiter struct {
	slots      int // concurrent hash computations
	perAddress int // concurrent hash computations of one address
	now        func() time.Time

	mu       sync.Mutex
	running  int
	waiting  int
	turn     uint64                                // the latest value of nextTurn
	queues   map[netip.Prefix]*queue               // addresses with running or waiting attempts
	failures *lru.Cache[netip.Prefix, []time.Time] // the last maxFailures failures of an address, oldest first
}

// queue contains the attempts of one address.
type queue struct {
	running int
	waiting []chan error // each receives nil when its attempt is admitted, or the reason for its refusal
	turn    uint64       // the turn in which an attempt of the address last began or ended, or first had to wait
}

func newLimiter(slots int, now func() time.Time) *limiter {
	failures, err := lru.New[netip.Prefix, []time.Time](maxAddresses)
	if err != nil { // the size is a positive constant
		panic(err)
	}
	return &limiter{
		slots:      slots,
		perAddress: max(1, slots/2),
		now:        now,
		queues:     map[netip.Prefix]*queue{},
		failures:   failures,
	}
}

// acquire waits until the limiter admits an attempt of an address. The caller then computes one hash and calls release.
// The error is TooMany if the address has too many failures, now or while the attempt waits, or if too many attempts
// wait; or it is the error of the context.
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

// enter appends an attempt to the queue of its address and returns the channel that receives the decision.
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

// leave removes an attempt whose caller no longer waits.
func (l *limiter) leave(from netip.Prefix, admitted chan error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[from]
	if q == nil { // it was refused
		return
	}
	if i := slices.Index(q.waiting, admitted); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
		l.waiting--
	} else if len(admitted) > 0 && <-admitted == nil { // it was admitted
		q.running--
		l.running--
	}
	l.removeIfEmpty(from, q)
	l.dispatch()
}

// release ends an admitted attempt. failed counts it as a failure of its address. blocked reports that this failure
// blocks the address.
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
	l.removeIfEmpty(from, q)
	l.dispatch()
	return blocked
}

// dispatch admits waiting attempts while slots are free. The address with the fewest failures is first; among equals
// the one with the lowest turn.
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

// evict refuses the latest attempt of the address with the most waiting attempts, in favor of an address with own
// waiting attempts. It reports false if no address has at least own+2.
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

// removeIfEmpty removes a queue without attempts.
func (l *limiter) removeIfEmpty(from netip.Prefix, q *queue) {
	if q.running == 0 && len(q.waiting) == 0 {
		delete(l.queues, from)
	}
}

// recent returns the failures of an address within failureWindow, oldest first.
func (l *limiter) recent(from netip.Prefix) []time.Time {
	all, _ := l.failures.Peek(from)
	since := l.now().Add(-failureWindow)
	for len(all) > 0 && !all[0].After(since) {
		all = all[1:]
	}
	return all
}

// refusal returns the error for an address with too many failures, or nil.
func (l *limiter) refusal(from netip.Prefix) error {
	recent := l.recent(from)
	if len(recent) < maxFailures {
		return nil
	}
	wait := recent[0].Add(failureWindow).Sub(l.now())
	return &fault.Error{
		Kind:       fault.TooMany,
		Msg:        "Too many failed logins from this address. Try again later.",
		RetryAfter: wait,
	}
}

// count records a failure of an address. If that blocks the address, count refuses its waiting attempts and reports
// true.
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
		l.removeIfEmpty(from, q)
	}
	return true
}

// fail records a failure that needed no hash. blocked is as in release. The error is TooMany if the address was blocked
// before.
func (l *limiter) fail(from netip.Prefix) (blocked bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refusal(from); err != nil {
		return false, err
	}
	return l.count(from), nil
}
