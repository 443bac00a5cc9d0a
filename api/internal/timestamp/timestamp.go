// Package timestamp writes and reads points in time as Pulp's API does.
package timestamp

import (
	"strings"
	"time"

	"github.com/countersign/countersign/api/internal/openapi"
)

// Time is a point in time whose JSON form is Pulp's: UTC, with six fractional digits.
type Time time.Time

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) {
	return []byte(time.Time(t).UTC().Format(`"2006-01-02T15:04:05.000000Z"`)), nil
}

// OpenAPISchema implements openapi.Schemer.
func (Time) OpenAPISchema() *openapi.Schema { return openapi.Time() }

// Optional converts an optional time; nil stays nil.
func Optional(t *time.Time) *Time {
	if t == nil {
		return nil
	}
	v := Time(*t)
	return &v
}

// layouts are the forms of ISO 8601 that clients send. A time without a zone is UTC.
var layouts = []string{
	"2006-01-02T15:04:05.999999999Z07:00", "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05.999999999", "2006-01-02T15:04",
	"2006-01-02T15:04:05.999999999-0700", "2006-01-02",
}

// Parse reads a time in one of the forms of ISO 8601, with a T or a space between date and time, and returns it in
// UTC. It reports whether the text is such a time.
func Parse(text string) (time.Time, bool) {
	text = strings.TrimSpace(text)
	if len(text) > 10 && text[10] == ' ' {
		text = text[:10] + "T" + text[11:]
	}
	// In a query string the plus sign of a zone decodes to a space.
	if i := strings.LastIndexByte(text, ' '); i > 10 {
		text = text[:i] + "+" + text[i+1:]
	}
	for _, layout := range layouts {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}
