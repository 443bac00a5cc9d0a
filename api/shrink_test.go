package api_test

import (
	"net/http"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

// allow_shrink is a field of container repositories, shown where it is set, and of no others.
func TestAllowShrinkOfARepository(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	m.withWorker()
	shown := func(path string) any { return m.get(path)["allow_shrink"] }
	r := m.expect(call{method: http.MethodPost, path: pulp.ContainerCollection, json: `{"name":"acme/shrinks","allow_shrink":true}`}, 201, "")
	made, _ := r.body.(map[string]any)["pulp_href"].(string)
	if shown(made) != true {
		t.Errorf("after POST: %v", shown(made))
	}
	m.expect(call{method: http.MethodPatch, path: made, json: `{"allow_shrink":false}`}, 202, "")
	if shown(made) != nil {
		t.Errorf("after PATCH to false: %v", shown(made))
	}
	m.expect(call{method: http.MethodPatch, path: made, json: `{"allow_shrink":true}`}, 202, "")
	m.expect(call{method: http.MethodPatch, path: made, json: `{"allow_shrink":true}`}, 200, "")
	m.expect(call{method: http.MethodPatch, path: made, json: `{"description":"x"}`}, 202, "")
	if shown(made) != true {
		t.Errorf("after other edits: %v", shown(made))
	}
	m.expect(call{method: http.MethodPatch, path: made, json: `{"allow_shrink":"maybe"}`}, 400, `{"allow_shrink":["Must be a valid boolean."]}`)
	m.expect(call{method: http.MethodPatch, path: m.repoHref(), json: `{"allow_shrink":true}`}, 400, `{"allow_shrink":["Unexpected field"]}`)
}
