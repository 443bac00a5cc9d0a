package matrix_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

// imageNames are the names of the images of a fixture. Each operation that removes content has one of its own: kept has
// the tag v1 and tags that operations remove or move, second has v2, deleted is deleted by digest, removed is removed
// over REST, and unwanted is removed from the container repository.
var imageNames = []string{"kept", "second", "deleted", "removed", "unwanted"}

// fixture is a namespace with objects of each kind, all public or all private. Users of the subject act on it.
type fixture struct {
	*server
	namespace string
	private   bool
	images    map[string]image  // of this fixture only
	values    map[string]string // of placeholders in paths and bodies
}

// newFixture creates the objects as an administrator. If first is not anonymous, this user creates the namespace by a
// push.
func newFixture(t *testing.T, s *server, namespace string, private bool, first identity) *fixture {
	t.Helper()
	f := &fixture{
		server: s, namespace: namespace, private: private, images: map[string]image{},
		values: map[string]string{"ns": namespace, "service": s.service, "spare": s.spare},
	}
	for _, name := range imageNames {
		f.images[name] = newImage(name + " of " + namespace)
		f.values["digest of "+name] = f.images[name].digest()
	}
	kept := f.images["kept"]
	f.values["blob"] = kept.configBlob()
	if first != (identity{}) {
		if r := s.push(t, first.basic(), namespace+"/first", kept, "v1"); r.status != http.StatusCreated {
			t.Fatalf("the first push to %s: %v", namespace, r)
		}
		f.values["namespace"] = s.find(t, pulp.NamespaceCollection+"?name="+namespace)
	} else {
		f.values["namespace"] = s.create(t, pulp.NamespaceCollection, `{"name":"`+namespace+`"}`)
	}
	f.fill(t, "app", "push", pulp.PushCollection)
	f.container(t, "img", "repo")
	f.fill(t, "img", "repo", pulp.ContainerCollection)
	s.mustPush(t, namespace+"/gone", kept, "v1")
	f.values["gone-dist"] = s.find(t, pulp.DistributionCollection+"?name="+namespace+"/gone")
	f.container(t, "gone-img", "gone-repo")
	for _, name := range []string{"remote", "gone-remote"} {
		f.values[name] = s.create(t, pulp.RemoteCollection, f.fillIn(
			`{"name":"{ns}/`+name+`","url":"`+s.URL+`","upstream_name":"seed/app"}`))
	}
	if private {
		for _, name := range []string{"push-dist", "repo-dist", "gone-dist", "gone-repo-dist"} {
			s.must(t, http.MethodPatch, f.values[name], `{"private":true}`)
		}
	}
	f.values["version"] = s.latest(t, f.values["push"])
	f.values["repo-version"] = s.latest(t, f.values["repo"])
	for name, list := range map[string]string{
		"tag": "tags/?name=v1", "manifest": "manifests/?digest={digest of kept}", "config": "blobs/?digest={blob}",
		"unwanted": "manifests/?digest={digest of unwanted}",
	} {
		f.values[name] = s.find(t, f.fillIn("content/container/"+list+"&repository_version={repo-version}"))
	}
	return f
}

// fill pushes the images to a name, and signs them with an assigned service.
func (f *fixture) fill(t *testing.T, name, kind, collection string) {
	t.Helper()
	path := f.namespace + "/" + name
	f.mustPush(t, path, f.images["kept"], "v1", "untagged", "deleted-tag")
	f.mustPush(t, path, f.images["second"], "v2")
	for _, name := range imageNames[2:] {
		f.mustPush(t, path, f.images[name], name)
	}
	f.values[kind] = f.find(t, collection+"?name="+path)
	f.values[kind+"-dist"] = f.find(t, pulp.DistributionCollection+"?name="+path)
	f.must(t, http.MethodPatch, f.values[kind], `{"manifest_signing_service":"`+f.service+`"}`)
	f.must(t, http.MethodPost, f.values[kind]+"sign/", "")
}

// container creates a repository of the type container with a distribution.
func (f *fixture) container(t *testing.T, name, kind string) {
	t.Helper()
	path := f.namespace + "/" + name
	f.values[kind] = f.create(t, pulp.ContainerCollection, `{"name":"`+path+`"}`)
	f.values[kind+"-dist"] = f.create(t, pulp.DistributionCollection,
		`{"name":"`+path+`","base_path":"`+path+`","repository":"`+f.values[kind]+`"}`)
}

// latest returns the href of the latest version of a repository.
func (s *server) latest(t *testing.T, repository string) string {
	t.Helper()
	var got struct {
		Latest string `json:"latest_version_href"`
	}
	s.must(t, http.MethodGet, repository, "").decode(t, &got)
	return got.Latest
}

// fillIn replaces the placeholders in a text.
func (f *fixture) fillIn(text string) string {
	for name, value := range f.values {
		text = strings.ReplaceAll(text, "{"+name+"}", value)
	}
	return text
}

// assign gives a user or a group a role on an object of the fixture, or for all objects if object is empty.
func (f *fixture) assign(t *testing.T, role, object, user string) {
	t.Helper()
	f.must(t, http.MethodPost, f.values[object]+"add_role/", fmt.Sprintf(`{"role":%q,"users":[%q]}`, role, user))
}
