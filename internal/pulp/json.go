package pulp

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/fault"
)

// checkJSON sees that bytes are one JSON value that all parsers read alike: UTF-8, no duplicate keys, no number that a double cannot hold, not nested too deeply,
// nothing behind it.
func checkJSON(b []byte) error {
	if !utf8.Valid(b) {
		return fault.New(fault.Invalid, "$: not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	type level struct {
		keys    map[string]bool // nil in an array
		wantKey bool
	}
	var stack []level
	for {
		t, err := d.Token()
		if err != nil {
			return fault.New(fault.Invalid, "$: not JSON")
		}
		if s, ok := t.(string); ok && strings.Contains(s, "\x00") {
			return fault.New(fault.Invalid, "$: a text holds a NUL")
		}
		if n, ok := t.(json.Number); ok {
			if _, err := n.Float64(); err != nil {
				return fault.New(fault.Invalid, "$: the number %s is too large", short([]byte(n)))
			}
		}
		if delim, ok := t.(json.Delim); ok && (delim == '}' || delim == ']') {
			stack = stack[:len(stack)-1]
		} else if n := len(stack); n > 0 && stack[n-1].wantKey {
			key, _ := t.(string)
			if stack[n-1].keys[key] {
				return fault.New(fault.Invalid, "$: the key %q is there twice", short([]byte(key)))
			}
			stack[n-1].keys[key], stack[n-1].wantKey = true, false
			continue
		} else if ok {
			if len(stack) == maxDepth {
				return fault.New(fault.Invalid, "$: nested more than %d levels deep", maxDepth)
			}
			l := level{}
			if delim == '{' {
				l = level{map[string]bool{}, true}
			}
			stack = append(stack, l)
			continue
		}
		if len(stack) == 0 {
			break
		}
		if top := &stack[len(stack)-1]; top.keys != nil {
			top.wantKey = true
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fault.New(fault.Invalid, "$: more than one JSON value")
	}
	return nil
}

// knownMembers are the members of manifests, descriptors and platforms that clients read.
var knownMembers = []string{
	"schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations",
	"digest", "size", "urls", "data", "platform", "architecture", "os", "os.version", "os.features", "variant", "features",
}

// members returns the members of a JSON object by their exact names. Other spellings of those that clients read are refused: clients in Go take them for the same.
func members(path string, raw []byte) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil || m == nil {
		return nil, fault.New(fault.Invalid, "%s: %s is not of type 'object'", path, shown(raw))
	}
	for key := range m {
		if slices.Contains(knownMembers, key) {
			continue
		}
		for _, known := range knownMembers {
			if strings.EqualFold(key, known) {
				return nil, fault.New(fault.Invalid, "%s: the member %q is spelled %q", path, short([]byte(key)), known)
			}
		}
	}
	return m, nil
}

// shown is what an error shows of a foreign JSON value: a string as the reference's validator writes it (contract 3.3).
func shown(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil || string(raw) == "null" {
		return short(raw)
	}
	return "'" + short([]byte(s)) + "'"
}

// short is what an error shows of a foreign text.
func short(b []byte) string {
	const most = 60
	s := strings.ToValidUTF8(string(b[:min(len(b), most)]), "")
	if len(b) > most {
		s += "…"
	}
	return s
}
