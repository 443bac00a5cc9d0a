package body

import (
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/tasks"
)

// Messages that several readers use.
const (
	NullCharacters = "Null characters are not allowed." // PostgreSQL stores no text with one
	notNull        = "This field may not be null."
	notText        = "Not a valid string."
	tooLong        = "Ensure this field has no more than %d elements."
	notList        = "Expected a list of items but got type \"%s\"."
	notDict        = "Expected a dictionary of items but got type \"%s\"."
)

// Rule is a property of a text field.
type Rule int

// Rules of text fields. A field without rules may be absent and may not be null.
const (
	Required Rule = 1 << iota // the body must have the field
	Nullable                  // the field may be null
	Blank                     // the text may be empty
)

// RequiredIf returns Required when the condition holds.
func RequiredIf(condition bool) Rule {
	if condition {
		return Required
	}
	return 0
}

// Text reads a text without the space around it. It is not blank unless the rules allow that.
func (f *Fields) Text(name string, rules ...Rule) tasks.Optional[string] {
	var rule Rule
	for _, r := range rules {
		rule |= r
	}
	nullable := rule&Nullable != 0
	f.note(name, textWith(rule))
	v, ok := f.value(name)
	switch {
	case !ok:
		if rule&Required != 0 {
			f.Fail(name, "This field is required.")
		}
		return tasks.Optional[string]{}
	case v == nil || nullable && v == "" && f.isForm(name):
		if !nullable {
			f.Fail(name, notNull)
		}
		return tasks.Optional[string]{Set: true}
	}
	s, isText := v.(string)
	if n, isNumber := v.(json.Number); isNumber {
		s, isText = n.String(), true
	}
	s = strings.TrimSpace(s)
	switch {
	case !isText:
		f.Fail(name, notText)
	case s == "" && rule&Blank == 0:
		f.Fail(name, "This field may not be blank.")
	case strings.ContainsRune(s, 0):
		f.Fail(name, NullCharacters)
	}
	return tasks.Optional[string]{Set: true, Value: &s}
}

// textWith returns the field that Text reads with some rules.
func textWith(rule Rule) Field {
	field := Text
	if rule&Required != 0 {
		field = field.Required()
	}
	if rule&Nullable != 0 {
		field = field.Nullable()
	}
	if rule&Blank != 0 {
		field = field.Blank()
	}
	return field
}

// Secret reads a text that is never shown, with its spaces. It may be null; a blank text is null too, as in forms.
func (f *Fields) Secret(name string) tasks.Optional[string] {
	f.note(name, Secret)
	v, ok := f.value(name)
	if !ok || v == nil || v == "" {
		return tasks.Optional[string]{Set: ok}
	}
	s, isText := v.(string)
	switch {
	case !isText:
		f.Fail(name, notText)
	case strings.ContainsRune(s, 0):
		f.Fail(name, NullCharacters)
	}
	return tasks.Optional[string]{Set: true, Value: &s}
}

// Count reads an integer of at least 1 that may be null.
func (f *Fields) Count(name string) tasks.Optional[int64] { return f.Int(name, 1) }

// Int reads an integer from least to the largest 32-bit integer that may be null.
func (f *Fields) Int(name string, least int64) tasks.Optional[int64] {
	f.note(name, Int(least))
	v, ok := f.value(name)
	if !ok || v == nil || v == "" {
		return tasks.Optional[int64]{Set: ok}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(fmt.Sprint(v)), 10, 64)
	switch {
	case err != nil:
		f.Fail(name, "A valid integer is required.")
	case n < least:
		f.Fail(name, "Ensure this value is greater than or equal to %d.", least)
	case n > math.MaxInt32:
		f.Fail(name, "Ensure this value is less than or equal to %d.", math.MaxInt32)
	}
	return tasks.Optional[int64]{Set: true, Value: &n}
}

// Seconds reads a duration in seconds that may be null.
func (f *Fields) Seconds(name string) tasks.Optional[float64] {
	f.note(name, Seconds)
	v, ok := f.value(name)
	if !ok || v == nil || v == "" {
		return tasks.Optional[float64]{Set: ok}
	}
	var n float64
	var err error
	switch t := v.(type) {
	case json.Number:
		n, err = t.Float64()
	case string:
		n, err = strconv.ParseFloat(strings.TrimSpace(t), 64)
	default:
		err = strconv.ErrSyntax
	}
	switch {
	case err != nil || math.IsNaN(n) || math.IsInf(n, 0):
		f.Fail(name, "A valid number is required.")
	case n < 0:
		f.Fail(name, "Ensure this value is greater than or equal to 0.0.")
	}
	return tasks.Optional[float64]{Set: true, Value: &n}
}

// Bool reads a boolean. It returns nil when the body lacks it.
func (f *Fields) Bool(name string) *bool {
	f.note(name, Bool)
	v, ok := f.value(name)
	if !ok {
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
		f.Fail(name, notNull)
		return nil
	}
	f.Fail(name, "Must be a valid boolean.")
	return nil
}

// maxTexts is the largest length of a list of texts.
const maxTexts = 10_000

// Texts reads a list of at most 10,000 texts. It returns nil when the body lacks it.
func (f *Fields) Texts(name string) []string {
	f.note(name, Texts)
	v, ok := f.nested(name)
	if !ok || v == nil && f.isForm(name) {
		return nil
	}
	list, isList := v.([]any)
	switch {
	case v == nil:
		f.Fail(name, notNull)
	case !isList:
		f.Fail(name, notList, PythonType(v))
	}
	if len(list) > maxTexts {
		f.Fail(name, tooLong, maxTexts)
		return nil
	}
	texts := make([]string, 0, len(list))
	for _, item := range list {
		s, isText := item.(string)
		if !isText || s == "" {
			f.Fail(name, notText)
			return nil
		}
		if strings.ContainsRune(s, 0) {
			f.Fail(name, NullCharacters)
			return nil
		}
		texts = append(texts, s)
	}
	return texts
}

// OptionalTexts reads a list of at most 10,000 texts that may be null.
func (f *Fields) OptionalTexts(name string) tasks.Optional[[]string] {
	f.note(name, OptionalTexts)
	v, ok := f.nested(name)
	if !ok || v == nil {
		return tasks.Optional[[]string]{Set: ok}
	}
	list := f.Texts(name)
	f.note(name, OptionalTexts)
	return tasks.Optional[[]string]{Set: true, Value: &list}
}

// Labels reads an object of labels, whose values may be null. It returns nil when the body lacks it.
func (f *Fields) Labels(name string) *map[string]*string {
	f.note(name, Labels)
	v, ok := f.nested(name)
	if !ok {
		return nil
	}
	object, isObject := v.(map[string]any)
	switch {
	case v == nil && !f.isForm(name):
		f.Fail(name, notNull)
	case v != nil && !isObject:
		f.Fail(name, notDict, PythonType(v))
	}
	if len(object) > pulp.MaxLabels {
		f.Fail(name, tooLong, pulp.MaxLabels)
		return nil
	}
	labels := make(map[string]*string, len(object))
	for key, value := range object {
		if !ValidLabelKey(key) {
			f.Fail(name, "Key '%s' contains non-alphanumerics.", key)
		}
		switch s := value.(type) {
		case nil:
			labels[key] = nil
		case string:
			if strings.ContainsAny(s, "()") {
				f.Fail(name, "Key '%s' contains value with parenthesis.", key)
			}
			if strings.ContainsRune(s, 0) {
				f.Fail(name, NullCharacters)
			}
			labels[key] = &s
		default:
			f.Fail(name, notText)
		}
	}
	return &labels
}

// ValidLabelKey reports whether a text can be the key of a label (compatibility.md#writes).
func ValidLabelKey(key string) bool {
	for _, r := range key {
		if !strings.ContainsRune("_. -", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return false
		}
	}
	return key != ""
}

// Time reads a point in time. It returns nil when the body lacks it.
func (f *Fields) Time(name string) *time.Time {
	f.note(name, Time)
	v, ok := f.value(name)
	if !ok {
		return nil
	}
	text, _ := v.(string)
	t, valid := timestamp.Parse(text)
	switch {
	case v == nil:
		f.Fail(name, notNull)
	case !valid:
		f.Fail(name, "Datetime has wrong format. "+
			"Use one of these formats instead: YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z].")
	}
	return &t
}

// OptionalTime reads a point in time that may be null. It returns nil when the field is null or absent.
func (f *Fields) OptionalTime(name string) *time.Time {
	var t *time.Time
	if v, ok := f.value(name); ok && v != nil {
		t = f.Time(name)
	}
	f.note(name, OptionalTime)
	return t
}

// Reference reads the text of a field that names another object. It returns "" when the field is null or absent.
func (f *Fields) Reference(name string) string {
	f.note(name, Reference)
	v, _ := f.value(name)
	if v == nil {
		return ""
	}
	s, isText := v.(string)
	if !isText {
		f.Fail(name, "Incorrect type. Expected URL string, received %s.", PythonType(v))
	}
	return s
}

// Related reads a field that names an object of one of the collections by href, URL or PRN. ok is false when the
// field is null, absent or wrong.
func (f *Fields) Related(name string, collections ...string) (ref pulp.Ref, ok bool) {
	text := f.Reference(name)
	if text == "" {
		return ref, false
	}
	if u, err := url.Parse(text); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		text = u.Path
	}
	ref, ok = pulp.ParseRef(text)
	switch {
	case !ok:
		f.Fail(name, "Invalid hyperlink - No URL match.")
	case !slices.Contains(collections, ref.Collection) || ref.Version >= 0: // the href of a version contains its repository's
		f.Fail(name, "Invalid hyperlink - Incorrect URL match.")
		ok = false
	}
	return ref, ok
}
