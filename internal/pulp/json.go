package pulp

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/strictjson"
)

// checkJSON verifies that b is one JSON value in UTF-8 without duplicate keys and NUL characters, nested at most maxDepth levels deep, whose
// numbers fit a double.
func checkJSON(b []byte) error {
	err := strictjson.Walk(b, func(token json.Token, depth int) error {
		switch token := token.(type) {
		case string:
			if strings.Contains(token, "\x00") {
				return fault.New(fault.Invalid, "$: a text holds a NUL")
			}
		case json.Number:
			if _, err := token.Float64(); err != nil {
				return fault.New(fault.Invalid, "$: the number %s is too large", short([]byte(token)))
			}
		case json.Delim:
			if depth == maxDepth {
				return fault.New(fault.Invalid, "$: nested more than %d levels deep", maxDepth)
			}
		}
		return nil
	})
	if duplicate, ok := errors.AsType[*strictjson.DuplicateKeyError](err); ok {
		return fault.New(fault.Invalid, "$: the key %q is there twice", short([]byte(duplicate.Key)))
	}
	if _, ok := errors.AsType[*fault.Error](err); ok || err == nil {
		return err
	}
	return fault.New(fault.Invalid, "$: %v", err)
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
