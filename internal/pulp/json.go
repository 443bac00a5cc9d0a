package pulp

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/strictjson"
)

// checkJSON verifies that b is exactly one JSON value that all parsers read in the same way: UTF-8 without NUL, no
// duplicate keys, no number outside the range of a double, and at most maxDepth levels of nesting.
func checkJSON(b []byte) error {
	err := strictjson.Walk(b, func(token json.Token, depth int) error {
		switch token := token.(type) {
		case string:
			if strings.Contains(token, "\x00") {
				return fault.New(fault.Invalid, "$: a string contains NUL")
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
		return fault.New(fault.Invalid, "$: duplicate key %q", short([]byte(duplicate.Key)))
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

// members parses a JSON object. It rejects a member whose name differs from one of knownMembers only in case, since
// encoding/json in clients does not distinguish them. path is the position in the manifest, for errors.
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

// shown returns a JSON value of a client as error messages quote it: shortened, and a string in the quotes of Pulp's
// validator. See compatibility.md#manifests.
func shown(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil || string(raw) == "null" {
		return short(raw)
	}
	return "'" + short([]byte(s)) + "'"
}

// short returns the first 60 bytes of a client's text for an error message.
func short(b []byte) string {
	const most = 60
	s := strings.ToValidUTF8(string(b[:min(len(b), most)]), "")
	if len(b) > most {
		s += "…"
	}
	return s
}
