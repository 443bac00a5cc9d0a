package cli

import (
	"context"
	"errors"

	"github.com/countersign/countersign/internal/admin"
	"github.com/countersign/countersign/internal/fault"
)

// The exit statuses of commands (docs/cli.md, "Exit status"). Verify has statusFailed for an image that is not accepted and
// statusUsage for all other errors.
const (
	statusDone        = 0   // the command succeeded
	statusFailed      = 1   // the operation failed, or the answer is no
	statusUsage       = 2   // the command line, a setting or a value is wrong
	statusDenied      = 3   // the credentials are missing or wrong, or lack a permission
	statusMissing     = 4   // an object does not exist, or the caller may not see it
	statusUnavailable = 5   // the server, or a system that it needs, does not answer
	statusInterrupted = 130 // a signal ended the command
)

// errUsage is in the tree of errors about the command line.
var errUsage = errors.New("wrong use")

// usageError is an error about the command line.
type usageError struct{ err error }

// Error implements error.
func (e usageError) Error() string { return e.err.Error() }

// Unwrap returns the cause and errUsage.
func (e usageError) Unwrap() []error { return []error{e.err, errUsage} }

// silentError ends a command whose output already states the failure.
type silentError struct{ reason string }

// Error implements error.
func (e silentError) Error() string { return e.reason }

// statuses maps the kinds of errors to statuses. Others are statusFailed.
var statuses = map[fault.Kind]int{
	fault.Unauthenticated: statusDenied,
	fault.Denied:          statusDenied,
	fault.NotFound:        statusMissing,
	fault.Unavailable:     statusUnavailable,
	fault.TooMany:         statusUnavailable,
}

// exitStatus returns the exit status for an error of a command, whose name is empty if the command line has none.
func exitStatus(command string, err error) int {
	_, pulps := errors.AsType[admin.CommandError](err)
	_, silent := errors.AsType[silentError](err)
	switch {
	case err == nil:
		return statusDone
	case errors.Is(err, context.Canceled):
		return statusInterrupted
	case errors.Is(err, admin.ErrNotAccepted), silent:
		return statusFailed
	case command == "verify", errors.Is(err, errUsage):
		return statusUsage
	case pulps: // as Pulp's commands
		return statusFailed
	}
	if status, ok := statuses[fault.KindOf(err)]; ok {
		return status
	}
	return statusFailed
}
