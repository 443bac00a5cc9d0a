// Package eventually waits in tests for a condition that another goroutine or process brings about.
//
// It polls, so it is for conditions that cannot be waited for with a channel. The first polls follow each other
// closely and later ones are at most 50 ms apart: a condition that holds soon costs the test little time, and one that
// takes long costs little processor time. Inside a testing/synctest bubble the polls use the bubble's clock.
package eventually

import (
	"fmt"
	"testing"
	"time"
)

const (
	firstInterval = time.Millisecond
	lastInterval  = 50 * time.Millisecond
)

// True polls condition until it returns true. If it still returns false when timeout has passed, the test fails at once
// (as with Fatalf) with the message that format and args describe: the condition that did not come true.
//
// Condition runs in the caller's goroutine, so it may end the test itself.
func True(tb testing.TB, timeout time.Duration, condition func() bool, format string, args ...any) {
	tb.Helper()
	if !Within(timeout, condition) {
		tb.Fatalf("%s: not within %s", fmt.Sprintf(format, args...), timeout)
	}
}

// NoError polls attempt until it returns nil. If it still returns an error when timeout has passed, the test fails at
// once (as with Fatalf) with the message that format and args describe and the last error.
//
// Attempt runs in the caller's goroutine, so it may end the test itself.
func NoError(tb testing.TB, timeout time.Duration, attempt func() error, format string, args ...any) {
	tb.Helper()
	var last error
	if !Within(timeout, func() bool { last = attempt(); return last == nil }) {
		tb.Fatalf("%s: not within %s: %v", fmt.Sprintf(format, args...), timeout, last)
	}
}

// Within reports whether condition returned true before timeout passed. It calls condition at least twice if timeout is
// positive: at once, and at the end. It is for goroutines that must not end the test, and for conditions that need not come
// true.
func Within(timeout time.Duration, condition func() bool) bool {
	end := time.Now().Add(timeout)
	for interval := firstInterval; ; interval = min(2*interval, lastInterval) {
		if condition() {
			return true
		}
		left := time.Until(end)
		if left <= 0 {
			return false
		}
		time.Sleep(min(interval, left))
	}
}
