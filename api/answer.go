package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/gin-gonic/gin"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

// handler answers one kind of request. It writes nothing itself.
type handler func(*request) (answer, error)

// answer is a status with a JSON body; a nil body is an empty one.
type answer struct {
	status int
	body   any
	header http.Header
	// stream writes the body in place of body, some of it at a time; nil: body is all of it.
	stream func(io.Writer) error
}

func ok(body any) answer { return answer{status: http.StatusOK, body: body} }

// accepted is the answer to what a task is doing; glue knows it by its only key.
func accepted(t store.Task) answer {
	return answer{status: http.StatusAccepted, body: struct {
		Task string `json:"task"`
	}{pulp.Href(pulp.TaskCollection, t.ID)}}
}

// httpError is an answer that is an error and has no kind in internal/fault: a shape that only this API has.
type httpError struct {
	status int
	body   any
}

func (e *httpError) Error() string { return fmt.Sprintf("%d: %v", e.status, e.body) }

var errNotFound = &httpError{http.StatusNotFound, detail("Not found.")}

func detail(text string) map[string]string { return map[string]string{"detail": text} }

func errMethod(method string) error {
	return &httpError{http.StatusMethodNotAllowed, detail(fmt.Sprintf("Method %q not allowed.", method))}
}

// badList is an error that is raised outside a field: a bare list of texts (contract 1.4).
func badList(format string, args ...any) error {
	return &httpError{http.StatusBadRequest, []string{fmt.Sprintf(format, args...)}}
}

// statuses translates the kinds of internal/fault; the rest is 500.
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

// failure is the answer to a request that went wrong. What has no kind is logged and not shown.
func (a *API) failure(r *http.Request, err error) answer {
	if e, ok := errors.AsType[*httpError](err); ok {
		return answer{status: e.status, body: e.body}
	}
	if store.Away(err) {
		err = fault.Wrap(fault.Unavailable, err, "The database does not answer.")
	}
	e, known := errors.AsType[*fault.Error](err)
	status, mapped := http.StatusInternalServerError, false
	if known {
		if s, ok := statuses[e.Kind]; ok {
			status, mapped = s, true
		}
	}
	if status >= http.StatusInternalServerError && r.Context().Err() == nil {
		a.Log.ErrorContext(r.Context(), "request failed", slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Any("err", err))
	}
	switch {
	case !mapped:
		return answer{status: status, body: detail("Internal server error.")}
	case e.Kind == fault.Invalid && len(e.Fields) > 0:
		return answer{status: status, body: e.Fields}
	case e.Kind == fault.Invalid:
		return answer{status: status, body: fault.Fields{"non_field_errors": {e.Msg}}}
	case e.Kind == fault.Denied:
		return answer{status: status, body: detail("You do not have permission to perform this action.")}
	case e.Kind == fault.Unauthenticated:
		return answer{status: status, body: detail(e.Msg), header: http.Header{"Www-Authenticate": {`Basic realm="api"`}}}
	case e.Kind == fault.TooMany || e.Kind == fault.Unavailable && e.RetryAfter > 0:
		return answer{status: status, body: detail(e.Msg), header: http.Header{"Retry-After": {fault.RetrySeconds(err)}}}
	}
	return answer{status: status, body: detail(e.Msg)}
}

// write sends an answer. Its Content-Type has no charset: clients of Pulp compare it whole.
func (a *API) write(w gin.ResponseWriter, ans answer) {
	var body []byte
	if ans.body != nil {
		var err error
		if body, err = encode(ans.body); err != nil {
			a.Log.Error("answer not encoded", slog.Any("err", err))
			ans, body = answer{status: http.StatusInternalServerError}, []byte(`{"detail":"Internal server error."}`)
		}
		w.Header().Set("Content-Type", "application/json")
	}
	for name, values := range ans.header {
		w.Header()[name] = values
	}
	if ans.status != http.StatusNoContent {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(ans.status)
	w.WriteHeaderNow()
	_, _ = w.Write(body) // a client that has gone needs no answer
}

// streamBuffer is how many bytes of a streamed answer are kept back. An answer with fewer has a length, and an error of its own when it fails.
const streamBuffer = 1 << 20

// send sends an answer to a request.
func (a *API) send(c *gin.Context, ans answer) {
	if ans.stream == nil {
		a.write(c.Writer, ans)
		return
	}
	s := &streamed{to: c.Writer, status: ans.status}
	switch err := ans.stream(s); {
	case err == nil:
		s.end()
	case !s.begun:
		a.write(c.Writer, a.failure(c.Request, err))
	default:
		if c.Request.Context().Err() == nil {
			a.Log.ErrorContext(c.Request.Context(), "answer broken off", slog.String("path", c.Request.URL.Path), slog.Any("err", err))
		}
		panic(http.ErrAbortHandler) // the client sees that the answer is not complete
	}
}

// streamed is an answer on its way. Its errors are those of the client's connection.
type streamed struct {
	to     gin.ResponseWriter
	status int
	kept   bytes.Buffer
	begun  bool // bytes have been sent
}

// Write implements io.Writer.
func (s *streamed) Write(p []byte) (int, error) {
	n, err := s.kept.Write(p)
	if s.kept.Len() > streamBuffer {
		err = s.flush()
	}
	return n, err
}

func (s *streamed) flush() error {
	if !s.begun {
		s.begun = true
		s.to.Header().Set("Content-Type", "application/json")
		s.to.WriteHeader(s.status)
	}
	_, err := s.kept.WriteTo(s.to)
	return err
}

// end sends what is left.
func (s *streamed) end() {
	if !s.begun {
		s.to.Header().Set("Content-Length", strconv.Itoa(s.kept.Len()))
	}
	_ = s.flush() // a client that has gone needs no answer
}

// encode is json.Marshal without HTML escapes.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
