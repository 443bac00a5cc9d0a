package api

import (
	"bytes"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/countersign/countersign/internal/pulp"
)

// TestEveryRouteDeclaresItsOperations proves that each operation of the router has a declaration: Pulp's operationId, or
// one that no other operation has, and its responses.
func TestEveryRouteDeclaresItsOperations(t *testing.T) {
	t.Parallel()
	a := newAPI(t, &noLogin{})
	known := map[string]string{} // Pulp's ids by method and path
	for _, o := range readOperations(t, filepath.Join("..", "docs", "pulp-operations.tsv"), "tier", "method", "path", "id") {
		known[o.method+" "+o.path] = o.id
	}
	ids := map[string]string{}
	for _, r := range a.declaredRoutes() {
		for method, o := range r.methods {
			path := parameterForm.ReplaceAllString(pulp.Root+r.path, "{}")
			id := operationID(r.path, o)
			if want := known[method+" "+path]; want != "" && id != want {
				t.Errorf("%s %s: operationId %s, want %s", method, path, id, want)
			}
			if other := ids[id]; other != "" {
				t.Errorf("%s %s: has the operationId of %s: %s", method, path, other, id)
			}
			ids[id] = method + " " + path
			if known[method+" "+path] == "" && slices.Contains(slices.Collect(maps.Values(known)), id) {
				t.Errorf("%s %s: operationId %s is that of another operation of Pulp", method, path, id)
			}
			if len(o.replies) == 0 {
				t.Errorf("%s %s: no responses are declared", method, path)
			}
			if o.body == nil && slices.Contains([]string{http.MethodPut, http.MethodPatch, http.MethodPost}, method) {
				t.Errorf("%s %s: no body is declared", method, path)
			}
		}
		if last := r.path[strings.LastIndexByte(strings.TrimSuffix(r.path, "/"), '/')+1:]; strings.HasPrefix(last, ":") && r.href == "" {
			t.Errorf("%s: the object has no name of its href", r.path)
		}
	}
}

// TestDocumentIsValid proves that the document, with paths that begin with a slash, satisfies OpenAPI 3.1, and that it
// is the same each time. Pulp's paths, whose first variable is a whole href, are no paths of OpenAPI.
func TestDocumentIsValid(t *testing.T) {
	t.Parallel()
	a := newAPI(t, &noLogin{})
	text, err := a.document(documentForm{plainPaths: true}).JSON()
	if err != nil {
		t.Fatal(err)
	}
	d, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Validate(t.Context(), openapi3.IsOpenAPI31OrLater()); err != nil {
		t.Error(err)
	}
	hrefs, err := a.document(documentForm{}).JSON()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		again, err := newAPI(t, &noLogin{}).document(documentForm{}).JSON()
		if err != nil || !bytes.Equal(again, hrefs) {
			t.Fatalf("another document, error %v", err)
		}
	}
}
