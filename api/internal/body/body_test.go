package body

import (
	"strings"
	"testing"
)

// FuzzJSON proves that every reader copes with every value.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":[{"b":1e999}]}`, `[]`, `{"a":1}x`, "{\"\xff\":1}", strings.Repeat("[", 10001)} {
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
