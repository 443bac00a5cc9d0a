// Package body reads the bodies of requests to the REST API field by field: JSON objects, forms and multipart forms.
//
// Errors have Pulp's texts. A reader notes the error of its field and goes on, so that one response names every field
// with an error; Finish returns them.
package body

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/strictjson"
)

// MaxBytes is the size limit of a body, which holds names and hrefs.
const MaxBytes = 1 << 20

// Fields are the fields of one body.
type Fields struct {
	values map[string]any // of JSON; a form's values are []string
	known  map[string]bool
	errs   fault.Fields
	reads  Form       // what readers have read, if the request is observed
	done   func(Form) // gets the fields that were read; nil: the request is not observed
}

// readOnly are fields that every body may hold without effect (compatibility.md#errors).
var readOnly = []string{
	"pulp_href", "prn", "pulp_created", "pulp_last_updated", "versions_href", "latest_version_href",
}

// Read reads the body of a request, which must be limited to MaxBytes bytes by http.MaxBytesReader. An empty body has
// no fields, whatever its media type.
func Read(r *http.Request) (*Fields, error) {
	f, _, err := ReadRaw(r)
	return f, err
}

// ReadRaw returns the fields of a body, as Read does, and its text.
func ReadRaw(r *http.Request) (*Fields, []byte, error) {
	raw, err := readText(r)
	if err != nil {
		return nil, nil, err
	}
	f, err := Parse(raw, r.Header.Get("Content-Type"))
	f.observe(r.Context())
	return f, raw, err
}

func readText(r *http.Request) ([]byte, error) {
	raw, err := io.ReadAll(r.Body)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, fault.New(fault.TooLarge, "The request's body has more than %d bytes.", MaxBytes)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "The request's body ended early.")
	}
	return raw, nil
}

// Parse parses a body of the media type that a Content-Type header names.
func Parse(raw []byte, contentType string) (*Fields, error) {
	f := &Fields{values: map[string]any{}, known: map[string]bool{}, errs: fault.Fields{}}
	if len(raw) == 0 {
		return f, nil
	}
	var err error
	switch mediaType(contentType) {
	case "application/json":
		f.values, err = parseJSON(raw)
	case "application/x-www-form-urlencoded":
		f.values, err = parseForm(raw)
	case "multipart/form-data":
		f.values, err = parseMultipart(raw, contentType)
	default:
		err = &reply.Error{
			Status: http.StatusUnsupportedMediaType,
			Body:   reply.Detail(fmt.Sprintf("Unsupported media type \"%s\" in request.", contentType)),
		}
	}
	return f, err
}

// mediaType returns the media type of a Content-Type header, in lower case and without parameters.
func mediaType(header string) string {
	if name, _, err := mime.ParseMediaType(header); err == nil {
		return name
	}
	name, _, _ := strings.Cut(header, ";")
	return strings.ToLower(strings.TrimSpace(name))
}

func malformed(text string) error {
	return &reply.Error{Status: http.StatusBadRequest, Body: reply.Detail(text)}
}

// parseJSON parses a JSON object as Pulp's parser does: of a key that occurs twice the last value counts. Numbers stay
// texts.
func parseJSON(raw []byte) (map[string]any, error) {
	bad := func(text string) error { return malformed("JSON parse error - " + text) }
	if !utf8.Valid(raw) {
		return nil, bad("the text is not UTF-8")
	}
	var v any
	if err := strictjson.Decode(raw, &v); errors.Is(err, strictjson.ErrTrailing) {
		return nil, bad("Extra data")
	} else if err != nil {
		return nil, bad(err.Error())
	}
	values, ok := v.(map[string]any)
	if !ok {
		return nil, fault.New(fault.Invalid, "Invalid data. Expected a dictionary, but got %s.", PythonType(v))
	}
	return values, nil
}

func parseForm(raw []byte) (map[string]any, error) {
	form, err := url.ParseQuery(string(raw))
	if err != nil || !isUTF8(form) {
		return nil, malformed("Form parse error - the form is malformed.")
	}
	return formValues(form), nil
}

func parseMultipart(raw []byte, contentType string) (map[string]any, error) {
	bad := malformed("Multipart form parse error - the form is malformed.")
	_, params, err := mime.ParseMediaType(contentType)
	// multipart.Reader accepts a form without the closing boundary as complete.
	if err != nil || params["boundary"] == "" || !bytes.Contains(raw, []byte("--"+params["boundary"]+"--")) {
		return nil, bad
	}
	form, err := multipart.NewReader(bytes.NewReader(raw), params["boundary"]).ReadForm(2 * MaxBytes) // keeps all in memory
	if err != nil || !isUTF8(form.Value) {
		return nil, bad
	}
	values := formValues(form.Value)
	for name := range form.File {
		values[name] = struct{}{} // no reader accepts a file
	}
	return values, nil
}

// isUTF8 reports whether all names and values of a form are UTF-8.
func isUTF8(form map[string][]string) bool {
	for name, values := range form {
		if !utf8.ValidString(name) || !utf8.ValidString(strings.Join(values, "")) {
			return false
		}
	}
	return true
}

func formValues(form map[string][]string) map[string]any {
	values := make(map[string]any, len(form))
	for name, v := range form {
		values[name] = v
	}
	return values
}

// PythonType returns the name of a JSON value's type in Python, which Pulp's messages contain.
func PythonType(v any) string {
	switch v := v.(type) {
	case nil:
		return "NoneType"
	case bool:
		return "bool"
	case string:
		return "str"
	case json.Number:
		if _, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return "int"
		}
		return "float"
	case []any:
		return "list"
	}
	return "dict"
}

// Has reports whether the body has a field, which may be null.
func (f *Fields) Has(name string) bool {
	_, ok := f.values[name]
	return ok
}

// Ignore allows fields that have no effect, for instance those that a resource shows and no client can set.
func (f *Fields) Ignore(names ...string) {
	for _, name := range names {
		f.known[name] = true
	}
}

// Fail notes an error of a field.
func (f *Fields) Fail(name, format string, args ...any) {
	f.errs[name] = append(f.errs[name], fmt.Sprintf(format, args...))
}

// Valid reports whether none of the fields, or of all fields when none are named, has an error.
func (f *Fields) Valid(names ...string) bool {
	if len(names) == 0 {
		return len(f.errs) == 0
	}
	return !slices.ContainsFunc(names, func(name string) bool { return len(f.errs[name]) > 0 })
}

// Finish returns the noted errors. When there are none, it refuses fields that no reader asked for.
func (f *Fields) Finish() error {
	if len(f.errs) == 0 {
		for name := range f.values {
			if !f.known[name] && !slices.Contains(readOnly, name) {
				f.Fail(name, "Unexpected field")
			}
		}
	}
	if len(f.errs) == 0 {
		if f.done != nil {
			f.done(f.reads)
		}
		return nil
	}
	return &fault.Error{Kind: fault.Invalid, Msg: "The request's body is not valid.", Fields: f.errs}
}

// Value returns a field in its JSON form: nil, bool, string, json.Number, []any or map[string]any. ok is false when
// the body lacks it. Of a repeated field of a form the last value counts.
func (f *Fields) Value(name string) (v any, ok bool) {
	f.note(name, Value)
	return f.value(name)
}

func (f *Fields) value(name string) (v any, ok bool) {
	f.known[name] = true
	v, ok = f.values[name]
	if texts, isForm := v.([]string); isForm {
		return texts[len(texts)-1], true
	}
	return v, ok
}

// nested returns a field that holds a list or an object. A form holds it as JSON, or a list as a repeated field; an
// empty text is null.
func (f *Fields) nested(name string) (v any, ok bool) {
	f.known[name] = true
	v, ok = f.values[name]
	texts, isForm := v.([]string)
	if !isForm {
		return v, ok
	}
	last := texts[len(texts)-1]
	if last == "" {
		return nil, true
	}
	if parsed, err := parseNested(last); err == nil {
		return parsed, true
	}
	list := make([]any, len(texts))
	for i, t := range texts {
		list[i] = t
	}
	return list, true
}

func parseNested(text string) (any, error) {
	if !strings.HasPrefix(text, "[") && !strings.HasPrefix(text, "{") {
		return nil, errors.New("not nested")
	}
	var v any
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	err := dec.Decode(&v)
	return v, err
}

// isForm reports whether a field comes from a form, where an empty text stands for null.
func (f *Fields) isForm(name string) bool {
	_, ok := f.values[name].([]string)
	return ok
}
