package retry_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/internal/retry"
)

var (
	errBroken  = errors.New("broken")
	errWrapped = fmt.Errorf("it is %w", retry.Permanent(errBroken))
)

func TestDo(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		policy   retry.Policy
		results  []error // of the attempts; the last one repeats
		attempts int
		err      error
		least    time.Duration // between the first and the last attempt
		most     time.Duration
	}{
		"success at once": {results: []error{nil}, attempts: 1},
		"success after two failures": {
			policy:  retry.Policy{First: time.Second},
			results: []error{errBroken, errBroken, nil}, attempts: 3, least: 3 * time.Second, most: 4500 * time.Millisecond,
		},
		"no further attempt": {
			policy:  retry.Policy{Attempts: 2, First: time.Second},
			results: []error{errBroken}, attempts: 2, err: errBroken, least: time.Second, most: 1500 * time.Millisecond,
		},
		"default waits": {policy: retry.Policy{Attempts: 2}, results: []error{errBroken}, attempts: 2, err: errBroken, least: 500 * time.Millisecond, most: 750 * time.Millisecond},
		"longest waits": {policy: retry.Policy{Attempts: 11, First: time.Minute, Max: time.Second}, results: []error{errBroken}, attempts: 11, err: errBroken, least: 10 * time.Second, most: 15 * time.Second},
		"no further time": {
			policy:  retry.Policy{Elapsed: 7 * time.Second, First: 4 * time.Second, Max: 4 * time.Second},
			results: []error{errBroken}, attempts: 2, err: errBroken, least: 4 * time.Second, most: 6 * time.Second,
		},
		"a permanent error":                   {results: []error{errBroken, retry.Permanent(errBroken)}, attempts: 2, err: errBroken, least: 500 * time.Millisecond, most: 750 * time.Millisecond},
		"a permanent error in the last one":   {policy: retry.Policy{Attempts: 1}, results: []error{retry.Permanent(errBroken)}, attempts: 1, err: errBroken},
		"a wrapped permanent error":           {results: []error{errWrapped}, attempts: 1, err: errWrapped},
		"a wait that the error says":          {results: []error{retry.After(errBroken, time.Hour), nil}, attempts: 2, least: time.Hour, most: time.Hour},
		"a wait that the error says, at last": {policy: retry.Policy{Attempts: 1}, results: []error{retry.After(errBroken, time.Hour)}, attempts: 1, err: errBroken},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				attempts, retried, start := 0, 0, time.Now()
				tt.policy.Retrying = func(err error, _ time.Duration) {
					if retried++; err != errBroken { //nolint:errorlint // no marks are left
						t.Errorf("Retrying was told of %v", err)
					}
				}
				got, err := retry.Do(t.Context(), tt.policy, func(context.Context) (int, error) {
					attempts++
					return attempts, tt.results[min(attempts, len(tt.results))-1]
				})
				took := time.Since(start)
				if attempts != tt.attempts || got != tt.attempts || retried != tt.attempts-1 {
					t.Errorf("%d attempts, result %d, %d retries; want %d attempts", attempts, got, retried, tt.attempts)
				}
				if !errors.Is(err, tt.err) || reflect.TypeOf(err) != reflect.TypeOf(tt.err) { // the marks are gone
					t.Errorf("err = %v, want %v", err, tt.err)
				}
				if took < tt.least || took > tt.most {
					t.Errorf("took %v, want between %v and %v", took, tt.least, tt.most)
				}
			})
		})
	}
}

// TestDoEndsWithContext proves that the end of the context ends a wait, with its cause, and that there is one attempt
// even after it.
func TestDoEndsWithContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Second, errors.New("out of time"))
		defer cancel()
		start := time.Now()
		err := retry.Run(ctx, retry.Policy{First: time.Minute, Max: time.Minute}, func(context.Context) error { return errBroken })
		if err == nil || err.Error() != "out of time" || time.Since(start) != 2*time.Second {
			t.Errorf("Run = %v after %v", err, time.Since(start))
		}
		attempts := 0
		if err = retry.Run(ctx, retry.Policy{}, func(context.Context) error { attempts++; return nil }); err != nil || attempts != 1 {
			t.Errorf("Run with an ended context = %v after %d attempts", err, attempts)
		}
	})
}

func TestMarksOfNil(t *testing.T) {
	t.Parallel()
	if err := errors.Join(retry.Permanent(nil), retry.After(nil, time.Second)); err != nil {
		t.Errorf("marked nil = %v", err)
	}
}
