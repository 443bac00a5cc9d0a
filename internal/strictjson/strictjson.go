// Package strictjson reads JSON of unknown origin in which all parsers must find the same values. It refuses duplicate keys, of which
// parsers keep different ones, and text after the value.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Errors of Walk and Object, besides DuplicateKeyError.
var (
	ErrUTF8      = errors.New("not UTF-8")
	ErrSyntax    = errors.New("not JSON")
	ErrTrailing  = errors.New("more than one JSON value")
	ErrNotObject = errors.New("not a JSON object")
)

// DuplicateKeyError reports a key that occurs twice in an object.
type DuplicateKeyError struct{ Key string }

// Error implements error.
func (e *DuplicateKeyError) Error() string { return fmt.Sprintf("the key %q occurs twice", e.Key) }

// level is an object or array that Walk has entered.
type level struct {
	keys    map[string]bool // nil in an array
	wantKey bool            // the next token of an object is a key
}

// Walk verifies that b is one JSON value in UTF-8 in which no object has a key twice. It calls visit for each token, keys included, except
// the closing delimiters. depth is the number of objects and arrays that contain the token. Numbers are json.Number.
//
// Walk returns ErrUTF8, ErrSyntax, ErrTrailing, a *DuplicateKeyError, or the first error of visit. A limit of depth is up to visit.
func Walk(b []byte, visit func(token json.Token, depth int) error) error {
	if !utf8.Valid(b) {
		return ErrUTF8
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var stack []level
	for {
		token, err := d.Token()
		if err != nil {
			return ErrSyntax
		}
		if token == json.Delim('}') || token == json.Delim(']') {
			stack = stack[:len(stack)-1]
		} else {
			if err := visit(token, len(stack)); err != nil {
				return err
			}
			if stack, err = enter(stack, token); err != nil {
				return err
			}
		}
		if len(stack) == 0 {
			break
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return ErrTrailing
	}
	return nil
}

// enter returns the stack after a token that is not a closing delimiter.
func enter(stack []level, token json.Token) ([]level, error) {
	if n := len(stack); n > 0 && stack[n-1].keys != nil {
		top := &stack[n-1]
		if key, ok := token.(string); ok && top.wantKey {
			if top.keys[key] {
				return nil, &DuplicateKeyError{Key: key}
			}
			top.keys[key], top.wantKey = true, false
			return stack, nil
		}
		top.wantKey = true // after this value
	}
	switch token {
	case json.Delim('{'):
		return append(stack, level{keys: map[string]bool{}, wantKey: true}), nil
	case json.Delim('['):
		return append(stack, level{}), nil
	}
	return stack, nil
}

// Object returns the members of a JSON object, undecoded. It verifies that no key occurs twice in this object, not in the objects inside.
// raw must be valid JSON.
//
// Object returns ErrNotObject, ErrSyntax, or a *DuplicateKeyError.
func Object(raw []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, ErrNotObject
	}
	members := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, ErrSyntax
		}
		if _, twice := members[name]; twice {
			return nil, &DuplicateKeyError{Key: name}
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, ErrSyntax
		}
		members[name] = value
	}
	return members, nil
}

// Decode decodes b, which must be one JSON value, into v. Numbers in an any become json.Number. Its errors are those of encoding/json, and
// ErrTrailing. Unlike Walk it accepts duplicate keys: the last one wins, as in most parsers.
func Decode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return ErrTrailing
	}
	return nil
}
