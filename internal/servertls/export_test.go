package servertls

import (
	"context"
	"time"
)

// Reload is reload, for tests.
func (r *Reloader) Reload(ctx context.Context) []error { return r.reload(ctx) }

// WarnOfExpiry is warnOfExpiry, for tests.
func (r *Reloader) WarnOfExpiry(ctx context.Context, now time.Time) { r.warnOfExpiry(ctx, now) }

// SetClock replaces the clock before the Reloader is used.
func (r *Reloader) SetClock(now func() time.Time) { r.now = now }
