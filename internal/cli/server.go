package cli

import (
	"context"

	"github.com/countersign/countersign/internal/admin"
	"github.com/countersign/countersign/internal/app"
)

type serveCommand struct{}

// Run runs the command.
func (serveCommand) Run(ctx context.Context, a *app.App, g app.Greeting) error {
	return a.Serve(ctx, g)
}

type workerCommand struct{}

// Run runs the command.
func (workerCommand) Run(ctx context.Context, a *app.App) error { return a.Work(ctx) }

type migrateCommand struct{}

// Run runs the command.
func (migrateCommand) Run(ctx context.Context, a *admin.Admin) error { return a.Migrate(ctx) }
