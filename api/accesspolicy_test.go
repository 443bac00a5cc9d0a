package api_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
)

// TestAccessPoliciesDescribeTheRules checks that each rule about objects with a policy is in a statement, and that the
// statements name no permission that no rule has.
func TestAccessPoliciesDescribeTheRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	viewsets := map[access.Kind][]string{
		access.Repository:   {"repositories/container/container", "repositories/container/container-push"},
		access.Distribution: {"distributions/container/container"}, access.Remote: {"remotes/container/container"},
		access.PullThrough: {"distributions/container/pull-through"}, access.PullThroughRemote: {"remotes/container/pull-through"},
		access.Namespace: {
			"pulp_container/namespaces",
		}, access.Task: {"tasks"}, access.Group: {"groups"}, access.Accounts: {"users"},
		access.Content: {"content/container/tags"},
	}
	var all strings.Builder
	texts := map[string]string{}
	for _, p := range w.get("access_policies/")["results"].([]any) {
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		texts[p.(map[string]any)["viewset_name"].(string)] = string(raw)
		all.Write(raw)
	}
	known := map[access.Permission]bool{}
	for _, r := range access.Rules {
		if viewsets[r.Kind] == nil || r.Kind == access.Namespace && r.Action == access.Change {
			continue // namespaces cannot be changed
		}
		plain := slices.Concat(r.Object, r.Namespace, r.Everywhere, r.Cache)
		push := slices.Concat(r.Object, r.PushObject, r.PushNamespace, r.Serving)
		for i, viewset := range viewsets[r.Kind] {
			permissions := plain
			if i == 1 {
				permissions = push
			}
			absent := i == 1 &&
				slices.Contains(
					[]access.Action{access.Create, access.Delete, access.RemoveVersions, access.Sync},
					r.Action,
				)
			for _, p := range permissions {
				if known[p] = true; !absent && !strings.Contains(texts[viewset], ":"+string(p)) {
					t.Errorf("the policy of %s lacks %s for the action %s", viewset, p, r.Action)
				}
			}
		}
	}
	for _, p := range access.Permissions {
		if !known[p] && strings.Contains(all.String(), ":"+string(p)) {
			t.Errorf("a policy names %s, which no rule has", p)
		}
	}
}

func TestAccessPolicies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	href := w.results("access_policies/?viewset_name=groups", "pulp_href")
	if len(href) != 1 {
		t.Fatalf("policies of groups: %v", href)
	}
	one := w.do(call{path: href[0], user: "carol"}).body.(map[string]any)
	for field, want := range map[string]string{
		"creation_hooks":   `[{"function":"add_roles_for_object_creator","parameters":{"roles":"core.group_owner"}}]`,
		"queryset_scoping": `{"function":"scope_queryset"}`, "customized": "false", "viewset_name": `"groups"`,
	} {
		if got, err := json.Marshal(one[field]); err != nil || string(got) != want {
			t.Errorf("%s: %s, %v, want %s", field, got, err, want)
		}
	}
	first := one["statements"].([]any)[1]
	if got, err := json.Marshal(first); err != nil || string(got) !=
		`{"action":["retrieve","my_permissions"],"condition":"has_model_or_obj_perms:core.view_group","effect":"allow","principal":"authenticated"}` {
		t.Errorf("statement %s, %v", got, err)
	}
	for query, want := range map[string]int{
		"?viewset_name=signing-services": 0, "?viewset_name__startswith=repositories/": 2, "?viewset_name__in=tasks,users": 2,
		"?customized=true": 0, "?customized=false&limit=3": 3, "?viewset_name__icontains=CONTAINER": 11, "?offset=1000": 0,
		"?pulp_href__in=" + href[0]: 1,
	} {
		if got := w.results("access_policies/"+query, "viewset_name"); len(got) != want {
			t.Errorf("%s: %v, want %d", query, got, want)
		}
	}
	names := w.results("access_policies/?ordering=-viewset_name", "viewset_name")
	if slices.Reverse(names); !slices.IsSorted(names) {
		t.Errorf("order %v", names)
	}
	w.expect(call{path: "access_policies/?fields=customized&limit=1"}, 200, "")
	w.expect(call{path: "access_policies/?statements=x"}, 400, `{"errors":["Invalid Filter: 'statements'"]}`)
	w.expect(call{path: "access_policies/x/"}, 404, "")
	w.expect(
		call{path: pulp.Href(pulp.AccessPolicyCollection, pulp.NewID())},
		404,
		`{"detail":"No AccessPolicy matches the given query."}`,
	)
	w.expect(call{method: "PATCH", path: href[0], json: `{}`}, 405, "")
	w.expect(call{path: "access_policies/", user: "-"}, 401, "")
}
