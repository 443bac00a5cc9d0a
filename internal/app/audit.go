package app

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/store"
)

// closeTimeout limits the time for the last rows of the audit log at the end of the program.
const closeTimeout = 10 * time.Second

// openAudit opens the audit log. file is its destination as in the settings. Without a store it has no rows.
func (a *App) openAudit(s *store.Store, file string) (*audit.Log, error) {
	o := audit.Options{Log: cmp.Or(a.auditLog, a.log)}
	if file != "" {
		to, err := audit.Open(file)
		if err != nil {
			return nil, err
		}
		o.To = to
	}
	if s != nil {
		o.Rows = s.Audits
	}
	return audit.New(o), nil
}

// closeAudit writes the entries that the audit log still holds.
func (a *App) closeAudit(ctx context.Context, l *audit.Log) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		a.log.ErrorContext(ctx, "the end of the audit log is lost", slog.Any("err", err))
	}
}

// WithAudit calls do with the audit log of a command. The context of do has the operator as its actor. Entries for
// standard output, where commands write their results, go to standard error.
func (a *App) WithAudit(ctx context.Context, s *store.Store, do func(context.Context, *audit.Log) error) error {
	file := a.config.Audit.File
	if audit.IsStdout(file) {
		file = audit.Stderr
	}
	l, err := a.openAudit(s, file)
	if err != nil {
		return err
	}
	defer a.closeAudit(ctx, l)
	return do(actor.With(ctx, actor.ByCommand()), l)
}
