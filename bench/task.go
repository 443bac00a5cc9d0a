package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/memqueue"
	"github.com/countersign/countersign/tasks/redisqueue"
)

const (
	taskWorkers = 8
	taskRepos   = 200 // that tasks are spread over
	busyTasks   = 20  // that wait on one busy repository
)

// compareTasks measures tasks that do nothing: in one process on SQLite, and on PostgreSQL and Redis, which both keep what they acknowledge.
func compareTasks(ctx context.Context, o options, out io.Writer, dir string) error {
	fmt.Fprintf(out, "\ntasks that do nothing, %d workers, one claim a task; latency is from the dispatch to the start, of tasks that come alone\n", taskWorkers)
	local, err := store.Open(ctx, "sqlite:"+filepath.Join(dir, "tasks.db"))
	if err != nil {
		return err
	}
	defer func() { _ = local.Close() }()
	if err := measureTasks(ctx, o, out, "in process, SQLite", local, &memqueue.Queue{}); err != nil {
		return err
	}
	url, stopDatabase, err := pgtest.Durable()
	if err != nil {
		fmt.Fprintln(out, "not measured on PostgreSQL and Redis:", err)
		return nil //nolint:nilerr // it is said
	}
	defer stopDatabase()
	queue, stopRedis, err := startRedis(ctx, dir)
	if err != nil {
		fmt.Fprintln(out, "not measured on PostgreSQL and Redis:", err)
		return nil //nolint:nilerr // it is said
	}
	defer stopRedis()
	far, err := store.Open(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = far.Close() }()
	return measureTasks(ctx, o, out, "PostgreSQL and Redis", far, queue)
}

// startRedis starts a redis-server that keeps nothing: it need not.
func startRedis(ctx context.Context, dir string) (*redisqueue.Queue, func(), error) {
	address, err := process.FreeAddress()
	if err != nil {
		return nil, nil, err
	}
	host, port, _ := strings.Cut(address, ":")
	command := exec.CommandContext(ctx, "redis-server", "--port", port, "--bind", host, "--dir", dir, "--save", "", "--appendonly", "no")
	if err := command.Start(); err != nil {
		return nil, nil, err
	}
	stop := func() { _ = command.Process.Kill(); _ = command.Wait() }
	q, err := redisqueue.New(ctx, redisqueue.Options{URL: "redis://" + address})
	if err != nil {
		stop()
		return nil, nil, err
	}
	for range 100 {
		if err = q.Ping(ctx); err == nil {
			return q, func() { _ = q.Close(); stop() }, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	return nil, nil, err
}

// counter tells when so many tasks have run, and how long each waited.
type counter struct {
	mu     sync.Mutex
	left   int
	waited []time.Duration
	done   chan struct{}
}

func (c *counter) expect(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left, c.waited, c.done = n, nil, make(chan struct{})
}

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

func measureTasks(ctx context.Context, o options, out io.Writer, name string, s *store.Store, q tasks.Queue) error {
	if err := s.Migrate(ctx); err != nil {
		return err
	}
	c, hold := &counter{}, make(chan struct{})
	quiet := slog.New(slog.DiscardHandler)
	w := tasks.NewWorker(tasks.WorkerOptions{Store: s, Queue: q, Log: quiet, Slots: taskWorkers, Name: "1@bench", Jobs: map[string]tasks.Job{
		"nothing": c.run, "busy": func(context.Context, *tasks.Run) error { <-hold; return nil },
	}})
	d := tasks.NewDispatcher(s, q, w, quiet)
	working, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(working, time.Second) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			fmt.Fprintln(out, "the worker's end:", err)
		}
	}()

	dispatch := func(ctx context.Context, task, repository string) error {
		_, err := d.Dispatch(ctx, tasks.Spec{Name: task, Args: map[string]int64{"At": time.Now().UnixMicro()}, Resources: []store.Resource{{Href: repository, Exclusive: true}}})
		return err
	}
	burst := func() (float64, error) {
		c.expect(o.tasks)
		began := time.Now()
		group, working := errgroup.WithContext(ctx)
		group.SetLimit(taskWorkers)
		for n := range o.tasks {
			group.Go(func() error { return dispatch(working, "nothing", fmt.Sprintf("/r/%d/", n%taskRepos)) })
		}
		if err := group.Wait(); err != nil {
			return 0, err
		}
		select {
		case <-c.done:
			return float64(o.tasks) / time.Since(began).Seconds(), nil
		case <-time.After(maxTask):
			return 0, errors.New("tasks do not end")
		}
	}
	alone := func() ([]time.Duration, error) {
		const n = 100
		c.expect(n)
		for range n {
			if err := dispatch(ctx, "nothing", "/alone/"); err != nil {
				return nil, err
			}
			time.Sleep(5 * time.Millisecond)
		}
		<-c.done
		return slices.Sorted(slices.Values(c.waited)), nil
	}
	var rates []float64
	for range o.rounds {
		r, err := burst()
		if err != nil {
			return err
		}
		rates = append(rates, r)
	}
	waits, err := alone()
	if err != nil {
		return err
	}
	// A busy repository with others waiting on it does not delay the rest.
	for range busyTasks + 1 {
		if err := dispatch(ctx, "busy", "/busy/"); err != nil {
			return err
		}
	}
	beside, err := alone()
	close(hold)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%-22s %s; latency p50 %v, p99 %v; beside %d tasks that wait on one repository p50 %v, p99 %v\n", name, spread(rates, "/s"),
		waits[len(waits)/2].Round(10*time.Microsecond), waits[len(waits)*99/100].Round(10*time.Microsecond), busyTasks,
		beside[len(beside)/2].Round(10*time.Microsecond), beside[len(beside)*99/100].Round(10*time.Microsecond))
	return nil
}
