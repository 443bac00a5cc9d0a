package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/countersign/countersign/internal/strictjson"
)

var errNotJSON = errors.New("it is not JSON")

// readMap returns the members of an object. A duplicate member is an error.
func readMap(raw json.RawMessage) (map[string]json.RawMessage, error) {
	members, err := strictjson.Object(raw)
	duplicate, ok := errors.AsType[*strictjson.DuplicateKeyError](err)
	switch {
	case ok:
		return nil, fmt.Errorf("%q occurs twice", duplicate.Key)
	case errors.Is(err, strictjson.ErrNotObject):
		return nil, errors.New("the value is not an object")
	case err != nil:
		return nil, errNotJSON
	}
	return members, nil
}

// readObject parses an object that has all needed members, any of the optional ones, and no others.
func readObject(raw json.RawMessage, needed, optional []string) (map[string]json.RawMessage, error) {
	members, err := readMap(raw)
	if err != nil {
		return nil, err
	}
	for name := range members {
		if !slices.Contains(needed, name) && !slices.Contains(optional, name) {
			return nil, fmt.Errorf("%q is unknown", name)
		}
	}
	for _, name := range needed {
		if _, there := members[name]; !there {
			return nil, fmt.Errorf("%q is missing", name)
		}
	}
	return members, nil
}

// readText parses a string. As in clients, null is an empty string.
func readText(raw json.RawMessage) (string, error) {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", errors.New("the value is not a string")
	}
	return s, nil
}

// readType returns the member "type" of an object.
func readType(raw json.RawMessage) (string, error) {
	members, err := readMap(raw)
	if err != nil {
		return "", err
	}
	if members["type"] == nil {
		return "", errors.New("an object has no type")
	}
	return readText(members["type"])
}
