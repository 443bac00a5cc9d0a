package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	assign "github.com/countersign/countersign/internal/store/accounts"
)

func TestGroups(t *testing.T) {
	t.Parallel()
	w := newAccountWorld(t)
	made := w.expect(call{method: "POST", path: "groups/", json: `{"name":"team"}`}, http.StatusCreated, "")
	href := made.Header.Get("Location")
	id := strings.Split(href, "/")[5]
	want := fmt.Sprintf(`{"pulp_href":%q,"prn":"prn:core.group:%s","id":%s,"name":"team"}`, href, id, id)
	if made.raw != want {
		t.Errorf("created: %s, want %s", made.raw, want)
	}
	w.expect(call{path: href}, 200, want)
	for body, want := range map[string]string{
		`{}`: `{"name":["This field is required."]}`, `{"name":"team"}`: `{"name":["This field must be unique."]}`,
		`{"name":"` + strings.Repeat("g", 10_000) + `"}`: `{"name":["Ensure this field has no more than 150 characters."]}`,
		`{"name":"x\u0000"}`:                             `{"name":["Null characters are not allowed."]}`,
		`{"name":"x","users":["admin"]}`:                 `{"users":["Unexpected field"]}`,
	} {
		w.expect(call{method: "POST", path: "groups/", json: body}, 400, want)
	}
	w.expect(call{method: "PATCH", path: href, json: `{"name":"crew"}`}, 200, strings.ReplaceAll(want, "team", "crew"))
	w.expect(call{method: "PATCH", path: href, json: `{}`}, 200, "")
	w.expect(call{method: "PUT", path: href, json: `{}`}, 400, `{"name":["This field is required."]}`)
	w.expect(call{method: "PUT", path: href, json: `{"name":"crew"}`}, 200, "")

	carol, acme := w.userHref("carol"), w.userHref("acme")
	member := fmt.Sprintf(`{"username":"carol","pulp_href":%q,"prn":"prn:auth.user:%d"}`, carol, w.userID("carol"))
	w.expect(call{method: "POST", path: href + "users/", json: `{"username":"carol"}`}, 201, member)
	w.expect(call{method: "POST", path: href + "users/", json: `{"username":"carol"}`}, 201, member)
	w.expect(
		call{method: "POST", path: href + "users/", json: `{"username":"nobody"}`},
		400,
		`["User matching query does not exist."]`,
	)
	w.expect(call{method: "POST", path: href + "users/", json: `{}`}, 400, `{"username":["This field is required."]}`)
	w.expect(call{path: href + "users/"}, 200, `{"count":1,"next":null,"previous":null,"results":[`+member+`]}`)
	w.expect(
		call{path: href + "users/?user__password__startswith=x"},
		400,
		`{"errors":["Invalid Filter: 'user__password__startswith'"]}`,
	)
	w.expect(call{path: href + "users/?ordering=password"}, 400, "")
	if groups := w.get(carol)["groups"].([]any); len(groups) != 1 || groups[0].(map[string]any)["name"] != "crew" {
		t.Errorf("carol's groups: %v", groups)
	}
	number := strings.TrimSuffix(strings.TrimPrefix(acme, pulp.Root+"users/"), "/")
	w.expect(call{method: "DELETE", path: href + "users/" + number + "/"}, 404, "")
	w.expect(call{method: "DELETE", path: href + "users/x/"}, 404, "")
	w.expect(call{method: "DELETE", path: href + "users/" + strconv.FormatInt(w.userID("carol"), 10) + "/"}, 204, "")
	w.expect(call{path: href + "users/"}, 200, `{"count":0,"next":null,"previous":null,"results":[]}`)

	w.expect(call{path: href, user: "carol"}, 404, `{"detail":"No Group matches the given query."}`)
	w.expect(call{method: "POST", path: "groups/", user: "carol", json: `{"name":"x"}`}, 403, "")
	w.expect(
		call{path: "groups/", header: map[string]string{"Token": "limited"}},
		200,
		`{"count":0,"next":null,"previous":null,"results":[]}`,
	)
	w.expect(
		call{method: "POST", path: "groups/", json: `{"name":"x"}`, header: map[string]string{"Token": "limited"}},
		403,
		"",
	)
	w.expect(call{method: "DELETE", path: href, header: map[string]string{"Token": "limited"}}, 404, "")
	w.expect(call{method: "DELETE", path: href}, 204, "")
	w.expect(call{path: href}, 404, "")
}

// TestOwnersOfGroups creates a group as a user who may.
func TestOwnersOfGroups(t *testing.T) {
	t.Parallel()
	w := newAccountWorld(t)
	w.grant("carol", "core.group_creator", "")
	href := w.expect(
		call{method: "POST", path: "groups/", user: "carol", json: `{"name":"carols"}`},
		201,
		"",
	).Header.Get(
		"Location",
	)
	other := w.expect(call{method: "POST", path: "groups/", json: `{"name":"others"}`}, 201, "").Header.Get("Location")
	as := func(user, method, path, body string, status int) {
		t.Helper()
		w.expect(call{method: method, path: path, user: user, json: body}, status, "")
	}
	if r := w.do(call{path: "groups/?fields=name", user: "carol"}); !strings.Contains(r.raw, `[{"name":"carols"}]`) {
		t.Errorf("carol sees %s", r.raw)
	}
	as("carol", "PATCH", href, `{"name":"carolines"}`, 200)
	as("carol", "POST", href+"users/", `{"username":"acme"}`, 201)
	as("carol", "GET", href+"list_roles/", "", 200)
	as("carol", "POST", href+"add_role/", `{"role":"core.group_viewer","users":["acme"],"groups":["carolines"]}`, 201)
	as("acme", "GET", href, "", 200)
	as("acme", "GET", href+"users/", "", 200)
	as("acme", "POST", href+"users/", `{"username":"acme"}`, 403)
	as("acme", "DELETE", href, "", 403)
	as("acme", "GET", href+"list_roles/", "", 403)
	w.expect(call{path: href + "my_permissions/", user: "acme"}, 200, `{"permissions":["core.view_group"]}`)
	for _, path := range []string{other, other + "users/", other + "roles/", other + "list_roles/", other + "my_permissions/"} {
		as("carol", "GET", path, "", 404)
	}
	as("carol", "POST", other+"users/", `{"username":"carol"}`, 404)
	as("carol", "DELETE", href, "", 204)
}

func TestRoles(t *testing.T) {
	t.Parallel()
	w := newAccountWorld(t)
	made := w.expect(call{method: "POST", path: "roles/", json: map[string]any{
		"name": "puller", "description": "pulls",
		"permissions": []string{
			"container.view_containerdistribution",
			"container.pull_containerdistribution",
		}, "locked": true,
	}}, http.StatusCreated, "")
	href := made.Header.Get("Location")
	const fields = `?fields=name,description,permissions,locked`
	const permissions = `"permissions":["container.pull_containerdistribution","container.view_containerdistribution"]`
	w.expect(
		call{path: href + fields, user: "carol"},
		200,
		`{"description":"pulls","locked":false,"name":"puller",`+permissions+`}`,
	)
	w.expect(
		call{method: "PATCH", path: href + fields, json: `{"description":null}`},
		200,
		`{"description":null,"locked":false,"name":"puller",`+permissions+`}`,
	)
	w.expect(
		call{method: "PUT", path: href, json: `{"name":"puller"}`},
		400,
		`{"permissions":["This field is required."]}`,
	)
	w.expect(call{method: "PUT", path: href + fields, json: `{"name":"p2","permissions":[]}`}, 200,
		`{"description":null,"locked":false,"name":"p2","permissions":[]}`)
	for body, want := range map[string]string{
		`{}`:                             `{"name":["This field is required."],"permissions":["This field is required."]}`,
		`{"name":"p2","permissions":[]}`: `{"name":["This field must be unique."]}`,
		`{"name":"core.task_owner","permissions":[]}`:                     `{"name":["This field must be unique."]}`,
		`{"name":"x","permissions":["container.fly","nope"]}`:             `{"permissions":["Permission 'container.fly' does not exist.","Permission 'nope' does not exist."]}`,
		`{"name":"x","permissions":"container.fly"}`:                      `{"permissions":["Expected a list of items but got type \"str\"."]}`,
		`{"name":"x","permissions":[1]}`:                                  `{"permissions":["Not a valid string."]}`,
		`{"name":"x","permissions":["\u0000"]}`:                           `{"permissions":["Null characters are not allowed."]}`,
		`{"name":"` + strings.Repeat("r", 10_000) + `","permissions":[]}`: `{"name":["Ensure this field has no more than 150 characters."]}`,
	} {
		w.expect(call{method: "POST", path: "roles/", json: body}, 400, want)
	}
	locked := w.results("roles/?name=core.task_owner", "pulp_href")[0]
	const refused = `{"non_field_errors":["Locked roles cannot be changed."]}`
	w.expect(call{method: "PATCH", path: locked, json: `{"description":"x"}`}, 400, refused)
	w.expect(call{method: "DELETE", path: locked}, 400, refused)
	for _, c := range []call{
		{method: "POST", path: "roles/", json: `{"name":"x","permissions":[]}`}, {method: "PATCH", path: href, json: `{"name":"x"}`},
		{method: "DELETE", path: href}, {method: "PATCH", path: locked, json: `{}`},
	} {
		c.user = "carol"
		w.expect(c, 403, "")
		c.user, c.header = "", map[string]string{"Token": "limited"}
		w.expect(c, 403, "")
	}
	w.expect(call{method: "DELETE", path: href}, 204, "")
	w.expect(call{path: href}, 404, `{"detail":"No Role matches the given query."}`)
}

func TestRoleFilters(t *testing.T) {
	t.Parallel()
	w := newAccountWorld(t)
	w.role("mixed", access.ViewTask, access.ViewGroup)
	w.role("empty")
	for query, want := range map[string][]string{
		"name=mixed": {"mixed"}, "locked=false": {"empty", "mixed"}, "name__startswith=core.task_&locked=true": {"core.task_owner", "core.task_user_dispatcher", "core.task_viewer"},
		"contains_permission=core.view_group":                                    {"core.group_owner", "core.group_viewer", "mixed"},
		"contains_permission=core.view_group,core.change_group":                  {"core.group_owner"},
		"contains_permission=core.view_group&contains_permission=core.view_task": {"mixed"},
		"for_object_type=/pulp/api/v3/groups/":                                   {"core.group_creator", "core.group_owner", "core.group_viewer"},
		"for_object_type=" + pulp.Root + pulp.PushCollection:                     {},
		"name__regex=^mi": {"mixed"},
		"q=" + url.QueryEscape(`name=mixed OR name=empty`): {"empty", "mixed"},
	} {
		if got := w.results("roles/?ordering=name&"+query, "name"); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	if n := w.get("roles/?locked=true&limit=1")["count"]; n != float64(len(access.LockedRoles)) {
		t.Errorf("%v locked roles, want %d", n, len(access.LockedRoles))
	}
	w.expect(
		call{path: "roles/?contains_permission=core.fly"},
		400,
		`{"contains_permission":["Select a valid choice. core.fly is not one of the available choices."]}`,
	)
	w.expect(
		call{path: "roles/?for_object_type=planets"},
		400,
		`{"for_object_type":["No objects have the href prefix planets."]}`,
	)
	w.expect(
		call{path: "roles/?permissions__codename=x"},
		400,
		`{"errors":["Invalid Filter: 'permissions__codename'"]}`,
	)
}

// TestAssignedRoles covers the roles of users and groups under their own paths.
func TestAssignedRoles(t *testing.T) {
	t.Parallel()
	w := newAccountWorld(t)
	group := w.expect(call{method: "POST", path: "groups/", json: `{"name":"team"}`}, 201, "").Header.Get("Location")
	distribution := pulp.Href(pulp.DistributionCollection, w.repo.Distribution.ID)
	for holder, model := range map[string]string{w.userHref("carol"): "userrole", group: "grouprole"} {
		roles := holder + "roles/"
		post := func(status int, body, want string) reply {
			t.Helper()
			return w.expect(call{method: "POST", path: roles, json: body}, status, want)
		}
		made := post(201, `{"role":"container.containerdistribution_consumer","content_object":"`+distribution+`"}`, "")
		one := made.body.(map[string]any)
		href := made.Header.Get("Location")
		id := strings.Split(strings.TrimPrefix(href, roles), "/")[0]
		for field, want := range map[string]any{
			"pulp_href": href, "prn": "prn:core." + model + ":" + id, "role": "container.containerdistribution_consumer",
			"content_object": distribution, "content_object_prn": pulp.PRN(pulp.DistributionCollection, w.repo.Distribution.ID),
			"domain": nil, "description": nil,
		} {
			if one[field] != want {
				t.Errorf("%s: %v, want %v", field, one[field], want)
			}
		}
		if p := one["permissions"].([]any); len(p) != 2 || p[0] != "container.pull_containerdistribution" {
			t.Errorf("permissions %v", p)
		}
		w.expect(call{path: href}, 200, made.raw)
		repository := `"content_object_prn":"` + pulp.PRN(pulp.PushCollection, w.repo.Repository.ID) + `"`
		post(201, `{"role":"container.containerrepository_owner",`+repository+`}`, "")
		post(201, `{"role":"container.containerrepository_owner","content_object":null,"domain":null}`, "")
		post(201, `{"role":"container.containerremote_viewer"}`, "")
		for body, want := range map[string]string{
			`{}`:              `{"role":["This field is required."]}`,
			`{"role":"nope"}`: `{"role":["Object with name=nope does not exist."]}`,
			`{"role":"core.task_owner","content_object":5}`:                                                      `{"content_object":["Incorrect type. Expected URL string, received int."]}`,
			`{"role":"core.task_owner","content_object":"abc"}`:                                                  `{"content_object":["Invalid hyperlink - No URL match."]}`,
			`{"role":"core.task_owner","content_object":"` + holder + `users/"}`:                                 `{"content_object":["Invalid hyperlink - No URL match."]}`,
			`{"role":"core.task_owner","content_object":"` + w.userHref("acme") + `"}`:                           `{"content_object":["Invalid hyperlink - Incorrect URL match."]}`,
			`{"role":"core.task_owner","content_object":"` + w.repoHref() + `versions/1/"}`:                      `{"content_object":["Invalid hyperlink - Incorrect URL match."]}`,
			`{"role":"core.task_owner","content_object":"` + pulp.Href(pulp.TaskCollection, pulp.NewID()) + `"}`: `{"content_object":["Invalid hyperlink - Object does not exist."]}`,
			`{"role":"core.task_owner","content_object":"` + distribution + `"}`:                                 `{"non_field_errors":["The role 'core.task_owner' does not carry any permission for that object."]}`,
			`{"role":"core.task_owner","content_object":"` + distribution + `",` + repository + `}`:              `{"content_object_prn":["Only one of content_object and content_object_prn may be used."]}`,
			`{"role":"core.task_owner","domain":"/pulp/api/v3/domains/x/"}`:                                      `{"domain":["Invalid hyperlink - Object does not exist."]}`,
			`{"role":"core.task_owner","users":["acme"]}`:                                                        `{"users":["Unexpected field"]}`,
			`{"role":"core\u0000"}`: `{"role":["Null characters are not allowed."]}`,
		} {
			post(400, body, want)
		}
		again := post(400, `{"role":"container.containerremote_viewer","content_object":""}`, "")
		if !strings.Contains(again.raw, "The role is already assigned to ") {
			t.Errorf("assigned twice: %s", again.raw)
		}
		for query, want := range map[string]int{
			"": 4, "?content_object=null": 2, "?content_object=" + distribution: 1, "?content_object_prn=prn:core.task:" + pulp.NewID(): 0,
			"?role=container.containerrepository_owner": 2, "?role__contains=remote": 1, "?content_object=" + w.userHref("acme"): 0,
			"?contains_permission=container.view_containerrepository": 2, "?ordering=-role&limit=1": 1, "?pulp_id__in=" + id: 1,
		} {
			if got := w.results(roles+query, "pulp_href"); len(got) != want {
				t.Errorf("%s: %v, want %d", query, got, want)
			}
		}
		w.expect(
			call{path: roles + "?user__password__startswith=x"},
			400,
			`{"errors":["Invalid Filter: 'user__password__startswith'"]}`,
		)
		w.expect(call{path: roles + "x/"}, 404, "")
		w.expect(call{path: roles + pulp.NewID() + "/"}, 404, "")
		w.expect(
			call{path: w.userHref("acme") + "roles/" + id + "/"},
			404,
			`{"detail":"No UserRole matches the given query."}`,
		)
		w.expect(call{method: "DELETE", path: href}, 204, "")
		w.expect(call{method: "DELETE", path: href}, 404, "")
	}
}

// TestRolesOfOthers covers callers who are no administrators.
func TestRolesOfOthers(t *testing.T) {
	t.Parallel()
	w := newAccountWorld(t)
	if _, err := w.store.Accounts.PutUser(t.Context(), "dora", "x", false, true); err != nil {
		t.Fatal(err)
	}
	distribution := pulp.Href(pulp.DistributionCollection, w.repo.Distribution.ID)
	onDistribution := `"content_object":"` + distribution + `"`
	w.grant("dora", access.DistributionOwner, access.Key(access.Distribution, w.repo.Distribution.ID))
	w.grant("dora", "core.user_viewer", "")
	w.grant("carol", "container.containerremote_creator", "")
	carol := w.userHref("carol") + "roles/"
	as := func(user, method, path, body string, status int) reply {
		t.Helper()
		return w.expect(call{method: method, path: path, user: user, json: body}, status, "")
	}
	if r := as("carol", "GET", carol, "", 200); r.body.(map[string]any)["count"] != 1.0 {
		t.Errorf("carol's own roles: %s", r.raw)
	}
	as("carol", "GET", w.userHref("dora")+"roles/", "", 404)
	as("carol", "POST", carol, `{"role":"core.user_owner"}`, 403)
	as("carol", "POST", carol, `{"role":"container.containerdistribution_owner",`+onDistribution+`}`, 403)
	as("carol", "DELETE", w.results(carol, "pulp_href")[0], "", 403)

	as("dora", "POST", carol, `{"role":"container.containerdistribution_owner"}`, 403)
	as(
		"dora",
		"POST",
		carol,
		`{"role":"container.containernamespace_owner","content_object":"`+pulp.Href(
			pulp.NamespaceCollection,
			w.repo.Distribution.NamespaceID,
		)+`"}`,
		403,
	)
	made := as("dora", "POST", carol, `{"role":"container.containerdistribution_consumer",`+onDistribution+`}`, 201)
	href := made.Header.Get("Location")
	as("carol", "GET", href, "", 200)
	as("carol", "DELETE", href, "", 403)
	as("dora", "DELETE", href, "", 204)
	as("dora", "DELETE", w.results(carol, "pulp_href")[0], "", 403)
}

// TestRolesOnObjects covers add_role/, remove_role/, list_roles/ and my_permissions/ of each kind of objects.
func TestRolesOnObjects(t *testing.T) {
	t.Parallel()
	w := newAccountWorld(t)
	if _, err := w.store.Accounts.CreateGroup(t.Context(), "team", 0); err != nil {
		t.Fatal(err)
	}
	remote, err := w.store.Catalog.CreateRemote(t.Context(), pulp.Remote{
		Name: "acme/remote", URL: "https://example.com", UpstreamName: "x", Policy: pulp.Immediate,
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := w.store.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: "acme/plain"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	acme := assign.Assignee{Account: w.userID("acme"), Name: "acme"}
	namespace := access.Key(access.Namespace, w.repo.Distribution.NamespaceID)
	if err := w.store.Accounts.RevokeRole(t.Context(), access.NamespaceOwner, namespace, acme); err != nil {
		t.Fatal(err)
	}
	group, err := w.store.Accounts.CreateGroup(t.Context(), "object", 0)
	if err != nil {
		t.Fatal(err)
	}
	w.role("task_manager", access.ManageRolesTask, access.ViewTask)
	for _, c := range []struct {
		href, role, wrong string
		permissions       string
	}{
		{w.repoHref(), "container.containerrepository_viewer", "container.containerdistribution_owner", `"container.view_containerrepository"`},
		{
			pulp.RepositoryHref(pulp.Container, plain.ID), "container.containerrepository_viewer", "core.task_owner",
			`"container.view_containerrepository"`,
		},
		{
			pulp.Href(pulp.RemoteCollection, remote.ID), "container.containerremote_viewer", access.RepositoryOwner,
			`"container.view_containerremote"`,
		},
		{
			pulp.Href(pulp.DistributionCollection, w.repo.Distribution.ID), "container.containerdistribution_consumer",
			"container.containernamespace_owner", `"container.pull_containerdistribution","container.view_containerdistribution"`,
		},
		{
			pulp.Href(pulp.NamespaceCollection, w.repo.Distribution.NamespaceID), "container.containernamespace_consumer", access.DistributionOwner,
			`"container.namespace_pull_containerdistribution","container.namespace_view_containerdistribution",` +
				`"container.namespace_view_containerpushrepository","container.namespace_view_containerrepository","container.view_containernamespace"`,
		},
		{pulp.GroupHref(group.ID), "core.group_viewer", "core.user_viewer", `"core.view_group"`},
	} {
		body := `{"role":"` + c.role + `","users":["carol"],"groups":["team"]}`
		echo := `{"users":["carol"],"groups":["team"],"role":"` + c.role + `"}`
		add := func(status int, body, want string) {
			t.Helper()
			w.expect(call{method: "POST", path: c.href + "add_role/", json: body}, status, want)
		}
		w.expect(call{path: c.href + "list_roles/"}, 200, `{"roles":[]}`)
		add(201, body, echo)
		w.expect(
			call{path: c.href + "list_roles/"},
			200,
			`{"roles":[{"role":"`+c.role+`","users":["carol"],"groups":["team"]}]}`,
		)
		add(
			400,
			`{"role":"`+c.role+`","groups":["team"]}`,
			`{"non_field_errors":["The role is already assigned to group 'team'."]}`,
		)
		add(400, body, `{"non_field_errors":["The role is already assigned to user 'carol'."]}`)
		add(400, `{"role":"`+c.wrong+`","users":["acme"]}`,
			`{"non_field_errors":["The role '`+c.wrong+`' does not carry any permission for that object."]}`)
		add(201, `{"role":"`+c.role+`"}`, `{"users":[],"groups":[],"role":"`+c.role+`"}`)
		add(
			400,
			`{"role":"nope","users":["carol","nobody"],"groups":["none"]}`,
			`{"groups":{"0":["Object with name=none does not exist."]},`+
				`"role":["Object with name=nope does not exist."],"users":{"1":["Object with username=nobody does not exist."]}}`,
		)
		add(400, `{}`, `{"role":["This field is required."]}`)
		add(
			400,
			`{"role":"`+c.role+`","users":"carol"}`,
			`{"users":["Expected a list of items but got type \"str\"."]}`,
		)
		add(400, `{"role":"`+c.role+`","users":null}`, `{"users":["This field may not be null."]}`)
		add(400, `{"role":"`+c.role+`","users":["acme\u0000"]}`, `{"users":["Null characters are not allowed."]}`)
		add(400, `{"role":"`+c.role+`","users":["acme"],"object":"x"}`, `{"object":["Unexpected field"]}`)
		add(
			400,
			`{"role":"`+c.role+`","users":["acme","acme"]}`,
			`{"non_field_errors":["The role is already assigned to user 'acme'."]}`,
		)
		w.expect(call{path: c.href + "my_permissions/", user: "carol"}, 200, `{"permissions":[`+c.permissions+`]}`)
		held := w.get(c.href + "my_permissions/")["permissions"].([]any)
		if len(held) < 4 ||
			!slices.IsSortedFunc(held, func(x, y any) int { return strings.Compare(x.(string), y.(string)) }) {
			t.Errorf("%s: the administrator has %v", c.href, held)
		}
		w.expect(call{path: c.href + "list_roles/", user: "carol"}, 403, "")
		w.expect(call{method: "POST", path: c.href + "add_role/", user: "carol", json: body}, 403, "")
		w.expect(call{method: "POST", path: c.href + "remove_role/", user: "carol", json: `{`}, 403, "")
		w.expect(
			call{
				method: "POST",
				path:   c.href + "remove_role/",
				json:   `{"role":"` + c.role + `","users":["carol","acme"]}`,
			},
			400,
			`{"non_field_errors":["The role is not assigned to user 'acme'."]}`,
		)
		w.expect(call{method: "POST", path: c.href + "remove_role/", json: body}, 201, echo)
		w.expect(call{path: c.href + "list_roles/"}, 200, `{"roles":[]}`)
		w.expect(
			call{method: "POST", path: c.href + "remove_role/", json: body},
			400,
			`{"non_field_errors":["The role is not assigned to user 'carol'."]}`,
		)
	}
	for _, path := range []string{"x/", pulp.NewID() + "/"} {
		w.expect(call{path: pulp.DistributionCollection + path + "list_roles/"}, 404, "")
		w.expect(call{path: pulp.GroupCollection + path + "my_permissions/"}, 404, "")
	}
}

// TestRolesOnTasks covers the creator of a task, who owns it without an assignment.
func TestRolesOnTasks(t *testing.T) {
	t.Parallel()
	w := newAccountWorld(t)
	href := pulp.Href(pulp.TaskCollection, task(w, w.userID("carol")).ID)
	const own = `"core.change_task","core.delete_task","core.manage_roles_task","core.view_task"`
	w.expect(call{path: href + "my_permissions/", user: "carol"}, 200, `{"permissions":[`+own+`]}`)
	w.expect(call{path: href + "my_permissions/"}, 200, `{"permissions":[`+own+`]}`)
	w.expect(call{path: href + "my_permissions/", user: "acme"}, 404, "")
	const creator = `{"role":"core.task_owner","users":["carol"],"groups":[]}`
	w.expect(call{path: href + "list_roles/", user: "carol"}, 200, `{"roles":[`+creator+`]}`)
	w.expect(
		call{
			method: "POST",
			path:   href + "add_role/",
			user:   "carol",
			json:   `{"role":"core.task_owner","users":["carol"]}`,
		},
		201,
		"",
	)
	w.expect(call{path: href + "list_roles/"}, 200, `{"roles":[`+creator+`]}`)
}

// TestRolesOnSigningServices assigns the role of users of a signing service.
func TestRolesOnSigningServices(t *testing.T) {
	t.Parallel()
	w := newAccountWorld(t)
	body := `{"role":"core.signingservice_user","users":["carol"]}`
	w.expect(call{method: "POST", path: w.serviceHref() + "add_role/", json: body}, 201, "")
	w.expect(
		call{path: w.serviceHref() + "list_roles/"},
		200,
		`{"roles":[{"role":"core.signingservice_user","users":["carol"],"groups":[]}]}`,
	)
	w.expect(call{method: "POST", path: w.serviceHref() + "remove_role/", json: body}, 201, "")
	held := w.get(w.serviceHref() + "my_permissions/")["permissions"].([]any)
	if len(held) != 4 {
		t.Errorf("the administrator has %v", held)
	}
	if got, err := w.store.Accounts.AssignmentsOf(t.Context(), assign.Assignee{Account: w.userID("carol")}); err != nil ||
		len(got) != 0 {
		t.Errorf("carol has %v, %v", got, err)
	}
}
