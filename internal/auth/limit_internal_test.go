package auth

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/internal/clientaddr"
	"github.com/countersign/countersign/internal/fault"
)

// bench runs attempts through a limiter. Each hash computation takes a second. It records the order in which the
// attempts begin or are refused.
type bench struct {
	*limiter
	mu    sync.Mutex
	order []string
	all   sync.WaitGroup
}

// attempt adds one attempt of an address to the queues.
func (b *bench) attempt(ctx context.Context, from string, fails bool) {
	b.all.Go(func() {
		p := clientaddr.Network(from)
		err := b.acquire(ctx, p)
		switch {
		case errors.Is(err, context.Canceled):
			b.record(from + "-canceled")
		case fault.Is(err, fault.TooMany):
			b.record(from + "-refused")
		case err != nil:
			b.record(err.Error())
		default:
			b.record(from)
			time.Sleep(time.Second)
			b.release(p, fails)
		}
	})
	synctest.Wait()
}

func (b *bench) record(event string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.order = append(b.order, strings.TrimPrefix(event, "192.0.2."))
}

// check compares the order of events, which are named after the last octet of the address. It verifies that the limiter
// has no attempts left.
func (b *bench) check(t *testing.T, want string) {
	t.Helper()
	b.all.Wait()
	if got := strings.Join(b.order, " "); got != want {
		t.Errorf("order %s, want %s", got, want)
	}
	if len(b.queues) != 0 || b.running != 0 || b.waiting != 0 {
		t.Errorf("left behind: %d queues, %d running, %d waiting", len(b.queues), b.running, b.waiting)
	}
}

// TestAddressesTakeTurns checks that an address with many attempts does not delay one with few, and that addresses with
// failures come last.
func TestAddressesTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{limiter: newLimiter(1, time.Now)}
		for _, from := range []string{"1", "1", "1", "1", "2", "2", "3", "3"} {
			b.attempt(t.Context(), "192.0.2."+from, from == "3")
		}
		b.check(t, "1 2 3 1 2 1 1 3")
	})
}

// TestWaitingAttempts checks that the tenth failure of an address refuses its waiting attempts but not those of other
// addresses, and that an attempt whose context is canceled takes no turn.
func TestWaitingAttempts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{limiter: newLimiter(4, time.Now)}
		gone, cancel := context.WithCancel(t.Context())
		for i := range 14 {
			ctx := t.Context()
			if i == 5 {
				ctx = gone
			}
			b.attempt(ctx, "192.0.2.1", true)
		}
		cancel()
		synctest.Wait()
		time.Sleep(3500 * time.Millisecond) // two at a time: eight have begun
		b.attempt(t.Context(), "192.0.2.2", false)
		b.check(t, "1 1 1-canceled 1 1 1 1 1 1 2 1 1 1-refused 1-refused 1-refused")
	})
}

// TestFailuresWithoutHash checks that failures without a hash computation also refuse the waiting attempts of the
// address that they block. No event would admit those attempts later.
func TestFailuresWithoutHash(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{limiter: newLimiter(1, time.Now)}
		b.attempt(t.Context(), "192.0.2.1", false)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		b.attempt(ctx, "192.0.2.1", false)
		for range maxFailures {
			if _, err := b.fail(clientaddr.Network("192.0.2.1")); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		b.check(t, "1 1-refused")
		if waited := time.Since(began); waited > time.Minute {
			t.Errorf("an attempt waited %v", waited)
		}
	})
}

// TestFullQueues checks the limits on waiting attempts, and that a new address evicts an attempt of the address with
// the most waiting attempts.
func TestFullQueues(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{limiter: newLimiter(1, time.Now)}
		ctx, cancel := context.WithCancel(t.Context())
		refused := func() int { return strings.Count(strings.Join(b.order, " "), "refused") }
		for range 1 + maxWaitingOfOne + 3 { // one runs
			b.attempt(ctx, "192.0.2.1", false)
		}
		if got := refused(); got != 3 {
			t.Errorf("%d of one address refused, want 3", got)
		}
		for i := range maxWaiting - maxWaitingOfOne {
			b.attempt(ctx, "198.51.100."+strconv.Itoa(i%200), false)
		}
		if got := refused(); got != 3 || b.waiting != maxWaiting {
			t.Errorf("%d refused, %d wait, want 3 and %d", got, b.waiting, maxWaiting)
		}
		b.attempt(ctx, "203.0.113.1", false)
		if got := len(b.queues[clientaddr.Network("192.0.2.1")].waiting); refused() != 4 || b.waiting != maxWaiting ||
			got != maxWaitingOfOne-1 ||
			len(b.queues[clientaddr.Network("203.0.113.1")].waiting) != 1 {
			t.Errorf("%d refused, %d wait, %d of the first address", refused(), b.waiting, got)
		}
		cancel()
		b.all.Wait()
		if len(b.queues) != 0 || b.running != 0 || b.waiting != 0 {
			t.Errorf("left behind: %d queues, %d running, %d waiting", len(b.queues), b.running, b.waiting)
		}
	})
}

// TestNetworks checks the network that the limiter counts failures for.
func TestNetworks(t *testing.T) {
	t.Parallel()
	for client, want := range map[string]string{
		"192.0.2.1:5000": "192.0.2.1/32", "192.0.2.1": "192.0.2.1/32", "[::ffff:192.0.2.1]:5000": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32",
		"[2001:db8:1:2:3::4]:5000": "2001:db8:1:2::/64", "2001:db8:1:2:3::4": "2001:db8:1:2::/64", "[fe80::1%eth0]:5000": "fe80::/64", "@": "invalid Prefix", "": "invalid Prefix",
	} {
		if got := clientaddr.Network(client).String(); got != want {
			t.Errorf("%q: %s, want %s", client, got, want)
		}
	}
}
