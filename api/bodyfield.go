package api

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/tasks"
)

const nullCharacters = "Null characters are not allowed."

// text reads a text that is not blank. required is whether it must be there, nullable whether it may be null.
func (b *body) text(name string, required, nullable bool) tasks.Optional[string] {
	v, set := b.value(name, false)
	switch {
	case !set:
		if required {
			b.fail(name, "This field is required.")
		}
		return tasks.Optional[string]{}
	case v == nil || nullable && v == "" && b.isForm(name):
		if !nullable {
			b.fail(name, "This field may not be null.")
		}
		return tasks.Optional[string]{Set: true}
	}
	s, ok := v.(string)
	if n, isNumber := v.(json.Number); isNumber {
		s, ok = n.String(), true
	}
	s = strings.TrimSpace(s)
	switch {
	case !ok:
		b.fail(name, "Not a valid string.")
	case s == "":
		b.fail(name, "This field may not be blank.")
	case strings.ContainsRune(s, 0):
		b.fail(name, nullCharacters)
	}
	return tasks.Optional[string]{Set: true, Value: &s}
}

// count reads a whole number of at least 1 that may be null.
func (b *body) count(name string) tasks.Optional[int64] { return b.number(name, 1) }

// number reads a whole number of at least so much that may be null.
func (b *body) number(name string, least int64) tasks.Optional[int64] {
	v, set := b.value(name, false)
	if !set {
		return tasks.Optional[int64]{}
	}
	if v == nil || v == "" {
		return tasks.Optional[int64]{Set: true}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(fmt.Sprint(v)), 10, 64)
	switch {
	case err != nil || v == true || v == false:
		b.fail(name, "A valid integer is required.")
	case n < least:
		b.fail(name, "Ensure this value is greater than or equal to %d.", least)
	case n > math.MaxInt32:
		b.fail(name, "Ensure this value is less than or equal to %d.", math.MaxInt32)
	}
	return tasks.Optional[int64]{Set: true, Value: &n}
}

// flag reads a boolean; nil when the body lacks it.
func (b *body) flag(name string) *bool {
	v, set := b.value(name, false)
	if !set {
		return nil
	}
	var is bool
	switch t := v.(type) {
	case bool:
		return &t
	case string:
		switch strings.ToLower(t) {
		case "true", "1", "yes", "on":
			is = true
			return &is
		case "false", "0", "no", "off", "":
			return &is
		}
	case nil:
		b.fail(name, "This field may not be null.")
		return nil
	}
	b.fail(name, "Must be a valid boolean.")
	return nil
}

// maxTexts is how many texts a list may have.
const maxTexts = 10_000

// texts reads a list of at most maxTexts texts; nil when the body lacks it.
func (b *body) texts(name string) []string {
	v, set := b.value(name, true)
	if !set {
		return nil
	}
	if v == nil && b.isForm(name) {
		return nil
	}
	list, ok := v.([]any)
	switch {
	case v == nil:
		b.fail(name, "This field may not be null.")
	case !ok:
		b.fail(name, "Expected a list of items but got type \"%s\".", pythonType(v))
	}
	if len(list) > maxTexts {
		b.fail(name, "Ensure this field has no more than %d elements.", maxTexts)
		return nil
	}
	texts := make([]string, 0, len(list))
	for _, item := range list {
		s, ok := item.(string)
		if !ok || s == "" {
			b.fail(name, "Not a valid string.")
			return nil
		}
		if strings.ContainsRune(s, 0) {
			b.fail(name, nullCharacters)
			return nil
		}
		texts = append(texts, s)
	}
	return texts
}

// optionalTexts reads a list of texts that may be null.
func (b *body) optionalTexts(name string) tasks.Optional[[]string] {
	v, set := b.value(name, true)
	if !set || v == nil {
		return tasks.Optional[[]string]{Set: set}
	}
	list := b.texts(name)
	return tasks.Optional[[]string]{Set: true, Value: &list}
}

// labels reads a map of labels; nil when the body lacks it.
func (b *body) labels(name string) *map[string]*string {
	v, set := b.value(name, true)
	if !set {
		return nil
	}
	object, ok := v.(map[string]any)
	switch {
	case v == nil && !b.isForm(name):
		b.fail(name, "This field may not be null.")
	case v != nil && !ok:
		b.fail(name, "Expected a dictionary of items but got type \"%s\".", pythonType(v))
	}
	if len(object) > pulp.MaxLabels {
		b.fail(name, "Ensure this field has no more than %d elements.", pulp.MaxLabels)
		return nil
	}
	labels := make(map[string]*string, len(object))
	for key, value := range object {
		if !validLabelKey(key) {
			b.fail(name, "Key '%s' contains non-alphanumerics.", key)
		}
		switch s := value.(type) {
		case nil:
			labels[key] = nil
		case string:
			if strings.ContainsAny(s, "()") {
				b.fail(name, "Key '%s' contains value with parenthesis.", key)
			}
			if strings.ContainsRune(s, 0) {
				b.fail(name, nullCharacters)
			}
			labels[key] = &s
		default:
			b.fail(name, "Not a valid string.")
		}
	}
	return &labels
}

// validLabelKey says whether a text may be the key of a label (contract 1.5).
func validLabelKey(key string) bool {
	for _, r := range key {
		if !strings.ContainsRune("_. -", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return false
		}
	}
	return key != ""
}

// moment reads a point in time; nil when the body lacks it.
func (b *body) moment(name string) *time.Time {
	v, set := b.value(name, false)
	if !set {
		return nil
	}
	text, _ := v.(string)
	t, ok := parseTime(text)
	switch {
	case v == nil:
		b.fail(name, "This field may not be null.")
	case !ok:
		b.fail(name, "Datetime has wrong format. Use one of these formats instead: YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z].")
	}
	return &t
}
