package identity

import (
	"context"
	"time"
)

// Sweep is sweep, for tests.
func (p *People) Sweep(ctx context.Context) error { return p.sweep(ctx) }

// SetClock replaces the clock.
func (p *People) SetClock(now func() time.Time) { p.now = now }
