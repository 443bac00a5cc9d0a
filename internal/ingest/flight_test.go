package ingest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

// passengerOf is a request for blob n of a remote; remotes are on a host each.
func passengerOf(client, remote string, n int) passenger {
	d := digest.FromString(fmt.Sprint(n))
	return passenger{key: flightKey{d, "repository", remote}, client: client, remote: remote, host: remote}
}

// take takes places, which must be there at once, and returns how many it got.
func take(t *testing.T, f *flights, client, remote string, n int) (taken []*flight) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nobody waits
	for i := range n {
		s, err := f.board(ctx, passengerOf(client, remote, i))
		if err != nil {
			break
		}
		taken = append(taken, s.flight)
	}
	return taken
}

// No remote, host or client takes the places of others, however many it asks for.
func TestSharesOfPlaces(t *testing.T) {
	t.Parallel()
	limits := Limits{Fetches: 64, Waiting: 256}
	t.Run("client", func(t *testing.T) {
		t.Parallel()
		f, n := newFlights(limits), 0
		for i := range 100 {
			n += len(take(t, f, "greedy", fmt.Sprint("r", i), 10))
		}
		if n != limits.Fetches/clientPart || len(take(t, f, "other", "r0", 1)) != 1 {
			t.Errorf("%d places for one client", n)
		}
	})
	t.Run("remote", func(t *testing.T) {
		t.Parallel()
		f, n := newFlights(limits), 0
		for i := range 100 {
			for j := range 10 {
				if s, err := f.board(canceled(t), passengerOf(fmt.Sprint("c", i), "stalled", 10*i+j)); err == nil && s.own {
					n++
				}
			}
		}
		if n != limits.Fetches/remotePart || len(take(t, f, "another", "other", 1)) != 1 {
			t.Errorf("%d places for one remote", n)
		}
	})
	t.Run("host", func(t *testing.T) {
		t.Parallel()
		f, n := newFlights(limits), 0
		for i := range 1000 {
			p := passengerOf(fmt.Sprint("c", i), fmt.Sprint("r", i), i)
			p.host = "stalled"
			if _, err := f.board(canceled(t), p); err == nil {
				n++
			}
		}
		if n != limits.Fetches/hostPart || len(take(t, f, "another", "other", 1)) != 1 {
			t.Errorf("%d places for one host", n)
		}
	})
	t.Run("several greedy clients", func(t *testing.T) { // the last places are for those that have few
		t.Parallel()
		f := newFlights(limits)
		for i := range 8 {
			take(t, f, fmt.Sprint("greedy", i), fmt.Sprint("r", i), 100)
		}
		for i := range 4 {
			if len(take(t, f, fmt.Sprint("modest", i), fmt.Sprint("good", i), 1)) != 1 {
				t.Errorf("no place for modest client %d: %d are taken", i, f.taken)
			}
		}
	})
}

func canceled(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// A request waits for a place, gets the next one that it may have, joins a fetch of its blob that begins meanwhile, and is refused after its patience. The count of those that wait is bounded,
// for each client and in all.
func TestWaitingForAPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFlights(Limits{Fetches: 8, Waiting: 32, Patience: time.Minute}) // one place a client and remote
		first := take(t, f, "a", "r", 1)[0]
		start := time.Now()
		var got sync.Map // of seats, by name
		var all sync.WaitGroup
		board := func(name string, p passenger) {
			all.Go(func() {
				s, err := f.board(t.Context(), p)
				if err != nil && !errors.Is(err, errBusy) {
					t.Error(name, err)
				}
				got.Store(name, s)
			})
			synctest.Wait()
		}
		results := func() map[string]seat {
			all := map[string]seat{}
			got.Range(func(name, s any) bool { all[name.(string)] = s.(seat); return true })
			return all
		}
		board("next", passengerOf("a", "s", 1))          // the client's place is taken
		board("same blob", passengerOf("b", "r", 7))     // the remote's is
		board("same blob 2", passengerOf("c", "r", 7))   // as well
		board("last", passengerOf("d", "r", 8))          // and stays so
		board("joins at once", passengerOf("e", "r", 0)) // what is under way
		if r := results(); len(r) != 1 || r["joins at once"].flight != first || r["joins at once"].own {
			t.Fatalf("results: %v", r)
		}
		f.land(first, nil)
		f.leave(first)
		synctest.Wait()
		r := results()
		if !r["next"].own || !r["same blob"].own || r["same blob 2"].own || r["same blob 2"].flight != r["same blob"].flight {
			t.Errorf("results: %v", r)
		}
		all.Wait()
		if s, ok := results()["last"]; !ok || s.flight != nil || time.Since(start) != time.Minute {
			t.Errorf("the last request got %v after %v", s, time.Since(start))
		}
		for _, name := range []string{"next", "same blob"} {
			f.land(r[name].flight, nil)
			f.leave(r[name].flight)
		}
		wantEmpty(t, f)
	})
}

func TestWaitingIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFlights(Limits{Fetches: 8, Waiting: 80, Patience: time.Minute})
		held := take(t, f, "x", "r", 1)[0]
		ctx, leave := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var busy atomic.Int64
		for i := range 100 { // of one client
			all.Go(func() {
				if _, err := f.board(ctx, passengerOf("greedy", "r", i+1)); errors.Is(err, errBusy) {
					busy.Add(1)
				}
			})
			synctest.Wait()
		}
		if busy.Load() != 90 {
			t.Errorf("%d requests of one client refused at once, want 90", busy.Load())
		}
		all.Go(func() {
			if err := f.join(ctx, held, passengerOf("other", "r", 0)); !errors.Is(err, context.Canceled) {
				t.Errorf("another client: %v", err)
			}
		})
		synctest.Wait()
		leave()
		all.Wait()
		f.land(held, nil)
		f.leave(held)
		wantEmpty(t, f)
	})
}

// wantEmpty demands that nothing is counted any more.
func wantEmpty(t *testing.T, f *flights) {
	t.Helper()
	if f.taken != 0 || len(f.shares) != 0 || len(f.waits) != 0 || len(f.running) != 0 || f.queue.Len() != 0 {
		t.Errorf("left behind: %d places, shares %v, waits %v, %d flights, %d in the queue", f.taken, f.shares, f.waits, len(f.running), f.queue.Len())
	}
}
