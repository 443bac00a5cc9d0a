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

// difference is a line of testdata/differences.tsv: a field that is not as recorded, and what it is here.
//
// Its files are recordings, or "*" for all. Its field is a path as results[0].number, where [] is any element; of all recordings, it is a field's name.
// What ours is: any (another value of the recorded type), more (a field that the recordings lack), none (no such field), "3 entries" (the length of the
// list), or JSON, in which ids and times are as normal has them. A header is a field too, with its colon.
type difference struct {
	files []string
	field string
	ours  string
	why   string
}

// everywhere are the files of a difference that stands wherever its field does. Only such a difference may also be as recorded.
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
	// met are the differences, as file and field, that a comparison of this run came upon.
	met sync.Map

	knownID  = regexp.MustCompile(`\\u003c[0-9a-f]{12}\\u003e`)
	anyIndex = regexp.MustCompile(`\[\d+\]`)
	entries  = regexp.MustCompile(`^(\d+) entries$`)
)

// place is a field of a recording.
type place struct{ file, field string }

// absent stands for the value of a field that is not there.
type absent struct{}

// comparison is one of an answer with its recording.
type comparison struct {
	file   string
	faults []string
}

// wholeDiff says in what an answer is another than recorded, beside the differences that are listed; both are as plain has them.
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

// value compares two values and what is in them: their types, texts, numbers, keys, and how many entries a list has.
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

// listed returns the difference that stands for a field; the recording's own goes before one of all recordings.
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

// different sees that a value is what the list says, and that the list says so for a reason.
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

// compareWhole holds an answer against a recording: keys, types, texts, numbers and how many entries lists have.
func compareWhole(t *testing.T, file string, want, have any) {
	t.Helper()
	compares(t, file, "whole")
	for _, fault := range wholeDiff(file, plain(t, encoded(t, want)), plain(t, encoded(t, have))) {
		t.Errorf("%s: %s", file, fault)
	}
}

// compareShape holds an answer's keys and types against a recording's.
func compareShape(t *testing.T, file string, want, have any) {
	t.Helper()
	compares(t, file, "shape")
	if diff := shapeDiff(file, want, have); diff != "" {
		t.Errorf("%s: shape differs (-reference +ours):\n%s", file, diff)
	}
}

// shapeDiff says how two values' shapes differ, beside the differences that are listed; empty: they do not.
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

// shape describes a JSON value by its keys and types, each a line. Of a list it describes the elements together, of a map with free keys nothing but
// that it is one.
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

// free are fields that are maps with keys of their own.
var free = map[string]bool{"pulp_labels": true, "labels": true, "annotations": true, "versions": true, "added": true, "removed": true, "present": true}
