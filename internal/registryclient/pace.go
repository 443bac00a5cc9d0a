package registryclient

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/fault"
)

// Pace is the minimum rate of a download: an average of BytesPerSecond over each Window. Only the time spent waiting
// for bytes counts, so that a slow consumer does not end a download.
type Pace struct {
	BytesPerSecond int64
	Window         time.Duration
}

// DefaultPace replaces a Pace without a window.
var DefaultPace = Pace{BytesPerSecond: 1 << 10, Window: time.Minute}

// orDefault returns the pace, or DefaultPace if it has no window.
func (p Pace) orDefault() Pace {
	if p.Window <= 0 {
		return DefaultPace
	}
	return p
}

// Meter measures one download and cancels its context when the download falls below its pace. One goroutine reads at
// a time.
type Meter struct {
	pace   Pace
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	timer  *time.Timer   // fires at the end of the window; stopped between reads
	waited time.Duration // of the window
	since  time.Time     // when the current read, or the window within it, began; zero between reads
	got    int64         // bytes that arrived in the window
}

// Start returns a meter and a context for a download, derived from ctx. If the download is too slow, the context ends
// with an Unavailable error as its cause. The caller calls Stop, which releases both.
func (p Pace) Start(ctx context.Context) (context.Context, *Meter) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &Meter{pace: p.orDefault(), cancel: cancel}
}

// Window returns the window of the meter's pace.
func (m *Meter) Window() time.Duration { return m.pace.Window }

// Cancel ends the context of the download with a cause.
func (m *Meter) Cancel(cause error) { m.cancel(cause) }

// Read reads once from r and counts the time and the bytes. The reader must return when the context of Start ends.
func (m *Meter) Read(r io.Reader, p []byte) (int, error) {
	m.mu.Lock()
	m.since = time.Now()
	if left := m.pace.Window - m.waited; m.timer == nil {
		m.timer = time.AfterFunc(left, m.endWindow)
	} else {
		m.timer.Reset(left)
	}
	m.mu.Unlock()
	n, err := r.Read(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.timer.Stop()
	m.got += int64(n)
	m.waited += time.Since(m.since)
	m.since = time.Time{}
	if m.waited >= m.pace.Window {
		m.check()
	}
	return n, err
}

// Reader returns a reader of r whose reads the meter counts.
func (m *Meter) Reader(r io.Reader) io.Reader { return metered{m, r} }

type metered struct {
	meter *Meter
	from  io.Reader
}

// Read implements io.Reader.
func (m metered) Read(p []byte) (int, error) { return m.meter.Read(m.from, p) }

// endWindow checks a window that ends during a read, and begins the next one.
func (m *Meter) endWindow() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.since.IsZero() || time.Since(m.since) < m.pace.Window-m.waited { // the read has ended, and another one may have begun
		return
	}
	m.check()
	m.since = time.Now()
	m.timer.Reset(m.pace.Window)
}

// check cancels the download if too few bytes arrived in the window, and ends the window. The caller holds mu.
func (m *Meter) check() {
	if m.got < m.pace.BytesPerSecond*int64(m.pace.Window/time.Millisecond)/1000 {
		m.cancel(fault.New(fault.Unavailable, "The remote sent %d bytes in %v, less than %d bytes per second.",
			m.got, m.pace.Window, m.pace.BytesPerSecond))
	}
	m.waited, m.got = 0, 0
}

// Stop releases the meter's timer and its context.
func (m *Meter) Stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.timer != nil {
		m.timer.Stop()
	}
	m.cancel(context.Canceled)
}
