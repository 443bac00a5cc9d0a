// Package doctor examines a server, and the installation on this machine, and reports problems with their next steps.
package doctor

import (
	"fmt"
	"strings"
	"time"
)

// Result is the result of a check.
type Result string

// The results of checks.
const (
	OK      Result = "ok"
	Warning Result = "warning" // it works, but may fail later or for others
	Failed  Result = "failed"  // it does not work
)

// Finding is one result.
type Finding struct {
	Check  string `json:"check"`
	Result Result `json:"result"`
	Detail string `json:"detail"`
	Next   string `json:"next"` // the next step; empty for OK
}

// Report collects findings.
type Report struct{ Findings []Finding }

func (r *Report) ok(check, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{Check: check, Result: OK, Detail: fmt.Sprintf(format, args...)})
}

func (r *Report) warn(check, next, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{check, Warning, fmt.Sprintf(format, args...), next})
}

func (r *Report) fail(check, next, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{check, Failed, fmt.Sprintf(format, args...), next})
}

// Worst returns the worst result of all findings.
func (r *Report) Worst() Result {
	worst := OK
	for _, f := range r.Findings {
		if f.Result == Failed || f.Result == Warning && worst == OK {
			worst = f.Result
		}
	}
	return worst
}

// Thresholds of warnings and failures.
const (
	skewWarned   = 5 * time.Second // tokens and heartbeats tolerate less than a minute
	skewFailed   = time.Minute
	expirySoon   = 30 * 24 * time.Hour
	spaceFailed  = 256 << 20 // bytes
	spaceWarned  = 2 << 30   // bytes
	spacePercent = 5
	waitsLong    = 5 * time.Minute // for a task that is ready
	runsLong     = 24 * time.Hour  // the limit of a sync
)

// clock reports the difference between a clock and that of this machine. uncertainty is the time in which the clock was read.
func (r *Report) clock(name string, at, here time.Time, uncertainty time.Duration) {
	const next = "synchronize the clocks of all machines, for example with chrony or systemd-timesyncd"
	skew := max(0, at.Sub(here).Abs()-uncertainty)
	check, text := "clock of "+name, fmt.Sprintf("differs from the clock of this machine by %v", skew.Round(time.Second))
	switch {
	case skew > skewFailed:
		r.fail(check, next, "%s", text)
	case skew > skewWarned:
		r.warn(check, next, "%s", text)
	default:
		r.ok(check, "agrees with the clock of this machine")
	}
}

// expiry reports the time at which a key or certificate expires.
func (r *Report) expiry(check string, at, now time.Time, next string) {
	left := at.Sub(now)
	text := at.UTC().Format(time.RFC3339)
	switch {
	case left <= 0:
		r.fail(check, next, "expired at %s", text)
	case left < expirySoon:
		r.warn(check, next, "expires at %s, in %d days", text, int(left.Hours()/24))
	default:
		r.ok(check, "valid until %s", text)
	}
}

// space reports the free space of a file system.
func (r *Report) space(check string, free, total uint64) {
	const next = "delete what is not needed (docs/operations.md, \"Automatic cleanup\"), or enlarge the file system"
	text := fmt.Sprintf("%s of %s are free", size(free), size(total))
	switch {
	case free < spaceFailed:
		r.fail(check, next, "%s", text)
	case free < spaceWarned || total > 0 && free*100/total < spacePercent:
		r.warn(check, next, "%s", text)
	default:
		r.ok(check, "%s", text)
	}
}

// size returns a number of bytes as text.
func size(n uint64) string {
	if n >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// oneLine returns the text of an error in one line.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
