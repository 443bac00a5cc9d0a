package matrix_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

// subject is a kind of user. Its users have roles on the objects of their own fixtures only.
type subject struct {
	name string
	// roles are the roles on objects of an own fixture, as role@object with an object's key in fixture.values.
	roles string
	// onServer are the roles on a group or a task, as role@object.
	onServer string
	// everywhere are the roles on all objects.
	everywhere string
	// identify returns the identity for a namespace. nil: a user with a password.
	identify func(t *testing.T, s *server, namespace string) identity
	// alike tells that own and foreign objects do not differ for the subject.
	alike bool
	// reaches tells that the subject may create objects in foreign namespaces, and so needs ones of its own.
	reaches bool
	// token are the limits of the API token that the user logs in with; empty: the password.
	token string
	// first tells that the user creates the namespace by a push.
	first bool
	// group tells that a group of the user has the roles.
	group bool
}

// subjects are the columns of the matrix.
func subjects() []subject {
	const (
		namespace    = "container.containernamespace_"
		distribution = "container.containerdistribution_"
		repository   = "container.containerrepository_"
		remote       = "container.containerremote_"
		dists, repos = "@push-dist @repo-dist @gone-dist @gone-repo-dist", "@push @repo @gone-repo"
	)
	on := func(role, objects string) string { return strings.ReplaceAll(objects, "@", role+"@") }
	return []subject{
		{name: "anonymous", alike: true, identify: func(*testing.T, *server, string) identity { return identity{} }},
		{name: "administrator", alike: true, identify: func(_ *testing.T, s *server, _ string) identity { return s.admin }},
		{name: "user"},
		{name: "namespace-owner", roles: namespace + "owner@namespace"},
		{name: "namespace-collaborator", roles: namespace + "collaborator@namespace"},
		{name: "namespace-consumer", roles: namespace + "consumer@namespace"},
		{name: "distribution-owner", roles: on(distribution+"owner", dists)},
		{name: "distribution-collaborator", roles: on(distribution+"collaborator", dists)},
		{name: "distribution-consumer", roles: on(distribution+"consumer", dists)},
		{name: "repository-owner", roles: on(repository+"owner", repos)},
		{name: "repository-content_manager", roles: on(repository+"content_manager", repos)},
		{name: "repository-viewer", roles: on(repository+"viewer", repos)},
		{name: "remote-owner", roles: remote + "owner@remote " + remote + "owner@gone-remote"},
		{name: "remote-viewer", roles: remote + "viewer@remote"},
		{name: "creator", reaches: true, everywhere: repository + "creator " + distribution + "creator " + remote + "creator"},
		{name: "namespace-creator", everywhere: namespace + "creator"},
		{name: "group-member", roles: namespace + "collaborator@namespace", group: true},
		{name: "same-name", first: true, identify: func(t *testing.T, s *server, namespace string) identity {
			t.Helper()
			return s.user(t, namespace)
		}},
		{
			name: "key-user", everywhere: "core.signingservice_user",
			roles: on(repository+"content_manager", repos),
		},
		{name: "key-owner", everywhere: "core.signingservice_owner", roles: on(repository+"owner", repos)},
		{name: "key-user-only", everywhere: "core.signingservice_user"},
		{name: "robot", identify: func(t *testing.T, s *server, namespace string) identity {
			t.Helper()
			return s.robot(t, namespace)
		}},
		{name: "token-to-pull", token: `"actions":["pull"]`, roles: namespace + "owner@namespace"},
		{name: "token-for-others", token: `"patterns":["elsewhere/*"]`, roles: namespace + "owner@namespace"},
		{name: "ci-job", identify: func(t *testing.T, s *server, _ string) identity {
			t.Helper()
			return s.job(t)
		}},
		{name: "user-owner", everywhere: "core.user_owner"},
		{name: "user-viewer", everywhere: "core.user_viewer"},
		{name: "user-creator", everywhere: "core.user_creator"},
		{name: "group-owner", onServer: "core.group_owner@group"},
		{name: "group-viewer", onServer: "core.group_viewer@group"},
		{name: "task-owner", onServer: "core.task_owner@task"},
		{name: "group-creator", everywhere: "core.group_creator"},
		{name: "task-viewer", everywhere: "core.task_viewer"},
	}
}

// user creates a user and returns the identity.
func (s *server) user(t *testing.T, name string) identity {
	t.Helper()
	s.must(t, http.MethodPost, "users/", fmt.Sprintf(`{"username":%q,"password":%q}`, name, password))
	return identity{name, password}
}

// robot creates a robot of a namespace, and the namespace if it does not exist.
func (s *server) robot(t *testing.T, namespace string) identity {
	t.Helper()
	s.rest(t, s.admin, http.MethodPost, pulp.NamespaceCollection, fmt.Sprintf(`{"name":%q}`, namespace))
	var made struct{ Name string }
	s.must(t, http.MethodPost, "robots/", fmt.Sprintf(`{"namespace":%q,"name":"builder"}`, namespace)).decode(t, &made)
	return s.apiToken(t, s.admin, made.Name, "")
}

// apiToken creates an API token of an account, with limits, and returns the identity.
func (s *server) apiToken(t *testing.T, as identity, account, limits string) identity {
	t.Helper()
	if limits != "" {
		limits = "," + limits
	}
	r := s.rest(t, as, http.MethodPost, "tokens/", fmt.Sprintf(`{"name":"test","account":%q%s}`, account, limits))
	var made struct{ Token string }
	r.decode(t, &made)
	if made.Token == "" {
		t.Fatalf("an API token of %s: %v", account, r)
	}
	return identity{account, made.Token}
}

// account is a user of a subject with the roles on all objects.
type account struct {
	subject
	as    identity
	group string // name
}

// newAccount creates the user of a subject.
func newAccount(t *testing.T, s *server, of subject) account {
	t.Helper()
	a := account{subject: of}
	if of.identify != nil {
		return a
	}
	a.as = s.user(t, of.name)
	if of.group {
		a.group = of.name + "s"
		group := s.create(t, "groups/", fmt.Sprintf(`{"name":%q}`, a.group))
		s.must(t, http.MethodPost, group+"users/", fmt.Sprintf(`{"username":%q}`, of.name))
	}
	for _, role := range strings.Fields(of.everywhere) {
		s.giveEverywhere(t, of.name, role)
	}
	if of.token != "" {
		a.as = s.apiToken(t, a.as, of.name, of.token)
	}
	return a
}

// giveEverywhere gives a user a role on all objects.
func (s *server) giveEverywhere(t *testing.T, user, role string) {
	t.Helper()
	var list struct {
		Results []struct {
			Href string `json:"pulp_href"`
		}
	}
	s.must(t, http.MethodGet, "users/?username="+user, "").decode(t, &list)
	s.must(t, http.MethodPost, list.Results[0].Href+"roles/", fmt.Sprintf(`{"role":%q,"content_object":null}`, role))
}

// actor returns the identity of the account that acts on the objects of a namespace.
func (a account) actor(t *testing.T, s *server, namespace string) identity {
	t.Helper()
	if a.identify != nil {
		return a.identify(t, s, namespace)
	}
	return a.as
}

// own creates a fixture of the account's own, with its roles.
func (a account) own(t *testing.T, s *server, private bool) (*fixture, identity) {
	t.Helper()
	namespace := a.name + "-public"
	if private {
		namespace = a.name + "-private"
	}
	if a.first {
		as := a.actor(t, s, namespace)
		return newFixture(t, s, namespace, private, as), as
	}
	f := newFixture(t, s, namespace, private, identity{})
	as := a.actor(t, s, namespace)
	a.assign(t, f, a.roles)
	return f, as
}

// assign gives the user, or the group of the user, roles on objects of a fixture.
func (a account) assign(t *testing.T, f *fixture, roles string) {
	t.Helper()
	members := fmt.Sprintf(`"users":[%q]`, a.name)
	if a.subject.group {
		members = fmt.Sprintf(`"groups":[%q]`, a.group)
	}
	for _, r := range strings.Fields(roles) {
		role, object, _ := strings.Cut(r, "@")
		f.must(t, http.MethodPost, f.values[object]+"add_role/", fmt.Sprintf(`{"role":%q,%s}`, role, members))
	}
}
