// Package fault classifies errors by kind and separates the message for the caller from the cause for the log.
//
// It imports no other package of this module. Transports map a Kind to their own status.
package fault

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Kind classifies an error independently of any transport. The zero Kind is Internal, so an unclassified error is never
// shown to a client.
type Kind int

// The kinds of error.
const (
	Internal        Kind = iota // a bug or a broken dependency; the text is only logged
	Invalid                     // the request can never succeed in this form
	NotFound                    // the object does not exist, or the caller may not learn that it exists
	Conflict                    // the current state of the object forbids the request
	Denied                      // the caller is authenticated but lacks a permission
	Unauthenticated             // credentials are missing or wrong
	TooLarge                    // a limit on size or count is exceeded
	Unavailable                 // a dependency does not respond; a retry may succeed
	TooMany                     // a rate or capacity limit is reached; a later retry may succeed
)

// Fields maps the name of a field to the messages about it, in the format of Django REST framework.
type Fields map[string][]string

// Error is an error with a kind, a message for the caller and a cause for the log.
type Error struct {
	Kind   Kind
	Msg    string // shown to the caller; contains no internal details
	Fields Fields // for Invalid: messages by field; may be nil
	Err    error  // the cause, only logged; may be nil
	Outage System // for Unavailable: the system that does not respond; 0 if the error has another reason. Test it with IsOutage.
	// RetryAfter is the earliest useful delay before a retry, for Unavailable and TooMany. 0 means unknown.
	RetryAfter time.Duration
}

// Error returns the message followed by the cause.
func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return e.Msg
	case e.Msg == "":
		return e.Err.Error()
	}
	return strings.TrimSuffix(e.Msg, ".") + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New returns an error of the given kind. The formatted message is shown to the caller.
func New(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Msg: fmt.Sprintf(format, args...)}
}

// Wrap returns an error of the given kind. The formatted message is shown to the caller, the cause is only logged.
func Wrap(kind Kind, cause error, format string, args ...any) *Error {
	return &Error{Kind: kind, Msg: fmt.Sprintf(format, args...), Err: cause}
}

// Field returns an Invalid error about one field.
func Field(name, format string, args ...any) *Error {
	msg := fmt.Sprintf(format, args...)
	return &Error{Kind: Invalid, Msg: name + ": " + msg, Fields: Fields{name: {msg}}}
}

// KindOf returns the kind of the first Error in err's tree, or Internal if there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// Is reports whether err is of the given kind. A nil error is of no kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// Message returns the message of the first Error in err's tree. ok is false if there is none or if it is Internal: then
// nothing of err may be shown.
func Message(err error) (msg string, ok bool) {
	e, found := errors.AsType[*Error](err)
	if !found || e.Kind == Internal {
		return "", false
	}
	return e.Msg, true
}

// RetryAfter returns the first RetryAfter in err's chain, or 0 if there is none.
func RetryAfter(err error) time.Duration {
	for {
		e, ok := errors.AsType[*Error](err)
		if !ok {
			return 0
		}
		if e.RetryAfter > 0 {
			return e.RetryAfter
		}
		err = e.Err
	}
}

// RetrySeconds returns RetryAfter as the value of a Retry-After header: whole seconds, rounded up, at least 1.
func RetrySeconds(err error) string {
	after := max(RetryAfter(err), time.Second)
	return strconv.FormatInt(int64((after+time.Second-1)/time.Second), 10)
}
