package timestamp_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/api/internal/timestamp"
)

func TestParse(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-11-22T21:00":            at,
		"2026-11-22 21:00":            at,
		"2026-11-22T21:00:00":         at,
		"2026-11-22T21:00Z":           at,
		"2026-11-22T21:00:00.000000Z": at,
		"2026-11-22T22:00:00+01:00":   at,
		"2026-11-22T22:00:00 01:00":   at,
		"2026-11-22T22:00:00+0100":    at,
		"2026-11-22T22:00+01:00":      at,
		"2026-11-22T21:00:00.123456Z": at.Add(123456 * time.Microsecond),
		"2026-11-22":                  at.Add(-21 * time.Hour),
	} {
		if got, ok := timestamp.Parse(text); !ok || !got.Equal(want) {
			t.Errorf("%q: %v %t, want %v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "abc", "2026", "2026-13-01", "21:00", "2026-11-22T25:00"} {
		if got, ok := timestamp.Parse(text); ok {
			t.Errorf("%q: %v, want none", text, got)
		}
	}
}

func TestMarshal(t *testing.T) {
	t.Parallel()
	raw, err := json.Marshal(timestamp.Time(time.Date(2026, 11, 22, 22, 0, 0, 1000, time.FixedZone("", 3600))))
	if err != nil || string(raw) != `"2026-11-22T21:00:00.000001Z"` {
		t.Errorf("%s, %v", raw, err)
	}
	if timestamp.Optional(nil) != nil {
		t.Error("the optional time of nil is not nil")
	}
}

// FuzzParse proves that every time is in UTC.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"2026-11-22T21:00", "2026-11-22 21:00:00.1+01:00", "  ", "2026-11-22T", strings.Repeat(" ", 30),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got, ok := timestamp.Parse(text); ok && got.Location() != time.UTC {
			t.Errorf("%q: %v is not UTC", text, got)
		}
	})
}
