package fault

import (
	"errors"
	"fmt"
)

// System is a system that this server depends on and that may not answer for a while. An Unavailable error names it in Outage.
type System int

// The systems of outages. The zero System is none: the error is Unavailable for another reason.
const (
	Database   System = iota + 1
	Upstream          // the registry of storage/upstream
	SigningKey        // the token or the program that holds a private key
)

// NewOutage returns an Unavailable error about a system that does not answer, with a cause that is only logged and a sentence that is safe to
// show. The operation may succeed when the system answers again.
func NewOutage(system System, cause error, format string, args ...any) *Error {
	return &Error{Kind: Unavailable, Msg: fmt.Sprintf(format, args...), Err: cause, Outage: system}
}

// outage is the target by which errors.Is finds the outage of a system in a tree of errors.
type outage System

// Error implements error.
func (outage) Error() string { return "outage" }

// Is reports whether the error is about the outage that target stands for. It implements the interface of errors.Is.
func (e *Error) Is(target error) bool {
	system, ok := target.(outage) //nolint:errorlint // errors.Is calls this for each error of a tree
	return ok && e.Kind == Unavailable && e.Outage == System(system)
}

// IsOutage reports whether err, or an error that it wraps or joins, says that the system does not answer.
func IsOutage(err error, system System) bool { return errors.Is(err, outage(system)) }
