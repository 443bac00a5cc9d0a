package api_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

func TestDistributions(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	full, push := href(m.full), m.repoHref()
	secret := m.target("b/secret")
	m.hide("b/secret")
	secretHref := href(secret.Repository)
	theirs := m.container("carol/own", "")
	version, err := m.store.Content.Version(t.Context(), m.full.ID, 1)
	if err != nil {
		t.Fatal(err)
	}
	pinned := tasks.Optional[pulp.PinnedVersion]{
		Set: true, Value: &pulp.PinnedVersion{VersionID: version.ID, RepositoryID: m.full.ID, Number: 1},
	}
	free := tasks.Optional[pulp.PinnedVersion]{Set: true}
	served := m.serve(pulp.Distribution{Name: "acme-full", BasePath: "acme/full", RepositoryID: m.full.ID})
	fixed := m.pin("acme/fixed", m.full.ID, 1)
	nothing := m.serve(pulp.Distribution{Name: "carol/nothing", BasePath: "carol/nothing"})
	// An administrator created this distribution in carol's namespace.
	foreign := m.serve(
		pulp.Distribution{Name: "carol/foreign", BasePath: "carol/foreign", RepositoryID: m.repo.Repository.ID},
	)
	at := func(d pulp.Distribution) string { return pulp.Href(pulp.DistributionCollection, d.ID) }
	guard := m.get(at(served))["content_guard"].(string)
	guardPRN := m.get(at(served))["content_guard_prn"].(string)
	const (
		post, put, patch = http.MethodPost, http.MethodPut, http.MethodPatch
		denied           = `{"detail":"You do not have permission to perform this action."}`
		both             = `{"non_field_errors":["Only one of the attributes 'repository' and 'repository_version' may be used simultaneously."]}`
		noneThere        = `["Invalid hyperlink - Object does not exist."]`
		otherKind        = `["Invalid hyperlink - Incorrect URL match."]`
		overlaps         = `{"base_path":{"base_path":"Overlaps with an existing distribution."}}`
	)
	forbidden := `{"base_path":["The provided registry path contains forbidden characters."]}`
	named := tasks.DistributionFields{Name: ptr("n"), BasePath: ptr("acme/n")}
	with := func(f func(*tasks.DistributionFields)) *tasks.DistributionFields {
		all := named
		f(&all)
		return &all
	}
	for name, c := range map[string]struct {
		method, path, user, body string // path: of a distribution; POST uses the collection
		status                   int
		want                     string
		fields                   *tasks.DistributionFields
	}{
		"nothing served": {method: post, body: `{"name":"n","base_path":"acme/n"}`, status: 202, fields: &named},
		"a repository": {
			method: post, user: "acme", body: `{"name":"acme/n","base_path":"acme/n","repository":"` + full + `"}`, status: 202,
			fields: with(func(f *tasks.DistributionFields) { f.Name, f.RepositoryID = ptr("acme/n"), &m.full.ID }),
		},
		"a push repository": {
			method: post,
			body:   `{"name":"n","base_path":"acme/n","repository":"prn:container.containerpushrepository:` + m.repo.Repository.ID + `"}`,
			status: 202, fields: with(func(f *tasks.DistributionFields) { f.RepositoryID = &m.repo.Repository.ID }),
		},
		"a version": {
			method: post, user: "acme",
			body: `{"name":"acme/n","base_path":"acme/n","repository_version":"` + full + `versions/1/"}`, status: 202,
			fields: with(func(f *tasks.DistributionFields) { f.Name, f.Version = ptr("acme/n"), pinned }),
		},
		"a version by PRN": {
			method: post,
			body: `{"name":"n","base_path":"acme/n","repository":null,"repository_version":"` + pulp.VersionPRN(
				version.ID,
			) + `"}`,
			status: 202, fields: with(func(f *tasks.DistributionFields) { f.RepositoryID, f.Version = ptr(""), pinned }),
		},
		"all fields": {
			method: post,
			body:   `{"name":"n","base_path":"acme/n","private":true,"hidden":true,"description":"d","pulp_labels":{"a":"b"},"content_guard":"` + guard + `","repository":null,"repository_version":null}`,
			status: 202, fields: with(func(f *tasks.DistributionFields) {
				f.RepositoryID, f.Version, f.Private, f.Hidden, f.Description, f.Labels = ptr(""), free, ptr(
					true,
				), ptr(true), tasks.Optional[string]{Set: true, Value: ptr("d")}, &map[string]*string{"a": ptr("b")}
			}),
		},
		"the guard by PRN": {
			method: post, body: `{"name":"n","base_path":"acme/n","content_guard":"` + guardPRN + `"}`, status: 202,
			fields: &named,
		},
		"the guard by URL": {
			method: post, body: `{"name":"n","base_path":"acme/n","content_guard":"https://registry.example` + guard + `"}`,
			status: 202, fields: &named,
		},
		"fields that are not settable": {
			method: post,
			body:   `{"name":"n","base_path":"acme/n","registry_path":"x","remote":null,"namespace":7,"content_guard_prn":"x","no_content_change_since":null,"prn":"x"}`,
			status: 202, fields: &named,
		},
		"own objects, by a user": {
			method: post, user: "carol", body: `{"name":"carol/n","base_path":"carol/n","repository":"` + href(theirs) + `"}`,
			status: 202,
		},
		"a version of another user's public repository": {
			method: post, user: "carol",
			body: `{"name":"carol/n","base_path":"carol/n","repository_version":"` + full + `versions/1/"}`, status: 403,
			want: denied,
		},
		"a malformed body": {method: post, body: `x`, status: 400},
		"another user's path": {
			method: post, user: "carol", body: `{"name":"carol/n","base_path":"acme/n"}`, status: 403, want: denied,
		},
		"another user's repository": {
			method: post, user: "carol", body: `{"name":"carol/n","base_path":"carol/n","repository":"` + push + `"}`,
			status: 403, want: denied,
		},
		"a hidden repository": {
			method: post, user: "carol", body: `{"name":"carol/n","base_path":"carol/n","repository":"` + secretHref + `"}`,
			status: 400, want: `{"repository":` + noneThere + `}`,
		},
		"a hidden version": {
			method: post, user: "carol",
			body: `{"name":"carol/n","base_path":"carol/n","repository_version":"` + secretHref + `versions/0/"}`, status: 400,
			want: `{"repository_version":` + noneThere + `}`,
		},
		"a missing repository": {
			method: post,
			body:   `{"name":"n","base_path":"acme/n","repository":"` + pulp.RepositoryHref(pulp.Container, pulp.NewID()) + `"}`,
			status: 400, want: `{"repository":` + noneThere + `}`,
		},
		"a repository of the other type": {
			method: post,
			body: `{"name":"n","base_path":"acme/n","repository":"` + pulp.RepositoryHref(
				pulp.Container, m.repo.Repository.ID,
			) + `"}`,
			status: 400, want: `{"repository":` + noneThere + `}`,
		},
		"a repository as the version": {
			method: post, body: `{"name":"n","base_path":"acme/n","repository_version":"` + full + `"}`, status: 400,
			want: `{"repository_version":` + otherKind + `}`,
		},
		"a remote as the repository": {
			method: post, body: `{"name":"n","base_path":"acme/n","repository":"` + m.remoteHref() + `"}`, status: 400,
			want: `{"repository":` + otherKind + `}`,
		},
		"a repository and a version": {
			method: post,
			body:   `{"name":"n","base_path":"acme/n","repository":"` + full + `","repository_version":"` + full + `versions/1/"}`,
			status: 400, want: both,
		},
		"a null guard": {
			method: post, body: `{"name":"n","base_path":"acme/n","content_guard":null}`, status: 400,
			want: `{"content_guard":["This field may not be null."]}`,
		},
		"an unknown guard": {
			method: post,
			body:   `{"name":"n","base_path":"acme/n","content_guard":"` + pulp.Href(pulp.GuardCollection, pulp.NewID()) + `"}`,
			status: 400, want: `{"content_guard":` + noneThere + `}`,
		},
		"a repository as the guard": {
			method: post, body: `{"name":"n","base_path":"acme/n","content_guard":"` + full + `"}`, status: 400,
			want: `{"content_guard":` + otherKind + `}`,
		},
		"a path with capitals": {
			method: post, body: `{"name":"n","base_path":"Acme/n"}`, status: 400, want: forbidden,
		},
		"a path with a final slash": {
			method: post, body: `{"name":"n","base_path":"acme/n/"}`, status: 400, want: forbidden,
		},
		"a path with dots": {
			method: post, body: `{"name":"n","base_path":"acme/../n"}`, status: 400, want: forbidden,
		},
		"a blank path": {
			method: post, body: `{"name":"n","base_path":""}`, status: 400,
			want: `{"base_path":["This field may not be blank."]}`,
		},
		"a path above others": {
			method: post, body: `{"name":"n","base_path":"acme"}`, status: 400, want: overlaps,
		},
		"a path below another": {
			method: post, body: `{"name":"n","base_path":"acme/full/x/y"}`, status: 400, want: overlaps,
		},
		"a taken name": {
			method: post, body: `{"name":"acme-full","base_path":"acme/n"}`, status: 400,
			want: `{"name":["This field must be unique."]}`,
		},
		"a taken path": {
			method: post, body: `{"name":"n","base_path":"acme/full"}`, status: 400,
			want: `{"base_path":["This field must be unique."]}`,
		},
		"several errors": {
			method: post, body: `{"name":"acme-full","base_path":"acme/full","private":7,"description":""}`, status: 400,
			want: `{"base_path":["This field must be unique."],"description":["This field may not be blank."],"name":["This field must be unique."],"private":["Must be a valid boolean."]}`,
		},
		"an overlap with another error": {
			method: post, body: `{"name":"n","base_path":"acme/full/x","private":7}`, status: 400,
			want: `{"private":["Must be a valid boolean."]}`,
		},
		"a name that could be a path": {
			method: post, user: "carol", body: `{"name":"acme/later","base_path":"carol/n"}`, status: 403, want: denied,
		},
		"another user's namespace as the name": {
			method: post, user: "carol", body: `{"name":"acme","base_path":"carol/n"}`, status: 403, want: denied,
		},
		"a top-level name": {
			method: post, user: "carol", body: `{"name":"nginx","base_path":"carol/n"}`, status: 403, want: denied,
		},
		"a top-level path": {
			method: post, user: "carol", body: `{"name":"carol/n","base_path":"nginx"}`, status: 403, want: denied,
		},
		"the own namespace as the name": {
			method: post, user: "carol", body: `{"name":"carol","base_path":"carol/n"}`, status: 202,
		},
		"a name in the own namespace": {
			method: post, user: "carol", body: `{"name":"carol/later","base_path":"carol/n"}`, status: 202,
		},
		"a name that cannot be a path": {
			method: post, user: "carol", body: `{"name":"Acme / later","base_path":"carol/n"}`, status: 202,
		},
		"an unknown field": {
			method: post, body: `{"name":"n","base_path":"acme/n","foo":1}`, status: 400, want: `{"foo":["Unexpected field"]}`,
		},

		"PATCH without fields": {method: patch, path: at(served), body: `{}`, status: 200},
		"PATCH with present values": {
			method: patch, path: at(served),
			body:   `{"name":"acme-full","base_path":"acme/full","repository":"` + full + `","private":false,"hidden":false,"description":null,"pulp_labels":{},"repository_version":null,"content_guard":"` + guard + `"}`,
			status: 200,
		},
		"PUT with present values": {
			method: put, path: at(fixed), body: `{"name":"acme/fixed","base_path":"acme/fixed"}`, status: 200,
		},
		"PUT without required fields": {
			method: put, path: at(served), body: `{}`, status: 400,
			want: `{"base_path":["This field is required."],"name":["This field is required."]}`,
		},
		"making it private": {
			method: patch, path: at(served), user: "acme", body: `{"private":true}`, status: 202,
			fields: &tasks.DistributionFields{Private: ptr(true)},
		},
		"moving": {
			method: patch, path: at(served), user: "acme", body: `{"base_path":"acme/full/below"}`, status: 202,
			fields: &tasks.DistributionFields{BasePath: ptr("acme/full/below")},
		},
		"moving above another": {
			method: patch, path: at(served), body: `{"base_path":"carol"}`, status: 400, want: overlaps,
		},
		"moving to another user's path": {
			method: patch, path: at(served), user: "acme", body: `{"base_path":"b/x"}`, status: 403, want: denied,
		},
		"taking a path and a name": {
			method: patch, path: at(served), body: `{"base_path":"acme/fixed","name":"acme/fixed"}`, status: 400,
			want: `{"base_path":["This field must be unique."],"name":["This field must be unique."]}`,
		},
		"renaming to a top-level name": {
			method: patch, path: at(nothing), user: "carol", body: `{"name":"nginx"}`, status: 403, want: denied,
		},
		"renaming to another user's path": {
			method: patch, path: at(nothing), user: "carol", body: `{"name":"acme/later"}`, status: 403, want: denied,
		},
		"serving nothing": {
			method: patch, path: at(served), body: `{"repository":null}`, status: 202,
			fields: &tasks.DistributionFields{RepositoryID: ptr("")},
		},
		"a version beside a repository": {
			method: patch, path: at(served), body: `{"repository_version":"` + full + `versions/1/"}`, status: 400, want: both,
		},
		"a version instead of the repository": {
			method: patch, path: at(served), body: `{"repository":null,"repository_version":"` + full + `versions/1/"}`,
			status: 202, fields: &tasks.DistributionFields{RepositoryID: ptr(""), Version: pinned},
		},
		"a repository beside a version": {
			method: patch, path: at(fixed), body: `{"repository":"` + full + `"}`, status: 400, want: both,
		},
		"a repository instead of the version": {
			method: patch, path: at(fixed), body: `{"repository":"` + full + `","repository_version":null}`, status: 202,
			fields: &tasks.DistributionFields{RepositoryID: &m.full.ID, Version: free},
		},
		"a push repository's version": {
			method: patch, path: at(fixed), body: `{"repository_version":"` + push + `versions/1/"}`, status: 400,
			want: `{"non_field_errors":["A container push repository cannot be distributed by specifying a repository version."]}`,
		},
		"by another user": {method: patch, path: at(served), user: "carol", body: `{bad`, status: 403, want: denied},
		"a distribution of another user's repository": {
			method: patch, path: at(nothing), user: "carol", body: `{"repository":"` + full + `"}`, status: 403, want: denied,
		},
		"keeping a repository that the user does not see": {
			method: patch, path: at(foreign), user: "carol", body: `{"repository":"` + push + `","description":"d"}`,
			status: 202,
		},
		"an unknown distribution": {
			method: patch, path: pulp.Href(pulp.DistributionCollection, pulp.NewID()), body: `{}`, status: 404,
			want: `{"detail":"No ContainerDistribution matches the given query."}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.method == post {
				c.path = pulp.DistributionCollection
			}
			before := len(m.dispatcher.specs)
			r := m.expect(call{method: c.method, path: c.path, user: c.user, json: c.body}, c.status, c.want)
			if c.status != 202 {
				if len(m.dispatcher.specs) != before {
					t.Error("a task was started")
				}
				if c.status == 200 && r.body.(map[string]any)["pulp_href"] != c.path {
					t.Errorf("body %s", r.raw)
				}
				return
			}
			spec := m.dispatcher.last()
			if c.fields == nil {
				return
			}
			ref, _ := pulp.ParseRef(c.path)
			var want any = tasks.EditArgs{Collection: pulp.DistributionCollection, ID: ref.ID, Distribution: c.fields}
			reserved, name := c.path, tasks.Edit
			if c.method == post {
				want, reserved, name = tasks.CreateArgs{
					Distribution: *c.fields,
				}, pulp.Root+pulp.DistributionCollection, tasks.Create
			}
			if diff := cmp.Diff(want, spec.Args); diff != "" {
				t.Errorf("arguments (-want +got):\n%s", diff)
			}
			if !cmp.Equal(
				spec.Resources, []taskstore.Resource{{Href: reserved, Exclusive: true}},
			) || spec.Name != name || !spec.Immediate {
				t.Errorf("task %+v", spec)
			}
		})
	}
	m.expect(
		call{method: post, path: at(served) + "set_label/", json: `{"key":"a","value":"b"}`}, 201, `{"key":"a","value":"b"}`,
	)
	m.expect(
		call{method: post, path: at(served) + "unset_label/", json: `{"key":"a"}`, user: "acme"}, 201,
		`{"key":"a","value":"b"}`,
	)
	m.expect(call{method: post, path: at(served) + "set_label/", json: `{"key":"a","value":"b"}`, user: "carol"}, 403, "")
}

func TestDistributionsByContent(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	tag := m.results("content/container/tags/?name=multi", "pulp_href")[0]
	m.serve(pulp.Distribution{Name: "acme/full", BasePath: "acme/full", RepositoryID: m.full.ID})
	m.serve(pulp.Distribution{Name: "acme/empty", BasePath: "acme/empty", RepositoryID: m.empty.ID})
	m.pin("acme/zero", m.full.ID, 0)
	m.pin("acme/one", m.full.ID, 1)
	if _, err := m.store.Content.RemoveAll(t.Context(), nil, m.full.ID); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]string{
		"?with_content=" + tag: {"acme/app", "acme/one"},
		"?with_content=" + pulp.Href(pulp.TagCollection, pulp.NewID()): {},
		"?with_content=": {"acme/app", "acme/empty", "acme/full", "acme/one", "acme/zero"},
	} {
		got := m.results(pulp.DistributionCollection+path, "name")
		slices.Sort(got)
		if !cmp.Equal(got, want) {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	m.expect(call{path: pulp.DistributionCollection + "?with_content=abc"}, 400, `["URI not valid: abc"]`)
}

func TestNamespaces(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	make := func(user, body string) call {
		return call{method: http.MethodPost, path: pulp.NamespaceCollection, user: user, json: body}
	}
	const forbidden = `{"name":["The provided registry path contains forbidden characters."]}`
	r := m.expect(make("", `{"name":"new","pulp_labels":{"a":"b"}}`), 201, "")
	made := r.body.(map[string]any)["pulp_href"].(string)
	if got := m.get(made)["pulp_labels"]; !cmp.Equal(got, any(map[string]any{"a": "b"})) {
		t.Errorf("labels %v", got)
	}
	m.expect(make("", `{"name":"new"}`), 400, `{"name":["This field must be unique."]}`)
	m.expect(make("", `{"name":"a/b"}`), 400, forbidden)
	m.expect(make("", `{"name":"Capital"}`), 400, forbidden)
	m.expect(make("", `{}`), 400, `{"name":["This field is required."]}`)
	m.expect(make("carol", `{"name":"carol"}`), 201, "")
	m.expect(make("carol", `{"name":"dave"}`), 403, "")

	own := m.results(pulp.NamespaceCollection+"?name=acme", "pulp_href")[0]
	m.expect(
		call{method: http.MethodPut, path: own, json: `{"name":"x"}`}, 405, `{"detail":"Method \"PUT\" not allowed."}`,
	)
	m.expect(call{method: http.MethodDelete, path: own, user: "carol"}, 403, "")
	m.expect(
		call{method: http.MethodDelete, path: made, user: "carol"}, 404,
		`{"detail":"No ContainerNamespace matches the given query."}`,
	)
	again := m.serve(pulp.Distribution{Name: "acme/again", BasePath: "acme/again", RepositoryID: m.repo.Repository.ID})
	mirror := m.serve(pulp.Distribution{Name: "acme/full", BasePath: "acme/full", RepositoryID: m.full.ID})
	m.expect(call{method: http.MethodDelete, path: own, user: "acme"}, 202, "")
	spec := m.dispatcher.last()
	ref, _ := pulp.ParseRef(own)
	if want := (tasks.ObjectArgs{
		Collection: pulp.NamespaceCollection, ID: ref.ID,
	}); spec.Name != tasks.Delete || !cmp.Equal(spec.Args, any(want)) {
		t.Errorf("task %+v", spec)
	}
	var reserved []string
	for _, r := range spec.Resources {
		reserved = append(reserved, r.Href)
	}
	want := []string{own, m.repoHref()} // the repository that a push created is deleted too, the mirror is not
	for _, d := range []pulp.Distribution{m.repo.Distribution, again, mirror} {
		want = append(want, pulp.Href(pulp.DistributionCollection, d.ID))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, reserved); diff != "" {
		t.Errorf("reserved (-want +got):\n%s", diff)
	}
}

func TestDeletingADistributionReservesItsRepository(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	plain := w.distribute("acme/plain", w.undistributed("acme/kept").ID)
	made := w.repo.Distribution.ID
	for name, c := range map[string]struct {
		id     string
		wanted []taskstore.Resource
	}{
		"a repository that a push created": {id: made, wanted: []taskstore.Resource{
			{Href: pulp.Href(pulp.DistributionCollection, made), Exclusive: true}, {Href: w.repoHref(), Exclusive: true},
		}},
		"a repository that a user created": {
			id: plain, wanted: []taskstore.Resource{{Href: pulp.Href(pulp.DistributionCollection, plain), Exclusive: true}},
		},
	} {
		w.expect(call{method: http.MethodDelete, path: pulp.Href(pulp.DistributionCollection, c.id)}, 202, "")
		want := tasks.Spec{
			Name: tasks.DeleteDistribution, Args: tasks.ObjectArgs{
				Collection: pulp.DistributionCollection, ID: c.id,
			}, Resources: c.wanted, Immediate: true,
		}
		w.dispatcher.wantFrom(t, 1)
		if diff := cmp.Diff(want, w.dispatcher.last()); diff != "" {
			t.Errorf("%s: task (-want +got):\n%s", name, diff)
		}
	}
	w.expect(call{method: http.MethodDelete, path: pulp.Href(pulp.DistributionCollection, made), user: "carol"}, 403, "")
	w.expect(
		call{method: http.MethodDelete, path: pulp.Href(pulp.DistributionCollection, pulp.NewID())}, 404,
		`{"detail":"No ContainerDistribution matches the given query."}`,
	)
}

// TestOtherContentGuardsAreRefused proves that a distribution gets no guard that would guard nothing.
func TestOtherContentGuardsAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, kind := range []string{"rbac", "header", "composite", "envvar_header"} {
		collection := "contentguards/core/" + kind + "/"
		w.expect(call{path: collection}, http.StatusNotFound, "")
		w.expect(call{
			method: http.MethodPost, path: pulp.DistributionCollection,
			json: `{"name":"acme/g","base_path":"acme/g","content_guard":"` + pulp.Href(collection, pulp.NewID()) + `"}`,
		}, http.StatusBadRequest,
			`{"content_guard":["This server has no content guards of this type. Set private, and give roles to those who may pull."]}`)
	}
	guard := w.results(pulp.GuardCollection, "pulp_href")[0]
	for query, want := range map[string]int{
		"": 1, "?pulp_type=core.content_redirect": 1, "?pulp_type=core.rbac": 0, "?name__iexact=CONTENT%20REDIRECT": 1, "?name__icontains=REDIR": 1,
		"?name__istartswith=x": 0, "?pulp_href__in=" + guard: 1, "?ordering=-pulp_type": 1,
	} {
		if got := w.results("contentguards/"+query, "pulp_href"); len(got) != want {
			t.Errorf("contentguards/%s: %v", query, got)
		}
	}
}
