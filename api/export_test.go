package api

import (
	"bytes"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/internal/pulp"
)

// Validated returns a handler that passes requests on to the handler of an API, and reports each response, and each
// field of a body that was read, that differs from the OpenAPI document.
func Validated(t *testing.T, h http.Handler) http.Handler {
	t.Helper()
	d, err := described()
	if err != nil {
		t.Fatal(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		declared, o := d.find(r)
		if o == nil {
			h.ServeHTTP(w, r)
			return
		}
		r = r.WithContext(body.Observe(r.Context(), func(read body.Form) {
			for _, text := range o.body.CompareDeclared(read) {
				t.Errorf("%s %s: the field %s", r.Method, declared.path, text)
			}
		}))
		got := &recorded{ResponseWriter: w, status: http.StatusOK}
		h.ServeHTTP(got, r)
		if text := d.check(r, declared.path, got); text != "" {
			t.Errorf("%s %s: status %d differs from the OpenAPI document: %s\n%.2000s", r.Method, r.URL, got.status, text, got.text.String())
		}
		if text := d.checkRequest(r, declared.path, got.status); text != "" {
			t.Errorf("%s %s: the accepted request differs from the OpenAPI document: %s", r.Method, r.URL, text)
		}
	})
}

// recorded keeps what a handler sends.
type recorded struct {
	http.ResponseWriter
	status int
	text   bytes.Buffer
}

func (r *recorded) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorded) Write(p []byte) (int, error) {
	r.text.Write(p)
	return r.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController find the writer.
func (r *recorded) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// description is the OpenAPI document with compiled schemas.
type description struct {
	routes   []route
	strict   *compiled // of responses that show all members
	selected *compiled
}

// described returns the description of an API. No option changes it.
var described = sync.OnceValues(func() (*description, error) {
	a := &API{Options: Options{PublicURL: &url.URL{Scheme: "https", Host: "registry.example"}, Version: "1.0.0"}}
	d := &description{routes: a.declaredRoutes()}
	var err error
	if d.strict, err = compile(a, true); err == nil {
		d.selected, err = compile(a, false)
	}
	return d, err
})

// compiled are the schemas of a document.
type compiled struct {
	document map[string]any
	compiler *jsonschema.Compiler
	mu       sync.Mutex
}

const documentURL = "https://example.invalid/api.json"

func compile(a *API, strict bool) (*compiled, error) {
	raw, err := a.document(documentForm{plainPaths: true, strict: strict}).JSON()
	if err != nil {
		return nil, err
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	c := &compiled{document: document.(map[string]any), compiler: jsonschema.NewCompiler()}
	c.compiler.AssertFormat()
	return c, c.compiler.AddResource(documentURL, document)
}

// at returns a part of the document; nil if there is none.
func (c *compiled) at(keys ...string) any {
	var v any = c.document
	for _, key := range keys {
		object, _ := v.(map[string]any)
		v = object[key]
	}
	return v
}

// validate validates JSON with the schema at a place of the document.
func (c *compiled) validate(raw []byte, keys ...string) error {
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	pointer := documentURL + "#"
	for _, key := range keys {
		pointer += "/" + url.PathEscape(escape.Replace(key))
	}
	c.mu.Lock()
	schema, err := c.compiler.Compile(pointer)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	return schema.Validate(v)
}

// find returns the route of a request and its operation; nil if no operation has the path and the method.
func (d *description) find(r *http.Request) (route, *operation) {
	path, ok := strings.CutPrefix(r.URL.Path, pulp.Root)
	if !ok || strings.Contains(path, "//") {
		return route{}, nil
	}
	var best *route
	for i, candidate := range d.routes {
		if matches(candidate.path, path) && (best == nil || !strings.Contains(candidate.path, ":")) {
			best = &d.routes[i]
		}
	}
	if best == nil {
		return route{}, nil
	}
	o, ok := best.methods[r.Method]
	if !ok {
		return route{}, nil
	}
	found := *best
	found.path, _ = plainPath(best.path)
	return found, &o
}

func matches(pattern, path string) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(path, "/")
	return slices.EqualFunc(want, got, func(w, g string) bool { return w == g || strings.HasPrefix(w, ":") && g != "" })
}

// check returns the difference between a response and the document, or "".
func (d *description) check(r *http.Request, path string, got *recorded) string {
	c := d.strict
	if q := r.URL.Query(); q.Has("fields") || q.Has("exclude_fields") || q.Has("minimal") {
		c = d.selected
	}
	at := []string{"paths", path, strings.ToLower(r.Method), "responses", strconv.Itoa(got.status)}
	if got.status == http.StatusNotModified || got.status == http.StatusInternalServerError {
		return ""
	}
	if c.at(at...) == nil {
		return "the status is not declared"
	}
	content, _ := c.at(append(at, "content")...).(map[string]any)
	kind := got.Header().Get("Content-Type")
	if len(content) == 0 || got.text.Len() == 0 {
		if len(content) > 0 || got.text.Len() > 0 {
			return "only one of both has a body"
		}
		return ""
	}
	if content[kind] == nil {
		return "the Content-Type is " + kind
	}
	if kind != "application/json" {
		return ""
	}
	if err := c.validate(got.text.Bytes(), append(at, "content", kind, "schema")...); err != nil {
		return err.Error()
	}
	return ""
}

// undeclared are parameters that every operation accepts and ignores.
var undeclared = []string{
	"format", "minimal", "page_size", "q", "limit", "offset", "fields", "exclude_fields", "bindings", "component", "include_html",
}

// checkRequest returns the difference between an accepted request and the document, or "".
func (d *description) checkRequest(r *http.Request, path string, status int) string {
	if status >= http.StatusMultipleChoices {
		return ""
	}
	at := []string{"paths", path, strings.ToLower(r.Method)}
	var declared []string
	list, _ := d.strict.at(append(at, "parameters")...).([]any)
	for _, p := range list {
		declared = append(declared, p.(map[string]any)["name"].(string))
	}
	for name := range r.URL.Query() {
		if !slices.Contains(declared, name) && !slices.Contains(undeclared, name) {
			return "the parameter " + name + " is not declared"
		}
	}
	return ""
}
