package pace

import (
	"errors"
	"io"
	"math"
	"net/http"
	"os"
	"time"
)

// writer is the ResponseWriter of a request. As with every http.ResponseWriter, only one goroutine at a time may use it.
type writer struct {
	http.ResponseWriter
	c *http.ResponseController
	o Options
	r *http.Request
	meter
	body    *body // nil if the request has none
	stalled bool  // the last write exceeded its deadline
}

// Unwrap returns the server's own ResponseWriter, for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	_ = w.timed(func() (int64, error) { w.ResponseWriter.WriteHeader(status); return 0, nil })
}

// Write implements io.Writer. It writes in pieces of one quota, since a write that a deadline interrupts cannot be resumed.
func (w *writer) Write(p []byte) (int, error) {
	written := 0
	for {
		piece := p[written:min(int64(len(p)), int64(written)+w.quota)]
		err := w.timed(func() (int64, error) {
			n, err := w.ResponseWriter.Write(piece)
			written += n
			return int64(n), err
		})
		if err != nil || written >= len(p) {
			return written, err
		}
	}
}

// FlushError implements the interface that http.ResponseController uses.
func (w *writer) FlushError() error {
	return w.timed(func() (int64, error) { return 0, w.c.Flush() })
}

// Flush implements http.Flusher.
func (w *writer) Flush() { _ = w.FlushError() }

// ReadFrom implements io.ReaderFrom. It passes files to the server's own ReadFrom, so that the kernel can send them, and
// copies other sources.
func (w *writer) ReadFrom(src io.Reader) (int64, error) {
	own, ok := w.ResponseWriter.(io.ReaderFrom)
	file, at, limit := regular(src)
	if !ok || file == nil || w.r.TLS != nil || w.r.ProtoMajor > 1 {
		return io.Copy(struct{ io.Writer }{w}, src)
	}
	var sent int64
	for {
		part := &io.LimitedReader{R: file, N: limit - sent}
		n, err := w.sendPart(own, part)
		sent += n
		if l, ok := src.(*io.LimitedReader); ok {
			l.N = limit - sent
		}
		if !errors.Is(err, errGoOn) {
			return sent, err
		}
		// Read the bytes again that were read but not sent.
		if _, err := file.Seek(at+sent, io.SeekStart); err != nil {
			return sent, err
		}
	}
}

// errGoOn is the result of sendPart if its deadline interrupted the transfer and the client's window has not passed yet.
var errGoOn = errors.New("interrupted")

// sendPart sends a file until it ends or an eighth of the window has passed. For the server a large transfer is one call,
// which fills the kernel's buffers at once. So only frequent interruptions show the time at which the client stalled.
func (w *writer) sendPart(own io.ReaderFrom, part *io.LimitedReader) (int64, error) {
	if w.limitDrain() {
		defer func() { _ = w.c.SetReadDeadline(time.Time{}) }()
	}
	now := time.Now()
	w.due = now.Add(min(w.window-w.spent, w.window/8))
	_ = w.c.SetWriteDeadline(w.due)
	n, err := own.ReadFrom(part)
	interrupted := errors.Is(err, os.ErrDeadlineExceeded) &&
		!time.Now().Before(w.due) // otherwise an earlier write failed
	w.end(now, n)
	if interrupted && w.spent < w.window {
		return n, errGoOn
	}
	w.stalled = errors.Is(err, os.ErrDeadlineExceeded)
	return n, err
}

// regular returns the regular file behind a reader, its offset, and the limit of an io.LimitedReader. file is nil for
// other readers.
func regular(src io.Reader) (file *os.File, at, limit int64) {
	limit = math.MaxInt64
	if l, ok := src.(*io.LimitedReader); ok {
		src, limit = l.R, l.N
	}
	file, ok := src.(*os.File)
	if !ok {
		return nil, 0, 0
	}
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, 0, 0
	}
	if at, err = file.Seek(0, io.SeekCurrent); err != nil {
		return nil, 0, 0
	}
	return file, at, limit
}

// timed runs a write under the deadline. write returns the number of bytes written.
func (w *writer) timed(write func() (int64, error)) error {
	// The server reads the rest of the body when it writes the header.
	if w.limitDrain() { // then net/http may reach the end of the body and watch the connection
		defer func() { _ = w.c.SetReadDeadline(time.Time{}) }()
	}
	now := time.Now()
	w.begin(now)
	n, err := write()
	w.end(now, n)
	w.stalled = errors.Is(err, os.ErrDeadlineExceeded)
	return err
}

// limitDrain sets a deadline for reading the rest of the body. It reports false if no rest can exist.
func (w *writer) limitDrain() bool {
	if w.body == nil || w.r.ProtoMajor > 1 || w.body.state.Load() == atEnd {
		return false
	}
	wait := w.o.Drain
	if w.body.state.Load() == failed {
		wait = -time.Second
	}
	_ = w.c.SetReadDeadline(time.Now().Add(wait))
	return true
}

// finish sets the deadlines for the work of the server after the handler: it reads the rest of the body and writes the
// rest of the response.
func (w *writer) finish() {
	w.stop()
	if w.body != nil {
		w.body.stop()
	}
	w.limitDrain()
	if w.stalled {
		w.o.tooSlow(w.r, "request aborted: the client read the response too slowly")
		_ = w.c.SetWriteDeadline(time.Now().Add(-time.Second)) // fails at once
		return
	}
	_ = w.c.SetWriteDeadline(time.Now().Add(w.window))
}
