// Package app builds the parts of a server or a worker from the configuration, connects them, and runs them until the
// program stops.
//
// Serve and Work are the two kinds of processes. Package admin, with the operator's commands, uses the functions here
// that open the database, the storage and the queue.
package app

import (
	"log/slog"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/metrics"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signers"
)

// Options are the dependencies of an App. All are required.
type Options struct {
	Config config.Config
	// Version is the version of the program.
	Version string
	Log     *slog.Logger
}

// App opens the systems and builds the parts that the configuration describes.
type App struct {
	config  config.Config
	version string
	log     *slog.Logger
	// auditLog receives the audit entries that have no destination of their own; nil: log does.
	auditLog *slog.Logger
	metrics  *metrics.Metrics
}

// New returns an App.
func New(o Options) *App {
	return &App{config: o.Config, version: o.Version, log: o.Log, metrics: newMetrics(o)}
}

// Signers returns the signers of this process.
func (a *App) Signers() *signers.Signers {
	c := a.config
	return signers.New(signers.Options{
		DataDir: c.Data, WorkDir: c.Signing.WorkDir, ScriptTimeout: c.Signing.ScriptTimeout, TokenWait: c.Signing.TokenWait,
		Creator: "countersign " + a.version, Log: a.log,
	})
}

// signingUse returns the rule of access to signing services.
func (a *App) signingUse() pulp.SigningUse {
	return pulp.SigningUse{ByOwners: a.config.Signing.Use == config.UseRepositoryOwners, Assigned: a.config.Signing.AssignedServices}
}
