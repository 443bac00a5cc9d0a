package eventually_test

import (
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/internal/eventually"
)

// recorder is a testing.TB that keeps the message of Fatalf.
type recorder struct {
	testing.TB
	fatal string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.fatal = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// run calls f in a goroutine of its own, which Fatalf may end, and returns the message of Fatalf.
func run(f func(testing.TB)) string {
	r := &recorder{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r.fatal
}

func TestTrue(t *testing.T) {
	tests := []struct {
		name        string
		comesTrue   time.Duration
		wantFatal   string
		wantElapsed time.Duration
	}{
		{name: "true at once", comesTrue: 0},
		{name: "true after some polls", comesTrue: 7 * time.Millisecond, wantElapsed: 7 * time.Millisecond},
		{name: "true at the end", comesTrue: time.Second, wantElapsed: time.Second},
		{name: "too late", comesTrue: time.Second + 1, wantElapsed: time.Second, wantFatal: "task 7 completes: not within 1s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				got := run(func(tb testing.TB) {
					condition := func() bool { return time.Since(start) >= tt.comesTrue }
					eventually.True(tb, time.Second, condition, "task %d completes", 7)
				})
				if got != tt.wantFatal {
					t.Errorf("Fatalf reported %q, want %q", got, tt.wantFatal)
				}
				if elapsed := time.Since(start); elapsed != tt.wantElapsed {
					t.Errorf("waited %s, want %s", elapsed, tt.wantElapsed)
				}
			})
		})
	}
}

func TestTruePollsLessOftenWithTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		polls := 0
		run(func(tb testing.TB) {
			eventually.True(tb, time.Minute, func() bool { polls++; return false }, "never")
		})
		if least, most := 1200, 1210; polls < least || polls > most {
			t.Errorf("polled %d times in a minute, want %d to %d", polls, least, most)
		}
	})
}

func TestNoErrorReportsTheLastError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		failing := func(until time.Duration) func() error {
			return func() error {
				switch elapsed := time.Since(start); {
				case elapsed >= until:
					return nil
				case elapsed == 0:
					return errors.New("first error")
				default:
					return errors.New("connection refused")
				}
			}
		}
		got := run(func(tb testing.TB) { eventually.NoError(tb, time.Second, failing(time.Hour), "server %s starts", "a") })
		if want := "server a starts: not within 1s: connection refused"; got != want {
			t.Errorf("Fatalf reported %q, want %q", got, want)
		}
		if got := run(func(tb testing.TB) { eventually.NoError(tb, time.Second, failing(1500*time.Millisecond), "starts") }); got != "" {
			t.Errorf("Fatalf reported %q for an attempt that succeeds in time", got)
		}
	})
}
