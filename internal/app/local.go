package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// Local is the REST API in this process, on the database of the installation. All its requests are those of the operator,
// who may do everything.
type Local struct {
	Handler   http.Handler
	PublicURL *url.URL
	// RunsTasks reports whether this process runs the tasks, because no server does.
	RunsTasks bool
}

// operator authenticates every request as the operator on the command line.
type operator struct{}

// Basic implements api.Authenticator.
func (operator) Basic(*http.Request) (*access.Caller, error) {
	return &access.Caller{Account: pulp.User{
		Username: actor.CommandName, Kind: pulp.AccountKind(actor.Command), Staff: true, Active: true,
	}}, nil
}

// commandTasks starts tasks for the command line instead of an account.
type commandTasks struct{ *tasks.Dispatcher }

// Dispatch implements api.Dispatcher.
func (d commandTasks) Dispatch(ctx context.Context, _ tasks.Origin, spec tasks.Spec) (taskstore.Task, error) {
	return d.Dispatcher.Dispatch(ctx, tasks.ByCommand(), spec)
}

// LocalOptions configure WithLocal.
type LocalOptions struct {
	// StartsTasks makes this process run tasks if the database is SQLite and no server uses it.
	StartsTasks bool
	// QuietAudit writes audit entries to the database and to audit.file only, not to the log.
	QuietAudit bool
}

// WithLocal calls do with the API on the existing database. A server may be running: then it runs the tasks that do starts.
// If this process runs tasks, a task that is still running when do returns is returned to the database.
func (a *App) WithLocal(ctx context.Context, o LocalOptions, do func(context.Context, *Local) error) error {
	a = a.forCommand(o)
	if o.StartsTasks && !sqldb.IsPostgres(a.config.DatabaseURL) {
		if err := a.requireDatabase(); err != nil {
			return err
		}
		s, release, err := a.openForServing(ctx)
		if err == nil {
			defer release()
			return a.withOwnWorker(ctx, s, do)
		}
		if !fault.Is(err, fault.Conflict) { // no server has the database
			return err
		}
	}
	return a.WithExistingStore(ctx, func(s *store.Store) error { return a.withQueue(ctx, s, do) })
}

// localGrace is the time that running tasks have to finish when the operator interrupts a command.
const localGrace = 2 * time.Second

// forCommand returns an App that can run tasks and that logs only warnings, errors and audit entries, which do not go to
// standard output, where commands write their results.
func (a *App) forCommand(o LocalOptions) *App {
	local := *a
	local.auditLog, local.log = a.log, slog.New(warnings{a.log.Handler()})
	if o.QuietAudit {
		local.auditLog = local.log
	}
	if audit.IsStdout(local.config.Audit.File) {
		local.config.Audit.File = audit.Stderr
	}
	local.config.Workers = max(1, local.config.Workers)
	return &local
}

// withOwnWorker calls do while this process runs tasks, as the only user of the database.
func (a *App) withOwnWorker(ctx context.Context, s *store.Store, do func(context.Context, *Local) error) error {
	e, err := a.buildEngine(ctx, s)
	if err != nil {
		return err
	}
	defer e.queue.Close()
	defer a.closeAudit(ctx, e.audit)
	working, stop := context.WithCancel(ctx)
	doing, abandon := context.WithCancelCause(ctx)
	defer abandon(nil)
	ended := make(chan error, 1)
	go func() {
		failure := e.worker.Run(working, localGrace)
		if failure != nil {
			abandon(failure) // no task of do would end
		}
		ended <- failure
	}()
	err = do(doing, &Local{
		Handler: a.localAPI(s, e.backends, e.audit, tasks.NewQueueDispatcher(s, e.queue, a.log)), PublicURL: a.config.Public(), RunsTasks: true,
	})
	stop()
	failure := <-ended
	if failure != nil && ctx.Err() == nil && errors.Is(err, context.Canceled) {
		return failure
	}
	return errors.Join(err, failure)
}

// withQueue calls do; servers and workers run the tasks.
func (a *App) withQueue(ctx context.Context, s *store.Store, do func(context.Context, *Local) error) error {
	b, err := a.openBackends(ctx, s)
	if err != nil {
		return err
	}
	defer b.queue.Close()
	a.setPushPolicy(s)
	return a.WithAudit(ctx, s, func(ctx context.Context, entries *audit.Log) error {
		handler := a.localAPI(s, b, entries, tasks.NewQueueDispatcher(s, b.queue, a.log))
		return do(ctx, &Local{Handler: handler, PublicURL: a.config.Public()})
	})
}

// localAPI returns the handler of the REST API for the operator.
func (a *App) localAPI(s *store.Store, b backends, entries *audit.Log, d *tasks.Dispatcher) http.Handler {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	c := a.config
	return api.New(api.Options{
		Store: s, Auth: operator{}, Tasks: commandTasks{d}, Log: a.log, Audit: entries, Redis: b.queue.Ping, PublicURL: c.Public(),
		Process: fmt.Sprintf("%d@%s", os.Getpid(), host), DataDir: c.Data, Version: a.version, SignLists: c.SignLists,
		SigningUse: a.signingUse(), Ready: b.storage.Ping, Upstream: b.upstream != nil,
	})
}

// warnings is a log handler for records of at least the level of warnings.
type warnings struct{ slog.Handler }

// Enabled implements slog.Handler.
func (h warnings) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.Handler.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (h warnings) WithAttrs(a []slog.Attr) slog.Handler { return warnings{h.Handler.WithAttrs(a)} }

// WithGroup implements slog.Handler.
func (h warnings) WithGroup(name string) slog.Handler { return warnings{h.Handler.WithGroup(name)} }
