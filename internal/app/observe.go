package app

import (
	"context"
	"log/slog"
	"time"

	"github.com/countersign/countersign/internal/servertls"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/telemetry"
	"github.com/countersign/countersign/internal/tracing"
)

// observe runs main, the work of a process, with its metrics and health checks. secure is nil without TLS.
func (a *App) observe(
	ctx context.Context, s *store.Store, e *engine, secure *servertls.Reloader, monitor *monitoring, main func(context.Context) error,
) error {
	a.watch(s, e, secure)
	if e.tracing != nil {
		defer a.closeTracing(ctx, e.tracing)
		ctx = telemetry.WithTracer(ctx, e.tracing.Tracer())
	}
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

// traceTimeout limits the time for the last spans at the end of the program.
const traceTimeout = 5 * time.Second

// openTracing returns nil if there is no receiver.
func (a *App) openTracing(ctx context.Context, process string) (*tracing.Tracing, error) {
	c := a.config.Tracing
	if c.Endpoint == "" {
		return nil, nil
	}
	return tracing.New(ctx, tracing.Options{
		Endpoint: c.Endpoint, SampleRatio: c.SampleRatio, Version: a.version, Process: process, Log: a.log,
	})
}

// closeTracing exports the remaining spans.
func (a *App) closeTracing(ctx context.Context, t *tracing.Tracing) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), traceTimeout)
	defer cancel()
	if err := t.Close(ctx); err != nil {
		a.log.WarnContext(ctx, "the last traces are lost", slog.Any("err", err))
	}
}
