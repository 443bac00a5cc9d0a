package registryclient_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/registryclient"
)

// TestPace proves that a download above the minimum rate does not end for hours, and that one below it ends after a
// window, whether it trickles or stalls. Only the time spent waiting for bytes counts.
func TestPace(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		piece  int           // bytes that arrive at a time
		every  time.Duration // between two pieces
		pause  time.Duration // of the consumer between reads
		pieces int
		ends   time.Duration // after which the meter ends the download; 0: it does not
	}{
		"fast":          {piece: 2048, every: time.Second, pieces: 7200},
		"just enough":   {piece: 61 << 10, every: 59 * time.Second, pieces: 200},
		"slow consumer": {piece: 2048, every: time.Second, pause: 5 * time.Minute, pieces: 300},
		"trickle":       {piece: 20, every: time.Second, pieces: 7200, ends: time.Minute},
		"stall":         {piece: 1 << 20, every: 3 * time.Hour, pieces: 1, ends: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				ctx, meter := registryclient.Pace{BytesPerSecond: 1 << 10, Window: time.Minute}.Start(t.Context())
				defer meter.Stop()
				from := meter.Reader(source(func(p []byte) (int, error) {
					select {
					case <-time.After(tt.every):
						return min(tt.piece, len(p)), nil
					case <-ctx.Done():
						return 0, context.Cause(ctx)
					}
				}))
				var err error
				for range tt.pieces {
					if _, err = from.Read(make([]byte, 1<<20)); err != nil {
						break
					}
					time.Sleep(tt.pause)
				}
				switch {
				case tt.ends == 0 && err != nil:
					t.Errorf("ended after %v: %v", time.Since(start), err)
				case tt.ends != 0 && (!fault.Is(err, fault.Unavailable) || time.Since(start) != tt.ends):
					t.Errorf("ended after %v with %v, want %v", time.Since(start), err, tt.ends)
				}
			})
		})
	}
}

// source is a function that reads.
type source func([]byte) (int, error)

func (s source) Read(p []byte) (int, error) { return s(p) }
