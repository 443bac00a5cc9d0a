package api

import (
	"strings"
	"time"
)

// stamp is a time as Pulp writes it: UTC, with six fractional digits.
type stamp time.Time

// MarshalJSON implements json.Marshaler.
func (s stamp) MarshalJSON() ([]byte, error) {
	return []byte(time.Time(s).UTC().Format(`"2006-01-02T15:04:05.000000Z"`)), nil
}

// stampOf returns nil for nil.
func stampOf(t *time.Time) *stamp {
	if t == nil {
		return nil
	}
	s := stamp(*t)
	return &s
}

// since is the earliest microsecond since 1970 that lies no longer back than ttl.
func since(ttl time.Duration) int64 { return time.Now().Add(-ttl).UnixMicro() }

// timeForms are the forms of ISO 8601 in which clients write times; without a zone they are UTC.
var timeForms = []string{
	"2006-01-02T15:04:05.999999999Z07:00", "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05.999999999", "2006-01-02T15:04",
	"2006-01-02T15:04:05.999999999-0700", "2006-01-02",
}

// parseTime reads a time in one of these forms, with a T or a space between date and time.
func parseTime(text string) (time.Time, bool) {
	text = strings.TrimSpace(text)
	if len(text) > 10 && text[10] == ' ' {
		text = text[:10] + "T" + text[11:]
	}
	// In a query string the plus of a zone is a space.
	if i := strings.LastIndexByte(text, ' '); i > 10 {
		text = text[:i] + "+" + text[i+1:]
	}
	for _, form := range timeForms {
		if t, err := time.Parse(form, text); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}
