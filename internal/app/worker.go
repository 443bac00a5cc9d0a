package app

import (
	"errors"
	"log/slog"

	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/signing/script"
)

type WorkerCommand struct{}

// Run runs tasks until the program is told to stop; then it lets those that run end. It serves nothing.
func (WorkerCommand) Run(p *Program) error {
	switch {
	case !store.IsPostgres(p.config.DatabaseURL):
		return errors.New("a worker shares its database with servers: set COUNTERSIGN_DATABASE_URL to a postgres:// URL (SQLite has one owner, the server, which runs tasks itself)")
	case p.config.RedisURL == "":
		return errors.New("a worker hears of tasks through Redis: set COUNTERSIGN_REDIS_URL")
	case p.config.Workers == 0:
		return errors.New("a worker without workers does nothing: COUNTERSIGN_WORKERS is 0")
	}
	s, err := p.openShared()
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	if err := script.Sweep(p.config.Signing.WorkDir, p.config.Signing.ScriptTimeout); err != nil {
		return err
	}
	e, err := p.buildEngine(s)
	if err != nil {
		return err
	}
	defer e.queue.close()
	p.log.InfoContext(p.ctx, "worker runs", slog.String("name", e.process), slog.Int("tasks at a time", p.config.Workers))
	return e.worker.Run(p.ctx, p.config.ShutdownGrace)
}
