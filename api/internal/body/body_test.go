package body

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/tasks"
)

// FuzzJSON proves that every reader copes with every value.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":[{"b":1e999}]}`, `[]`, `{"a":1}x`, "{\"\xff\":1}", strings.Repeat("[", 10001),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { readAll(t, raw, "application/json") })
}

// FuzzForm proves that every reader copes with every value of a form.
func FuzzForm(f *testing.F) {
	for _, seed := range []string{"", "a=1&a=2", "a=[1", "a={}", "%ff=1", "a=%00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { readAll(t, raw, "application/x-www-form-urlencoded") })
}

// readAll reads each field of a body as each type.
func readAll(t *testing.T, raw []byte, contentType string) {
	t.Helper()
	fields, err := Parse(raw, contentType)
	if err != nil {
		return
	}
	for name := range fields.values {
		b := &Fields{values: fields.values, known: map[string]bool{}, errs: map[string][]string{}}
		b.Text(name, Required)
		b.Text(name, Nullable)
		b.Secret(name)
		b.Count(name)
		b.Seconds(name)
		b.Bool(name)
		b.Texts(name)
		b.OptionalTexts(name)
		b.Labels(name)
		b.Time(name)
		b.Reference(name)
		b.Related(name, "tasks/")
		b.WebURL(name)
		b.Headers(name)
		b.Certificate(name)
		b.PrivateKey(name)
		if err := b.Finish(); err == nil && !b.Valid() {
			t.Errorf("field %q: Finish returns no error for %v", name, b.errs)
		}
	}
}

// shown makes JSON show whether an optional value is set.
func shown[T any](o tasks.Optional[T]) any { return map[string]any{"set": o.Set, "value": o.Value} }

// TestReaders compares the value and the errors that each reader returns for a JSON field, or for a field of a form.
func TestReaders(t *testing.T) {
	t.Parallel()
	const (
		required = "This field is required."
		null     = "This field may not be null."
		list     = `Expected a list of items but got type "str".`
		dict     = `Expected a dictionary of items but got type "list".`
	)
	text := func(rules ...Rule) func(*Fields) any {
		return func(f *Fields) any { return shown(f.Text("x", rules...)) }
	}
	ints := func(f *Fields) any { return shown(f.Int("x", 0)) }
	bools := func(f *Fields) any { return f.Bool("x") }
	texts := func(f *Fields) any { return f.Texts("x") }
	labels := func(f *Fields) any { return f.Labels("x") }
	for name, c := range map[string]struct {
		json string // the body; empty: form
		form string
		read func(*Fields) any
		want string // the value as JSON
		err  string // empty: none
	}{
		"text":                   {json: `{"x":" a "}`, read: text(), want: `{"set":true,"value":"a"}`},
		"text, a number":         {json: `{"x":1.50}`, read: text(), want: `{"set":true,"value":"1.50"}`},
		"text, absent":           {json: `{}`, read: text(), want: `{"set":false,"value":null}`},
		"text, absent, required": {json: `{}`, read: text(Required), err: required},
		"text, null":             {json: `{"x":null}`, read: text(), err: null},
		"text, null, nullable":   {json: `{"x":null}`, read: text(Nullable), want: `{"set":true,"value":null}`},
		"text, blank":            {json: `{"x":" "}`, read: text(Nullable), err: "This field may not be blank."},
		"text, blank in a form":  {form: "x=", read: text(Nullable), want: `{"set":true,"value":null}`},
		"text, blank, allowed":   {json: `{"x":" "}`, read: text(Blank), want: `{"set":true,"value":""}`},
		"text, repeated":         {form: "x=a&x=b", read: text(), want: `{"set":true,"value":"b"}`},
		"text, a list":           {json: `{"x":[]}`, read: text(), err: "Not a valid string."},
		"text, a null character": {json: `{"x":"a\u0000"}`, read: text(), err: NullCharacters},
		"integer":                {json: `{"x":7}`, read: ints, want: `{"set":true,"value":7}`},
		"integer, a text":        {json: `{"x":" 7 "}`, read: ints, want: `{"set":true,"value":7}`},
		"integer, null":          {json: `{"x":null}`, read: ints, want: `{"set":true,"value":null}`},
		"integer, a boolean":     {json: `{"x":true}`, read: ints, err: "A valid integer is required."},
		"integer, a fraction":    {json: `{"x":0.5}`, read: ints, err: "A valid integer is required."},
		"integer, negative":      {json: `{"x":-1}`, read: ints, err: "Ensure this value is greater than or equal to 0."},
		"integer, large": {
			json: `{"x":2147483648}`, read: ints, err: "Ensure this value is less than or equal to 2147483647.",
		},
		"boolean":                 {json: `{"x":true}`, read: bools, want: `true`},
		"boolean, a text":         {json: `{"x":"Yes"}`, read: bools, want: `true`},
		"boolean, absent":         {json: `{}`, read: bools, want: `null`},
		"boolean, null":           {json: `{"x":null}`, read: bools, err: null},
		"boolean, another text":   {json: `{"x":"maybe"}`, read: bools, err: "Must be a valid boolean."},
		"texts":                   {json: `{"x":["a","b"]}`, read: texts, want: `["a","b"]`},
		"texts, a repeated field": {form: "x=a&x=b", read: texts, want: `["a","b"]`},
		"texts, JSON in a form":   {form: `x=["a"]`, read: texts, want: `["a"]`},
		"texts, a text":           {json: `{"x":"a"}`, read: texts, err: list},
		"texts, null":             {json: `{"x":null}`, read: texts, err: null},
		"texts, a blank item":     {json: `{"x":[""]}`, read: texts, err: "Not a valid string."},
		"labels":                  {json: `{"x":{"a":"b","c":null}}`, read: labels, want: `{"a":"b","c":null}`},
		"labels, a list":          {json: `{"x":[]}`, read: labels, err: dict},
		"labels, a bad key":       {json: `{"x":{"a/b":"c"}}`, read: labels, err: "Key 'a/b' contains non-alphanumerics."},
		"labels, a bad value":     {json: `{"x":{"a":"("}}`, read: labels, err: "Key 'a' contains value with parenthesis."},
		"an unknown field":        {json: `{"x":1}`, read: func(*Fields) any { return nil }, err: "Unexpected field"},
		"a field without effect":  {json: `{"x":1}`, read: func(f *Fields) any { f.Ignore("x"); return nil }, want: `null`},
		"a read-only field":       {json: `{"prn":1}`, read: func(*Fields) any { return nil }, want: `null`},
		"a URL": {
			json: `{"x":"http://h/p"}`, read: func(f *Fields) any { return shown(f.WebURL("x")) },
			want: `{"set":true,"value":"http://h/p"}`,
		},
		"a URL with credentials": {
			json: `{"x":"http://u:p@h"}`, read: func(f *Fields) any { return shown(f.WebURL("x")) }, err: "Enter a valid URL.",
		},
		"a reference": {
			json: `{"x":"abc"}`, read: func(f *Fields) any { f.Related("x", "tasks/"); return nil },
			err: "Invalid hyperlink - No URL match.",
		},
		"a time": {
			json: `{"x":"2026-11-22"}`, read: func(f *Fields) any { return f.Time("x") }, want: `"2026-11-22T00:00:00Z"`,
		},
		"seconds": {
			json: `{"x":1.5}`, read: func(f *Fields) any { return shown(f.Seconds("x")) }, want: `{"set":true,"value":1.5}`,
		},
		"seconds without a bound": {
			json: `{"x":1e999}`, read: func(f *Fields) any { return shown(f.Seconds("x")) }, err: "A valid number is required.",
		},
		"a secret keeps its space": {
			json: `{"x":" a "}`, read: func(f *Fields) any { return shown(f.Secret("x")) }, want: `{"set":true,"value":" a "}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, kind := c.json, "application/json"
			if raw == "" {
				raw, kind = c.form, "application/x-www-form-urlencoded"
			}
			f, err := Parse([]byte(raw), kind)
			if err != nil {
				t.Fatal(err)
			}
			value := c.read(f)
			err = f.Finish()
			if c.err != "" {
				e, ok := errors.AsType[*fault.Error](err)
				if !ok || len(e.Fields["x"]) != 1 || e.Fields["x"][0] != c.err {
					t.Errorf("error %v, want x: %s", err, c.err)
				}
				return
			}
			got, marshalErr := json.Marshal(value)
			if err != nil || marshalErr != nil || string(got) != c.want {
				t.Errorf("%s, error %v; want %s", got, errors.Join(err, marshalErr), c.want)
			}
		})
	}
}

// TestParseRefusesMalformedBodies proves that each kind of body has its own error, and that an empty body has no
// fields.
func TestParseRefusesMalformedBodies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ raw, contentType, want string }{
		{raw: `{`, contentType: "application/json", want: "JSON parse error - "},
		{raw: `{} {}`, contentType: "application/json", want: "JSON parse error - Extra data"},
		{raw: "{\"a\":\"\xff\"}", contentType: "application/json", want: "JSON parse error - the text is not UTF-8"},
		{raw: `[]`, contentType: "application/json", want: "Expected a dictionary, but got list."},
		{raw: `a=%zz`, contentType: "application/x-www-form-urlencoded", want: "Form parse error"},
		{raw: "--x\r\n", contentType: "multipart/form-data; boundary=x", want: "Multipart form parse error"},
		{raw: "x", contentType: "text/xml", want: `Unsupported media type "text/xml" in request.`},
		{raw: "x", contentType: "", want: `Unsupported media type "" in request.`},
	} {
		if _, err := Parse([]byte(c.raw), c.contentType); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q as %s: error %v, want %s", c.raw, c.contentType, err, c.want)
		}
	}
	if f, err := Parse(nil, "text/xml"); err != nil || f.Has("x") {
		t.Errorf("an empty body: %v, error %v", f, err)
	}
}
