// Package admin runs the commands with which operators manage an installation: users, groups and roles, signing services
// and their assignments, verification of images, adoption from an upstream, and the database. All of them may run while a
// server runs.
package admin

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

// Options are the dependencies of an Admin. All are required.
type Options struct {
	App    *app.App
	Config config.Config
	In     io.Reader // for passwords; the terminal, unless they are passed in another way
	Out    io.Writer // for the results
	ErrOut io.Writer // for questions
	Log    *slog.Logger
}

// Admin runs commands. Its methods write results to Options.Out.
type Admin struct {
	app    *app.App
	config config.Config
	in     io.Reader
	out    io.Writer
	errOut io.Writer
	log    *slog.Logger
}

// New returns an Admin.
func New(o Options) *Admin {
	return &Admin{app: o.App, config: o.Config, in: o.In, out: o.Out, errOut: o.ErrOut, log: o.Log}
}

// CommandError is an error of a command that Pulp has too. Its text is one line in the form of Pulp's management
// commands.
type CommandError struct{ err error }

// Error returns the line.
func (e CommandError) Error() string {
	text, ok := fault.Message(e.err)
	if !ok {
		text = e.err.Error()
	}
	return "CommandError: " + strings.Join(strings.Fields(text), " ")
}

// Unwrap returns the cause.
func (e CommandError) Unwrap() error { return e.err }

// commandError returns err as a CommandError, or nil.
func commandError(err error) error {
	if err == nil {
		return nil
	}
	return CommandError{err}
}

// print writes a result.
func (a *Admin) print(format string, args ...any) error {
	_, err := fmt.Fprintf(a.out, format, args...)
	return err
}

// Migrate updates the schema of the database.
func (a *Admin) Migrate(ctx context.Context) error {
	err := a.app.Migrate(ctx)
	if err == nil {
		_, err = fmt.Fprintln(a.out, "The database schema is up to date.")
	}
	return err
}

// change calls do with the open database, which must exist, and the audit log.
func (a *Admin) change(ctx context.Context, do func(context.Context, *store.Store, *audit.Log) error) error {
	return a.app.WithExistingStore(ctx, func(s *store.Store) error {
		return a.app.WithAudit(ctx, s, func(ctx context.Context, entries *audit.Log) error { return do(ctx, s, entries) })
	})
}

// ResetAdminPassword sets the password of the user admin, which the rules for passwords of users apply to, and deletes the
// user's API tokens. If password is empty, it generates one and prints it.
func (a *Admin) ResetAdminPassword(ctx context.Context, password string) error {
	return a.change(ctx, func(ctx context.Context, s *store.Store, entries *audit.Log) error {
		text := fmt.Sprintf("The password of %s was changed.\n", app.AdminName)
		if password == "" {
			password = rand.Text()
			text = fmt.Sprintf("The password of %s is now %s\n", app.AdminName, password)
		}
		hash, err := hashOf(password, pulp.User{Username: app.AdminName})
		if err != nil {
			return err
		}
		tokens, err := s.Accounts.ResetAdministrator(ctx, app.AdminName, hash)
		if err != nil {
			return err
		}
		if tokens > 0 {
			text += fmt.Sprintf("API tokens of %s that were deleted: %d\n", app.AdminName, tokens)
		}
		entries.Record(ctx, audit.Entry{Action: "reset admin password", Object: app.AdminName, Result: audit.Done},
			slog.Int64("deleted_tokens", tokens))
		return a.print("%s", text)
	})
}
