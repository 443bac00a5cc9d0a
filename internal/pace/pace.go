// Package pace ends requests whose clients send their body, or take the response, too slowly.
//
// net/http has limits for the time of whole requests and responses, which large blobs need to exceed, and none for slow ones. Here a client must move a
// number of bytes in each window of time; only time in which the server waits for the client counts. So a transfer may take as long as it needs, and
// a handler may wait for other things, while a client that stalls is let go.
//
// It knows net/http and nothing of this project.
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

// Options are the limits. Zero values stand for the defaults.
type Options struct {
	// Rate is the number of bytes per second that a client must send or take, on average over a window. The default is 1 KiB.
	Rate int64
	// BodyWindow is the window for request bodies: a client that stalls is let go within it. The default is one minute.
	BodyWindow time.Duration
	// ResponseWindow is the window for responses. It is longer by default, two minutes: the kernel takes bytes from a full buffer in large steps.
	ResponseWindow time.Duration
	// Drain is how long the server reads what a handler has left of a body, so that the client reads the response and the connection can be used
	// again. The default is ten seconds.
	Drain time.Duration
	// Log gets a line for each request that is ended; nil: none.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	o.Rate = cmp.Or(o.Rate, 1<<10)
	o.BodyWindow = cmp.Or(o.BodyWindow, time.Minute)
	o.ResponseWindow = cmp.Or(o.ResponseWindow, 2*time.Minute)
	o.Drain = cmp.Or(o.Drain, 10*time.Second)
	return o
}

// Handler calls next with a body and a ResponseWriter that are bounded in time. Reads and writes that exceed the limit fail with
// os.ErrDeadlineExceeded. The ResponseWriter must be the server's own, and the server must have an IdleTimeout, which resets read deadlines between the
// requests of a connection.
func Handler(next http.Handler, o Options) http.Handler {
	o = o.withDefaults()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		streams := r.ProtoMajor > 1
		pw := &writer{ResponseWriter: w, c: c, o: o, r: r, meter: meter{window: o.ResponseWindow, quota: quota(o.Rate, o.ResponseWindow), set: c.SetWriteDeadline, stream: streams}}
		if !streams { // deadlines of HTTP/2 belong to one stream
			_ = c.SetWriteDeadline(time.Time{}) // the previous request's
		}
		if r.Body != nil && r.Body != http.NoBody {
			pw.body = &body{ReadCloser: r.Body, c: c, o: o, r: r, meter: meter{window: o.BodyWindow, quota: quota(o.Rate, o.BodyWindow), set: c.SetReadDeadline, stream: streams}}
			r = r.WithContext(r.Context()) // net/http looks at the body of its own request
			r.Body = pw.body
		}
		defer pw.finish() // also when the handler panics
		next.ServeHTTP(pw, r)
	})
}

func quota(rate int64, window time.Duration) int64 {
	return max(1, rate*int64(window)/int64(time.Second))
}

// meter measures how long the server has waited for a client since it moved its last quota of bytes, and sets deadlines by that.
type meter struct {
	window time.Duration
	quota  int64
	set    func(time.Time) error // sets the deadline
	stream bool                  // the deadline is that of an HTTP/2 stream, which ends the stream also while nobody reads or writes
	spent  time.Duration
	moved  int64

	mu      sync.Mutex
	due     time.Time   // the deadline that is set; zero: none
	busy    bool        // a read or write is under way
	stopped bool        // the handler has returned
	idle    *time.Timer // calls release well before due; for streams only
}

// begin sets the deadline for a read or write that begins now, where it differs enough from the one that is set: HTTP/2 pays for each change with a
// message.
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
	_ = m.set(due) // unsupported by recorders of tests
	switch {
	case !m.stream:
	case m.idle == nil:
		m.idle = time.AfterFunc(left/2, m.release)
	default:
		m.idle.Reset(left / 2)
	}
}

// end counts a read or write of n bytes.
func (m *meter) end(began time.Time, n int64) {
	m.spent += time.Since(began)
	if m.moved += n; m.moved >= m.quota {
		m.spent, m.moved = 0, 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.busy = false
	if m.stream && time.Until(m.due) < m.window/2 { // release has come too early, or may
		m.clear()
	}
}

// release removes a stream's deadline while the handler does something else.
func (m *meter) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.busy && !m.stopped {
		m.clear()
	}
}

// clear removes the deadline. The caller holds the lock.
func (m *meter) clear() {
	m.due = time.Time{}
	_ = m.set(m.due)
}

// stop ends release: the handler has returned, and its stream may be gone.
func (m *meter) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopped = true
	if m.idle != nil {
		m.idle.Stop()
	}
}

// body is a request's body.
type body struct {
	io.ReadCloser
	c *http.ResponseController
	o Options
	r *http.Request
	meter
	state atomic.Int32
}

// States of a body.
const (
	unread int32 = iota // bytes may remain
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
		_ = b.c.SetReadDeadline(time.Time{}) // from here on net/http watches the connection, however long the handler takes
	case err != nil:
		b.state.Store(failed)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			b.o.tooSlow(b.r, "a request was ended: its client sent the body too slowly")
		}
	}
	return n, err
}

// Close implements io.Closer. It reads what remains of a body, within the time for that.
func (b *body) Close() error {
	if b.state.Load() == unread {
		_ = b.c.SetReadDeadline(time.Now().Add(b.o.Drain))
		defer func() { _ = b.c.SetReadDeadline(time.Time{}) }()
	}
	return b.ReadCloser.Close()
}

func (o Options) tooSlow(r *http.Request, text string) {
	if o.Log != nil {
		o.Log.InfoContext(r.Context(), text, slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.String("from", r.RemoteAddr))
	}
}
