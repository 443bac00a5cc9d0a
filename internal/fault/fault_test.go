package fault_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/fault"
)

func TestErrorText(t *testing.T) {
	t.Parallel()
	cause := errors.New("no space left")
	for want, err := range map[string]error{
		"The storage is full: no space left": fault.Wrap(fault.Unavailable, cause, "The storage is full."),
		"The storage is full.":               fault.New(fault.Unavailable, "The storage is full."),
		"no space left":                      fault.Wrap(fault.Unavailable, cause, ""),
	} {
		if got := err.Error(); got != want {
			t.Errorf("Error() = %q, want %q", got, want)
		}
	}
}

func TestMessage(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err  error
		want string
		ok   bool
	}{
		"nil":          {},
		"unclassified": {err: errors.New("secret")},
		"Internal":     {err: fault.New(fault.Internal, "secret")},
		"classified":   {err: fmt.Errorf("secret: %w", fault.Wrap(fault.Invalid, errors.New("secret"), "Bad.")), want: "Bad.", ok: true},
		"the first":    {err: fault.Wrap(fault.Conflict, fault.New(fault.Invalid, "Inner."), "Outer."), want: "Outer.", ok: true},
	} {
		if got, ok := fault.Message(tt.err); got != tt.want || ok != tt.ok {
			t.Errorf("%s: Message = %q, %v, want %q, %v", name, got, ok, tt.want, tt.ok)
		}
	}
}

func TestRetrySeconds(t *testing.T) {
	t.Parallel()
	inner := &fault.Error{Kind: fault.TooMany, RetryAfter: 1500 * time.Millisecond}
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"nil":        {nil, "1"},
		"unknown":    {fault.New(fault.TooMany, "x"), "1"},
		"rounded up": {inner, "2"},
		"wrapped":    {fault.Wrap(fault.Unavailable, fmt.Errorf("x: %w", inner), "y"), "2"},
	} {
		if got := fault.RetrySeconds(tt.err); got != tt.want {
			t.Errorf("%s: RetrySeconds = %q, want %q", name, got, tt.want)
		}
	}
}
