package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

var errNotJSON = errors.New("it is not JSON")

// readMap reads an object; no name may be there twice.
func readMap(raw json.RawMessage) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("an object is wanted")
	}
	members := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errNotJSON
		}
		if _, twice := members[name]; twice {
			return nil, fmt.Errorf("%q is there twice", name)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, errNotJSON
		}
		members[name] = value
	}
	return members, nil
}

// readObject reads an object that has all of these members, perhaps some others, and nothing else.
func readObject(raw json.RawMessage, needed, optional []string) (map[string]json.RawMessage, error) {
	members, err := readMap(raw)
	if err != nil {
		return nil, err
	}
	for name := range members {
		if !slices.Contains(needed, name) && !slices.Contains(optional, name) {
			return nil, fmt.Errorf("%q is not known", name)
		}
	}
	for _, name := range needed {
		if _, there := members[name]; !there {
			return nil, fmt.Errorf("%q is missing", name)
		}
	}
	return members, nil
}

// readText reads a text; null is an empty one, as for clients.
func readText(raw json.RawMessage) (string, error) {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", errors.New("a text is wanted")
	}
	return s, nil
}

// readType reads the member type of an object.
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
