package matrix_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

// newServerFixture creates a user, a group, a role and a task for the operations of a subject on the server.
func newServerFixture(t *testing.T, s *server, of account, as identity) *fixture {
	t.Helper()
	victim, self := of.name+"-victim", as.user
	switch as {
	case s.admin:
		self = "administrators" // the user admin owns every namespace
	case identity{}:
		self = "nobody"
	}
	f := &fixture{server: s, namespace: of.name + "-server", values: map[string]string{
		"service": s.service, "self": self, "victim": victim, "others": s.otherRepository(t),
		"user":  s.create(t, "users/", fmt.Sprintf(`{"username":%q,"password":%q}`, victim, password)),
		"group": s.create(t, "groups/", fmt.Sprintf(`{"name":%q}`, victim+"s")),
		"role": s.create(t, "roles/",
			fmt.Sprintf(`{"name":%q,"permissions":["container.view_containerrepository"]}`, "test."+victim)),
	}}
	var started struct{ Task string }
	s.must(t, http.MethodPost, f.values["others"]+"tag/", fmt.Sprintf(`{"tag":%q,"digest":%q}`, of.name, pushedImage.digest())).
		decode(t, &started)
	f.values["task"] = started.Task
	of.assign(t, f, of.onServer)
	return f
}

// otherRepository returns the href of the repository seed/app.
func (s *server) otherRepository(t *testing.T) string {
	t.Helper()
	return s.find(t, pulp.PushCollection+"?name=seed/app")
}

// serverOperations returns the operations on objects that are in no namespace, and those that create namespaces.
func serverOperations() []operation {
	namespaced := func(name, method, path, body string) operation {
		return call("absent namespace: "+name, method, path, body)
	}
	all := []operation{
		{name: "registry: GET /v2/", perform: getBase},
		call("status: read", http.MethodGet, "status/", ""),
		call("workers: list", http.MethodGet, "workers/", ""),
		call("access policies: list", http.MethodGet, "access_policies/", ""),
		call("audit log: list", http.MethodGet, "audit/", ""),
		call("orphans: clean up", http.MethodPost, "orphans/cleanup/", `{"orphan_protection_time":1000000}`),
		call("tasks: purge", http.MethodPost, "tasks/purge/", `{"finished_before":"2020-01-01"}`),
		listed("task of an administrator: list", "tasks/?limit=1000", "{task}"),
		call("task of an administrator: read", http.MethodGet, "{task}", ""),
		call("task of an administrator: cancel", http.MethodPatch, "{task}", `{"state":"canceled"}`),
		call("task of an administrator: add_role", http.MethodPost, "{task}add_role/",
			`{"role":"core.task_viewer","users":["bystander"]}`),
		call("task of an administrator: delete", http.MethodDelete, "{task}", ""),
		listed("signing service: list", "signing-services/", "{service}"),
		call("signing service: read", http.MethodGet, "{service}", ""),
		call("signing service: list_roles", http.MethodGet, "{service}list_roles/", ""),
		call("signing service: add_role", http.MethodPost, "{service}add_role/",
			`{"role":"core.signingservice_user","users":["{victim}"]}`),
	}
	all = append(all, accountOperations()...)
	return append(all,
		namespaced("create", http.MethodPost, pulp.NamespaceCollection, `{"name":"{subject}-new"}`),
		namespaced("create a container repository", http.MethodPost, pulp.ContainerCollection, `{"name":"{subject}-repo/x"}`),
		namespaced("create a distribution", http.MethodPost, pulp.DistributionCollection,
			`{"name":"{subject}-dist/x","base_path":"{subject}-dist/x"}`),
		namespaced("create a remote", http.MethodPost, pulp.RemoteCollection,
			`{"name":"{subject}-remote/x","url":"http://127.0.0.1:1","upstream_name":"a/b"}`),
		operation{name: "absent namespace: push", perform: func(t *testing.T, a attempt) string {
			t.Helper()
			return a.pushTo(t, a.subject+"-push/app")
		}},
		operation{name: "absent namespace of the own name: push", perform: func(t *testing.T, a attempt) string {
			t.Helper()
			return a.pushTo(t, a.values["self"]+"/app")
		}},
	)
}

func accountOperations() []operation {
	return []operation{
		listed("user: list", "users/?username={victim}", "{user}"),
		call("user: create", http.MethodPost, "users/", `{"username":"{victim}-new","password":"`+password+`"}`),
		call("user: create an administrator", http.MethodPost, "users/",
			`{"username":"{victim}-staff","password":"`+password+`","is_staff":true}`),
		call("user: read", http.MethodGet, "{user}", ""),
		call("user: change the name", http.MethodPatch, "{user}", `{"first_name":"Eve"}`),
		call("user: change the password", http.MethodPatch, "{user}", `{"password":"`+password+`2"}`),
		call("user: make an administrator", http.MethodPatch, "{user}", `{"is_staff":true}`),
		call("user: disable", http.MethodPatch, "{user}", `{"is_active":false}`),
		call("user: list roles", http.MethodGet, "{user}roles/", ""),
		call("user: give a role everywhere", http.MethodPost, "{user}roles/",
			`{"role":"container.containernamespace_owner","content_object":null}`),
		listed("group: list", "groups/?name={victim}s", "{group}"),
		call("group: read", http.MethodGet, "{group}", ""),
		call("group: create", http.MethodPost, "groups/", `{"name":"{victim}s-new"}`),
		call("group: rename", http.MethodPatch, "{group}", `{"name":"{victim}s-renamed"}`),
		call("group: list members", http.MethodGet, "{group}users/", ""),
		call("group: add a member", http.MethodPost, "{group}users/", `{"username":"bystander"}`),
		call("group: give a role everywhere", http.MethodPost, "{group}roles/",
			`{"role":"container.containernamespace_owner","content_object":null}`),
		call("group: add_role", http.MethodPost, "{group}add_role/", `{"role":"core.group_viewer","users":["bystander"]}`),
		listed("role: list", "roles/?name=test.{victim}", "{role}"),
		call("role: read", http.MethodGet, "{role}", ""),
		call("role: create", http.MethodPost, "roles/", `{"name":"test.{victim}.new","permissions":["core.view_task"]}`),
		call("role: change", http.MethodPatch, "{role}", `{"permissions":["core.view_task"]}`),
		call("role: delete", http.MethodDelete, "{role}", ""),
		call("group: delete", http.MethodDelete, "{group}", ""),
		call("user: delete", http.MethodDelete, "{user}", ""),
	}
}

// getBase requests the base of the registry API with the credentials.
func getBase(t *testing.T, a attempt) string {
	t.Helper()
	return a.outcome(t, a.send(t, a.as.basic(), http.MethodGet, "/v2/", nil, nil))
}

// pushTo pushes an image to a name.
func (a attempt) pushTo(t *testing.T, name string) string {
	t.Helper()
	return a.outcome(t, a.push(t, a.bearer(t, a.as, "repository:"+name+":pull,push"), name, pushedImage, "pushed"))
}
