// Package reply holds the responses of the REST API: their errors in Pulp's shapes, and their way to the client.
package reply

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/countersign/countersign/internal/fault"
)

// Reply is a response with a JSON body.
type Reply struct {
	Status int
	Body   any    // nil: no body
	Raw    []byte // the body instead of Body, whose Content-Type is in Header; nil: there is none
	Header http.Header
	// Stream writes the body piece by piece, instead of Body, where it is not nil.
	Stream func(io.Writer) error
}

// OK returns a response with status 200.
func OK(body any) Reply { return Reply{Status: http.StatusOK, Body: body} }

// Error is an error whose response has a shape of its own, which no kind of internal/fault describes.
type Error struct {
	Status int
	Body   any
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%d: %v", e.Status, e.Body) }

// ErrNotFound is the error for a path that names no object.
var ErrNotFound = &Error{http.StatusNotFound, Detail("Not found.")}

// Detail returns the body of most errors: an object with the text as "detail".
func Detail(text string) map[string]string { return map[string]string{"detail": text} }

// MethodNotAllowed returns the error for a method that a path does not have.
func MethodNotAllowed(method string) error {
	return &Error{http.StatusMethodNotAllowed, Detail(fmt.Sprintf("Method %q not allowed.", method))}
}

// BadRequest returns an error that Pulp raises outside of the checks of fields: its body is a list of one text
// (compatibility.md#errors).
func BadRequest(format string, args ...any) error {
	return &Error{http.StatusBadRequest, []string{fmt.Sprintf(format, args...)}}
}

// BadQuery returns the error for a query string that cannot be used.
func BadQuery(format string, args ...any) error {
	return &Error{http.StatusBadRequest, map[string][]string{"errors": {fmt.Sprintf(format, args...)}}}
}

// internal is the body of status 500.
const internal = "Internal server error."

// statuses maps kinds of errors to statuses. Errors of other kinds, or of none, are internal.
var statuses = map[fault.Kind]int{
	fault.Invalid:         http.StatusBadRequest,
	fault.NotFound:        http.StatusNotFound,
	fault.Conflict:        http.StatusConflict,
	fault.Denied:          http.StatusForbidden,
	fault.Unauthenticated: http.StatusUnauthorized,
	fault.TooLarge:        http.StatusRequestEntityTooLarge,
	fault.Unavailable:     http.StatusServiceUnavailable,
	fault.TooMany:         http.StatusTooManyRequests,
}

// Internal returns the response to a defect of the server. It shows nothing of the cause.
func Internal() Reply { return Reply{Status: http.StatusInternalServerError, Body: Detail(internal)} }

// ToError returns the response to an error, which is an *Error or has a kind of internal/fault. Any other error is
// internal.
func ToError(err error) Reply {
	if e, ok := errors.AsType[*Error](err); ok {
		return Reply{Status: e.Status, Body: e.Body}
	}
	e, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return Internal()
	}
	status, ok := statuses[e.Kind]
	if !ok {
		return Internal()
	}
	r := Reply{Status: status, Body: Detail(e.Msg)}
	switch {
	case e.Kind == fault.Invalid && len(e.Fields) > 0:
		r.Body = e.Fields
	case e.Kind == fault.Invalid:
		r.Body = fault.Fields{"non_field_errors": {e.Msg}}
	case e.Kind == fault.Denied:
		r.Body = Detail("You do not have permission to perform this action.")
	case e.Kind == fault.Unauthenticated:
		r.Header = http.Header{"Www-Authenticate": {`Basic realm="api"`}}
	case e.Kind == fault.TooMany || e.Kind == fault.Unavailable && e.RetryAfter > 0:
		r.Header = http.Header{"Retry-After": {fault.RetrySeconds(err)}}
	}
	return r
}

// Encode returns the JSON form of a value, without escapes for HTML.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// contentType has no charset, since clients of Pulp compare it as a whole.
const contentType = "application/json"

// Write sends a response that has no Stream. When its body cannot be encoded it sends status 500 and returns the error.
// Errors of the client's connection are ignored: a client that has gone needs no response.
func Write(w http.ResponseWriter, r Reply) error {
	body := r.Raw
	var err error
	if r.Body != nil {
		if body, err = Encode(r.Body); err != nil {
			r, body = Reply{Status: http.StatusInternalServerError}, []byte(`{"detail":"`+internal+`"}`)
		}
		w.Header().Set("Content-Type", contentType)
	}
	for name, values := range r.Header {
		w.Header()[name] = values
	}
	if r.Status != http.StatusNoContent && r.Status != http.StatusNotModified {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(r.Status)
	_, _ = w.Write(body)
	return err
}
