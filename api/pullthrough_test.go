package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/tasks"
)

// cache returns the public pull-through distribution acme/hub, which the first call creates with its remote hub.
func (w *world) cache() pulp.Distribution {
	w.t.Helper()
	ctx := w.t.Context()
	d, err := w.store.Catalog.PullThroughAbove(ctx, "acme/hub")
	if !fault.Is(err, fault.NotFound) {
		if err != nil {
			w.t.Fatal(err)
		}
		return d
	}
	r, err := w.store.Catalog.CreatePullThroughRemote(ctx, pulp.Remote{
		Name: "hub", URL: "https://upstream.example", Connection: pulp.Connection{TLSValidation: true},
	}, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	d, err = w.store.Catalog.CreatePullThrough(ctx, nil, pulp.Distribution{Name: "acme/hub", BasePath: "acme/hub", RemoteID: r.ID}, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// pullThroughMutations are the mutations of pull-through caches.
func (m *mirrors) pullThroughMutations() map[string]mutation {
	d := m.cache()
	cache, remote := pulp.Href(pulp.PullThroughCollection, d.ID), pulp.Href(pulp.PullThroughRemoteCollection, d.RemoteID)
	label, unlabel := `{"key":"k","value":"v"}`, `{"key":"k"}`
	const caches, remotes = "/pulp/api/v3/distributions/container/pull-through/", "/pulp/api/v3/remotes/container/pull-through/"
	return map[string]mutation{
		"POST " + caches:                     {path: caches, body: `{"name":"n2","base_path":"acme/n2","remote":"` + remote + `"}`},
		"DELETE " + caches + "{}/":           {path: cache},
		"PATCH " + caches + "{}/":            {path: cache, body: `{"description":"x"}`},
		"PUT " + caches + "{}/":              {path: cache, body: `{"name":"acme/hub","base_path":"acme/hub","remote":"` + remote + `","description":"y"}`},
		"POST " + caches + "{}/set_label/":   {path: cache + "set_label/", body: label},
		"POST " + caches + "{}/unset_label/": {path: cache + "unset_label/", body: unlabel},

		"POST " + remotes:                     {path: remotes, body: `{"name":"hub2","url":"https://h.example"}`},
		"DELETE " + remotes + "{}/":           {path: remote, outsider: 404},
		"PATCH " + remotes + "{}/":            {path: remote, body: `{"rate_limit":7}`, outsider: 404},
		"PUT " + remotes + "{}/":              {path: remote, body: `{"name":"hub","url":"https://h.example"}`, outsider: 404},
		"POST " + remotes + "{}/set_label/":   {path: remote + "set_label/", body: label, outsider: 404},
		"POST " + remotes + "{}/unset_label/": {path: remote + "unset_label/", body: unlabel, outsider: 404},
	}
}

// TestPullThroughRemotes proves that pull-through remotes have the fields of Pulp's, are in the list of all remotes, and refuse
// the fields and values that they do not have.
func TestPullThroughRemotes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := pulp.PullThroughRemoteCollection
	made := w.expect(call{method: http.MethodPost, path: at, json: `{"name":"hub","url":"https://h.example","includes":["library/*"],
		"excludes":["*/evil"],"username":"robot","password":"tellnobody","policy":"on_demand","sigstore":"https://sig.example"}`}, 201, "")
	href := made.Header.Get("Location")
	shown := w.get(href)
	for field, want := range map[string]string{
		"includes": `["library/*"]`, "excludes": `["*/evil"]`, "policy": `"on_demand"`, "sigstore": `"https://sig.example"`,
		"hidden_fields": `[{"is_set":false,"name":"client_key"},{"is_set":false,"name":"proxy_username"},{"is_set":false,"name":"proxy_password"},` +
			`{"is_set":true,"name":"username"},{"is_set":true,"name":"password"}]`,
	} {
		if got := encoded(t, shown[field]); got != want {
			t.Errorf("%s: %s, want %s", field, got, want)
		}
	}
	if _, ok := shown["upstream_name"]; ok || strings.Contains(encoded(t, shown), "tellnobody") {
		t.Errorf("shown: %v", shown)
	}
	if got := w.results("remotes/?name=hub", "pulp_href"); !slices.Equal(got, []string{href}) {
		t.Errorf("the list of all remotes: %v", got)
	}
	for body, want := range map[string]string{
		`{"name":"x","url":"https://h.example","policy":"immediate"}`: `{"policy":["\"immediate\" is not a valid choice."]}`,
		`{"name":"x","url":"https://h.example","upstream_name":"x"}`:  `{"upstream_name":["Unexpected field"]}`,
		`{"name":"x","url":"https://h.example","include_tags":["x"]}`: `{"include_tags":["Unexpected field"]}`,
		`{"name":"x"}`: `{"url":["This field is required."]}`,
		`{"name":"hub","url":"https://h.example"}`:                                               `{"name":["This field must be unique."]}`,
		`{"name":"x","url":"https://h.example","includes":["` + strings.Repeat("x", 256) + `"]}`: `{"includes":["Ensure this field has no more than 255 characters."]}`,
	} {
		w.expect(call{method: http.MethodPost, path: at, json: body}, 400, want)
	}
	w.expect(call{method: http.MethodPatch, path: href, json: `{"includes":["library/*"]}`}, 200, "")
	w.expect(call{method: http.MethodPatch, path: href, json: `{"includes":null}`}, 202, "")
	spec := w.dispatcher.last()
	if args, ok := spec.Args.(tasks.EditArgs); !ok || args.Collection != at || args.Remote == nil {
		t.Errorf("the task of an edit: %+v", spec)
	}
}

// TestPullThroughDistributions proves the fields, defaults and permissions of pull-through distributions.
func TestPullThroughDistributions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.cache()
	open := pulp.Href(pulp.PullThroughRemoteCollection, d.RemoteID)
	closed, err := w.store.Catalog.CreatePullThroughRemote(t.Context(), pulp.Remote{
		Name: "closed", URL: "https://h.example", Secrets: pulp.RemoteSecrets{Password: ptr("x")},
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	private := pulp.Href(pulp.PullThroughRemoteCollection, closed.ID)
	carol := w.userID("carol")
	storetest.Grant(t, w.store, carol, "container.containerpullthroughremote_viewer", access.Key(access.PullThroughRemote, d.RemoteID))
	fields := func(f func(*tasks.DistributionFields)) tasks.CreateArgs {
		all := tasks.DistributionFields{Name: ptr("n"), BasePath: ptr("acme/n"), RemoteID: &d.RemoteID}
		f(&all)
		return tasks.NewPullThrough(all)
	}
	const denied = `{"detail":"You do not have permission to perform this action."}`
	for name, c := range map[string]struct {
		user, body string
		status     int
		want       string
		args       tasks.CreateArgs
	}{
		"a remote without credentials": {
			body: `{"name":"n","base_path":"acme/n","remote":"` + open + `"}`, status: 202, args: fields(func(*tasks.DistributionFields) {}),
		},
		"a remote with credentials": {
			body: `{"name":"n","base_path":"acme/n","remote":"` + private + `"}`, status: 202,
			args: fields(func(f *tasks.DistributionFields) { f.RemoteID, f.Private = &closed.ID, ptr(true) }),
		},
		"a remote with credentials, public": {
			body: `{"name":"n","base_path":"acme/n","remote":"` + private + `","private":false}`, status: 202,
			args: fields(func(f *tasks.DistributionFields) { f.RemoteID, f.Private = &closed.ID, ptr(false) }),
		},
		"read-only fields": {
			body:   `{"name":"n","base_path":"acme/n","remote":"` + open + `","distributions":[],"namespace":"x","repository":null,"repository_version":null}`,
			status: 202, args: fields(func(*tasks.DistributionFields) {}),
		},
		"in an own namespace": {
			user: "carol", body: `{"name":"n","base_path":"carol/n","remote":"` + open + `"}`, status: 202,
			args: fields(func(f *tasks.DistributionFields) { f.BasePath = ptr("carol/n") }),
		},
		"without a remote":         {body: `{"name":"n","base_path":"acme/n"}`, status: 400, want: `{"remote":["This field is required."]}`},
		"a null remote":            {body: `{"name":"n","base_path":"acme/n","remote":null}`, status: 400, want: `{"remote":["This field may not be null."]}`},
		"a remote of another kind": {body: `{"name":"n","base_path":"acme/n","remote":"/pulp/api/v3/remotes/container/container/` + pulp.NewID() + `/"}`, status: 400, want: `{"remote":["Invalid hyperlink - Incorrect URL match."]}`},
		"a remote that the user does not see": {
			user: "carol", body: `{"name":"n","base_path":"carol/n","remote":"` + private + `"}`, status: 400, want: `{"remote":["Invalid hyperlink - Object does not exist."]}`,
		},
		"another user's path": {user: "carol", body: `{"name":"n","base_path":"acme/n","remote":"` + open + `"}`, status: 403, want: denied},
		"a repository":        {body: `{"name":"n","base_path":"acme/n","remote":"` + open + `","repository":"` + w.repoHref() + `"}`, status: 400, want: `{"repository":["A pull-through distribution serves no repository."]}`},
		"a bad path":          {body: `{"name":"n","base_path":"Acme/n","remote":"` + open + `"}`, status: 400, want: `{"base_path":["The provided registry path contains forbidden characters."]}`},
		"a path below a cache": {
			body: `{"name":"n","base_path":"acme/hub/x","remote":"` + open + `"}`, status: 400, want: `{"base_path":{"base_path":"Overlaps with an existing distribution."}}`,
		},
		"the path of a distribution": {
			body: `{"name":"n","base_path":"acme/app","remote":"` + open + `"}`, status: 400, want: `{"base_path":["This field must be unique."]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w.expect(call{method: http.MethodPost, path: pulp.PullThroughCollection, user: c.user, json: c.body}, c.status, c.want)
			if c.status != 202 {
				return
			}
			if diff := cmp.Diff(c.args, w.dispatcher.last().Args); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestCachedDistributions proves that a pull-through distribution lists the distributions that its pulls have created, that
// these show their remote, and that this remote shows that of the cache and refuses edits.
func TestCachedDistributions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.cache()
	target, err := w.store.Catalog.CacheTarget(t.Context(), d.ID, "acme/hub/library/app", "library/app")
	if err != nil {
		t.Fatal(err)
	}
	cache, cached := pulp.Href(pulp.PullThroughCollection, d.ID), pulp.Href(pulp.DistributionCollection, target.Distribution.ID)
	remote := pulp.Href(pulp.RemoteCollection, target.Repository.RemoteID)
	if got := encoded(t, w.get(cache)["distributions"]); got != `["`+cached+`"]` {
		t.Errorf("distributions: %s, want %s", got, cached)
	}
	if got := w.get(cached)["remote"]; got != remote {
		t.Errorf("remote: %v, want %s", got, remote)
	}
	if got := w.results("distributions/?ordering=pulp_created&base_path__contains=acme/hub", "pulp_href"); !slices.Equal(got, []string{cache, cached}) {
		t.Errorf("the list of all distributions: %v", got)
	}
	if got := w.get(remote); got["url"] != "https://upstream.example" || got["upstream_name"] != "library/app" {
		t.Errorf("the remote: %v", got)
	}
	const refusal = `{"non_field_errors":["The remote belongs to a pull-through cache. Change its pull-through remote instead."]}`
	w.expect(call{method: http.MethodPatch, path: remote, json: `{"url":"https://evil.example"}`}, 400, refusal)
	w.expect(call{method: http.MethodPatch, path: remote, json: `{"pulp_labels":{"a":"b"}}`}, 202, "")
	w.expect(call{method: http.MethodGet, path: cache, user: "carol"}, 403, "") // public, but not hers
	if got := w.results(pulp.PullThroughCollection, "pulp_href"); !slices.Equal(got, []string{cache}) {
		t.Errorf("the list of caches: %v", got)
	}
	for _, q := range []string{"?repository=" + w.repoHref(), "?with_content=" + w.results(pulp.TagCollection, "pulp_href")[0], "?base_path=x", "?namespace__name=b"} {
		if got := w.results(pulp.PullThroughCollection+q, "pulp_href"); len(got) != 0 {
			t.Errorf("%s: %v", q, got)
		}
	}
}
