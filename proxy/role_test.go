package proxy_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// account creates a local user with the password "secret".
func (w *world) account(name string) pulp.User {
	w.t.Helper()
	u, err := w.store.Accounts.PutUser(w.t.Context(), name, hash(), false, true)
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

// object returns the key of the namespace, distribution or repository of a path, for assign.
func (w *world) object(kind access.Kind, path string) string {
	w.t.Helper()
	t, err := w.store.Serving.Resolve(w.t.Context(), path)
	if err != nil {
		w.t.Fatal(err)
	}
	ids := map[access.Kind]string{
		access.Namespace: t.Distribution.NamespaceID, access.Distribution: t.Distribution.ID, access.Repository: t.Repository.ID,
	}
	return access.Key(kind, ids[kind])
}

// revoke deletes the assignments of an account, as this process does if announced is set, otherwise as another one.
func (w *world) revoke(account int64, announced bool) {
	w.t.Helper()
	err := w.store.DB.InTx(w.t.Context(), func(x *sqldb.Tx) error {
		if announced {
			w.store.Accounts.Changed(x)
		}
		_, err := x.Exec(`DELETE FROM role_assignment WHERE account_id = $1`, account)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestRolesOfTheRegistry checks which requests each role permits on a private repository of another user, with a password
// and with a token.
func TestRolesOfTheRegistry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const path = "acme/secret"
	d := string(w.pushImage(path, "two", "v1"))
	w.setPrivate(path)
	blob := string(w.pushBlob(path, "layer two"))
	requests := map[string]request{
		"pull":   {path: "/v2/" + path + "/manifests/v1"},
		"push":   {method: http.MethodPost, path: "/v2/" + path + "/blobs/uploads/"},
		"create": {method: http.MethodPost, path: "/v2/acme/ROLE/blobs/uploads/"},
		"remove": {method: http.MethodDelete, path: "/v2/" + path + "/manifests/absent"},
		"sign":   {method: http.MethodPut, path: "/extensions/v2/" + path + "/signatures/" + d, body: "{}"},
		"mount":  {method: http.MethodPost, path: "/v2/ROLE/own/blobs/uploads/?from=" + path + "&mount=" + blob},
	}
	tests := map[string]struct {
		role string
		on   access.Kind // "" for all objects
		want string      // the permitted requests
	}{
		"none":                           {want: ""},
		"distribution-consumer":          {"container.containerdistribution_consumer", access.Distribution, "pull mount"},
		"distribution-collaborator":      {"container.containerdistribution_collaborator", access.Distribution, "pull push remove sign mount"},
		"distribution-owner":             {access.DistributionOwner, access.Distribution, "pull push remove sign mount"},
		"repository-owner":               {access.RepositoryOwner, access.Repository, ""},
		"namespace-consumer":             {"container.containernamespace_consumer", access.Namespace, "pull mount"},
		"namespace-collaborator":         {"container.containernamespace_collaborator", access.Namespace, "pull push create remove sign mount"},
		"everywhere-consumer":            {"container.containernamespace_consumer", "", "pull mount"},
		"everywhere-collaborator":        {"container.containernamespace_collaborator", "", "pull push create remove sign mount"},
		"distribution-creator":           {"container.containerdistribution_creator", "", "create"},
		"namespace-creator":              {"container.containernamespace_creator", "", ""},
		"distribution-owner-on-a-object": {access.DistributionOwner, access.Namespace, ""},
	}
	for name, tt := range tests {
		u := w.account(name)
		switch {
		case tt.on != "":
			assign(t, w.store, u.ID, tt.role, w.object(tt.on, path))
		case tt.role != "":
			assign(t, w.store, u.ID, tt.role, "")
		}
		push, _ := w.token(name, "repository:"+path+":pull,push", "repository:acme/"+name+":push", "repository:"+name+"/own:push")
		for as, credentials := range map[string]string{"password": name, "token": push} {
			for what, r := range requests {
				r.as, r.path = credentials, strings.ReplaceAll(r.path, "ROLE", name)
				got := w.send(r)
				if as == "token" && what == "create" {
					r.path = strings.Replace(r.path, "/blobs", "2/blobs", 1) // the token does not cover it
					w.expectError(r, http.StatusUnauthorized, "UNAUTHORIZED")
				}
				permitted := got.status != http.StatusUnauthorized && (what != "mount" || got.status == http.StatusCreated)
				if want := strings.Contains(" "+tt.want+" ", " "+what+" "); permitted != want {
					t.Errorf("%s, %s with a %s: %d %s, permitted %t, want %t", name, what, as, got.status, got.code(), permitted, want)
				}
			}
		}
	}
}

// TestFirstPushes checks who may push to a new name, and that the pusher owns what the push creates.
func TestFirstPushes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	post := func(as, name string, status int) {
		t.Helper()
		if got := w.send(request{as: as, method: http.MethodPost, path: "/v2/" + name + "/blobs/uploads/"}); got.status != status {
			t.Errorf("push to %s as %s: %d %s, want %d", name, as, got.status, got.code(), status)
		}
	}
	grants := func(u pulp.User, path string) access.Granted {
		t.Helper()
		target, err := w.store.Serving.Resolve(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		g, _, err := w.store.Accounts.Granted(t.Context(), u.ID, access.Keys{
			Namespace: pulp.NamespaceOf(path), BasePath: path, Objects: []string{access.Key(access.Repository, target.Repository.ID)},
		})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	dora, erin := w.account("dora"), w.account("erin")
	assign(t, w.store, erin.ID, "container.containernamespace_creator", "")

	post("dora", "erin/app", http.StatusUnauthorized)
	post("dora", "new/app", http.StatusUnauthorized)
	post("dora", "dora/app", http.StatusAccepted) // the namespace of the own name
	want := access.Granted{
		Namespace: access.Locked(access.NamespaceOwner),
		Object:    access.Locked(access.DistributionOwner).Or(access.Locked(access.RepositoryOwner)),
	}
	if got := grants(dora, "dora/app"); got != want {
		t.Errorf("the permissions of the first pusher are %v, want %v", got, want)
	}
	post("dora", "dora/other", http.StatusAccepted)

	post("erin", "erin2/app", http.StatusAccepted) // a creator of namespaces
	post("erin", "erin2/other", http.StatusAccepted)
	post("dora", "erin2/app", http.StatusUnauthorized)
	w.revoke(erin.ID, true)
	post("erin", "erin2/app", http.StatusUnauthorized)

	w.account("fred") // the namespace of the own name exists
	post("admin", "fred/app", http.StatusAccepted)
	post("fred", "fred/app", http.StatusUnauthorized)
	post("fred", "fred/new", http.StatusUnauthorized)
}

// TestConcurrentFirstPushesToANewNamespace lets a user push several repositories to the absent namespace of the own name.
func TestConcurrentFirstPushesToANewNamespace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("dora")
	var group sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		group.Go(func() {
			w.expect(request{as: "dora", method: http.MethodPost, path: "/v2/dora/" + name + "/blobs/uploads/"}, http.StatusAccepted)
		})
	}
	group.Wait()
}

// TestFirstPushToARepositoryOfAnother checks that a first push to the name of a repository that no distribution serves needs
// the permission to change its content.
func TestFirstPushToARepositoryOfAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.account("dora")
	assign(t, w.store, u.ID, "container.containerdistribution_creator", "")
	repo, err := w.store.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: "acme/app"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := request{as: "dora", method: http.MethodPost, path: "/v2/acme/app/blobs/uploads/"}
	w.expectError(r, http.StatusUnauthorized, "UNAUTHORIZED")
	assign(t, w.store, u.ID, "container.containerrepository_content_manager", access.Key(access.Repository, repo.ID))
	w.expect(r, http.StatusAccepted)
	if target, err := w.store.Serving.Resolve(t.Context(), "acme/app"); err != nil || target.Repository.ID != repo.ID {
		t.Errorf("the push uses %+v, %v, want the existing repository", target.Repository, err)
	}
}

// TestRevokedPermissions checks when a live token loses what its account has lost: at once after a change of this process, and
// also after one of another process if the permission was not used before.
func TestRevokedPermissions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pushImage("acme/secret", "two", "v1")
	w.setPrivate("acme/secret")
	u := w.account("dora")
	pull, _ := w.token("dora", "repository:acme/secret:pull")
	r := request{as: pull, path: "/v2/acme/secret/manifests/v1"}
	role := func() {
		t.Helper()
		assign(t, w.store, u.ID, "container.containerdistribution_consumer", w.object(access.Distribution, "acme/secret"))
	}
	w.expectError(r, http.StatusUnauthorized, "UNAUTHORIZED")
	role()
	w.expect(r, http.StatusOK)
	w.revoke(u.ID, true)
	w.expectError(r, http.StatusUnauthorized, "UNAUTHORIZED")
	role()
	w.revoke(u.ID, false)
	w.expectError(r, http.StatusUnauthorized, "UNAUTHORIZED")

	group := func(text string) { // as this process changes groups
		t.Helper()
		if err := w.store.DB.InTx(t.Context(), func(x *sqldb.Tx) error {
			w.store.Accounts.Changed(x)
			_, err := x.Exec(text)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	group(`INSERT INTO account_group (id, name, created, updated) VALUES (7, 'team', 1, 1)`)
	group(`INSERT INTO role_assignment (id, role_id, group_id, object, created, updated) SELECT 'x', id, 7, '` +
		w.object(access.Distribution, "acme/secret") + `', 1, 1 FROM role WHERE name = 'container.containerdistribution_consumer'`)
	w.expectError(r, http.StatusUnauthorized, "UNAUTHORIZED")
	group(`INSERT INTO account_group_member (group_id, account_id) SELECT 7, id FROM account WHERE username = 'dora'`)
	w.expect(r, http.StatusOK)
	group(`DELETE FROM account_group_member`)
	w.expectError(r, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestPublicPullsReadNoPermissions checks that a pull from a public repository costs an account without permissions the same
// queries as an anonymous caller.
func TestPublicPullsReadNoPermissions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pushImage("acme/app", "one", "v1")
	w.account("dora")
	token, _ := w.token("dora", "repository:acme/app:pull")
	reads := func(as string) int64 {
		before := w.store.DB.Reads()
		w.expect(request{as: as, path: "/v2/acme/app/manifests/v1"}, http.StatusOK)
		return w.store.DB.Reads() - before
	}
	reads(token) // reads the account
	anonymous, mine := reads(""), reads(token)
	if mine > anonymous {
		t.Errorf("%d queries with a token, %d without", mine, anonymous)
	}
}
