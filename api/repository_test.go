package api_test

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

func ptr[T any](v T) *T { return &v }

func TestEditRepository(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.target("b/taken")
	byAdmin := pulp.AssignedByAdmin
	href, absent := w.repoHref(), pulp.Href(pulp.SigningServiceCollection, pulp.NewID())
	multi := func(fields map[string]string) (body, kind string) {
		var b bytes.Buffer
		m := multipart.NewWriter(&b)
		for k, v := range fields {
			_ = m.WriteField(k, v)
		}
		_ = m.Close()
		return b.String(), m.FormDataContentType()
	}
	multipartBody, multipartKind := multi(map[string]string{"description": "x", "pulp_labels": `{"a":"b"}`})
	const form = "application/x-www-form-urlencoded"
	for name, c := range map[string]struct {
		method, kind, body string
		status             int
		want               string                  // the body of the error
		fields             *tasks.RepositoryFields // of the task's arguments
	}{
		"a description": {body: `{"description":"hello"}`, status: 202, fields: &tasks.RepositoryFields{
			Description: tasks.Optional[string]{Set: true, Value: ptr("hello")},
		}},
		"a signing service, by href": {
			body: `{"manifest_signing_service":"` + w.serviceHref() + `"}`, status: 202,
			fields: &tasks.RepositoryFields{SigningServiceID: &w.service.ID, SigningAssigned: &byAdmin},
		},
		"a signing service, by URL": {
			body: `{"manifest_signing_service":"http://localhost` + w.serviceHref() + `"}`, status: 202,
			fields: &tasks.RepositoryFields{SigningServiceID: &w.service.ID, SigningAssigned: &byAdmin},
		},
		"a signing service, by PRN": {
			body: `{"manifest_signing_service":"prn:core.signingservice:` + w.service.ID + `"}`, status: 202,
			fields: &tasks.RepositoryFields{SigningServiceID: &w.service.ID, SigningAssigned: &byAdmin},
		},
		"null for no signing service": {body: `{"manifest_signing_service":null}`, status: 200},
		"all fields": {
			method: http.MethodPut,
			body:   `{"name":"acme/new","description":null,"pulp_labels":{"a":"b","c":null},"retain_repo_versions":5}`,
			status: 202, fields: &tasks.RepositoryFields{
				Name: ptr("acme/new"), Description: tasks.Optional[string]{
					Set: true,
				}, Labels: &map[string]*string{"a": ptr("b"), "c": nil},
				RetainRepoVersions: tasks.Optional[int64]{Set: true, Value: ptr(int64(5))},
			},
		},
		"a form": {kind: form, body: "description=x&retain_repo_versions=2", status: 202, fields: &tasks.RepositoryFields{
			Description: tasks.Optional[string]{
				Set: true, Value: ptr("x"),
			}, RetainRepoVersions: tasks.Optional[int64]{Set: true, Value: ptr(int64(2))},
		}},
		"a form whose empty texts are nulls": {
			kind: form, body: "description=&retain_repo_versions=&manifest_signing_service=", status: 200,
		},
		"a multipart form": {kind: multipartKind, body: multipartBody, status: 202, fields: &tasks.RepositoryFields{
			Description: tasks.Optional[string]{Set: true, Value: ptr("x")}, Labels: &map[string]*string{"a": ptr("b")},
		}},
		"present values": {
			body: `{"name":"acme/app","description":null,"pulp_labels":{},"retain_repo_versions":null}`, status: 200,
		},
		"an empty body":          {body: "", status: 200},
		"PUT with only the name": {method: http.MethodPut, body: `{"name":"acme/app"}`, status: 200},
		"read-only fields": {
			body:   `{"pulp_href":"x","prn":1,"versions_href":null,"latest_version_href":[],"pulp_created":"","pulp_last_updated":""}`,
			status: 200,
		},
		"a name that is taken": {
			body: `{"name":"b/taken"}`, status: 400, want: `{"name":["This field must be unique."]}`,
		},
		"a blank name": {
			body: `{"name":"  "}`, status: 400, want: `{"name":["This field may not be blank."]}`,
		},
		"a null name": {
			body: `{"name":null}`, status: 400, want: `{"name":["This field may not be null."]}`,
		},
		"a name that is a list": {body: `{"name":[]}`, status: 400, want: `{"name":["Not a valid string."]}`},
		"a name with a NUL": {
			body: `{"name":"a\u0000b"}`, status: 400, want: `{"name":["Null characters are not allowed."]}`,
		},
		"a blank description": {
			body: `{"description":""}`, status: 400, want: `{"description":["This field may not be blank."]}`,
		},
		"PUT without the name": {
			method: http.MethodPut, body: `{}`, status: 400, want: `{"name":["This field is required."]}`,
		},
		"zero versions to keep": {
			body: `{"retain_repo_versions":0}`, status: 400,
			want: `{"retain_repo_versions":["Ensure this value is greater than or equal to 1."]}`,
		},
		"versions to keep, a text": {
			body: `{"retain_repo_versions":1.5}`, status: 400, want: `{"retain_repo_versions":["A valid integer is required."]}`,
		},
		"versions to keep, a boolean": {
			body: `{"retain_repo_versions":true}`, status: 400,
			want: `{"retain_repo_versions":["A valid integer is required."]}`,
		},
		"a label with parentheses": {
			body: `{"pulp_labels":{"a":"b(c"}}`, status: 400,
			want: `{"pulp_labels":["Key 'a' contains value with parenthesis."]}`,
		},
		"labels that are a list": {
			body: `{"pulp_labels":[]}`, status: 400,
			want: `{"pulp_labels":["Expected a dictionary of items but got type \"list\"."]}`,
		},
		"several errors": {
			body: `{"name":"","retain_repo_versions":0,"foo":1}`, status: 400,
			want: `{"name":["This field may not be blank."],"retain_repo_versions":["Ensure this value is greater than or equal to 1."]}`,
		},
		"an unknown field": {
			body: `{"foo":1,"description":"x"}`, status: 400, want: `{"foo":["Unexpected field"]}`,
		},
		"a service that is a number": {
			body: `{"manifest_signing_service":1}`, status: 400,
			want: `{"manifest_signing_service":["Incorrect type. Expected URL string, received int."]}`,
		},
		"a service of another collection": {
			body: `{"manifest_signing_service":"` + href + `"}`, status: 400,
			want: `{"manifest_signing_service":["Invalid hyperlink - Incorrect URL match."]}`,
		},
		"an unknown service": {
			body: `{"manifest_signing_service":"` + absent + `"}`, status: 400,
			want: `{"manifest_signing_service":["Invalid hyperlink - Object does not exist."]}`,
		},
		"a text as the body": {
			body: `"x"`, status: 400, want: `{"non_field_errors":["Invalid data. Expected a dictionary, but got str."]}`,
		},
		"a body with trailing data": {
			body: `{} {}`, status: 400, want: `{"detail":"JSON parse error - Extra data"}`,
		},
		"a body that is not UTF-8": {
			body: "{\"name\":\"\xff\"}", status: 400, want: `{"detail":"JSON parse error - the text is not UTF-8"}`,
		},
		"a body that is too large":            {body: `{"name":"` + strings.Repeat("a", 1<<20) + `"}`, status: 413},
		"a body with deep nesting":            {body: strings.Repeat(`[`, 20000), status: 400},
		"a form that is malformed":            {kind: form, body: "%zz", status: 400},
		"a multipart form without an end":     {kind: "multipart/form-data; boundary=x", body: "--x\r\n", status: 400},
		"a multipart form without a boundary": {kind: "multipart/form-data", body: "x", status: 400},
		"a body of an unknown type": {
			kind: "text/xml", body: "<x/>", status: 415, want: `{"detail":"Unsupported media type \"text/xml\" in request."}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.method == "" {
				c.method = http.MethodPatch
			}
			before := len(w.dispatcher.specs)
			r := w.expect(call{method: c.method, path: href, json: c.body, kind: c.kind}, c.status, c.want)
			switch {
			case c.fields != nil:
				want := tasks.Spec{
					Name: tasks.Edit, Immediate: true, Resources: []taskstore.Resource{{Href: href, Exclusive: true}},
					Args: tasks.EditArgs{Collection: pulp.PushCollection, ID: w.repo.Repository.ID, Repository: c.fields},
				}
				w.dispatcher.wantFrom(t, 1)
				if diff := cmp.Diff(want, w.dispatcher.last()); diff != "" {
					t.Errorf("task (-want +got):\n%s", diff)
				}
				if _, ok := r.body.(map[string]any)["task"]; !ok {
					t.Errorf("body %s", r.raw)
				}
			case len(w.dispatcher.specs) != before:
				t.Error("a task was started")
			case c.status == 200 && r.body.(map[string]any)["name"] != "acme/app":
				t.Errorf("body %s", r.raw)
			}
		})
	}
}

func TestContainerRepositories(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	remote := m.remoteHref()
	prn := "prn:container.containerremote:" + m.remote.ID
	for path, want := range map[string][]string{
		pulp.ContainerCollection + "?ordering=name&remote=" + remote:             {"acme/full"},
		pulp.ContainerCollection + "?ordering=name&remote=" + prn:                {"acme/full"},
		pulp.ContainerCollection + "?ordering=name&remote=null":                  {"acme/empty"},
		pulp.ContainerCollection + "?ordering=name&remote=":                      {"acme/empty"},
		"repositories/?ordering=name&remote=null":                                {"acme/app", "acme/empty"},
		"repositories/?q=" + "remote%3D%22" + remote + "%22":                     {"acme/full"},
		"repositories/?remote=" + pulp.Href(pulp.RemoteCollection, pulp.NewID()): {},
	} {
		if got := m.results(path, "name"); !cmp.Equal(got, want) {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	m.expect(call{path: pulp.ContainerCollection + "?remote=abc"}, 400, `["URI not valid: abc"]`)
	if got := m.results("repositories/?name=acme/full", "remote")[0]; got != remote {
		t.Errorf("remote %s in the list of all types", got)
	}
	make := func(user, body string) call {
		return call{method: http.MethodPost, path: pulp.ContainerCollection, user: user, json: body}
	}
	m.expect(make("acme", `{"name":"acme/any Name, not a path"}`), 201, "")
	m.expect(make("acme", `{"name":"b/x"}`), 403, "")
	m.expect(make("carol", `{"name":"acme/full"}`), 403, "")
	m.expect(make("", `{"name":" "}`), 400, `{"name":["This field may not be blank."]}`)
	m.expect(
		make("", `{"name":"x","remote":"`+m.serviceHref()+`"}`), 400,
		`{"remote":["Invalid hyperlink - Incorrect URL match."]}`,
	)
	m.expect(make("", `{"name":"x","remote":7}`), 400, `{"remote":["Incorrect type. Expected URL string, received int."]}`)
	m.expect(
		make("", `{"name":"x","retain_checkpoints":1}`), 400,
		`{"retain_checkpoints":["Checkpoints are not supported by this server."]}`,
	)

	patch := func(body string) call {
		return call{method: http.MethodPatch, path: href(m.full), json: body}
	}
	for body, want := range map[string]string{`{"remote":null}`: "", `{"remote":""}`: ""} {
		m.expect(patch(body), 202, "")
		if got := m.dispatcher.last().Args.(tasks.EditArgs).Repository.RemoteID; got == nil || *got != want {
			t.Errorf("%s: remote %v", body, got)
		}
	}
	m.expect(patch(`{"remote":"`+prn+`"}`), 200, "")
	remove := call{method: http.MethodDelete, path: href(m.full)}
	remove.user = "carol"
	m.expect(remove, 404, "")
	remove.user = "acme"
	m.expect(remove, 202, "")
	want := tasks.Spec{
		Name: tasks.Delete, Args: tasks.ObjectArgs{
			Collection: pulp.ContainerCollection, ID: m.full.ID,
		}, Resources: []taskstore.Resource{{Href: href(m.full), Exclusive: true}},
		Immediate: true,
	}
	m.dispatcher.wantFrom(t, 2)
	if diff := cmp.Diff(want, m.dispatcher.last()); diff != "" {
		t.Errorf("task (-want +got):\n%s", diff)
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

// TestAllowShrinkOfARepository proves that only container repositories have the field allow_shrink, and that it is
// shown when it is true.
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
