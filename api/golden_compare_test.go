package api_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// difference is a line of testdata/differences.tsv: a field whose value differs from the recording.
//
// The files are names of recordings, or "*" for all recordings. The field is a path such as results[0].number, where [] matches any element, or, for all
// recordings, the name of a field. A header is a field too, with its colon. The expected value, ours, is one of: any (another value of the recorded type),
// more (a field that the recordings do not have), none (no such field), "3 entries" (the length of a list), or JSON with ids and times as normal returns
// them. The column why gives the reason.
type difference struct {
	files []string
	field string
	ours  string
	why   string
}

// everywhere stands for all recordings in the files of a difference. Only the values of such a field may also be as recorded.
const everywhere = "*"

var (
	differences = sync.OnceValue(func() []difference {
		lines, err := readTSV("differences.tsv", 4)
		if err != nil {
			panic(err)
		}
		all := make([]difference, len(lines))
		for i, l := range lines {
			all[i] = difference{strings.Fields(l[0]), l[1], l[2], l[3]}
		}
		return all
	})
	// met has the differences that comparisons of this run found, by file and field.
	met sync.Map

	knownID  = regexp.MustCompile(`\\u003c[0-9a-f]{12}\\u003e`)
	anyIndex = regexp.MustCompile(`\[\d+\]`)
	entries  = regexp.MustCompile(`^(\d+) entries$`)
)

// place identifies a field of a recording.
type place struct{ file, field string }

// absent is the value of a missing field.
type absent struct{}

// comparison compares an answer with its recording.
type comparison struct {
	file   string
	faults []string
}

// wholeDiff returns how an answer differs from its recording, except for listed differences. Both values are results of plain.
func wholeDiff(file string, want, have any) []string {
	c := &comparison{file: file}
	c.value("", want, have)
	return c.faults
}

func (c *comparison) fault(path string, want, have any) {
	c.faults = append(c.faults, fmt.Sprintf("%s: %s, want %s", cmp.Or(path, "body"), inJSON(have), inJSON(want)))
}

func inJSON(v any) string {
	if v == (absent{}) {
		return "nothing"
	}
	raw, _ := json.Marshal(v)
	return string(raw)
}

// value compares two values recursively: types, texts, numbers, keys, and lengths of lists.
func (c *comparison) value(path string, want, have any) {
	if d, ok := c.listed(path); ok {
		c.different(d, path, want, have)
		return
	}
	switch w := want.(type) {
	case map[string]any:
		h, is := have.(map[string]any)
		if !is {
			c.fault(path, want, have)
			return
		}
		for _, k := range slices.Sorted(maps.Keys(w)) {
			c.value(strings.TrimPrefix(path+"."+k, "."), w[k], entry(h, k))
		}
		for _, k := range slices.Sorted(maps.Keys(h)) {
			if _, recorded := w[k]; !recorded {
				c.value(strings.TrimPrefix(path+"."+k, "."), absent{}, h[k])
			}
		}
	case []any:
		h, is := have.([]any)
		if !is || len(h) != len(w) {
			c.fault(path, want, have)
			return
		}
		c.elements(path, w, h)
	default:
		if !reflect.DeepEqual(want, have) {
			c.fault(path, want, have)
		}
	}
}

func entry(object map[string]any, key string) any {
	if v, is := object[key]; is {
		return v
	}
	return absent{}
}

func (c *comparison) elements(path string, want, have []any) {
	for i := range min(len(want), len(have)) {
		c.value(path+"["+strconv.Itoa(i)+"]", want[i], have[i])
	}
}

// listed returns the listed difference of a field. One for this recording takes precedence over one for all recordings.
func (c *comparison) listed(path string) (difference, bool) {
	name := path[strings.LastIndexByte(path, '.')+1:]
	for _, d := range differences() {
		if slices.Contains(d.files, c.file) && (d.field == path || d.field == anyIndex.ReplaceAllString(path, "[]")) {
			return d, true
		}
	}
	for _, d := range differences() {
		if d.files[0] == everywhere && d.field == name {
			return d, true
		}
	}
	return difference{}, false
}

// different checks that a value is as listed, and notes whether it differs from the recording.
func (c *comparison) different(d difference, path string, want, have any) {
	if !reflect.DeepEqual(want, have) {
		file := c.file
		if d.files[0] == everywhere {
			file = everywhere
		}
		met.Store(place{file, d.field}, true)
	}
	switch n := entries.FindStringSubmatch(d.ours); {
	case d.ours == "any":
		if reflect.TypeOf(want) != reflect.TypeOf(have) {
			c.fault(path, want, have)
		}
	case d.ours == "more":
		if want != (absent{}) {
			c.fault(path, want, have)
		}
	case d.ours == "none":
		if have != (absent{}) {
			c.fault(path, absent{}, have)
		}
	case n != nil:
		w, _ := want.([]any)
		h, _ := have.([]any)
		if strconv.Itoa(len(h)) != n[1] {
			c.faults = append(c.faults, fmt.Sprintf("%s: %d entries, want %s", path, len(h), n[1]))
		}
		c.elements(path, w, h)
	default:
		var ours any
		if err := json.Unmarshal([]byte(d.ours), &ours); err != nil {
			c.faults = append(c.faults, fmt.Sprintf("differences.tsv: %s: %v", d.ours, err))
		}
		if have != (absent{}) {
			if err := json.Unmarshal([]byte(knownID.ReplaceAllString(inJSON(have), "<id>")), &have); err != nil {
				c.faults = append(c.faults, err.Error())
			}
		}
		if !reflect.DeepEqual(ours, have) {
			c.fault(path, ours, have)
		}
	}
}

// compareWhole compares an answer with a recording: keys, types, texts, numbers and lengths of lists.
func compareWhole(t *testing.T, file string, want, have any) {
	t.Helper()
	compares(t, file, "whole")
	for _, fault := range wholeDiff(file, plain(t, encoded(t, want)), plain(t, encoded(t, have))) {
		t.Errorf("%s: %s", file, fault)
	}
}

// compareShape compares the keys and types of an answer with those of a recording.
func compareShape(t *testing.T, file string, want, have any) {
	t.Helper()
	compares(t, file, "shape")
	if diff := shapeDiff(file, want, have); diff != "" {
		t.Errorf("%s: shape differs; a field of our own needs a line in testdata/differences.tsv (-reference +ours):\n%s", file, diff)
	}
}

// shapeDiff returns how the shapes of two values differ, except for listed differences; empty if they do not.
func shapeDiff(file string, want, have any) string {
	w, h := map[string]string{}, map[string]string{}
	shape("", want, w)
	shape("", have, h)
	c := comparison{file: file}
	for _, m := range []map[string]string{w, h} {
		for path := range m {
			if _, is := c.listed(path); is {
				delete(m, path)
			}
		}
	}
	return gocmp.Diff(w, h)
}

// shape adds the type of each part of a JSON value to into, by its path. All elements of a list have the same path. The content of maps with free keys is
// left out.
func shape(path string, v any, into map[string]string) {
	switch v := v.(type) {
	case nil:
		into[path] = "null"
	case bool:
		into[path] = "bool"
	case float64:
		into[path] = "number"
	case string:
		into[path] = "string"
	case []any:
		into[path] = "list"
		for _, e := range v {
			shape(path+"[]", e, into)
		}
	case map[string]any:
		into[path] = "object"
		if free[path[strings.LastIndexByte(path, '.')+1:]] {
			return
		}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			shape(strings.TrimPrefix(path+"."+k, "."), v[k], into)
		}
	}
}

// free has the names of fields that are maps with arbitrary keys.
var free = map[string]bool{"pulp_labels": true, "labels": true, "annotations": true, "versions": true, "added": true, "removed": true, "present": true}
