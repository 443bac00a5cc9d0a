package apiclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strconv"
)

// Object is an object of the API: the fields of T, and the JSON that the server sent.
type Object[T any] struct {
	V    T
	JSON json.RawMessage
}

// UnmarshalJSON implements json.Unmarshaler.
func (o *Object[T]) UnmarshalJSON(text []byte) error {
	o.JSON = bytes.Clone(text)
	return json.Unmarshal(text, &o.V)
}

// MarshalJSON implements json.Marshaler. It returns the JSON that the server sent.
func (o Object[T]) MarshalJSON() ([]byte, error) { return o.JSON, nil }

// page is one page of a list.
type page[T any] struct {
	Count   int     `json:"count"`
	Results []T     `json:"results"`
	Next    *string `json:"next"`
}

// List returns the objects of a list, at most limit of them; 0: all. count is the number of objects that the server
// has. Objects that appear or disappear between two pages may be absent or occur twice.
func List[T any](ctx context.Context, c *Client, path string, query url.Values, limit int) (found []T, count int, err error) {
	found = []T{}
	query = maps.Clone(query)
	if query == nil {
		query = url.Values{}
	}
	for {
		size := pageSize
		if limit > 0 {
			size = min(size, limit-len(found))
		}
		query.Set("limit", strconv.Itoa(size))
		query.Set("offset", strconv.Itoa(len(found)))
		var p page[T]
		if err := c.Get(ctx, path, query, &p); err != nil {
			return nil, 0, err
		}
		found = append(found, p.Results...)
		if len(p.Results) == 0 || p.Next == nil || limit > 0 && len(found) >= limit {
			return found, p.Count, nil
		}
	}
}

// ErrNone and ErrSeveral are the errors of One.
var (
	ErrNone    = errors.New("no such object")
	ErrSeveral = errors.New("several objects match")
)

// One returns the only object of a list. The error is ErrNone or ErrSeveral if there is none or there are several.
func One[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	var none T
	found, _, err := List[T](ctx, c, path, query, 2)
	switch {
	case err != nil:
		return none, err
	case len(found) == 0:
		return none, ErrNone
	case len(found) > 1:
		return none, ErrSeveral
	}
	return found[0], nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
