package identity

import "time"

// SetClock replaces the clock.
func (p *People) SetClock(now func() time.Time) { p.now = now }
