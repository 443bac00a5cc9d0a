package app

import (
	"context"

	"github.com/countersign/countersign/internal/servertls"
	"github.com/countersign/countersign/internal/store"
)

// observe runs main, the work of a process, with its metrics and health checks. secure is nil without TLS.
func (a *App) observe(
	ctx context.Context, s *store.Store, e *engine, secure *servertls.Reloader, monitor *monitoring, main func(context.Context) error,
) error {
	a.watch(s, e, secure)
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
