package query

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"

	"github.com/countersign/countersign/api/internal/reply"
)

// Selection is the choice of fields that the parameters "fields" and "exclude_fields" make. Names of unknown fields
// have no effect.
type Selection struct{ keep, drop map[string]bool }

// SelectionOf reads the parameters.
func SelectionOf(query url.Values) (Selection, error) {
	var s Selection
	for name, into := range map[string]*map[string]bool{"fields": &s.keep, "exclude_fields": &s.drop} {
		fields, err := Split(name, query[name])
		if err != nil {
			return s, err
		}
		*into = make(map[string]bool, len(fields))
		for _, field := range fields {
			(*into)[field] = true
		}
	}
	return s, nil
}

// Has reports whether a field is shown.
func (s Selection) Has(field string) bool {
	return (len(s.keep) == 0 || s.keep[field]) && !s.drop[field]
}

// HasAny reports whether at least one of some fields is shown.
func (s Selection) HasAny(fields ...string) bool { return slices.ContainsFunc(fields, s.Has) }

// Of returns an object with the selected fields.
func (s Selection) Of(object any) (any, error) {
	if len(s.keep) == 0 && len(s.drop) == 0 {
		return object, nil
	}
	raw, err := reply.Encode(object)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", object, err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("decode %T: %w", object, err)
	}
	maps.DeleteFunc(fields, func(name string, _ json.RawMessage) bool { return !s.Has(name) })
	return fields, nil
}
