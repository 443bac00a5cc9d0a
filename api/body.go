package api

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

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/strictjson"
)

// maxBody is how many bytes a request's body may have; what this API is told are names and hrefs.
const maxBody = 1 << 20

// body is what a request says, field by field. Its readers note what is wrong with a field and go on, so that one answer names all; finish returns it.
type body struct {
	values map[string]any // of JSON; of forms a []string each
	known  map[string]bool
	errs   fault.Fields
}

// readOnly are fields that a body may hold without effect (contract 1.4).
var readOnly = []string{
	"pulp_href", "prn", "pulp_created", "pulp_last_updated", "versions_href", "latest_version_href",
}

// body reads the request's body: JSON, a form, or a multipart form.
func (r *request) body() (*body, error) {
	b := &body{known: map[string]bool{}, errs: fault.Fields{}}
	raw, err := io.ReadAll(r.Body)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, fault.New(fault.TooLarge, "The request's body has more than %d bytes.", maxBody)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "The request's body ended early.")
	}
	if len(raw) == 0 {
		b.values = map[string]any{}
		return b, nil
	}
	switch contentType := r.Header.Get("Content-Type"); mediaType(contentType) {
	case "application/json":
		b.values, err = parseJSON(raw)
	case "application/x-www-form-urlencoded":
		b.values, err = parseForm(raw)
	case "multipart/form-data":
		b.values, err = parseMultipart(raw, contentType)
	default:
		err = &httpError{http.StatusUnsupportedMediaType, detail(fmt.Sprintf("Unsupported media type \"%s\" in request.", contentType))}
	}
	return b, err
}

func parseJSON(raw []byte) (map[string]any, error) {
	bad := func(text string) error {
		return &httpError{http.StatusBadRequest, detail("JSON parse error - " + text)}
	}
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
		return nil, fault.New(fault.Invalid, "Invalid data. Expected a dictionary, but got %s.", pythonType(v))
	}
	return values, nil
}

func parseForm(raw []byte) (map[string]any, error) {
	form, err := url.ParseQuery(string(raw))
	if err != nil || !validTexts(form) {
		return nil, &httpError{http.StatusBadRequest, detail("Form parse error - the form is malformed.")}
	}
	return formValues(form), nil
}

func parseMultipart(raw []byte, contentType string) (map[string]any, error) {
	bad := &httpError{http.StatusBadRequest, detail("Multipart form parse error - the form is malformed.")}
	_, params, err := mime.ParseMediaType(contentType)
	// The reader takes a form that was cut off for one that is complete.
	if err != nil || params["boundary"] == "" || !bytes.Contains(raw, []byte("--"+params["boundary"]+"--")) {
		return nil, bad
	}
	form, err := multipart.NewReader(bytes.NewReader(raw), params["boundary"]).ReadForm(2 * maxBody) // all of it stays in memory
	if err != nil || !validTexts(form.Value) {
		return nil, bad
	}
	values := formValues(form.Value)
	for name := range form.File {
		values[name] = struct{}{} // no field here takes a file
	}
	return values, nil
}

// validTexts says whether all of a form is UTF-8.
func validTexts(form map[string][]string) bool {
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

// pythonType names the type of a JSON value as the reference's messages do.
func pythonType(v any) string {
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

// ignore lets fields pass without effect: those that a resource shows and nobody sets (contract 1.4).
func (b *body) ignore(names ...string) {
	for _, name := range names {
		b.known[name] = true
	}
}

// fail notes what is wrong with a field.
func (b *body) fail(name, format string, args ...any) {
	b.errs[name] = append(b.errs[name], fmt.Sprintf(format, args...))
}

// finish returns what was wrong; when nothing was, whether there are fields that nobody knows.
func (b *body) finish() error {
	if len(b.errs) == 0 {
		for name := range b.values {
			if !b.known[name] && !slices.Contains(readOnly, name) {
				b.fail(name, "Unexpected field")
			}
		}
	}
	if len(b.errs) == 0 {
		return nil
	}
	return &fault.Error{Kind: fault.Invalid, Msg: "The request's body is not valid.", Fields: b.errs}
}

// value returns a field as JSON would have it; a form's texts are read as JSON where that is what nested asks for. set is false when the body lacks the field.
func (b *body) value(name string, nested bool) (v any, set bool) {
	b.known[name] = true
	v, set = b.values[name]
	texts, isForm := v.([]string)
	if !isForm {
		return v, set
	}
	last := texts[len(texts)-1]
	if !nested {
		return last, true
	}
	if last == "" {
		return nil, true
	}
	if parsed, err := parseNested(last); err == nil {
		return parsed, true
	}
	list := make([]any, len(texts)) // a repeated field is a list
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

// isForm says whether a field came in a form, where an empty text stands for null.
func (b *body) isForm(name string) bool {
	_, ok := b.values[name].([]string)
	return ok
}
