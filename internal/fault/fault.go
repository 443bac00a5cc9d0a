// Package fault gives errors a kind that every transport can translate, and a sentence that is safe to show.
//
// It knows no HTTP and no SQL, and imports nothing of this project.
package fault

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Kind says what went wrong in terms that a transport can translate. The zero Kind is Internal: an error that nobody
// classified is never shown to a client.
type Kind int

// The kinds of error.
const (
	Internal        Kind = iota // a defect or a broken part of ours; the text is only logged
	Invalid                     // the request can never succeed as it is
	NotFound                    // the object does not exist, or the caller may not know that it does
	Conflict                    // the object's state forbids it now
	Denied                      // the caller is known and may not
	Unauthenticated             // the caller is not known, or its proof is bad
	TooLarge                    // over a bound of size or count
	Unavailable                 // a store or an upstream does not answer; trying again may help
	TooMany                     // over a rate or a capacity; trying again later may help
)

// Fields holds messages by the name of the field that they are about, as Django REST framework shows them.
type Fields map[string][]string

// Error is an error with a kind, a sentence that is safe to show to the caller, and a cause that is only logged.
type Error struct {
	Kind   Kind
	Msg    string // safe to show; names no internals
	Fields Fields // for Invalid: messages by field; may be nil
	Err    error  // the cause, for logs; may be nil
	// RetryAfter is when trying again may help, for Unavailable and TooMany; 0: nobody has said.
	RetryAfter time.Duration
	// Outage is the system that does not answer, for Unavailable; 0: none, the error has another reason. Ask with IsOutage.
	Outage System
}

// Error returns the sentence and, behind it, the cause.
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

// New returns an error of a kind with a formatted sentence that is safe to show.
func New(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Msg: fmt.Sprintf(format, args...)}
}

// Wrap returns an error of a kind with a cause that is only logged and a sentence that is safe to show.
func Wrap(kind Kind, cause error, format string, args ...any) *Error {
	return &Error{Kind: kind, Msg: fmt.Sprintf(format, args...), Err: cause}
}

// Field returns an Invalid error about one field.
func Field(name, format string, args ...any) *Error {
	msg := fmt.Sprintf(format, args...)
	return &Error{Kind: Invalid, Msg: name + ": " + msg, Fields: Fields{name: {msg}}}
}

// KindOf returns the kind of the first Error in err's chain, or Internal when there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// Is says whether err is of the kind. A nil error is of no kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// RetryAfter returns the first RetryAfter in err's chain, or 0 when there is none.
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

// RetrySeconds returns RetryAfter for a Retry-After header: whole seconds, rounded up, at least 1.
func RetrySeconds(err error) string {
	after := max(RetryAfter(err), time.Second)
	return strconv.FormatInt(int64((after+time.Second-1)/time.Second), 10)
}
