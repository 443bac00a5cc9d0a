package api_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// document is the part of an OpenAPI document that tests read.
type document struct {
	OpenAPI string
	Info    map[string]any
	Paths   map[string]map[string]any
}

// TestDocument reads the OpenAPI document as clients of Pulp do, without credentials and with Pulp's parameters.
func TestDocument(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	read := func(path string) (reply, document) {
		t.Helper()
		r := w.do(call{path: path, user: "-"})
		var d document
		if strings.Contains(path, "yaml") {
			if err := yaml.Unmarshal([]byte(r.raw), &d); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
		} else if err := json.Unmarshal([]byte(r.raw), &d); err != nil {
			t.Fatalf("%s: status %d, %v", path, r.StatusCode, err)
		}
		return r, d
	}
	r, d := read("docs/api.json?bindings&component=container&include_html=1")
	versions, _ := d.Info["x-pulp-app-versions"].(map[string]any)
	if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "application/json" ||
		!strings.HasPrefix(d.OpenAPI, "3.") || versions["core"] == nil || versions["container"] == nil ||
		d.Info["x-pulp-domain-enabled"] != false {
		t.Errorf("status %d, header %v, openapi %s, info %v", r.StatusCode, r.Header, d.OpenAPI, d.Info)
	}
	if d.Paths["{task_href}"]["patch"] == nil || d.Paths["{container_container_repository_href}sync/"]["post"] == nil ||
		d.Paths["/pulp/api/v3/tasks/"]["get"] == nil {
		t.Errorf("paths %v", d.Paths)
	}
	if _, plain := read("docs/api.json?pk_path=1"); plain.Paths["/pulp/api/v3/tasks/{id}/"]["patch"] == nil {
		t.Errorf("with pk_path: paths %v", plain.Paths)
	}
	y, inYAML := read("docs/api.yaml")
	if y.Header.Get("Content-Type") != "application/yaml" || len(inYAML.Paths) != len(d.Paths) {
		t.Errorf("YAML: header %v, %d paths, want %d", y.Header, len(inYAML.Paths), len(d.Paths))
	}
	page := w.do(call{path: "docs/", user: "-", header: map[string]string{"Accept": "text/html"}})
	policy := page.Header.Get("Content-Security-Policy")
	if page.StatusCode != http.StatusOK || page.Header.Get("Content-Type") != "text/html; charset=utf-8" ||
		!strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-") ||
		!strings.Contains(page.raw, `<details id="repositories_container_container_sync">`) ||
		strings.Contains(page.raw, "<script") || strings.Contains(page.raw, "ZgotmplZ") {
		t.Errorf("page: status %d, header %v, %.2000s", page.StatusCode, page.Header, page.raw)
	}
	again := w.do(call{path: "docs/api.json", user: "-", header: map[string]string{"If-None-Match": r.Header.Get("ETag")}})
	if again.StatusCode != http.StatusNotModified || len(again.raw) != 0 {
		t.Errorf("If-None-Match: status %d, %d bytes", again.StatusCode, len(again.raw))
	}
	if r := w.do(call{path: "docs/api.yaml", user: "-", header: map[string]string{"Accept": "application/yaml"}}); r.StatusCode != http.StatusOK {
		t.Errorf("Accept: application/yaml: status %d", r.StatusCode)
	}
	if r := w.do(call{path: "tasks/", header: map[string]string{"Accept": "application/yaml"}}); r.StatusCode != http.StatusNotAcceptable {
		t.Errorf("a list as YAML: status %d", r.StatusCode)
	}
}
