package matrix_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

// request is a request to the REST API that must be answered with one of the statuses.
type request struct {
	method, path, body string
	statuses           []int
}

// refused sends requests as a user, by their descriptions.
func (f *fixture) refused(t *testing.T, as identity, requests map[string]request) {
	t.Helper()
	for name, r := range requests {
		path := f.fillIn(r.path)
		var got response
		if strings.HasPrefix(path, "/v2/") || strings.HasPrefix(path, "/extensions/") {
			got = f.send(t, as.basic(), r.method, path, http.Header{"Content-Type": {pulp.OCIManifest}}, []byte(f.fillIn(r.body)))
		} else {
			got = f.rest(t, as, r.method, path, f.fillIn(r.body))
		}
		if !slices.Contains(r.statuses, got.status) {
			t.Errorf("%s: %v, want one of %v", name, got, r.statuses)
		}
	}
}

// newMallory returns a fixture of private objects in the namespace secret, and a user with a namespace of the own name,
// where {mine} is a container repository, {mine-dist} its distribution and {my-remote} a remote.
func newMallory(t *testing.T, s *server) (*fixture, identity) {
	t.Helper()
	f := newFixture(t, s, "secret", true, identity{})
	mallory := s.user(t, "mallory")
	if r := s.push(t, mallory.basic(), "mallory/app", pushedImage, "v1"); r.status != http.StatusCreated {
		t.Fatalf("the push to the own namespace: %v", r)
	}
	for name, post := range map[string][2]string{
		"mine":      {pulp.ContainerCollection, `{"name":"mallory/mine"}`},
		"my-remote": {pulp.RemoteCollection, `{"name":"mallory/remote","url":"` + s.URL + `","upstream_name":"secret/app"}`},
	} {
		r := s.rest(t, mallory, http.MethodPost, post[0], post[1])
		var made struct {
			Href string `json:"pulp_href"`
		}
		r.decode(t, &made)
		if made.Href == "" {
			t.Fatalf("create %s: %v", name, r)
		}
		f.values[name] = made.Href
	}
	f.values["mine-dist"] = s.create(t, pulp.DistributionCollection,
		`{"name":"mallory/mine","base_path":"mallory/mine","repository":"`+f.values["mine"]+`"}`)
	return f, mallory
}

// TestForeignContent tries to obtain private content of others, and to change objects of others.
func TestForeignContent(t *testing.T) {
	t.Parallel()
	f, mallory := newMallory(t, newServer(t))
	upload := f.send(t, f.admin.basic(), http.MethodPost, "/v2/secret/app/blobs/uploads/", nil, nil)
	location, err := url.Parse(upload.header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	f.values["upload"] = strings.TrimPrefix(location.RequestURI(), "/v2/secret/app/")
	f.values["foreign-blob"] = f.images["deleted"].configBlob()
	f.values["foreign-manifest"] = f.images["unwanted"].manifest
	f.refused(t, mallory, map[string]request{
		"mount a blob":                   {"POST", "/v2/mallory/app/blobs/uploads/?mount={foreign-blob}&from=secret/app", "", []int{202}},
		"mount a blob without a source":  {"POST", "/v2/mallory/app/blobs/uploads/?mount={foreign-blob}", "", []int{202}},
		"read a blob at an own name":     {"GET", "/v2/mallory/app/blobs/{foreign-blob}", "", []int{404}},
		"read a manifest at an own name": {"GET", "/v2/mallory/app/manifests/{digest of deleted}", "", []int{404}},
		"push a manifest of a foreign blob": {
			"PUT", "/v2/mallory/app/manifests/stolen", "{foreign-manifest}", []int{400},
		},
		"finish an upload of others":       {"PUT", "/v2/mallory/app/{upload}", "", []int{404, 400}},
		"read an upload of others":         {"GET", "/v2/secret/app/{upload}", "", []int{401}},
		"cancel an upload of others":       {"DELETE", "/v2/mallory/app/{upload}", "", []int{404}},
		"copy tags of a private version":   {"POST", "{mine}copy_tags/", `{"source_repository_version":"{version}"}`, []int{400}},
		"copy tags of a private one":       {"POST", "{mine}copy_tags/", `{"source_repository":"{repo}"}`, []int{400}},
		"copy private manifests":           {"POST", "{mine}copy_manifests/", `{"source_repository":"{repo}"}`, []int{400}},
		"add a private manifest":           {"POST", "{mine}add/", `{"content_units":["{manifest}"]}`, []int{400}},
		"add a private tag":                {"POST", "{mine}add/", `{"content_units":["{tag}"]}`, []int{400}},
		"add a private blob":               {"POST", "{mine}add/", `{"content_units":["{config}"]}`, []int{400}},
		"roll back to a private version":   {"POST", "{mine}rollback/", `{"version":"{version}"}`, []int{400}},
		"verify a private version":         {"POST", "{mine}verify/", `{"tag":"v1","repository_version":"{version}"}`, []int{400}},
		"tag a private manifest":           {"POST", "{mine}tag/", `{"tag":"stolen","digest":"{digest of deleted}"}`, []int{400}},
		"serve a private repository":       {"PATCH", "{mine-dist}", `{"repository":"{repo}"}`, []int{400, 403}},
		"serve a private push repository":  {"PATCH", "{mine-dist}", `{"repository":"{push}"}`, []int{400, 403}},
		"serve a private version":          {"PATCH", "{mine-dist}", `{"repository":null,"repository_version":"{repo-version}"}`, []int{400, 403}},
		"take a path in the namespace":     {"PATCH", "{mine-dist}", `{"base_path":"secret/mine"}`, []int{403}},
		"take a path that is served":       {"PATCH", "{mine-dist}", `{"base_path":"secret/app"}`, []int{403}},
		"rename into the namespace":        {"PATCH", "{mine}", `{"name":"secret/mine"}`, []int{403}},
		"rename to a private name":         {"PATCH", "{mine}", `{"name":"secret/img"}`, []int{403}},
		"use a foreign remote":             {"PATCH", "{mine}", `{"remote":"{remote}"}`, []int{400, 403}},
		"sync from a foreign remote":       {"POST", "{mine}sync/", `{"remote":"{remote}"}`, []int{400, 403}},
		"create with a foreign remote":     {"POST", pulp.ContainerCollection, `{"name":"mallory/r","remote":"{remote}"}`, []int{400, 403}},
		"rename the remote into it":        {"PATCH", "{my-remote}", `{"name":"secret/mine"}`, []int{403}},
		"sign for a foreign path":          {"POST", "{mine}sign/", `{"future_base_path":"secret/app"}`, []int{400, 403}},
		"take a key":                       {"PATCH", "{mine}", `{"manifest_signing_service":"{service}"}`, []int{400, 403}},
		"create with a key":                {"POST", pulp.ContainerCollection, `{"name":"mallory/k","manifest_signing_service":"{service}"}`, []int{400, 403}},
		"sign with a key":                  {"POST", "{mine}sign/", `{"manifest_signing_service":"{service}"}`, []int{400, 403}},
		"create in the namespace":          {"POST", pulp.ContainerCollection, `{"name":"secret/new"}`, []int{403}},
		"create a private name":            {"POST", pulp.ContainerCollection, `{"name":"secret/img"}`, []int{403}},
		"serve a path in it":               {"POST", pulp.DistributionCollection, `{"name":"mallory/d","base_path":"secret/new"}`, []int{403}},
		"create a remote in the namespace": {"POST", pulp.RemoteCollection, `{"name":"secret/r","url":"http://127.0.0.1","upstream_name":"a/b"}`, []int{403}},
		"create the namespace again":       {"POST", pulp.NamespaceCollection, `{"name":"secret"}`, []int{403}},
		"give oneself a role":              {"POST", "{namespace}add_role/", `{"role":"container.containernamespace_owner","users":["mallory"]}`, []int{403, 404}},
	})
	f.hidden(t, mallory)
}

// hidden checks that no list of the REST API tells a user about the private objects, with filters and orderings.
func (f *fixture) hidden(t *testing.T, as identity) {
	t.Helper()
	for _, list := range []string{
		"repositories/?name__startswith=secret/", "repositories/?with_content={manifest}", "repositories/?latest_with_content={manifest}",
		pulp.ContainerCollection + "?remote={remote}", pulp.PushCollection + "?name__in=secret/app,secret/gone",
		pulp.ContainerCollection + "?manifest_signing_service={service}", pulp.ContainerCollection + "?pulp_href__in={repo}",
		"repository_versions/?content={manifest}", "distributions/?name__contains=secret", "distributions/?repository={repo}",
		"distributions/?base_path__icontains=SECRET", "distributions/?with_content={manifest}", "distributions/?namespace={namespace}",
		"remotes/?name__startswith=secret", "remotes/?pulp_href__in={remote}",
		"content/container/tags/?name=untagged", "content/container/tags/?tagged_manifest={manifest}",
		"content/container/manifests/?digest={digest of deleted}", "content/container/blobs/?digest={foreign-blob}",
		"content/container/manifests/?pulp_href__in={manifest}", "content/container/signatures/?manifest={manifest}",
		"content/container/manifests/?orphaned_for=0", "content/?pulp_href__in={manifest}",
		"tasks/?reserved_resources={repo}", "tasks/?exclusive_resources={push}", "tasks/?created_resources={version}",
		"task-groups/", "users/?username=admin", "users/?username__contains=a&groups=1", "groups/",
	} {
		r := f.rest(t, as, http.MethodGet, f.fillIn(list), "")
		var got struct{ Count int }
		if r.status == http.StatusOK {
			r.decode(t, &got)
		}
		if got.Count != 0 || r.status == http.StatusOK && strings.Contains(r.body, "secret") {
			t.Errorf("%s: %v", list, r)
		}
		if r.status >= http.StatusInternalServerError {
			t.Errorf("%s: %v", list, r)
		}
	}
}

// TestAdministratorsAreOutOfReach lets users who may manage users try to become administrators.
func TestAdministratorsAreOutOfReach(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	owner := s.user(t, "personnel")
	s.giveEverywhere(t, "personnel", "core.user_owner")
	s.giveEverywhere(t, "personnel", "core.user_creator")
	f := &fixture{server: s, values: map[string]string{
		"admin": s.find(t, "users/?username=admin"), "self": s.find(t, "users/?username=personnel"),
	}}
	f.refused(t, owner, map[string]request{
		"change the administrator's password": {"PATCH", "{admin}", `{"password":"` + password + `"}`, []int{403}},
		"replace the administrator":           {"PUT", "{admin}", `{"username":"admin","password":"` + password + `"}`, []int{403}},
		"rename the administrator":            {"PATCH", "{admin}", `{"username":"somebody"}`, []int{403}},
		"disable the administrator":           {"PATCH", "{admin}", `{"is_active":false}`, []int{403}},
		"delete the administrator":            {"DELETE", "{admin}", "", []int{403}},
		"become an administrator":             {"PATCH", "{self}", `{"is_staff":true}`, []int{403}},
		"create an administrator":             {"POST", "users/", `{"username":"eve","password":"` + password + `","is_staff":true}`, []int{403}},
		"take a role on everything": {
			"POST", "{self}roles/", `{"role":"container.containernamespace_owner","content_object":null}`, []int{403},
		},
		"create a token of the administrator": {"POST", "{admin}tokens/", `{"name":"eve"}`, []int{403, 404}},
	})
	f.refused(t, s.admin, map[string]request{
		"the last administrator disables the own account": {"PATCH", "{admin}", `{"is_active":false}`, []int{409}},
		"the last administrator demotes the own account":  {"PATCH", "{admin}", `{"is_staff":false}`, []int{409}},
		"the last administrator deletes the own account":  {"DELETE", "{admin}", "", []int{409}},
	})
}

// TestRolesEndWithTheirObjects checks that roles on an object, of a group and of a deleted role give nothing after the
// deletion, not even for the time of a cache, and that an object of the same name starts without roles.
func TestRolesEndWithTheirObjects(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const name = "team/private"
	push := func() {
		t.Helper()
		s.mustPush(t, name, pushedImage, "v1")
		s.must(t, http.MethodPatch, s.find(t, pulp.DistributionCollection+"?name="+name), `{"private":true}`)
	}
	push()
	namespace := func() string { return s.find(t, pulp.NamespaceCollection+"?name=team") }
	distribution := func() string { return s.find(t, pulp.DistributionCollection+"?name="+name) }
	for what, c := range map[string]struct{ role, object func() string }{
		"distribution": {func() string { return "container.containerdistribution_collaborator" }, distribution},
		"namespace":    {func() string { return "container.containernamespace_collaborator" }, namespace},
	} {
		user := s.user(t, "of-"+what)
		s.must(t, http.MethodPost, c.object()+"add_role/", `{"role":"`+c.role()+`","users":["of-`+what+`"]}`)
		token := s.bearer(t, user, "repository:"+name+":pull,push")
		check := func(when string, want int) {
			t.Helper()
			for _, authorization := range []string{token, user.basic()} {
				pulled := s.send(t, authorization, http.MethodGet, "/v2/"+name+"/manifests/v1", nil, nil)
				pushed := s.putManifest(t, authorization, name, pushedImage, "v1")
				if pulled.status != want || pushed.status != want && pushed.status != http.StatusCreated {
					t.Errorf("%s %s: pull %v, push %v, want %d", what, when, pulled, pushed, want)
				}
				if want != http.StatusOK && pushed.status == http.StatusCreated {
					t.Errorf("%s %s: pushed", what, when)
				}
			}
		}
		check("with the role", http.StatusOK)
		s.must(t, http.MethodDelete, c.object(), "")
		push()
		check("created again", http.StatusUnauthorized)
	}
}

// TestForeignRepositoryThroughAnOwnDistribution lets a user who may only modify the content of a repository serve it
// under an own path: the deletion of that distribution does not delete the repository.
func TestForeignRepositoryThroughAnOwnDistribution(t *testing.T) {
	t.Parallel()
	f, mallory := newMallory(t, newServer(t))
	f.assign(t, "container.containerrepository_content_manager", "push", "mallory")
	r := f.rest(t, mallory, http.MethodPost, pulp.DistributionCollection,
		f.fillIn(`{"name":"mallory/served","base_path":"mallory/served","repository":"{push}"}`))
	if state, why := f.ended(t, r); state != "completed" {
		t.Fatalf("serve the repository: %v %s %s", r, state, why)
	}
	r = f.rest(t, mallory, http.MethodDelete, f.find(t, pulp.DistributionCollection+"?name=mallory/served"), "")
	f.ended(t, r)
	if r := f.rest(t, f.admin, http.MethodGet, f.values["push"], ""); r.status != http.StatusOK {
		t.Errorf("the repository after the deletion of the other distribution: %v", r)
	}
	f.refused(t, mallory, map[string]request{
		"delete the repository's own distribution": {"DELETE", "{push-dist}", "", []int{403, 404}},
		"rename the repository":                    {"PATCH", "{push}", `{"name":"mallory/taken"}`, []int{403}},
		"hide or publish it":                       {"PATCH", "{push-dist}", `{"private":false}`, []int{403, 404}},
		"give a role on it":                        {"POST", "{push}add_role/", `{"role":"container.containerrepository_owner","users":["mallory"]}`, []int{403}},
	})
}

// TestNamesOfUsersAndNamespaces checks that only local users own the absent namespace of their name, and that objects
// which outlive a namespace do not fall to whoever creates it again.
func TestNamesOfUsersAndNamespaces(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	f := newFixture(t, s, "reused", true, identity{})
	same := s.user(t, "reused")
	creator := s.user(t, "creator")
	s.giveEverywhere(t, "creator", "container.containernamespace_creator")
	read := func(as identity, want ...int) {
		t.Helper()
		for _, object := range []string{"repo", "gone-repo", "remote"} {
			if r := s.rest(t, as, http.MethodGet, f.values[object], ""); r.status == http.StatusOK || !slices.Contains(want, r.status) {
				t.Errorf("%s reads the %s: %v", as.user, object, r)
			}
		}
	}
	read(same, http.StatusNotFound, http.StatusForbidden)
	s.must(t, http.MethodDelete, f.values["namespace"], "")
	for _, as := range []identity{same, creator} {
		// The container repositories and the remotes are left.
		read(as, http.StatusNotFound, http.StatusForbidden)
		r := s.rest(t, as, http.MethodPost, pulp.NamespaceCollection, `{"name":"reused"}`)
		t.Logf("%s creates the namespace again: %v", as.user, r)
		read(as, http.StatusNotFound, http.StatusForbidden)
		if r.status == http.StatusCreated {
			s.must(t, http.MethodDelete, s.find(t, pulp.NamespaceCollection+"?name=reused"), "")
		}
	}
}
