package registryclient

import (
	"math"
	"net/http"
	"testing"
	"time"
)

// TestRetryAfter proves that seconds and dates are read, and that malformed values are ignored.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const malformed = -1
	for text, want := range map[string]time.Duration{
		"7":                    7 * time.Second,
		"0":                    0,
		"99999999999999":       math.MaxInt64,
		"99999999999999999999": math.MaxInt64,
		"":                     malformed,
		"-1":                   malformed,
		"soon":                 malformed,
		"1e9":                  malformed,
		now.Add(time.Minute).Format(http.TimeFormat): time.Minute,
		now.Add(-time.Hour).Format(http.TimeFormat):  0,
	} {
		if got, ok := RetryAfter(http.Header{"Retry-After": {text}}, now); ok != (want != malformed) || ok && got != want {
			t.Errorf("RetryAfter(%q) = %v, %t, want %v", text, got, ok, want)
		}
	}
}
