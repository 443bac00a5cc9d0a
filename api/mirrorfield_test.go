package api_test

import (
	"net/http"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

// TestAllowShrinkOfARepository proves that only container repositories have the field allow_shrink, and that it is shown when
// it is true.
func TestAllowShrinkOfARepository(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	m.withWorker()
	shown := func(path string) any { return m.get(path)["allow_shrink"] }
	r := m.expect(
		call{method: http.MethodPost, path: pulp.ContainerCollection, json: `{"name":"acme/shrinks","allow_shrink":true}`},
		201, "",
	)
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
	m.expect(
		call{method: http.MethodPatch, path: made, json: `{"allow_shrink":"maybe"}`}, 400,
		`{"allow_shrink":["Must be a valid boolean."]}`,
	)
	m.expect(
		call{method: http.MethodPatch, path: m.repoHref(), json: `{"allow_shrink":true}`}, 400,
		`{"allow_shrink":["Unexpected field"]}`,
	)
}

// TestTokenHostsOfARemote proves that remotes have the field token_hosts, and that it is shown when it is set.
func TestTokenHostsOfARemote(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	m.withWorker()
	r := m.expect(
		call{
			method: http.MethodPost, path: pulp.RemoteCollection,
			json: `{"name":"acme/tokens","url":"https://h.example","upstream_name":"x","token_hosts":["auth.example.com","[2001:db8::1]:8443"]}`,
		},
		201, "",
	)
	made, _ := r.body.(map[string]any)["pulp_href"].(string)
	wants := func(want string) {
		t.Helper()
		if got := encoded(t, m.get(made)["token_hosts"]); got != want {
			t.Errorf("token_hosts are %s, want %s", got, want)
		}
	}
	wants(`["auth.example.com","[2001:db8::1]:8443"]`)
	m.expect(call{method: http.MethodPatch, path: made, json: `{"policy":"on_demand"}`}, 202, "")
	wants(`["auth.example.com","[2001:db8::1]:8443"]`)
	m.expect(call{method: http.MethodPatch, path: made, json: `{"token_hosts":["auth.example.com:5000"]}`}, 202, "")
	m.expect(call{method: http.MethodPatch, path: made, json: `{"token_hosts":["auth.example.com:5000"]}`}, 200, "")
	wants(`["auth.example.com:5000"]`)
	for _, bad := range []string{
		`["https://auth.example.com"]`, `["auth.example.com/token"]`, `["a b"]`, `[""]`, `["user@host"]`, `["*"]`,
		`"auth.example.com"`, `[1]`,
	} {
		m.expect(call{method: http.MethodPatch, path: made, json: `{"token_hosts":` + bad + `}`}, 400, "")
	}
	wants(`["auth.example.com:5000"]`)
	for _, none := range []string{`[]`, `null`} {
		m.expect(call{method: http.MethodPatch, path: made, json: `{"token_hosts":["a.example"]}`}, 202, "")
		m.expect(call{method: http.MethodPatch, path: made, json: `{"token_hosts":` + none + `}`}, 202, "")
		wants(`null`)
		m.expect(call{method: http.MethodPatch, path: made, json: `{"token_hosts":` + none + `}`}, 200, "")
	}
}
