package api_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/pulp"
)

// TestInvalidCharacters proves that null characters and texts that are not UTF-8 are refused, in the same way on SQLite and
// PostgreSQL.
func TestInvalidCharacters(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	full, empty, service := href(m.full), href(m.empty), m.serviceHref()
	const (
		null = `"Null characters are not allowed."`
		post = http.MethodPost
		form = "application/x-www-form-urlencoded"
	)
	notForm := `{"detail":"Form parse error - the form is malformed."}`
	remote := `"name":"acme/z","url":"https://h.example","upstream_name":"x"`
	for name, c := range map[string]struct {
		call call
		want string
	}{
		"a name": {
			call: call{method: post, path: pulp.ContainerCollection, json: `{"name":"a\u0000"}`},
			want: `{"name":[` + null + `]}`,
		},
		"a label": {
			call: call{method: post, path: pulp.ContainerCollection, json: `{"name":"acme/z","pulp_labels":{"a":"\u0000"}}`},
			want: `{"pulp_labels":[` + null + `]}`,
		},
		"a label that is set alone": {
			call: call{method: post, path: full + "set_label/", json: `{"key":"a","value":"\u0000"}`},
			want: `{"value":[` + null + `]}`,
		},
		"a pattern": {
			call: call{method: post, path: pulp.RemoteCollection, json: `{` + remote + `,"includes":["\u0000"]}`},
			want: `{"includes":[` + null + `]}`,
		},
		"a pattern, by its older name": {
			call: call{method: post, path: pulp.RemoteCollection, json: `{` + remote + `,"exclude_tags":["\u0000"]}`},
			want: `{"exclude_tags":[` + null + `]}`,
		},
		"a password": {
			call: call{method: post, path: pulp.RemoteCollection, json: `{` + remote + `,"password":"\u0000"}`},
			want: `{"password":[` + null + `]}`,
		},
		"a header": {
			call: call{method: post, path: pulp.RemoteCollection, json: `{` + remote + `,"headers":[{"a":"\u0000"}]}`},
			want: `{"headers":["Not a valid string."]}`,
		},
		"names of tags": {
			call: call{
				method: post, path: empty + "copy_tags/", json: `{"source_repository":"` + full + `","names":["\u0000"]}`,
			},
			want: `{"names":[` + null + `]}`,
		},
		"digests": {
			call: call{
				method: post, path: empty + "copy_manifests/", json: `{"source_repository":"` + full + `","digests":["\u0000"]}`,
			},
			want: `{"digests":[` + null + `]}`,
		},
		"tags to sign": {
			call: call{
				method: post, path: m.repoHref() + "sign/",
				json: `{"manifest_signing_service":"` + service + `","tags_list":["\u0000"]}`,
			},
			want: `{"tags_list":[` + null + `]}`,
		},
		"a tag": {
			call: call{method: post, path: full + "untag/", json: `{"tag":"\u0000"}`}, want: `{"tag":[` + null + `]}`,
		},
		"a unit": {
			call: call{method: post, path: full + "add/", json: `{"content_units":["\u0000"]}`},
			want: `{"content_units":[` + null + `]}`,
		},
		"a form": {
			call: call{method: post, path: pulp.ContainerCollection, json: "name=a%00", kind: form},
			want: `{"name":[` + null + `]}`,
		},
		"a form, not UTF-8": {
			call: call{method: post, path: pulp.ContainerCollection, json: "name=a%ff", kind: form}, want: notForm,
		},
		"a field, not UTF-8": {
			call: call{method: post, path: pulp.ContainerCollection, json: "name=a&%ff=b", kind: form}, want: notForm,
		},
		"multipart, not UTF-8": {
			call: call{
				method: post, path: pulp.ContainerCollection,
				json: "--x\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\n\xff\r\n--x--\r\n",
				kind: "multipart/form-data; boundary=x",
			},
			want: `{"detail":"Multipart form parse error - the form is malformed."}`,
		},
		"a filter":            {call: call{path: "repositories/?name=%00"}, want: `{"name":[` + null + `]}`},
		"a filter, several":   {call: call{path: "tasks/?name__in=a,%00"}, want: `{"name__in":[` + null + `]}`},
		"a filter, a pattern": {call: call{path: "repositories/?name__regex=%00"}, want: `{"name__regex":[` + null + `]}`},
		"a filter, labels": {
			call: call{path: pulp.RemoteCollection + "?pulp_label_select=a%3D%00"}, want: `{"pulp_label_select":[` + null + `]}`,
		},
		"a filter, complex": {call: call{path: "distributions/?q=name%3D%22%00%22"}, want: `{"q":[` + null + `]}`},
	} {
		t.Run(name, func(t *testing.T) { m.expect(c.call, 400, c.want) })
	}
	for _, filter := range []string{
		"name=%ff", "name__in=%ff,a", "name__contains=%ff", "name__regex=%ff", "pulp_label_select=a%3D%ff",
		"q=name%3D%22%ff%22",
	} {
		m.expect(call{path: "repositories/?" + filter}, 200, `{"count":0,"next":null,"previous":null,"results":[]}`)
	}
}

// TestAVersionIsNotItsRepository proves that the href of a version, which begins with that of its repository, is no reference
// to the repository.
func TestAVersionIsNotItsRepository(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	m.serve(pulp.Distribution{Name: "acme/full", BasePath: "acme/full", RepositoryID: m.full.ID})
	version := href(m.full) + "versions/0/"
	const otherKind = `["Invalid hyperlink - Incorrect URL match."]`
	before := len(m.dispatcher.specs)
	m.expect(
		call{
			method: http.MethodPost, path: pulp.DistributionCollection,
			json: `{"name":"n","base_path":"acme/n","repository":"` + version + `"}`,
		},
		400, `{"repository":`+otherKind+`}`,
	)
	m.expect(
		call{method: http.MethodPost, path: href(m.empty) + "copy_tags/", json: `{"source_repository":"` + version + `"}`},
		400, `{"source_repository":`+otherKind+`}`,
	)
	if len(m.dispatcher.specs) != before {
		t.Error("a task was started")
	}
	for _, path := range []string{
		"repositories/?pulp_href__in=", pulp.ContainerCollection + "?pulp_href__in=",
		pulp.DistributionCollection + "?repository=", "distributions/?repository__in=",
	} {
		if got := m.results(path+version, "name"); len(got) > 0 {
			t.Errorf("%s<version>: %v, want none", path, got)
		}
		if got := m.results(path+version+","+href(m.full), "name"); !cmp.Equal(got, []string{"acme/full"}) {
			t.Errorf("%s<version>,<repository>: %v", path, got)
		}
	}
}

func TestVersionsAreFiltered(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	v := func(n string) string { return href(m.full) + "versions/" + n + "/" }
	tag := m.results("content/container/tags/?name=multi", "pulp_href")[0]
	if _, err := m.store.Content.RemoveAll(t.Context(), nil, m.full.ID); err != nil {
		t.Fatal(err)
	}
	own := href(m.full) + "versions/"
	prn := m.results(own+"?number=1", "prn")[0]
	for filter, want := range map[string][]string{
		"":                         {v("2"), v("1"), v("0")},
		"?ordering=number":         {v("0"), v("1"), v("2")},
		"?number=1":                {v("1")},
		"?number__range=1,2":       {v("2"), v("1")},
		"?number__gt=1":            {v("2")},
		"?content=" + tag:          {v("1")},
		"?content__in=" + tag:      {v("1")},
		"?prn__in=" + prn:          {v("1")},
		"?pulp_href__in=" + v("1"): {v("1")},
		"?pulp_href__in=" + v("0") + "," + v("2") + "," + v("7"):   {v("2"), v("0")},
		"?pulp_href__in=" + href(m.full):                           {}, // not a version
		"?pulp_href__in=" + m.repoHref() + "versions/1/":           {}, // of another repository
		"?pulp_created__gt=2020-01-01&number=0":                    {v("0")},
		"?pulp_created__lt=2020-01-01":                             {},
		"?content=" + pulp.Href(pulp.TagCollection, pulp.NewID()):  {},
		"?q=" + url.QueryEscape("number=0 OR content="+quote(tag)): {v("1"), v("0")},
	} {
		if got := m.results(own+filter, "pulp_href"); !cmp.Equal(got, want) {
			t.Errorf("%s: %v, want %v", filter, got, want)
		}
	}
	m.expect(call{path: own + "?content=abc"}, 400, `["URI not valid: abc"]`)
	m.expect(call{path: own + "?pulp_id__in=abc"}, 400, `{"errors":["Invalid Filter: 'pulp_id__in'"]}`)
	m.expect(call{path: own, user: "carol"}, 404, `{"detail":"No ContainerRepository matches the given query."}`)
	if got := m.results(
		"repository_versions/?pulp_href__in="+v("1")+","+m.repoHref()+"versions/1/&ordering=pulp_created", "number",
	); !cmp.Equal(got, []string{"1", "1"}) {
		t.Errorf("of all repositories: %v", got)
	}
	if r := m.do(
		call{path: "repository_versions/?pulp_href__in=" + v("1"), user: "carol"},
	); r.body.(map[string]any)["count"] != 0.0 {
		t.Errorf("carol sees %s", r.raw)
	}
}

func quote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"` }

func TestRemotesAreFiltered(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	for _, r := range []pulp.Remote{
		{
			Name: "acme/other", URL: "https://b.example", UpstreamName: "b", Policy: pulp.OnDemand,
			Labels: pulp.Labels{"env": ptr("prod"), "old": nil},
		},
		{
			Name: "b/third", URL: "https://a.example", UpstreamName: "a", Policy: pulp.Streamed,
			Labels: pulp.Labels{"env": ptr("test")},
		},
	} {
		if _, err := m.store.Catalog.CreateRemote(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	const remote, other, third = "acme/remote", "acme/other", "b/third"
	ids := m.results(pulp.RemoteCollection+"?ordering=name", "prn")
	hrefs := m.results(pulp.RemoteCollection+"?ordering=name", "pulp_href")
	for _, list := range []string{"remotes/", pulp.RemoteCollection} {
		for filter, want := range map[string][]string{
			"ordering=name":           {other, remote, third},
			"ordering=-name":          {third, remote, other},
			"ordering=url":            {third, other, remote},
			"":                        {third, other, remote}, // newest first
			"name=acme/other":         {other},
			"name__iexact=ACME/Other": {other},
			"name__in=acme/other,b/third,x&ordering=name":                   {other, third},
			"name__contains=the":                                            {other},
			"name__icontains=TH&ordering=name":                              {other, third},
			"name__startswith=acme/&ordering=name":                          {other, remote},
			"name__istartswith=B":                                           {third},
			"name__regex=%5Eacme/r":                                         {remote},
			"name__iregex=THIRD$":                                           {third},
			"pulp_label_select=env&ordering=name":                           {other, third},
			"pulp_label_select=env%3Dprod":                                  {other},
			"pulp_label_select=env!%3Dprod":                                 {third},
			"pulp_label_select=env~RO":                                      {other},
			"pulp_label_select=!env":                                        {remote},
			"pulp_label_select=env,!old":                                    {third},
			"pulp_last_updated__gte=2020-01-01&name=b/third":                {third},
			"pulp_last_updated__lt=2020-01-01":                              {},
			"pulp_last_updated__range=2020-01-01,2120-01-01&name=x":         {},
			"pulp_last_updated__isnull=true":                                {},
			"prn__in=" + ids[0]:                                             {other},
			"pulp_href__in=" + hrefs[1] + "," + hrefs[2] + "&ordering=name": {remote, third},
			"q=" + url.QueryEscape(`name__startswith="acme/" AND NOT pulp_label_select=old`): {remote},
		} {
			if got := m.results(list+"?"+filter, "name"); !cmp.Equal(got, want) {
				t.Errorf("%s?%s: %v, want %v", list, filter, got, want)
			}
		}
		m.expect(call{path: list + "?pulp_last_updated=soon"}, 400, `{"pulp_last_updated":["Enter a valid date/time."]}`)
		m.expect(
			call{path: list + "?pulp_created__gte=2020-01-01"}, 400, `{"errors":["Invalid Filter: 'pulp_created__gte'"]}`,
		)
		m.expect(call{path: list + "?password=tellnobody"}, 400, `{"errors":["Invalid Filter: 'password'"]}`)
		m.expect(
			call{path: list + "?ordering=password"}, 400,
			`{"ordering":["Select a valid choice. password is not one of the available choices."]}`,
		)
		m.expect(call{path: list + "?pulp_label_select=!a%3Db"}, 400, `["Cannot use an operator with '!a'."]`)
		m.expect(call{path: list + "?pulp_label_select=a,,b"}, 400, `["Invalid search term: ''."]`)
	}
	if got := m.results(
		pulp.RemoteCollection+"?ordering=upstream_name", "name",
	); !cmp.Equal(got, []string{third, other, remote}) {
		t.Errorf("by upstream: %v", got)
	}
	if r := m.do(call{path: "remotes/", user: "carol"}); r.body.(map[string]any)["count"] != 0.0 {
		t.Errorf("carol sees %s", r.raw)
	}
}

// TestChangesNeedPermission proves that a change of a visible repository by a user that does not own it gets 403, and a
// change of a hidden one 404.
func TestChangesNeedPermission(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	m.serve(
		pulp.Distribution{Name: "acme/full", BasePath: "acme/full", RepositoryID: m.full.ID},
	) // makes it visible to every user
	hidden, shown := href(m.empty), href(m.full)
	m.container("acme/full-2", "")
	remove, post, patch := http.MethodDelete, http.MethodPost, http.MethodPatch
	for _, c := range []struct {
		call   call
		status int
	}{
		{call: call{method: remove, path: shown + "versions/1/", user: "carol"}, status: 403},
		{call: call{method: remove, path: shown, user: "carol"}, status: 403},
		{call: call{method: patch, path: shown, user: "carol", json: `{bad`}, status: 403},
		{call: call{method: post, path: shown + "set_label/", user: "carol", json: `{bad`}, status: 403},
		{call: call{method: post, path: shown + "sync/", user: "carol", json: `{bad`}, status: 403},
		{call: call{method: post, path: shown + "versions/1/repair/", user: "carol", json: `{bad`}, status: 403},
		{call: call{method: remove, path: hidden + "versions/0/", user: "carol"}, status: 404},
		{call: call{method: remove, path: hidden, user: "carol"}, status: 404},
		{call: call{method: post, path: hidden + "set_label/", user: "carol", json: `{bad`}, status: 404},
		{call: call{method: remove, path: m.repoHref() + "versions/1/"}, status: 403}, // of a push repository
		{call: call{method: remove, path: shown + "versions/7/", user: "acme"}, status: 404},
		{call: call{method: remove, path: shown + "versions/1/", user: "acme"}, status: 202},
		{call: call{method: post, path: shown + "set_label/", user: "acme", json: `{"key":"a","value":"b"}`}, status: 201},
		{call: call{method: patch, path: shown, user: "acme", json: `{"name":"acme/full-2"}`}, status: 400},
		{
			call: call{method: patch, path: shown, user: "acme", json: `{"name":"acme/app"}`}, status: 400,
		}, // the name of a push repository
		{call: call{method: remove, path: shown, user: "acme"}, status: 202},
	} {
		m.expect(c.call, c.status, "")
	}
}
