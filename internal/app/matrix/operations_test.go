package matrix_test

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

// attempt is an operation that a user performs on a fixture. A fixture is used by one subject only.
type attempt struct {
	*fixture
	subject string
	as      identity
}

// operation is a row of the table for each kind of object.
type operation struct {
	name string
	// perform returns the result: the status, followed by the outcome of a list or a task.
	perform func(t *testing.T, a attempt) string
	rest    []string // method, path and body of an operation that is one request to the REST API
	undo    []string // the same of a request of an administrator after the operation has succeeded; nil for none
}

// call is an operation that sends one request to the REST API, and waits for its task.
func call(name, method, path, body string) operation {
	rest := []string{method, path, body}
	return operation{name: name, rest: rest, perform: func(t *testing.T, a attempt) string {
		t.Helper()
		return a.outcome(t, a.request(t, rest))
	}}
}

// request sends a request to the REST API after it has replaced the placeholders.
func (a attempt) request(t *testing.T, rest []string) response {
	t.Helper()
	fill := func(text string) string { return a.fillIn(strings.ReplaceAll(text, "{subject}", a.subject)) }
	return a.rest(t, a.as, rest[0], fill(rest[1]), fill(rest[2]))
}

// undoneBy returns the operation with an undo.
func (o operation) undoneBy(method, path, body string) operation {
	o.undo = []string{method, path, body}
	return o
}

// outcome is the status, and the state of a task that does not complete.
func (a attempt) outcome(t *testing.T, r response) string {
	t.Helper()
	result := strconv.Itoa(r.status)
	if state, why := a.ended(t, r); state != "" && state != "completed" {
		t.Logf("%s: %s: the task %s: %s", a.subject, a.namespace, state, why)
		result += " " + state
	}
	if r.status >= http.StatusInternalServerError {
		t.Errorf("%s: %v", a.subject, r)
	}
	return result
}

// listed is an operation that reads a list and reports whether it has an object.
func listed(name, list, object string) operation {
	return operation{name: name, perform: func(t *testing.T, a attempt) string {
		t.Helper()
		r := a.rest(t, a.as, http.MethodGet, a.fillIn(list), "")
		if r.status != http.StatusOK {
			return a.outcome(t, r)
		}
		if slices.Contains(a.hrefs(t, r), a.fillIn(object)) {
			return "200 listed"
		}
		return "200 absent"
	}}
}

// pull is an operation that reads from the registry. It sends the request with the credentials and with a bearer token,
// which must have the same result.
func pull(name, method, path string) operation {
	return operation{name: name, perform: func(t *testing.T, a attempt) string {
		t.Helper()
		header := http.Header{"Accept": {"*/*"}}
		at := a.fillIn(path)
		plain := a.outcome(t, a.send(t, a.as.basic(), method, at, header, nil))
		token := a.outcome(t, a.send(t, a.bearer(t, a.as, a.scopeOf(at)), method, at, header, nil))
		if plain != token {
			t.Errorf("%s: %s %s: %s with the credentials, %s with a token", a.subject, method, at, plain, token)
		}
		return plain
	}}
}

// scopeOf returns the scope of a token for all actions on the repository in a path.
func (a attempt) scopeOf(path string) string {
	path = strings.TrimPrefix(strings.TrimPrefix(path, "/extensions"), "/v2/")
	parts := strings.Split(path, "/")
	return "repository:" + strings.Join(parts[:2], "/") + ":pull,push,delete"
}

// change is an operation that writes to the registry with a bearer token.
func change(name, method, path string, body func(t *testing.T, a attempt) (contentType string, body []byte)) operation {
	return operation{name: name, perform: func(t *testing.T, a attempt) string {
		t.Helper()
		header, content := http.Header{}, []byte(nil)
		if body != nil {
			kind, sent := body(t, a)
			header.Set("Content-Type", kind)
			content = sent
		}
		at := a.fillIn(path)
		return a.outcome(t, a.send(t, a.bearer(t, a.as, a.scopeOf(at)), method, at, header, content))
	}}
}

func sentManifest(name string) func(*testing.T, attempt) (string, []byte) {
	return func(_ *testing.T, a attempt) (string, []byte) {
		return pulp.OCIManifest, []byte(a.images[name].manifest)
	}
}

func sentSignature(name string) func(*testing.T, attempt) (string, []byte) {
	return func(t *testing.T, a attempt) (string, []byte) {
		t.Helper()
		return "application/json", a.signature(t, a.fillIn(name), a.images["second"])
	}
}

// granted is an operation that requests a token and reports the granted actions.
func granted(name, scope string) operation {
	return operation{name: name, perform: func(t *testing.T, a attempt) string {
		t.Helper()
		q := url.Values{"service": {a.host}, "scope": {a.fillIn(scope)}}
		r := a.send(t, a.as.basic(), http.MethodGet, "/token/?"+q.Encode(), nil, nil)
		if r.status != http.StatusOK {
			return a.outcome(t, r)
		}
		var got struct{ Token string }
		r.decode(t, &got)
		actions := grantedBy(t, got.Token)
		return "200 " + strings.Join(actions, ",")
	}}
}

// operations returns the operations on the objects of a fixture, in their order: those that delete objects are last.
func operations() []operation {
	return slices.Concat(registryOperations(), repositoryOperations(), distributionOperations(), remoteOperations(),
		contentOperations(), roleOperations(), deletions())
}

func registryOperations() []operation {
	const app = "/v2/{ns}/app/"
	return []operation{
		granted("registry: token to pull", "repository:{ns}/app:pull"),
		granted("registry: token to push", "repository:{ns}/app:pull,push"),
		granted("registry: token to push a new name", "repository:{ns}/new:pull,push"),
		pull("registry: GET a manifest", http.MethodGet, app+"manifests/v1"),
		pull("registry: HEAD a manifest", http.MethodHead, app+"manifests/v1"),
		pull("registry: GET a blob", http.MethodGet, app+"blobs/{blob}"),
		pull("registry: GET tags", http.MethodGet, app+"tags/list"),
		pull("registry: GET referrers", http.MethodGet, app+"referrers/{digest of kept}"),
		pull("registry: GET signatures", http.MethodGet, "/extensions/v2/{ns}/app/signatures/{digest of kept}"),
		pull("registry: GET a manifest of a container repository", http.MethodGet, "/v2/{ns}/img/manifests/v1"),
		pull("registry: GET a manifest of an absent name", http.MethodGet, "/v2/{ns}/absent/manifests/v1"),
		{name: "registry: catalog", perform: catalog},
		change("registry: start an upload", http.MethodPost, app+"blobs/uploads/", nil),
		{name: "registry: push a tag", perform: pushes("app")},
		{name: "registry: push a tag to a container repository", perform: pushes("img")},
		{name: "registry: push a new name", perform: pushes("new")},
		change("registry: PUT a signature", http.MethodPut, "/extensions/v2/{ns}/app/signatures/{digest of second}",
			sentSignature("{ns}/app")),
		change("registry: move a tag", http.MethodPut, app+"manifests/v2", sentManifest("kept")),
		change("registry: DELETE a tag", http.MethodDelete, app+"manifests/deleted-tag", nil),
		change("registry: DELETE a manifest", http.MethodDelete, app+"manifests/{digest of deleted}", nil),
	}
}

// pushes pushes an image to a name in the namespace.
func pushes(name string) func(t *testing.T, a attempt) string {
	return func(t *testing.T, a attempt) string {
		t.Helper()
		return a.pushTo(t, a.namespace+"/"+name)
	}
}

// catalog reports whether the catalog has the fixture's repository.
func catalog(t *testing.T, a attempt) string {
	t.Helper()
	last := a.namespace + "/aaa"
	r := a.send(t, a.bearer(t, a.as, "registry:catalog:*"), http.MethodGet, "/v2/_catalog?n=1&last="+last, nil, nil)
	if r.status != http.StatusOK {
		return a.outcome(t, r)
	}
	var got struct{ Repositories []string }
	r.decode(t, &got)
	if slices.Contains(got.Repositories, a.namespace+"/app") {
		return "200 listed"
	}
	return "200 absent"
}

func repositoryOperations() []operation {
	all := []operation{call("container repository: create", http.MethodPost, pulp.ContainerCollection, `{"name":"{ns}/created"}`)}
	for _, kind := range []struct{ name, key, collection, path string }{
		{"push repository: ", "push", pulp.PushCollection, "app"}, {"container repository: ", "repo", pulp.ContainerCollection, "img"},
	} {
		href, n := "{"+kind.key+"}", kind.name
		all = append(all,
			listed(n+"list", kind.collection+"?name={ns}/"+kind.path, href),
			listed(n+"list of all types", "repositories/?name={ns}/"+kind.path, href),
			call(n+"read", http.MethodGet, href, ""),
			call(n+"my_permissions", http.MethodGet, href+"my_permissions/", ""),
			listed(n+"list versions", href+"versions/", href+"versions/1/"),
			listed(n+"list versions of all", "repository_versions/?number=1&limit=1000", href+"versions/1/"),
			call(n+"read a version", http.MethodGet, href+"versions/1/", ""),
			call(n+"repair a version", http.MethodPost, href+"versions/1/repair/", "{}"),
			call(n+"verify", http.MethodPost, href+"verify/", `{"tag":"v1"}`),
			call(n+"change the description", http.MethodPatch, href, `{"description":"by {subject}"}`),
			call(n+"replace", http.MethodPut, href, `{"name":"{ns}/`+kind.path+`","description":"by {subject}"}`),
			call(n+"rename within the namespace", http.MethodPatch, href, `{"name":"{ns}/renamed-`+kind.path+`"}`).
				undoneBy(http.MethodPatch, href, `{"name":"{ns}/`+kind.path+`"}`),
			call(n+"rename into another namespace", http.MethodPatch, href, `{"name":"somewhere/{ns}-`+kind.path+`"}`).
				undoneBy(http.MethodPatch, href, `{"name":"{ns}/`+kind.path+`"}`),
			call(n+"sign with the assigned service", http.MethodPost, href+"sign/", `{"tags_list":["v2"]}`),
			call(n+"sign with another service", http.MethodPost, href+"sign/",
				`{"manifest_signing_service":"{spare}","tags_list":["v2"]}`),
			call(n+"assign another service", http.MethodPatch, href, `{"manifest_signing_service":"{spare}"}`),
			call(n+"tag", http.MethodPost, href+"tag/", `{"tag":"tagged","digest":"{digest of kept}"}`),
			call(n+"untag", http.MethodPost, href+"untag/", `{"tag":"untagged"}`),
		)
	}
	return append(all,
		call("push repository: remove an image", http.MethodPost, "{push}remove_image/", `{"digest":"{digest of removed}"}`),
		call("container repository: set a label", http.MethodPost, "{repo}set_label/", `{"key":"k","value":"{subject}"}`),
		call("container repository: unset a label", http.MethodPost, "{repo}unset_label/", `{"key":"k"}`),
		call("container repository: add content", http.MethodPost, "{repo}add/", `{"content_units":["{manifest}"]}`),
		call("container repository: remove content", http.MethodPost, "{repo}remove/", `{"content_units":["{unwanted}"]}`),
		call("container repository: copy tags", http.MethodPost, "{repo}copy_tags/", `{"source_repository_version":"{version}","names":["v1"]}`),
		call("container repository: copy manifests", http.MethodPost, "{repo}copy_manifests/",
			`{"source_repository_version":"{version}","digests":["{digest of kept}"]}`),
		call("container repository: sync", http.MethodPost, "{repo}sync/", `{"remote":"{remote}"}`),
		call("push repository: rollback", http.MethodPost, "{push}rollback/", `{"version":2}`),
		call("container repository: rollback", http.MethodPost, "{repo}rollback/", `{"version":2}`),
		call("container repository: delete a version", http.MethodDelete, "{repo}versions/3/", ""),
	)
}

func distributionOperations() []operation {
	const list = pulp.DistributionCollection
	return []operation{
		listed("distribution: list", list+"?name={ns}/app", "{push-dist}"),
		listed("distribution: list of all types", "distributions/?name={ns}/app", "{push-dist}"),
		call("distribution: read", http.MethodGet, "{push-dist}", ""),
		call("distribution: my_permissions", http.MethodGet, "{push-dist}my_permissions/", ""),
		call("distribution: change", http.MethodPatch, "{push-dist}", `{"pulp_labels":{"k":"{subject}"}}`),
		call("distribution: set a label", http.MethodPost, "{push-dist}set_label/", `{"key":"k","value":"{subject}"}`),
		call("distribution: rename", http.MethodPatch, "{repo-dist}", `{"name":"{ns}/renamed"}`).
			undoneBy(http.MethodPatch, "{repo-dist}", `{"name":"{ns}/img"}`),
		call("distribution: move to another path", http.MethodPatch, "{repo-dist}", `{"base_path":"{ns}/moved"}`).
			undoneBy(http.MethodPatch, "{repo-dist}", `{"base_path":"{ns}/img"}`),
		call("distribution: move to another namespace", http.MethodPatch, "{repo-dist}", `{"base_path":"somewhere/{ns}"}`).
			undoneBy(http.MethodPatch, "{repo-dist}", `{"base_path":"{ns}/img"}`),
		call("distribution: serve another repository", http.MethodPatch, "{repo-dist}", `{"repository":"{gone-repo}"}`).
			undoneBy(http.MethodPatch, "{repo-dist}", `{"repository":"{repo}"}`),
		call("distribution: create", http.MethodPost, list, `{"name":"{ns}/created","base_path":"{ns}/created"}`),
		call("distribution: create for a repository", http.MethodPost, list,
			`{"name":"{ns}/served","base_path":"{ns}/served","repository":"{repo}"}`),
	}
}

func remoteOperations() []operation {
	return []operation{
		listed("remote: list", pulp.RemoteCollection+"?name={ns}/remote", "{remote}"),
		call("remote: read", http.MethodGet, "{remote}", ""),
		call("remote: create", http.MethodPost, pulp.RemoteCollection,
			`{"name":"{ns}/created","url":"http://127.0.0.1:1","upstream_name":"a/b"}`),
		call("remote: change", http.MethodPatch, "{remote}", `{"policy":"immediate","max_retries":1}`),
		call("remote: rename into another namespace", http.MethodPatch, "{remote}", `{"name":"somewhere/{ns}"}`).
			undoneBy(http.MethodPatch, "{remote}", `{"name":"{ns}/remote"}`),
		call("remote: set a label", http.MethodPost, "{remote}set_label/", `{"key":"k","value":"v"}`),
		listed("namespace: list", pulp.NamespaceCollection+"?name={ns}", "{namespace}"),
		call("namespace: read", http.MethodGet, "{namespace}", ""),
		call("namespace: my_permissions", http.MethodGet, "{namespace}my_permissions/", ""),
	}
}

func contentOperations() []operation {
	return []operation{
		listed("content: list tags of a version", "content/container/tags/?repository_version={repo-version}&name=v1", "{tag}"),
		listed("content: list manifests of a version", "content/container/manifests/?repository_version={repo-version}&digest={digest of kept}", "{manifest}"),
		call("content: list signatures of a version", http.MethodGet, "content/container/signatures/?repository_version={repo-version}", ""),
		call("content: read a tag", http.MethodGet, "{tag}", ""),
		call("content: read a manifest", http.MethodGet, "{manifest}", ""),
		call("content: read a blob", http.MethodGet, "{config}", ""),
	}
}

// roleOperations list, give and take roles on each kind of object.
func roleOperations() []operation {
	var all []operation
	for _, o := range []struct{ kind, object, role string }{
		{"push repository", "{push}", "container.containerrepository_viewer"},
		{"container repository", "{repo}", "container.containerrepository_viewer"},
		{"distribution", "{push-dist}", "container.containerdistribution_consumer"},
		{"remote", "{remote}", "container.containerremote_viewer"},
		{"namespace", "{namespace}", "container.containernamespace_consumer"},
	} {
		body := `{"role":"` + o.role + `","users":["bystander"]}`
		all = append(all,
			call(o.kind+": list_roles", http.MethodGet, o.object+"list_roles/", ""),
			call(o.kind+": add_role", http.MethodPost, o.object+"add_role/", body),
			call(o.kind+": remove_role", http.MethodPost, o.object+"remove_role/", body),
		)
	}
	return all
}

func deletions() []operation {
	return []operation{
		call("push repository: migrate", http.MethodPost, "{push}migrate/", ""),
		call("distribution: publish or hide", http.MethodPatch, "{gone-dist}", `{"private":true}`),
		call("distribution: delete", http.MethodDelete, "{gone-dist}", ""),
		call("container repository: delete", http.MethodDelete, "{gone-repo}", ""),
		call("remote: delete", http.MethodDelete, "{gone-remote}", ""),
		call("namespace: delete", http.MethodDelete, "{namespace}", ""),
	}
}
