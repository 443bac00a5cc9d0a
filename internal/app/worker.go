package app

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/signing/script"
)

// Work runs tasks, without a server, until ctx ends. It then waits up to the shutdown grace period for running tasks.
// It requires PostgreSQL and Redis, which it shares with servers.
func (a *App) Work(ctx context.Context) error {
	c := a.config
	switch {
	case !sqldb.IsPostgres(c.DatabaseURL):
		return errors.New("a worker shares its database with servers, and SQLite does not allow that: " +
			"set COUNTERSIGN_DATABASE_URL to a postgres:// URL, or run only `serve`, which runs tasks itself")
	case c.RedisURL == "":
		return errors.New("a worker is notified of tasks through Redis: set COUNTERSIGN_REDIS_URL")
	case c.Workers == 0:
		return errors.New("COUNTERSIGN_WORKERS is 0: a worker needs at least 1")
	}
	s, err := a.openShared(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = s.DB.Close() }()
	if err := script.Sweep(c.Signing.WorkDir, c.Signing.ScriptTimeout); err != nil {
		return err
	}
	monitor, err := a.openMonitoring(ctx)
	if err != nil {
		return err
	}
	defer monitor.close()
	e, err := a.buildEngine(ctx, s)
	if err != nil {
		return err
	}
	defer e.queue.Close()
	defer a.closeAudit(ctx, e.audit)
	a.log.InfoContext(ctx, "worker started", slog.String("name", e.process), slog.Int("concurrent_tasks", c.Workers))
	return a.observe(ctx, s, e, nil, monitor, func(ctx context.Context) error {
		running, cancel := context.WithCancel(ctx)
		var sending sync.WaitGroup
		defer sending.Wait()
		if e.webhooks != nil {
			sending.Go(func() { e.webhooks.Run(running) })
		}
		defer cancel() // before the wait
		return e.worker.Run(running, c.ShutdownGrace)
	})
}
