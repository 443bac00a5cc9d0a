package fault_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/countersign/countersign/internal/fault"
)

// TestIsOutage checks that IsOutage finds an outage anywhere in a tree of errors, and only of its own system.
func TestIsOutage(t *testing.T) {
	t.Parallel()
	cause := errors.New("connection refused")
	down := fault.NewOutage(fault.Upstream, cause, "The upstream does not answer.")
	tests := map[string]struct {
		err  error
		want bool
	}{
		"no error":                  {err: nil},
		"the outage":                {err: down, want: true},
		"a wrapped outage":          {err: fmt.Errorf("tag v1: %w", down), want: true},
		"the cause of another kind": {err: fault.Wrap(fault.Invalid, down, "The tag is not copied."), want: true},
		"a joined outage":           {err: errors.Join(cause, down), want: true},
		"an outage of another system": {
			err: fault.NewOutage(fault.Database, cause, "The database does not answer."),
		},
		"Unavailable for another reason": {
			err: fault.Wrap(fault.Unavailable, cause, "The upstream refuses the credentials."),
		},
		"another kind with the system": {err: &fault.Error{Kind: fault.Invalid, Outage: fault.Upstream}},
		"the bare cause":               {err: cause},
	}
	for name, tt := range tests {
		if got := fault.IsOutage(tt.err, fault.Upstream); got != tt.want {
			t.Errorf("%s: IsOutage(%v) = %t, want %t", name, tt.err, got, tt.want)
		}
	}
	if !fault.Is(down, fault.Unavailable) || !errors.Is(down, cause) {
		t.Error("an outage is not Unavailable, or has lost its cause")
	}
}
