package api_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

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
