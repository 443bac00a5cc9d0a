// Package retry repeats an operation that may fail for a short time: a request to another registry, a call to a
// token, a write to a database that is being restarted.
//
// It wraps github.com/cenkalti/backoff/v5. A Policy bounds the attempts; the operation marks errors that another
// attempt cannot change with Permanent, and errors that say when to try again with After. All other errors are
// retried.
package retry

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Policy bounds the attempts of one operation. The zero Policy retries without a bound until the context ends.
type Policy struct {
	// Attempts is the maximum number of attempts, the first one included; 0 means no maximum.
	Attempts int
	// Elapsed is the maximum time between the start of the first attempt and the start of the last one; 0 means no
	// maximum. An operation that is under way is not interrupted: use a context with a deadline for that.
	Elapsed time.Duration
	// First is the wait before the second attempt; 0 means DefaultFirst. It doubles with each attempt, up to Max; 0
	// means DefaultMax. Each wait is lengthened by a random part of up to one half, so that clients that failed
	// together do not retry together.
	First, Max time.Duration
	// Retrying is called before each wait, with the error of the last attempt; nil means no call.
	Retrying func(err error, wait time.Duration)
}

// Waits of a Policy that has none of its own.
const (
	DefaultFirst = 500 * time.Millisecond
	DefaultMax   = 30 * time.Second
)

// The random part of a wait. backoff randomizes around a mean: between 0.8 and 1.2 times 1.25 is between 1 and 1.5.
const (
	mean   = 1.25
	jitter = 0.2
)

// Do calls f until it succeeds, returns a permanent error, or the policy allows no further attempt. It returns the
// result and the error of the last attempt, without the marks of Permanent and After. If ctx ends between two
// attempts or during a wait, it returns the cause of that. The first attempt is made whatever the state of ctx.
func Do[T any](ctx context.Context, p Policy, f func(context.Context) (T, error)) (T, error) {
	options := []backoff.RetryOption{
		backoff.WithBackOff(p.backOff()), backoff.WithMaxTries(uint(max(0, p.Attempts))), backoff.WithMaxElapsedTime(p.Elapsed),
	}
	if p.Retrying != nil {
		options = append(options, backoff.WithNotify(func(err error, wait time.Duration) { p.Retrying(unmarked(err), wait) }))
	}
	result, err := backoff.Retry(ctx, func() (T, error) {
		result, err := f(ctx)
		return result, marked(err)
	}, options...)
	return result, unmarked(err)
}

// Run calls f as Do does, for operations without a result.
func Run(ctx context.Context, p Policy, f func(context.Context) error) error {
	_, err := Do(ctx, p, func(ctx context.Context) (struct{}, error) { return struct{}{}, f(ctx) })
	return err
}

func (p Policy) backOff() backoff.BackOff {
	first, most := p.First, p.Max
	if first <= 0 {
		first = DefaultFirst
	}
	if most <= 0 {
		most = DefaultMax
	}
	return &backoff.ExponentialBackOff{
		InitialInterval: scaled(min(first, most)), MaxInterval: scaled(most), Multiplier: 2, RandomizationFactor: jitter,
	}
}

func scaled(d time.Duration) time.Duration { return time.Duration(mean * float64(d)) }

// permanentError marks an error that another attempt cannot change.
type permanentError struct{ error }

// Unwrap returns the marked error.
func (e permanentError) Unwrap() error { return e.error }

// Permanent marks an error so that Do returns it without another attempt. It returns nil for nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanentError{err}
}

// afterError marks an error that says when to try again.
type afterError struct {
	error
	wait time.Duration
}

// Unwrap returns the marked error.
func (e afterError) Unwrap() error { return e.error }

// After marks an error so that Do waits exactly that long before the next attempt, and begins anew with the short
// waits after it. It returns nil for nil.
func After(err error, wait time.Duration) error {
	if err == nil {
		return nil
	}
	return afterError{err, wait}
}

// attempt is an error of an attempt together with an instruction for the backoff library.
type attempt struct {
	error
	instruction error
}

// Unwrap returns both, so that the library finds its instruction.
func (e attempt) Unwrap() []error { return []error{e.instruction, e.error} }

// marked translates the mark of an error, or of one that it wraps, for the backoff library.
func marked(err error) error {
	if _, ok := errors.AsType[permanentError](err); ok {
		return &backoff.PermanentError{Err: err}
	}
	if e, ok := errors.AsType[afterError](err); ok {
		return attempt{err, &backoff.RetryAfterError{Duration: e.wait}}
	}
	return err
}

// unmarked returns the error without the marks of this package and of the backoff library.
func unmarked(err error) error {
	for {
		switch e := err.(type) { //nolint:errorlint // only the outermost marks are removed
		case permanentError:
			err = e.error
		case afterError:
			err = e.error
		case attempt:
			err = e.error
		case *backoff.PermanentError:
			err = e.Err
		default:
			return err
		}
	}
}

// Wait returns the wait after a number of failures, the first of which is 0, for callers that store when to try again. It is
// that of Do: it doubles from First up to Max, and is lengthened by a random part of up to one half.
func (p Policy) Wait(failures int) time.Duration {
	wait := p.First
	for range failures {
		if wait *= 2; wait >= p.Max {
			wait = p.Max
			break
		}
	}
	return wait + rand.N(wait/2+1) //nolint:gosec // jitter, not a secret
}
