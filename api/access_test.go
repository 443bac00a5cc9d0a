package api_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/tasks"
)

// TestServicesByRole verifies which roles permit to see a signing service, to name it in a call to sign, and to
// assign it to a repository. The user carol may modify and change the repository; nobody assigned the service to it.
func TestServicesByRole(t *testing.T) {
	t.Parallel()
	for role, c := range map[string]struct {
		everywhere                         bool
		list, read, sign, assign, unassign int
	}{
		"":                           {list: 403, read: 403, sign: 403, assign: 403, unassign: 403},
		"core.signingservice_user":   {list: 200, read: 200, sign: 202, assign: 403, unassign: 403},
		"core.signingservice_owner":  {list: 200, read: 200, sign: 202, assign: 202, unassign: 202},
		"core.signingservice_user ":  {everywhere: true, list: 200, read: 200, sign: 202, assign: 403, unassign: 403},
		"core.signingservice_owner ": {everywhere: true, list: 200, read: 200, sign: 202, assign: 202, unassign: 202},
	} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			other := w.addService("other")
			carol := w.userID("carol")
			storetest.Grant(t, w.store, carol, access.RepositoryOwner, access.Key(access.Repository, w.repo.Repository.ID))
			key := access.Key(access.SigningService, w.service.ID)
			if c.everywhere {
				role, key = role[:len(role)-1], ""
			}
			if role != "" {
				storetest.Grant(t, w.store, carol, role, key)
			}
			as := func(method, path, json string, status int) {
				t.Helper()
				request := call{method: method, path: path, user: "carol"}
				if json != "" {
					request.json = json
				}
				w.expect(request, status, "")
			}
			named := `{"manifest_signing_service":"` + w.serviceHref() + `"}`
			as(http.MethodGet, "signing-services/", "", c.list)
			as(http.MethodGet, w.serviceHref(), "", c.read)
			as(http.MethodPost, w.repoHref()+"sign/", named, c.sign)
			as(http.MethodPatch, w.repoHref(), named, c.assign)
			if c.assign == 202 {
				if f := w.dispatcher.last().Args.(tasks.EditArgs).Repository; *f.SigningAssigned != pulp.AssignedByAdmin {
					t.Errorf("assigned by %s", *f.SigningAssigned)
				}
			}
			if !c.everywhere {
				foreign := `{"manifest_signing_service":"` + pulp.Href(pulp.SigningServiceCollection, other.ID) + `"}`
				as(http.MethodPost, w.repoHref()+"sign/", foreign, 403)
				as(http.MethodPatch, w.repoHref(), foreign, 403)
			}
			w.assign(w.repo.Repository, w.service.ID, pulp.AssignedByAdmin)
			as(http.MethodPatch, w.repoHref(), `{"manifest_signing_service":null}`, c.unassign)
		})
	}
}

// TestCreatorsOwn verifies that users own what they create over REST: they see, change and delete it, and get the role.
func TestCreatorsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	create := func(path, body string) string {
		t.Helper()
		return w.expect(call{method: http.MethodPost, path: path, user: "carol", json: body}, 201, "").Header.Get("Location")
	}
	for kind, c := range map[access.Kind]struct{ path, body, role string }{
		access.Repository: {pulp.ContainerCollection, `{"name":"carol/app"}`, access.RepositoryOwner},
		access.Remote: {
			pulp.RemoteCollection, `{"name":"carol/remote","url":"https://remote.example","upstream_name":"x"}`, access.RemoteOwner,
		},
	} {
		href := create(c.path, c.body)
		w.expect(call{path: href, user: "carol"}, 200, "")
		w.expect(call{path: href, user: "acme"}, 404, "")
		w.expect(call{path: href + "list_roles/", user: "carol"}, 200, `{"roles":[{"role":"`+c.role+`","users":["carol"],"groups":[]}]}`)
		w.expect(call{method: http.MethodDelete, path: href, user: "carol"}, 202, "")
		if names := w.results(c.path+"?name__startswith=carol", "name"); len(names) != 1 {
			t.Errorf("%s: %v", kind, names)
		}
	}
	w.expect(call{method: http.MethodPost, path: pulp.NamespaceCollection, user: "carol", json: `{"name":"acme2"}`}, 403, "")
	namespace := create(pulp.NamespaceCollection, `{"name":"carol"}`)
	w.expect(call{path: namespace, user: "carol"}, 200, "")
	w.expect(call{path: namespace, user: "acme"}, 404, "")
	w.expect(call{method: http.MethodDelete, path: namespace, user: "carol"}, 202, "")
	w.expect(call{
		method: http.MethodPost, path: pulp.DistributionCollection, user: "carol", json: `{"name":"carol/x","base_path":"carol/x"}`,
	}, 202, "")
}

// patterned is accounts with API tokens that are limited to the patterns and actions of headers.
type patterned struct{ accounts }

func (a patterned) Basic(r *http.Request) (*access.Caller, error) {
	c, err := a.accounts.Basic(r)
	if c != nil && r.Header.Get("Pattern") != "" {
		c.Token = &access.Token{ID: "t", Patterns: r.Header["Pattern"]}
		for _, action := range r.Header["Action"] {
			c.Token.Actions = append(c.Token.Actions, access.Use(action))
		}
	}
	return c, err
}

// TestTokensLimitLists verifies that lists and hrefs show the holder of a limited API token only objects that match its
// patterns, and public ones, and that actions need both.
func TestTokensLimitLists(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *api.Options) { o.Auth = patterned{accounts{o.Store}} })
	secret := w.target("acme/secret")
	w.hide("acme/secret")
	plain := w.container("acme/plain", "")
	plainHref, secretHref := href(plain), pulp.RepositoryHref(pulp.ContainerPush, secret.Repository.ID)
	for name, c := range map[string]struct {
		user             string
		patterns, action []string
		sees             []string
		plain, secret    int // status of GET
		tag              int // status of a tag in plain
	}{
		"a password":           {user: "acme", sees: []string{"acme/app", "acme/plain", "acme/secret"}, plain: 200, secret: 200, tag: 400},
		"another user":         {user: "carol", sees: []string{"acme/app"}, plain: 404, secret: 404, tag: 404},
		"all names":            {user: "acme", patterns: []string{"*"}, sees: []string{"acme/app", "acme/plain", "acme/secret"}, plain: 200, secret: 200, tag: 400},
		"one name":             {user: "acme", patterns: []string{"acme/plain"}, sees: []string{"acme/app", "acme/plain"}, plain: 200, secret: 404, tag: 400},
		"a pattern":            {user: "acme", patterns: []string{"b/*", "*/se*"}, sees: []string{"acme/app", "acme/secret"}, plain: 404, secret: 200, tag: 404},
		"an expression":        {user: "acme", patterns: []string{"acme.plain"}, sees: []string{"acme/app"}, plain: 404, secret: 404, tag: 404},
		"for pulls":            {user: "acme", patterns: []string{"*"}, action: []string{"pull"}, sees: []string{"acme/app", "acme/plain", "acme/secret"}, plain: 200, secret: 200, tag: 403},
		"for pushes":           {user: "acme", patterns: []string{"*"}, action: []string{"push"}, sees: []string{"acme/app"}, plain: 404, secret: 404, tag: 404},
		"of an administrator":  {user: "admin", patterns: []string{"acme/plain"}, sees: []string{"acme/app", "acme/plain"}, plain: 200, secret: 404, tag: 400},
		"without rights there": {user: "carol", patterns: []string{"*"}, sees: []string{"acme/app"}, plain: 404, secret: 404, tag: 404},
	} {
		t.Run(name, func(t *testing.T) {
			ask := func(request call, status int) reply {
				t.Helper()
				request.user, request.headers = c.user, http.Header{"Pattern": c.patterns, "Action": c.action}
				return w.expect(request, status, "")
			}
			found := []string{}
			for _, v := range ask(call{path: "repositories/?fields=name"}, 200).body.(map[string]any)["results"].([]any) {
				found = append(found, v.(map[string]any)["name"].(string))
			}
			if slices.Sort(found); !slices.Equal(found, c.sees) {
				t.Errorf("sees %v, want %v", found, c.sees)
			}
			ask(call{path: plainHref}, c.plain)
			ask(call{path: secretHref}, c.secret)
			ask(call{method: http.MethodPost, path: plainHref + "tag/", json: `{}`}, c.tag)
		})
	}
}
