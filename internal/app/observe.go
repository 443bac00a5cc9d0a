package app

import (
	"context"

	"github.com/countersign/countersign/internal/store"
)

// observe runs main, the work of a process, with its metrics and health checks.
func (a *App) observe(ctx context.Context, s *store.Store, e *engine, monitor *monitoring, main func(context.Context) error) error {
	if monitor != nil {
		monitor.ready = func(ctx context.Context) error {
			if err := s.DB.Ping(ctx); err != nil {
				return err
			}
			return e.storage.Ping(ctx)
		}
	}
	return monitor.during(ctx, main)
}
