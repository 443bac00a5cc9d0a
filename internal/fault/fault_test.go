package fault_test

import (
	"errors"
	"testing"

	"github.com/countersign/countersign/internal/fault"
)

// TestErrorReadsAsOneLine proves that the sentence of an error loses its full stop before the cause, and keeps it without one.
func TestErrorReadsAsOneLine(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"The storage is full: no space left": fault.Wrap(fault.Unavailable, errors.New("no space left"), "The storage is full."),
		"The storage is full.":               fault.New(fault.Unavailable, "The storage is full."),
		"no space left":                      fault.Wrap(fault.Unavailable, errors.New("no space left"), ""),
	} {
		if got := err.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
