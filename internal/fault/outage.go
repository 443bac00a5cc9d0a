package fault

import "errors"

// System is a system that this server depends on and that may not respond for a while.
type System int

// The systems of outages. The zero System is none: the error is Unavailable for another reason.
const (
	Database   System = iota + 1
	Upstream          // the registry of storage/upstream
	SigningKey        // the token or the program that holds a private key
	Directory         // a source of user accounts: an LDAP directory, or the files of htpasswd
)

// NewOutage returns an Unavailable error about a system that does not respond. The formatted message is shown to the
// caller, the cause is only logged. The operation may succeed when the system responds again.
func NewOutage(system System, cause error, format string, args ...any) *Error {
	e := Wrap(Unavailable, cause, format, args...)
	e.Outage = system
	return e
}

// outage is the target by which errors.Is finds the outage of a system in a tree of errors.
type outage System

// Error implements error.
func (outage) Error() string { return "outage" }

// Is reports whether target is the outage that the error is about. It implements the interface of errors.Is.
func (e *Error) Is(target error) bool {
	system, ok := target.(outage)
	return ok && e.Kind == Unavailable && e.Outage == System(system)
}

// IsOutage reports whether err's tree contains an error about an outage of the system. Unlike Is, it also finds an
// error that is wrapped by one of another kind.
func IsOutage(err error, system System) bool { return errors.Is(err, outage(system)) }
