package redisqueue_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/queuetest"
	"github.com/countersign/countersign/tasks/redisqueue"
)

func push(t *testing.T, q *redisqueue.Queue, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := q.Push(t.Context(), id); err != nil {
			t.Fatalf("Push(%s) = %v", id, err)
		}
	}
}

func wantPop(t *testing.T, q *redisqueue.Queue, want string) {
	t.Helper()
	wait := long
	if want == "" {
		wait = 0
	}
	if got, err := q.Pop(t.Context(), wait); err != nil || got != want {
		t.Errorf("Pop = %q, %v, want %q", got, err, want)
	}
}

func wantPing(t *testing.T, q *redisqueue.Queue) {
	t.Helper()
	eventually.NoError(t, long, func() error { return q.Ping(t.Context()) }, "Ping succeeds")
}

func watch(t *testing.T, q *redisqueue.Queue, id string) <-chan struct{} {
	t.Helper()
	canceled, stop, err := q.Canceled(t.Context(), id)
	if err != nil {
		t.Fatalf("Canceled(%s) = %v", id, err)
	}
	t.Cleanup(stop)
	return canceled
}

func wantCanceled(t *testing.T, canceled <-chan struct{}) {
	t.Helper()
	select {
	case <-canceled:
	case <-time.After(long):
		t.Error("the watcher was not notified")
	}
}

type popped struct {
	id  string
	err error
}

// popping calls Pop in the background.
func popping(ctx context.Context, q *redisqueue.Queue) <-chan popped {
	got := make(chan popped, 1)
	go func() {
		id, err := q.Pop(ctx, time.Hour)
		got <- popped{id, err}
	}()
	return got
}

// settle lets background calls begin to wait. It is only likely to be long enough; tests must pass if it is
// not. Redis does not show which process waits, so there is no condition to poll for.
func settle() { time.Sleep(100 * time.Millisecond) }

func TestQueue(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	var n atomic.Int32
	queuetest.Run(t, func(t *testing.T) tasks.Queue {
		return open(t, redisqueue.Options{URL: s.url(), Prefix: fmt.Sprint("case", n.Add(1))})
	})
}

func TestCluster(t *testing.T) {
	t.Parallel()
	a, b := startServer(t, "--cluster-enabled", "yes"), startServer(t, "--cluster-enabled", "yes")
	ctx, adminA, adminB := t.Context(), a.admin(t), b.admin(t)
	for _, err := range []error{
		adminA.ClusterAddSlotsRange(ctx, 0, 8191).Err(), adminB.ClusterAddSlotsRange(ctx, 8192, 16383).Err(),
		adminA.ClusterMeet(ctx, "127.0.0.1", fmt.Sprint(b.port)).Err(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, admin := range []*redis.Client{adminA, adminB} {
		eventually.NoError(t, long, func() error {
			info, err := admin.ClusterInfo(ctx).Result()
			if err == nil && !strings.Contains(info, "cluster_state:ok") {
				err = errors.New(info)
			}
			return err
		}, "the cluster's state is ok")
	}
	var n atomic.Int32 // the prefixes hash to slots of both nodes
	queuetest.Run(t, func(t *testing.T) tasks.Queue {
		return open(t, redisqueue.Options{URL: a.url(), Cluster: true, Prefix: fmt.Sprint("case", n.Add(1))})
	})
}

func TestKeys(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	ctx, admin := t.Context(), s.admin(t)
	q := open(t, redisqueue.Options{URL: s.url()})
	push(t, q, "a", "b", "a")
	if err := q.Cancel(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	keys, err := admin.Keys(ctx, "*").Result()
	slices.Sort(keys)
	if want := []string{"{countersign}:canceled:c", "{countersign}:ready"}; err != nil || !slices.Equal(keys, want) {
		t.Errorf("keys = %q, %v, want %q", keys, err, want)
	}
	if left, err := admin.PTTL(ctx, "{countersign}:canceled:c").Result(); err != nil || left <= 0 || left > 30*time.Second {
		t.Errorf("the record of a cancel expires after %v, %v, want up to 30s", left, err)
	}
	if ids, err := admin.ZRange(ctx, "{countersign}:ready", 0, -1).Result(); err != nil || !slices.Equal(ids, []string{"a", "b"}) {
		t.Errorf("ready = %q, %v", ids, err)
	}
	wantPop(t, q, "a")
	wantPop(t, q, "b")
	if n, err := admin.Exists(ctx, "{countersign}:ready").Result(); n != 0 || err != nil {
		t.Errorf("an empty queue has %d keys, %v, want none", n, err)
	}
}

func TestLostIDIsPushedAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	q := open(t, redisqueue.Options{URL: s.url()})
	push(t, q, "a", "b")
	// popped by a process whose connection broke before it received the id
	if err := s.admin(t).ZPopMin(t.Context(), "{countersign}:ready").Err(); err != nil {
		t.Fatal(err)
	}
	push(t, q, "a") // as the sweep does
	wantPop(t, q, "b")
	wantPop(t, q, "a")
	wantPop(t, q, "")
}

func TestProcesses(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	server, worker := open(t, redisqueue.Options{URL: s.url()}), open(t, redisqueue.Options{URL: s.url()})
	for i := range 20 {
		got := popping(t.Context(), worker)
		if i%2 == 0 {
			time.Sleep(5 * time.Millisecond)
		}
		id := fmt.Sprint(i)
		push(t, server, id)
		if p := <-got; p != (popped{id, nil}) {
			t.Fatalf("Pop = %v, want %s", p, id)
		}
	}
	canceled := watch(t, worker, "a")
	if err := server.Cancel(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	wantCanceled(t, canceled)
	wantCanceled(t, watch(t, server, "a")) // the cancel is still recorded
}

// TestArrivalsAtOnce announces two ids with one notification while three calls of Pop wait in one process, one
// of which is canceled. Two of them must return the ids.
func TestArrivalsAtOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	q := open(t, redisqueue.Options{URL: s.url()})
	admin := s.admin(t)
	wantPing(t, q)
	for range 50 {
		leaving, leave := context.WithCancel(t.Context())
		first, second, third := popping(leaving, q), popping(t.Context(), q), popping(t.Context(), q)
		time.Sleep(2 * time.Millisecond)
		// The ids are in the queue before the single notification is published.
		if err := admin.ZAdd(t.Context(), "{countersign}:ready", redis.Z{Score: 1, Member: "a"}, redis.Z{Score: 2, Member: "b"}).Err(); err != nil {
			t.Fatal(err)
		}
		go leave()
		admin.Publish(t.Context(), "{countersign}:db0:arrivals", "")
		var ids []string
		for len(ids) < 2 {
			select {
			case p := <-first:
				if first = nil; p.id != "" {
					ids = append(ids, p.id)
				}
			case p := <-second:
				second, ids = nil, append(ids, p.id)
			case p := <-third:
				third, ids = nil, append(ids, p.id)
			case <-time.After(long):
				t.Fatalf("only %q were popped", ids)
			}
		}
		if slices.Sort(ids); !slices.Equal(ids, []string{"a", "b"}) {
			t.Fatalf("popped %q", ids)
		}
		leave()
		push(t, q, "c") // for the call that still waits
		for _, got := range []<-chan popped{first, second, third} {
			if got != nil {
				<-got
			}
		}
		_, _ = q.Pop(t.Context(), 0)
	}
}

func TestKilledServer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	ctx := t.Context()
	q := open(t, redisqueue.Options{URL: s.url()})
	wantPing(t, q)
	canceled := watch(t, q, "a")
	for range 3 {
		waiting := []<-chan popped{popping(ctx, q), popping(ctx, q), popping(ctx, q)}
		settle()
		s.kill()
		bounded(t, "Pop without Redis", func() {
			for _, got := range waiting {
				if p := <-got; p.id != "" || p.err == nil {
					t.Errorf("Pop = %v, want an error", p)
				}
			}
		})
		wantUnavailable(t, q)
		s.start(t)
		wantPing(t, q)
		got := popping(ctx, q)
		push(t, q, "x")
		if p := <-got; p.id != "x" {
			t.Errorf("Pop = %v, want x", p)
		}
	}
	if err := q.Cancel(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	wantCanceled(t, canceled) // the watch continued over three restarts
}

// wantUnavailable expects that every method fails, within the time limit.
func wantUnavailable(t *testing.T, q *redisqueue.Queue) {
	t.Helper()
	var methods sync.WaitGroup
	defer methods.Wait()
	for name, f := range map[string]func() error{
		"Push":   func() error { return q.Push(t.Context(), "a") },
		"Pop":    func() error { _, err := q.Pop(t.Context(), time.Hour); return err },
		"Pop(0)": func() error { _, err := q.Pop(t.Context(), 0); return err },
		"Cancel": func() error { return q.Cancel(t.Context(), "a") },
		"Canceled": func() error {
			_, _, err := q.Canceled(t.Context(), "a")
			return err
		},
		"Ping": func() error { return q.Ping(t.Context()) },
	} {
		methods.Go(func() {
			bounded(t, name, func() {
				if err := f(); err == nil {
					t.Errorf("%s succeeded without Redis", name)
				}
			})
		})
	}
}

func TestServerStartsLater(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	q := open(t, redisqueue.Options{URL: s.url()})
	wantUnavailable(t, q)
	s.start(t)
	wantPing(t, q)
	push(t, q, "a")
	wantPop(t, q, "a")
	watch(t, q, "a")
}

func TestServerStopsAnswering(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	q := open(t, redisqueue.Options{URL: s.url()})
	wantPing(t, q)
	got := popping(t.Context(), q)
	settle()
	s.signal(t, syscall.SIGSTOP)
	wantUnavailable(t, q)
	select {
	case p := <-got:
		if p.id != "" || p.err == nil {
			t.Errorf("Pop = %v, want an error", p)
		}
	case <-time.After(long):
		t.Error("Pop did not return after the server had stopped answering")
	}
	s.signal(t, syscall.SIGCONT)
	wantPing(t, q)
	for { // pushes and pops that the stopped server executed later
		if id, err := q.Pop(t.Context(), 0); id == "" && err == nil {
			break
		}
	}
	push(t, q, "b")
	wantPop(t, q, "b")
}

func TestFlush(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	ctx, admin := t.Context(), s.admin(t)
	q := open(t, redisqueue.Options{URL: s.url()})
	push(t, q, "a", "b")
	canceled := watch(t, q, "w")
	for _, err := range []error{admin.FlushAll(ctx).Err(), admin.ScriptFlush(ctx).Err()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	wantPop(t, q, "")
	got := popping(ctx, q)
	settle()
	if err := admin.FlushAll(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	push(t, q, "b")
	if p := <-got; p != (popped{"b", nil}) {
		t.Errorf("Pop = %v, want b", p)
	}
	if err := q.Cancel(ctx, "w"); err != nil {
		t.Fatal(err)
	}
	wantCanceled(t, canceled)
}

// TestLostSubscription cuts only the subscription. The next subscription must deliver a cancel and an arrival
// that came meanwhile.
func TestLostSubscription(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	ctx, admin := t.Context(), s.admin(t)
	q := open(t, redisqueue.Options{URL: s.url()})
	for range 10 {
		canceled, stop, err := q.Canceled(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		got := popping(ctx, q)
		settle()
		pipe := admin.TxPipeline()
		pipe.Do(ctx, "client", "kill", "type", "pubsub")
		pipe.Set(ctx, "{countersign}:canceled:a", "", time.Minute)
		pipe.ZAdd(ctx, "{countersign}:ready", redis.Z{Score: 1, Member: "x"})
		if _, err := pipe.Exec(ctx); err != nil {
			t.Fatal(err)
		}
		if p := <-got; p != (popped{"x", nil}) {
			t.Errorf("Pop = %v, want x", p)
		}
		wantCanceled(t, canceled)
		stop()
		admin.Del(ctx, "{countersign}:canceled:a")
	}
}

func TestRecordedCancels(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	ctx := t.Context()
	q := open(t, redisqueue.Options{URL: s.url()})
	if err := q.Cancel(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	wantCanceled(t, watch(t, q, "a"))
	other := watch(t, q, "b")
	if err := s.admin(t).Del(ctx, "{countersign}:canceled:a").Err(); err != nil { // it has expired
		t.Fatal(err)
	}
	select {
	case <-other:
		t.Error("the watcher of b was notified of a's cancel")
	case <-time.After(20 * time.Millisecond):
	}
}

func TestInstallationsAreSeparate(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	ctx := t.Context()
	queues := map[string]*redisqueue.Queue{}
	watches := map[string]<-chan struct{}{}
	for name, o := range map[string]redisqueue.Options{
		"plain": {URL: s.url()}, "prefix": {URL: s.url(), Prefix: "other"}, "database": {URL: s.url() + "/3"},
	} {
		queues[name] = open(t, o)
		watches[name] = watch(t, queues[name], "a")
	}
	push(t, queues["plain"], "a")
	if err := queues["plain"].Cancel(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	wantCanceled(t, watches["plain"])
	for _, name := range []string{"prefix", "database"} {
		wantPop(t, queues[name], "")
		select {
		case <-watches[name]:
			t.Errorf("the queue with another %s was notified of the cancel", name)
		case <-watch(t, queues[name], "a"):
			t.Errorf("the queue with another %s saw the recorded cancel", name)
		case <-time.After(20 * time.Millisecond):
		}
	}
	wantPop(t, queues["plain"], "a")
}

func TestClose(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	q, err := redisqueue.New(t.Context(), redisqueue.Options{URL: s.url()})
	if err != nil {
		t.Fatal(err)
	}
	wantPing(t, q)
	got := popping(t.Context(), q)
	settle()
	bounded(t, "Close", func() { err = q.Close() })
	if err != nil {
		t.Errorf("Close = %v", err)
	}
	if p := <-got; p.id != "" || p.err == nil {
		t.Errorf("Pop = %v, want an error", p)
	}
	wantUnavailable(t, q)
}

func TestContextOfNew(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	q, err := redisqueue.New(ctx, redisqueue.Options{URL: s.url()})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	cancel()
	wantPing(t, q)
}
