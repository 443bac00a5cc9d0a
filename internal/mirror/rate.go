package mirror

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/fault"
)

// Pace is the least speed of a download: an average of BytesPerSecond over each Window. Only the time spent waiting for bytes counts; a slow consumer is not
// the remote's fault.
type Pace struct {
	BytesPerSecond int64
	Window         time.Duration
}

// DefaultPace applies where no other pace is set.
var DefaultPace = Pace{BytesPerSecond: 1 << 10, Window: time.Minute}

// orDefault returns the pace, or DefaultPace for the zero value.
func (p Pace) orDefault() Pace {
	if p.Window <= 0 {
		return DefaultPace
	}
	return p
}

// Meter measures one download and cancels its context when it falls below its pace. One goroutine reads at a time.
type Meter struct {
	pace   Pace
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	timer  *time.Timer // fires at the end of the window; stopped while nobody reads
	waited time.Duration
	since  time.Time // when the current wait, or the window within it, began
	got    int64     // bytes that arrived in the window
}

// Start returns a meter and a context for the download, derived from ctx. When the download is too slow, that context ends with a fault.Unavailable error as its
// cause. Stop releases both.
func (p Pace) Start(ctx context.Context) (context.Context, *Meter) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &Meter{pace: p.orDefault(), cancel: cancel}
}

// Window returns the window of the meter's pace.
func (m *Meter) Window() time.Duration { return m.pace.Window }

// Read reads once from r and counts its time and its bytes. The reader must end when the context of Start does.
func (m *Meter) Read(r io.Reader, p []byte) (int, error) {
	m.mu.Lock()
	m.since = time.Now()
	if left := m.pace.Window - m.waited; m.timer == nil {
		m.timer = time.AfterFunc(left, m.windowEnds)
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
		m.judge()
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

// windowEnds judges a window that ends in the middle of a read, and begins the next one.
func (m *Meter) windowEnds() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.since.IsZero() || time.Since(m.since) < m.pace.Window-m.waited { // the read has ended, and perhaps another one has begun
		return
	}
	m.judge()
	m.since = time.Now()
	m.timer.Reset(m.pace.Window)
}

// judge ends the window, and the download if too few bytes arrived. The caller holds mu.
func (m *Meter) judge() {
	if m.got < m.pace.BytesPerSecond*int64(m.pace.Window/time.Millisecond)/1000 {
		m.cancel(fault.New(fault.Unavailable, "The remote sent %d bytes in %v, less than %d bytes per second.", m.got, m.pace.Window, m.pace.BytesPerSecond))
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
