// Package pace aborts requests whose clients send the body, or read the response, too slowly.
//
// net/http limits only the duration of whole requests and responses, and large blobs need longer than any sensible limit.
// This package requires a minimum rate instead: a client must transfer a number of bytes in each window of time. Only the
// time in which the server waits for the client counts. So a transfer may take as long as it needs, and a handler may
// wait for other events, but a client that stalls is disconnected.
//
// It imports no other package of this module.
package pace

import (
	"cmp"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Options are the limits. A zero value means the default.
type Options struct {
	// Rate is the minimum rate of a transfer in bytes per second, averaged over a window. The default is 1 KiB.
	Rate int64
	// BodyWindow is the window for request bodies. A client that stalls is disconnected within it. The default is one
	// minute.
	BodyWindow time.Duration
	// ResponseWindow is the window for responses. The default is two minutes, since the kernel drains a full buffer in
	// large steps.
	ResponseWindow time.Duration
	// Drain is the time limit for reading the part of a body that the handler did not read, after which the client can
	// read the response and reuse the connection. The default is ten seconds.
	Drain time.Duration
	// Log receives an entry for each aborted request; nil disables it.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	o.Rate = cmp.Or(o.Rate, 1<<10)
	o.BodyWindow = cmp.Or(o.BodyWindow, time.Minute)
	o.ResponseWindow = cmp.Or(o.ResponseWindow, 2*time.Minute)
	o.Drain = cmp.Or(o.Drain, 10*time.Second)
	return o
}

// Handler calls next with a body and a ResponseWriter that enforce the minimum rate. Reads and writes of a slow client
// fail with os.ErrDeadlineExceeded. The ResponseWriter must be the server's own. The server must have an IdleTimeout,
// which resets the read deadline between the requests of a connection.
func Handler(next http.Handler, o Options) http.Handler {
	o = o.withDefaults()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		streams := r.ProtoMajor > 1
		pw := &writer{ResponseWriter: w, c: c, o: o, r: r, meter: meter{
			window: o.ResponseWindow, quota: quota(o.Rate, o.ResponseWindow), set: c.SetWriteDeadline, stream: streams,
		}}
		if !streams { // in HTTP/2 each stream has its own deadlines
			_ = c.SetWriteDeadline(time.Time{}) // clears the deadline of the previous request
		}
		if r.Body != nil && r.Body != http.NoBody {
			pw.body = &body{ReadCloser: r.Body, c: c, o: o, r: r, meter: meter{
				window: o.BodyWindow, quota: quota(o.Rate, o.BodyWindow), set: c.SetReadDeadline, stream: streams,
			}}
			r = r.WithContext(r.Context()) // net/http needs the original body in its own request
			r.Body = pw.body
		}
		defer pw.finish() // even if the handler panics
		next.ServeHTTP(pw, r)
	})
}

func quota(rate int64, window time.Duration) int64 {
	return max(1, rate*int64(window)/int64(time.Second))
}

// meter measures the time that the server waited for the client since the client transferred its last quota of bytes, and
// derives deadlines from it.
type meter struct {
	window time.Duration
	quota  int64                 // bytes per window
	set    func(time.Time) error // sets the deadline
	stream bool                  // HTTP/2: a deadline aborts the stream even if no read or write is in progress
	spent  time.Duration         // waited since the last complete quota
	moved  int64                 // bytes since the last complete quota

	mu      sync.Mutex
	due     time.Time   // the deadline that is set; zero if none is set
	busy    bool        // a read or write is in progress
	stopped bool        // the handler has returned
	idle    *time.Timer // calls release well before due; only for streams
}

// begin sets the deadline for a read or write that begins now. It keeps a deadline that is close enough, since each change
// costs HTTP/2 a message.
func (m *meter) begin(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy = true; m.stopped {
		return
	}
	left := m.window - m.spent
	due := now.Add(left)
	if due.Sub(m.due) <= left/4 {
		return
	}
	m.due = due
	_ = m.set(due) // httptest.ResponseRecorder does not support it
	switch {
	case !m.stream:
	case m.idle == nil:
		m.idle = time.AfterFunc(left/2, m.release)
	default:
		m.idle.Reset(left / 2)
	}
}

// end records a read or write of n bytes that began at the given time.
func (m *meter) end(began time.Time, n int64) {
	m.spent += time.Since(began)
	if m.moved += n; m.moved >= m.quota {
		m.spent, m.moved = 0, 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.busy = false
	if m.stream && time.Until(m.due) < m.window/2 { // release may have run while the stream was busy
		m.clear()
	}
}

// release clears the deadline of a stream while the handler neither reads nor writes.
func (m *meter) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.busy && !m.stopped {
		m.clear()
	}
}

// clear clears the deadline. The caller holds mu.
func (m *meter) clear() {
	m.due = time.Time{}
	_ = m.set(m.due)
}

// stop disables release. The handler has returned, and its stream may no longer exist.
func (m *meter) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopped = true
	if m.idle != nil {
		m.idle.Stop()
	}
}

// body is the body of a request.
type body struct {
	io.ReadCloser
	c *http.ResponseController
	o Options
	r *http.Request
	meter
	state atomic.Int32
}

// The states of a body.
const (
	unread int32 = iota // unread bytes may remain
	atEnd
	failed
)

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	now := time.Now()
	b.begin(now)
	n, err := b.ReadCloser.Read(p)
	b.end(now, int64(n))
	switch {
	case errors.Is(err, io.EOF):
		b.state.Store(atEnd)
		_ = b.c.SetReadDeadline(
			time.Time{},
		) // net/http now reads from the connection to detect that the client closes it
	case err != nil:
		b.state.Store(failed)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			b.o.tooSlow(b.r, "request aborted: the client sent the body too slowly")
		}
	}
	return n, err
}

// Close implements io.Closer. It reads the rest of the body for at most Options.Drain.
func (b *body) Close() error {
	if b.state.Load() == unread {
		_ = b.c.SetReadDeadline(time.Now().Add(b.o.Drain))
		defer func() { _ = b.c.SetReadDeadline(time.Time{}) }()
	}
	return b.ReadCloser.Close()
}

func (o Options) tooSlow(r *http.Request, text string) {
	if o.Log != nil {
		o.Log.InfoContext(
			r.Context(),
			text,
			slog.String("method", r.Method),
			slog.String("path", r.URL.Path),
			slog.String("from", r.RemoteAddr),
		)
	}
}
