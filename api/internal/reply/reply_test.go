package reply_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/fault"
)

// TestErrors compares the responses to errors of each shape.
func TestErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		status int
		body   string
		header string // "Name: value", or empty
	}{
		{err: reply.ErrNotFound, status: 404, body: `{"detail":"Not found."}`},
		{err: reply.BadRequest("URI not valid: %s", "x"), status: 400, body: `["URI not valid: x"]`},
		{err: reply.BadQuery("Invalid Filter: '%s'", "x"), status: 400, body: `{"errors":["Invalid Filter: 'x'"]}`},
		{err: reply.MethodNotAllowed("PUT"), status: 405, body: `{"detail":"Method \"PUT\" not allowed."}`},
		{err: fault.New(fault.Invalid, "Bad."), status: 400, body: `{"non_field_errors":["Bad."]}`},
		{err: fault.Field("name", "Bad."), status: 400, body: `{"name":["Bad."]}`},
		{err: fault.New(fault.NotFound, "None."), status: 404, body: `{"detail":"None."}`},
		{err: fault.New(fault.Denied, "No."), status: 403, body: `{"detail":"You do not have permission to perform this action."}`},
		{
			err: fault.New(fault.Unauthenticated, "Who?"), status: 401, body: `{"detail":"Who?"}`,
			header: `Www-Authenticate: Basic realm="api"`,
		},
		{err: fault.New(fault.Unavailable, "Later."), status: 503, body: `{"detail":"Later."}`},
		{err: errors.New("secret"), status: 500, body: `{"detail":"Internal server error."}`},
	} {
		w := httptest.NewRecorder()
		if err := reply.Write(w, reply.ToError(c.err)); err != nil {
			t.Errorf("%v: %v", c.err, err)
		}
		if w.Code != c.status || w.Body.String() != c.body {
			t.Errorf("%v: %d %s, want %d %s", c.err, w.Code, w.Body, c.status, c.body)
		}
		if name, value, ok := strings.Cut(c.header, ": "); ok && w.Header().Get(name) != value {
			t.Errorf("%v: header %v, want %s", c.err, w.Header(), c.header)
		}
	}
}

func TestWriteReportsBodiesThatCannotBeEncoded(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	if err := reply.Write(w, reply.OK(func() {})); err == nil {
		t.Error("no error")
	}
	if w.Code != http.StatusInternalServerError || w.Body.String() != `{"detail":"Internal server error."}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestStreams proves that a short response has a length, and that the status of a stream that fails early is still
// open.
func TestStreams(t *testing.T) {
	t.Parallel()
	failed := errors.New("failed")
	for _, c := range []struct {
		name   string
		bytes  int
		err    error
		begun  bool
		length string
	}{
		{name: "short", bytes: 10, begun: true, length: "10"},
		{name: "long", bytes: 2 << 20, begun: true},
		{name: "short, fails", bytes: 10, err: failed},
		{name: "long, fails", bytes: 2 << 20, err: failed, begun: true},
	} {
		w := httptest.NewRecorder()
		begun, err := reply.WriteStream(w, reply.Reply{Status: http.StatusOK, Stream: func(to io.Writer) error {
			if _, err := io.WriteString(to, strings.Repeat("x", c.bytes)); err != nil {
				return err
			}
			return c.err
		}})
		if begun != c.begun || !errors.Is(err, c.err) || w.Header().Get("Content-Length") != c.length {
			t.Errorf("%s: begun %t, error %v, Content-Length %q", c.name, begun, err, w.Header().Get("Content-Length"))
		}
	}
}
