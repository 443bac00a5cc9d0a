package registryclient

import (
	"math"
	"net/http"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"7": 7 * time.Second, "0": 0, now.Add(time.Minute).Format(http.TimeFormat): time.Minute, now.Add(-time.Hour).Format(http.TimeFormat): 0,
		"": -1, "-1": -1, "soon": -1, "1e9": -1, "99999999999999": math.MaxInt64, "99999999999999999999": math.MaxInt64,
	} {
		if got, ok := RetryAfter(http.Header{"Retry-After": {text}}, now); ok != (want >= 0) || ok && got != want {
			t.Errorf("%q = %v, %t", text, got, ok)
		}
	}
}
