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

// requestFor returns a request for blob n of a remote. Each remote is on a host of its own.
func requestFor(client, remote string, n int) fetchRequest {
	d := digest.FromString(fmt.Sprint(n))
	return fetchRequest{key: fetchKey{d, "repository", remote}, client: client, remote: remote, host: remote}
}

// take acquires up to n places that are free at once.
func take(t *testing.T, s *scheduler, client, remote string, n int) (taken []*fetch) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // do not wait
	for i := range n {
		p, err := s.acquire(ctx, requestFor(client, remote, i))
		if err != nil {
			break
		}
		taken = append(taken, p.fetch)
	}
	return taken
}

// TestShares proves that no client, remote or host gets more places than its share, however many it asks for.
func TestShares(t *testing.T) {
	t.Parallel()
	limits := Limits{Fetches: 64, Waiting: 256}
	t.Run("client", func(t *testing.T) {
		t.Parallel()
		s, n := newScheduler(limits), 0
		for i := range 100 {
			n += len(take(t, s, "greedy", fmt.Sprint("r", i), 10))
		}
		if n != limits.Fetches/clientPart || len(take(t, s, "other", "r0", 1)) != 1 {
			t.Errorf("%d places for one client", n)
		}
	})
	t.Run("remote", func(t *testing.T) {
		t.Parallel()
		s, n := newScheduler(limits), 0
		for i := range 100 {
			for j := range 10 {
				if p, err := s.acquire(canceled(t), requestFor(fmt.Sprint("c", i), "stalled", 10*i+j)); err == nil && p.own {
					n++
				}
			}
		}
		if n != limits.Fetches/remotePart || len(take(t, s, "another", "other", 1)) != 1 {
			t.Errorf("%d places for one remote", n)
		}
	})
	t.Run("host", func(t *testing.T) {
		t.Parallel()
		s, n := newScheduler(limits), 0
		for i := range 1000 {
			r := requestFor(fmt.Sprint("c", i), fmt.Sprint("r", i), i)
			r.host = "stalled"
			if _, err := s.acquire(canceled(t), r); err == nil {
				n++
			}
		}
		if n != limits.Fetches/hostPart || len(take(t, s, "another", "other", 1)) != 1 {
			t.Errorf("%d places for one host", n)
		}
	})
	t.Run("several greedy clients", func(t *testing.T) { // the last places are reserved for clients with few
		t.Parallel()
		s := newScheduler(limits)
		for i := range 8 {
			take(t, s, fmt.Sprint("greedy", i), fmt.Sprint("r", i), 100)
		}
		for i := range 4 {
			if len(take(t, s, fmt.Sprint("modest", i), fmt.Sprint("good", i), 1)) != 1 {
				t.Errorf("no place for modest client %d: %d are taken", i, s.taken)
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

// TestAcquireWaits proves that a request waits for the next place that it may have, joins a fetch of its blob that
// begins meanwhile, and is refused after Limits.Patience.
func TestAcquireWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(Limits{Fetches: 8, Waiting: 32, Patience: time.Minute}) // one place a client and remote
		first := take(t, s, "a", "r", 1)[0]
		start := time.Now()
		var got sync.Map // of places, by name
		var all sync.WaitGroup
		request := func(name string, r fetchRequest) {
			all.Go(func() {
				p, err := s.acquire(t.Context(), r)
				if err != nil && !errors.Is(err, errBusy) {
					t.Error(name, err)
				}
				got.Store(name, p)
			})
			synctest.Wait()
		}
		results := func() map[string]place {
			all := map[string]place{}
			got.Range(func(name, p any) bool { all[name.(string)] = p.(place); return true })
			return all
		}
		request("next", requestFor("a", "s", 1))          // the client has its share
		request("same blob", requestFor("b", "r", 7))     // the remote has its share
		request("same blob 2", requestFor("c", "r", 7))   // too
		request("last", requestFor("d", "r", 8))          // until the end
		request("joins at once", requestFor("e", "r", 0)) // a running fetch
		if r := results(); len(r) != 1 || r["joins at once"].fetch != first || r["joins at once"].own {
			t.Fatalf("results: %v", r)
		}
		s.finish(first, nil)
		s.release(first)
		synctest.Wait()
		r := results()
		if !r["next"].own || !r["same blob"].own || r["same blob 2"].own || r["same blob 2"].fetch != r["same blob"].fetch {
			t.Errorf("results: %v", r)
		}
		all.Wait()
		if p, ok := results()["last"]; !ok || p.fetch != nil || time.Since(start) != time.Minute {
			t.Errorf("the last request got %v after %v", p, time.Since(start))
		}
		for _, name := range []string{"next", "same blob"} {
			s.finish(r[name].fetch, nil)
			s.release(r[name].fetch)
		}
		checkEmpty(t, s)
	})
}

// TestWaitingIsBounded proves that the number of waiting requests is bounded, for each client and in all.
func TestWaitingIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(Limits{Fetches: 8, Waiting: 80, Patience: time.Minute})
		held := take(t, s, "x", "r", 1)[0]
		ctx, leave := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var busy atomic.Int64
		for i := range 100 { // of one client
			all.Go(func() {
				if _, err := s.acquire(ctx, requestFor("greedy", "r", i+1)); errors.Is(err, errBusy) {
					busy.Add(1)
				}
			})
			synctest.Wait()
		}
		if busy.Load() != 90 {
			t.Errorf("%d requests of one client refused at once, want 90", busy.Load())
		}
		all.Go(func() {
			if err := s.join(ctx, held, requestFor("other", "r", 0)); !errors.Is(err, context.Canceled) {
				t.Errorf("another client: %v", err)
			}
		})
		synctest.Wait()
		leave()
		all.Wait()
		s.finish(held, nil)
		s.release(held)
		checkEmpty(t, s)
	})
}

// checkEmpty reports an error if the scheduler still counts a fetch or a request.
func checkEmpty(t *testing.T, s *scheduler) {
	t.Helper()
	if s.taken != 0 || len(s.shares) != 0 || len(s.waiting) != 0 || len(s.running) != 0 || s.queue.Len() != 0 {
		t.Errorf("left behind: %d places, shares %v, waits %v, %d fetches, %d in the queue", s.taken, s.shares, s.waiting, len(s.running), s.queue.Len())
	}
}
