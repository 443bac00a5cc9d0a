package audit

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// disk takes bytes until it is full.
type disk struct {
	mu   sync.Mutex
	has  bytes.Buffer
	room int
}

func (d *disk) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(len(p), d.room)
	d.room -= n
	d.has.Write(p[:n])
	if n < len(p) {
		return n, errors.New("no space left on device")
	}
	return n, nil
}

// grow makes room on the disk and returns its contents.
func (d *disk) grow(room int) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.room += room
	return d.has.String()
}

// TestLinesWaitWhileTheDiskIsFull fills a disk in the middle of a line: the line is completed later, and those after it
// follow in order, without another entry.
func TestLinesWaitWhileTheDiskIsFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reported bytes.Buffer
		log := slog.New(slog.NewTextHandler(&reported, nil))
		full := &disk{room: 10}
		d := stream(full)
		var want strings.Builder
		for _, line := range []string{"first\n", "second\n", "third\n", "fourth\n"} {
			want.WriteString(line)
			d.write([]byte(line), log)
		}
		if got := full.grow(0); got != "first\nseco" {
			t.Fatalf("the disk has %q", got)
		}
		if err := d.Close(); err == nil || !strings.Contains(err.Error(), "3 lines") {
			t.Errorf("Close = %v", err)
		}
		d.closed = false
		d.write([]byte("fifth\n"), log)
		want.WriteString("fifth\n")
		full.grow(1000)
		time.Sleep(2 * pause)
		if got := full.grow(0); got != want.String() {
			t.Errorf("the disk has %q, want %q", got, want.String())
		}
		if n := strings.Count(reported.String(), "level=ERROR"); n != 1 {
			t.Errorf("%d reports, want 1 a minute:\n%s", n, reported.String())
		}
	})
}

// TestWaitingLinesAreBounded writes more than fits in memory while nothing can be written.
func TestWaitingLinesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := stream(&disk{})
		line := append(bytes.Repeat([]byte("x"), 1<<20-1), '\n')
		for range 6 {
			d.write(line, slog.New(slog.DiscardHandler))
		}
		if len(d.pending) != maxPending || d.dropped != 2 {
			t.Errorf("%d bytes wait, %d lines are lost", len(d.pending), d.dropped)
		}
		_ = d.Close()
	})
}
