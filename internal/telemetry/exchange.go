package telemetry

import (
	"context"
	"io"
	"net/http"
	"time"
)

// statusDisconnected is the status of an exchange that ended without a response, because the client disconnected.
const statusDisconnected = 499

// Exchange describes a request and its response.
type Exchange struct {
	Method string
	// Route is the pattern of the path, as the handler declared it with SetRoute; empty if the path has no route.
	Route string
	// Status is the status of the response; 499 if the client disconnected before one.
	Status int
	// Received and Sent are the bytes of the two bodies that the handler read and wrote.
	Received, Sent int64
	Took           time.Duration
}

// Observer receives the exchanges of a handler.
type Observer interface {
	// RequestStarted is called before a request is handled.
	RequestStarted(method string)
	// RequestEnded is called when the handler has returned, or has aborted the response.
	RequestEnded(Exchange)
}

type routeKey struct{}

// SetRoute declares the route of a request in its context, such as /v2/{name}/tags/list. The number of different routes must
// be bounded. It has no effect unless an Observe handler is called around.
func SetRoute(ctx context.Context, route string) {
	if to, ok := ctx.Value(routeKey{}).(*string); ok {
		*to = route
	}
}

// Observe returns a handler that passes requests on and reports each exchange to an observer.
func Observe(next http.Handler, to Observer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		e := Exchange{Method: r.Method}
		ow := &observedWriter{ResponseWriter: w}
		r = r.WithContext(context.WithValue(r.Context(), routeKey{}, &e.Route))
		if r.Body != nil && r.Body != http.NoBody {
			r.Body = &observedBody{r.Body, &e.Received}
		}
		to.RequestStarted(r.Method)
		returned := false
		defer func() { // even if the handler panics
			e.Status, e.Sent, e.Took = ow.status, ow.sent, time.Since(began)
			if e.Status == 0 && returned {
				e.Status = http.StatusOK
			} else if e.Status == 0 {
				e.Status = statusDisconnected
			}
			describeExchange(r.Context(), e)
			to.RequestEnded(e)
		}()
		next.ServeHTTP(ow, r)
		returned = true
	})
}

// observedBody counts the bytes of a request body.
type observedBody struct {
	io.ReadCloser
	n *int64
}

// Read implements io.Reader.
func (b *observedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	*b.n += int64(n)
	return n, err
}

// observedWriter notes the status of a response and counts the bytes of its body.
type observedWriter struct {
	http.ResponseWriter
	status int // 0 before the header is written
	sent   int64
}

// Unwrap serves http.ResponseController.
func (w *observedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *observedWriter) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK { // others are informational and precede the response
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (w *observedWriter) Write(p []byte) (int, error) {
	w.begin()
	n, err := w.ResponseWriter.Write(p)
	w.sent += int64(n)
	return n, err
}

// ReadFrom implements io.ReaderFrom. It passes sources to the next writer, so that the kernel can send files.
func (w *observedWriter) ReadFrom(src io.Reader) (int64, error) {
	w.begin()
	var n int64
	var err error
	if next, ok := w.ResponseWriter.(io.ReaderFrom); ok {
		n, err = next.ReadFrom(src)
	} else {
		n, err = io.Copy(struct{ io.Writer }{w.ResponseWriter}, src)
	}
	w.sent += n
	return n, err
}

// FlushError implements the interface that http.ResponseController uses.
func (w *observedWriter) FlushError() error {
	w.begin()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush implements http.Flusher.
func (w *observedWriter) Flush() { _ = w.FlushError() }

// begin notes the status of a response that begins without WriteHeader.
func (w *observedWriter) begin() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
}
