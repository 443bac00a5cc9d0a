package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/url"
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

// TestSigning compares the tasks and errors of sign requests (hostile-inputs.md#hostile-base-path,
// hostile-inputs.md#sign-without-permission).
func TestSigning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := w.target("b/other")
	undistributed := w.undistributed("acme/bare")
	bare := pulp.RepositoryHref(pulp.ContainerPush, undistributed.ID)
	assigned := w.target("acme/assigned")
	w.assign(undistributed, w.service.ID, pulp.AssignedByAdmin)
	w.assign(assigned.Repository, w.service.ID, pulp.AssignedByAdmin)
	mine := pulp.RepositoryHref(pulp.ContainerPush, assigned.Repository.ID)
	many := w.target("acme/many")
	w.distribute("acme/second", many.Repository.ID)
	manyHref := pulp.RepositoryHref(pulp.ContainerPush, many.Repository.ID)
	const denied = `{"detail":"You do not have permission to perform this action."}`
	service := func(more string) string {
		return `{"manifest_signing_service":"` + w.serviceHref() + `"` + more + "}"
	}
	asked := tasks.SignArgs{RepositoryID: w.repo.Repository.ID, ServiceID: w.service.ID, BasePath: "acme/app"}
	with := func(f func(*tasks.SignArgs)) *tasks.SignArgs {
		a := asked
		f(&a)
		return &a
	}
	for name, c := range map[string]struct {
		repo, user, body string // repo: acme/app's href when empty
		status           int
		want             string
		args             *tasks.SignArgs
	}{
		"everything": {body: service(""), status: 202, args: &asked},
		"tags": {
			body: service(`,"tags_list":["latest","multi"]`), status: 202,
			args: with(func(a *tasks.SignArgs) { a.Tags = []string{"latest", "multi"} }),
		},
		"an empty list of tags": {
			body: service(`,"tags_list":[]`), status: 202, args: with(func(a *tasks.SignArgs) { a.Tags = []string{} }),
		},
		"lists too, with force": {
			body: service(`,"sign_lists":true,"force":true`), status: 202,
			args: with(func(a *tasks.SignArgs) { a.SignLists, a.Force = true, true }),
		},
		"its own path":             {body: service(`,"future_base_path":"acme/app"`), status: 202, args: &asked},
		"as the namespace's owner": {repo: mine, user: "acme", body: service(""), status: 202},
		"an unknown tag": {
			body: service(`,"tags_list":["latest","nosuch"]`), status: 400,
			want: `{"tags_list":["The tag 'nosuch' does not exist in the latest repository version."]}`,
		},
		"tags that are not texts": {
			body: service(`,"tags_list":[1]`), status: 400, want: `{"tags_list":["Not a valid string."]}`,
		},
		"null tags": {
			body: service(`,"tags_list":null`), status: 400, want: `{"tags_list":["This field may not be null."]}`,
		},
		"an invalid flag": {
			body: service(`,"force":"perhaps"`), status: 400, want: `{"force":["Must be a valid boolean."]}`,
		},
		"no service": {
			body: `{}`, status: 400,
			want: `{"manifest_signing_service":["This field is required since a signing_service is not set on the repo."]}`,
		},
		"a null service": {
			body: `{"manifest_signing_service":null}`, status: 400,
			want: `{"manifest_signing_service":["This field is required since a signing_service is not set on the repo."]}`,
		},
		"a path with capitals": {
			body: service(`,"future_base_path":"UPPER bad/"`), status: 400,
			want: `{"future_base_path":["The provided registry path contains forbidden characters."]}`,
		},
		"a top-level path": {
			body: service(`,"future_base_path":"x/y"`), status: 400,
			want: `{"future_base_path":["This field must be the base path of one of the repository's distributions."]}`,
		},
		"another repository's path": {body: service(`,"future_base_path":"b/other"`), status: 403},
		"a path in another namespace": {
			repo: mine, user: "acme", body: service(`,"future_base_path":"x/y"`), status: 403, want: denied,
		},
		"as another user":                 {user: "carol", body: service(""), status: 403},
		"as another user with a bad body": {user: "carol", body: `{bad`, status: 403},
		"a future path":                   {repo: bare, body: service(`,"future_base_path":"acme/later"`), status: 202},
		"a future path, as owner": {
			repo: bare, user: "acme", body: service(`,"future_base_path":"acme/later"`), status: 202,
		},
		"a future path elsewhere": {
			repo: bare, user: "acme", body: service(`,"future_base_path":"b/later"`), status: 403, want: denied,
		},
		"a future path of another repository": {repo: bare, body: service(`,"future_base_path":"b/other"`), status: 403},
		"no distribution, no path": {
			repo: bare, body: service(""), status: 400,
			want: `{"future_base_path":["This field is required since this repo has zero or multiple distributions."]}`,
		},
		"two distributions, no path": {
			repo: manyHref, body: service(""), status: 400,
			want: `{"future_base_path":["This field is required since this repo has zero or multiple distributions."]}`,
		},
		"two distributions, one path": {repo: manyHref, body: service(`,"future_base_path":"acme/second"`), status: 202},
		"an unknown repository": {
			repo: pulp.RepositoryHref(pulp.ContainerPush, pulp.NewID()), body: service(""), status: 404,
			want: `{"detail":"No ContainerPushRepository matches the given query."}`,
		},
		"a repository of another type": {
			repo: pulp.RepositoryHref(pulp.Container, other.Repository.ID), body: service(""), status: 404,
			want: `{"detail":"No ContainerRepository matches the given query."}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.repo == "" {
				c.repo = w.repoHref()
			}
			before := len(w.dispatcher.specs)
			w.expect(call{method: http.MethodPost, path: c.repo + "sign/", user: c.user, json: c.body}, c.status, c.want)
			if c.status != 202 {
				if len(w.dispatcher.specs) != before {
					t.Error("a task was started")
				}
				return
			}
			spec := w.dispatcher.last()
			if c.args != nil {
				if diff := cmp.Diff(*c.args, spec.Args); diff != "" {
					t.Errorf("arguments (-want +got):\n%s", diff)
				}
			}
			if want := []taskstore.Resource{
				{Href: c.repo, Exclusive: true},
			}; !cmp.Equal(spec.Resources, want) || spec.Name != tasks.Sign || spec.Immediate {
				t.Errorf("task %+v", spec)
			}
		})
	}
}

func TestSigningUsesTheAssignedService(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	own := w.addService("own")
	w.assign(w.repo.Repository, own.ID, pulp.AssignedByAdmin)
	for body, want := range map[string]string{
		`{}`: own.ID, `{"manifest_signing_service":null}`: own.ID, `{"manifest_signing_service":"` + w.serviceHref() + `"}`: w.service.ID,
	} {
		w.expect(call{method: http.MethodPost, path: w.repoHref() + "sign/", json: body}, 202, "")
		if got := w.dispatcher.last().Args.(tasks.SignArgs).ServiceID; got != want {
			t.Errorf("%s: service %s, want %s", body, got, want)
		}
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

func TestTasksAreCanceledDeletedAndPurged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	make := func(user int64) string {
		t.Helper()
		k, err := w.store.Tasks.CreateTask(
			t.Context(), taskstore.NewTask{Name: "x", Args: struct{}{}, Origin: taskstore.OriginUser, CreatedBy: user},
		)
		if err != nil {
			t.Fatal(err)
		}
		return k.ID
	}
	run := func(id string) *taskstore.Claim {
		t.Helper()
		k, err := w.store.Tasks.ClaimTask(t.Context(), pulp.NewID(), id, nil, 1e9)
		if err != nil || k == nil {
			t.Fatal(k, err)
		}
		return &taskstore.Claim{TaskID: id, Attempt: k.Attempt}
	}
	cancel := func(id string) call {
		return call{method: http.MethodPatch, path: pulp.Href(pulp.TaskCollection, id), json: `{"state":"canceled"}`}
	}
	state := func(r reply) any { return r.body.(map[string]any)["state"] }
	remove := func(id string) call {
		return call{method: http.MethodDelete, path: pulp.Href(pulp.TaskCollection, id)}
	}
	waiting, running, done := make(1), make(1), make(1)
	run(running)
	if err := w.store.Tasks.CompleteTask(t.Context(), run(done), taskstore.Outcome{}); err != nil {
		t.Fatal(err)
	}
	w.expect(remove(waiting), 409, "")
	w.expect(remove(running), 409, "")
	for _, c := range []struct {
		id     string
		status int
		state  string
	}{
		{id: waiting, status: 200, state: "canceled"}, {id: waiting, status: 200, state: "canceled"},
		{id: running, status: 200, state: "canceling"}, {id: done, status: 409, state: "completed"},
	} {
		if r := w.expect(cancel(c.id), c.status, ""); state(r) != c.state {
			t.Errorf("state %v, want %s", state(r), c.state)
		}
	}
	bad := cancel(done)
	for body, want := range map[string]string{
		`{"state":"completed"}`:           `{"state":["The only acceptable value for 'state' is 'canceled'."]}`,
		`{}`:                              `{"state":["This field is required."]}`,
		`{"state":"canceled","name":"x"}`: `{"name":["Unexpected field"]}`,
	} {
		bad.json = body
		w.expect(bad, 400, want)
	}
	strange := cancel(waiting)
	strange.user = "carol"
	w.expect(strange, 404, `{"detail":"No Task matches the given query."}`)
	carols, err := w.store.Accounts.UserByName(t.Context(), "carol")
	if err != nil {
		t.Fatal(err)
	}
	strange = cancel(make(carols.ID))
	strange.user = "carol"
	w.expect(strange, 200, "")
	if got := w.do(call{path: "tasks/", user: "carol"}).body.(map[string]any)["count"]; got != 1.0 {
		t.Errorf("carol sees %v tasks", got)
	}
	if r := w.expect(remove(done), 204, ""); r.raw != "" {
		t.Errorf("body %s", r.raw)
	}
	w.expect(remove(done), 404, `{"detail":"No Task matches the given query."}`)

	purge := call{
		method: http.MethodPost, path: "tasks/purge/",
		json: `{"finished_before":"2020-01-01","states":["failed","canceled"]}`,
	}
	w.expect(purge, 202, "")
	want := tasks.PurgeArgs{
		FinishedBefore: 1577836800_000000, States: []taskstore.TaskState{taskstore.TaskFailed, taskstore.TaskCanceled},
	}
	if diff := cmp.Diff(want, w.dispatcher.last().Args); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	purge.json = `{}`
	w.expect(purge, 202, "")
	if got := w.dispatcher.last().Args.(tasks.PurgeArgs).States; !cmp.Equal(
		got, []taskstore.TaskState{taskstore.TaskCompleted},
	) {
		t.Errorf("states %v", got)
	}
	purge.json = `{"states":["running"]}`
	w.expect(purge, 400, `{"states":["\"running\" is not a valid choice."]}`)
	purge.json, purge.kind = "states=failed&states=skipped&finished_before="+url.QueryEscape("2020-01-01T00:00:00+01:00"), "application/x-www-form-urlencoded"
	w.expect(purge, 202, "")
	want = tasks.PurgeArgs{
		FinishedBefore: 1577833200_000000, States: []taskstore.TaskState{taskstore.TaskFailed, taskstore.TaskSkipped},
	}
	if diff := cmp.Diff(want, w.dispatcher.last().Args); diff != "" {
		t.Errorf("arguments of a form (-want +got):\n%s", diff)
	}
	purge.user = "carol"
	w.expect(purge, 403, "")
}

// TestTaskArgumentsSurviveTheDatabase proves that a job reads the arguments that a handler passed.
func TestTaskArgumentsSurviveTheDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.expect(
		call{
			method: http.MethodPatch, path: w.repoHref(),
			json:   `{"description":"x","manifest_signing_service":"` + w.serviceHref() + `"}`,
			header: map[string]string{"Correlation-ID": "my-cid-1"},
		},
		202, "",
	)
	ref, ok := pulp.ParseRef(r.body.(map[string]any)["task"].(string))
	if !ok {
		t.Fatal(r.raw)
	}
	k, err := w.store.Tasks.Task(t.Context(), ref.ID)
	if err != nil {
		t.Fatal(err)
	}
	var args tasks.EditArgs
	if err := json.Unmarshal(k.Args, &args); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w.dispatcher.last().Args, any(args)); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	if k.CID != "my-cid-1" || fmt.Sprint(w.get("tasks/" + k.ID + "/")["logging_cid"]) != "my-cid-1" {
		t.Errorf("correlation id %q", k.CID)
	}
}
