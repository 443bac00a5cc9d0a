package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/memqueue"
	"github.com/countersign/countersign/tasks/redisqueue"
)

const (
	taskWorkers = 8
	taskRepos   = 200 // over which the tasks are spread
	busyTasks   = 20  // that wait for one busy repository

	waitingTasks = 10_000 // that wait for it in the last measurement
)

// compareTasks measures tasks that do nothing: in one process on SQLite, and on PostgreSQL and Redis. For comparison
// it measures asynq on the same Redis, without durability.
func compareTasks(ctx context.Context, o options, out io.Writer, dir string) error {
	fmt.Fprintf(out, "\ntasks that do nothing, %d workers, one claim per task; latency is the time from the dispatch to the start of a single task\n", taskWorkers)
	file := filepath.Join(dir, "tasks.db")
	local, err := openTasks(ctx, "sqlite:"+file, "sqlite", "file:"+file+"?_pragma=busy_timeout(60000)", &memqueue.Queue{})
	if err != nil {
		return err
	}
	defer local.close()
	if err := local.measure(ctx, o, out, "in process, SQLite"); err != nil {
		return err
	}
	url, stopDatabase, err := pgtest.Durable()
	if err != nil {
		fmt.Fprintln(out, "PostgreSQL and Redis were not measured:", err)
		return nil //nolint:nilerr // reported in the output
	}
	defer stopDatabase()
	queue, address, stopRedis, err := startRedis(ctx, dir)
	if err != nil {
		fmt.Fprintln(out, "PostgreSQL and Redis were not measured:", err)
		return nil //nolint:nilerr // reported in the output
	}
	defer stopRedis()
	far, err := openTasks(ctx, url, "pgx", url, queue)
	if err != nil {
		return err
	}
	defer far.close()
	if err := far.measure(ctx, o, out, "PostgreSQL and Redis"); err != nil {
		return err
	}
	return measureAsynq(ctx, o, out, address)
}

// tasksOn is a worker for tasks that do nothing on one database.
type tasksOn struct {
	store      *store.Store
	raw        *sql.DB // the same database
	dispatcher *tasks.Dispatcher
	counter    *counter
	hold       chan struct{} // the task "busy" waits until it is closed
	close      func()
}

// openTasks opens a database, also by its driver, and starts a worker.
func openTasks(ctx context.Context, url, driver, source string, q tasks.Queue) (*tasksOn, error) {
	s, err := store.Open(ctx, url)
	if err != nil {
		return nil, err
	}
	if err := s.DB.Migrate(ctx); err != nil {
		return nil, errors.Join(err, s.DB.Close())
	}
	raw, err := sql.Open(driver, source)
	if err != nil {
		return nil, errors.Join(err, s.DB.Close())
	}
	on := &tasksOn{store: s, raw: raw, counter: &counter{}, hold: make(chan struct{})}
	quiet := slog.New(slog.DiscardHandler)
	w := tasks.NewWorker(tasks.WorkerOptions{Store: s, Queue: q, Log: quiet, Slots: taskWorkers, Name: "1@bench", Jobs: map[string]tasks.Job{
		"nothing": {Run: on.counter.run}, "busy": {Run: func(context.Context, *tasks.Run) error { <-on.hold; return nil }},
	}})
	on.dispatcher = tasks.NewDispatcher(s, q, w, quiet)
	working, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(working, time.Second) }()
	on.close = func() {
		stop()
		if err := errors.Join(<-ended, raw.Close(), s.DB.Close()); err != nil {
			fmt.Fprintln(os.Stderr, "bench: stop the worker:", err)
		}
	}
	return on, nil
}

// startRedis starts a redis-server without persistence and returns a queue on it and its address.
func startRedis(ctx context.Context, dir string) (*redisqueue.Queue, string, func(), error) {
	address, err := process.FreeAddress()
	if err != nil {
		return nil, "", nil, err
	}
	host, port, _ := strings.Cut(address, ":")
	command := exec.CommandContext(ctx, "redis-server", "--port", port, "--bind", host, "--dir", dir, "--save", "", "--appendonly", "no")
	if err := command.Start(); err != nil {
		return nil, "", nil, err
	}
	stop := func() { _ = command.Process.Kill(); _ = command.Wait() }
	q, err := redisqueue.New(ctx, redisqueue.Options{URL: "redis://" + address})
	if err != nil {
		stop()
		return nil, "", nil, err
	}
	for range 100 {
		if err = q.Ping(ctx); err == nil {
			return q, address, func() { _ = q.Close(); stop() }, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	return nil, "", nil, err
}

// counter counts tasks that have run and records the time that each waited for its start.
type counter struct {
	mu     sync.Mutex
	left   int
	waited []time.Duration
	done   chan struct{}
}

// expect resets the counter to n tasks. done is closed after the last one.
func (c *counter) expect(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left, c.waited, c.done = n, nil, make(chan struct{})
}

// run is the job of a task that does nothing.
func (c *counter) run(_ context.Context, r *tasks.Run) error {
	var args struct{ At int64 }
	if err := r.Decode(&args); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waited = append(c.waited, time.Since(time.UnixMicro(args.At)))
	if c.left--; c.left == 0 {
		close(c.done)
	}
	return nil
}

// dispatch dispatches a task that reserves a repository exclusively.
func (on *tasksOn) dispatch(ctx context.Context, task, repository string) error {
	_, err := on.dispatcher.Dispatch(ctx, tasks.BySystem(), tasks.Spec{
		Name: task, Args: map[string]int64{"At": time.Now().UnixMicro()}, Resources: []taskstore.Resource{{Href: repository, Exclusive: true}},
	})
	return err
}

// burst dispatches n tasks concurrently and returns the number of tasks per second.
func (on *tasksOn) burst(ctx context.Context, n int) (float64, error) {
	on.counter.expect(n)
	began := time.Now()
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(taskWorkers)
	for i := range n {
		group.Go(func() error { return on.dispatch(working, "nothing", fmt.Sprintf("/r/%d/", i%taskRepos)) })
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	select {
	case <-on.counter.done:
		return float64(n) / time.Since(began).Seconds(), nil
	case <-time.After(maxTask):
		return 0, fmt.Errorf("the tasks did not end within %v", maxTask)
	}
}

// latencies are the times from the dispatch to the start of tasks, and of the dispatches themselves.
type latencies struct{ start, dispatch []time.Duration }

func (l latencies) String() string {
	at := func(d []time.Duration, percent int) time.Duration {
		return d[len(d)*percent/100].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("p50 %v, p99 %v (dispatch %v, %v)", at(l.start, 50), at(l.start, 99), at(l.dispatch, 50), at(l.dispatch, 99))
}

// alone dispatches tasks one at a time and returns their latencies.
func (on *tasksOn) alone(ctx context.Context) (latencies, error) {
	const n = 200
	on.counter.expect(n)
	var l latencies
	for range n {
		began := time.Now()
		if err := on.dispatch(ctx, "nothing", "/alone/"); err != nil {
			return l, err
		}
		l.dispatch = append(l.dispatch, time.Since(began))
		time.Sleep(5 * time.Millisecond)
	}
	<-on.counter.done
	l.start = on.counter.waited
	slices.Sort(l.start)
	slices.Sort(l.dispatch)
	return l, nil
}

// measure prints the rates and latencies of tasks: alone, with waiting tasks, and with many finished ones.
func (on *tasksOn) measure(ctx context.Context, o options, out io.Writer, name string) error {
	var rates []float64
	for range o.rounds {
		r, err := on.burst(ctx, o.tasks)
		if err != nil {
			return err
		}
		rates = append(rates, r)
	}
	waits, err := on.alone(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%-22s %s; latency %v\n", name, spread(rates, "/s"), waits)
	// Tasks that wait for a busy repository must not delay others.
	defer close(on.hold)
	for range busyTasks + 1 {
		if err := on.dispatch(ctx, "busy", "/busy/"); err != nil {
			return err
		}
	}
	if waits, err = on.alone(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "   with %d tasks that wait for one repository: latency %v\n", busyTasks, waits)
	if err := on.age(ctx, o.old); err != nil {
		return err
	}
	if waits, err = on.alone(ctx); err != nil {
		return err
	}
	rate, err := on.burst(ctx, o.tasks)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "   with %d finished and %d waiting tasks: %.0f /s; latency %v\n", o.old, waitingTasks, rate, waits)
	return nil
}

// age adds finished tasks, and waitingTasks tasks that wait for the busy repository.
func (on *tasksOn) age(ctx context.Context, ended int) error {
	const (
		series = `WITH RECURSIVE series (n) AS (SELECT CAST($1 AS BIGINT) UNION ALL SELECT n + 1 FROM series WHERE n < $2) `
		step   = 20_000 // per transaction, so that others can write in between
	)
	for from := 1; from <= ended; from += step {
		if err := on.ageBy(ctx, series, from, min(from+step-1, ended)); err != nil {
			return err
		}
	}
	for range waitingTasks {
		if err := on.dispatch(ctx, "busy", "/busy/"); err != nil {
			return err
		}
	}
	_, err := on.raw.ExecContext(ctx, "ANALYZE") // a database that grows slowly has current statistics
	return err
}

// ageBy adds the finished tasks with the numbers from from to to.
func (on *tasksOn) ageBy(ctx context.Context, series string, from, to int) error {
	for _, text := range []string{
		`INSERT INTO task (id, seq, name, state, created, updated, unblocked, started, finished, resources)
			` + series + `SELECT 'old-' || n, -n, 'nothing', 'completed', n, n, n, n, n, '[{"href": "/r/1/", "exclusive": true}]' FROM series`,
		`INSERT INTO task_resource (task_id, resource, exclusive, seq, active) ` + series + `SELECT 'old-' || n, '/r/' || (n % 200) || '/', TRUE, -n, FALSE FROM series`,
	} {
		if _, err := on.raw.ExecContext(ctx, text, from, to); err != nil {
			return err
		}
	}
	return nil
}

// measureAsynq measures asynq, a queue on Redis alone, which has no reservations of resources, with tasks that do
// nothing.
func measureAsynq(ctx context.Context, o options, out io.Writer, address string) error {
	at := asynq.RedisClientOpt{Addr: address}
	client := asynq.NewClient(at)
	defer func() { _ = client.Close() }()
	server := asynq.NewServer(at, asynq.Config{Concurrency: taskWorkers, LogLevel: asynq.FatalLevel})
	var left atomic.Int64
	done := make(chan struct{}, 1)
	if err := server.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		if left.Add(-1) == 0 {
			done <- struct{}{}
		}
		return nil
	})); err != nil {
		return err
	}
	defer server.Shutdown()
	var rates []float64
	for range o.rounds {
		left.Store(int64(o.tasks))
		began := time.Now()
		group, working := errgroup.WithContext(ctx)
		group.SetLimit(taskWorkers)
		for range o.tasks {
			group.Go(func() error {
				_, err := client.EnqueueContext(working, asynq.NewTask("nothing", nil))
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		<-done
		rates = append(rates, float64(o.tasks)/time.Since(began).Seconds())
	}
	fmt.Fprintf(out, "%-22s %s\n", "asynq on that Redis", spread(rates, "/s"))
	return nil
}
