package integration

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/eventually"
)

const (
	users      = apiRoot + "users/"
	groups     = apiRoot + "groups/"
	namespaces = apiRoot + "pulp_container/namespaces/"

	userPassword = "blue-tractor-at-noon"
)

// revocation is the time in which a change of rights has effect on other processes.
const revocation = time.Minute

// asUser returns an api for another user.
func (a api) asUser(user, password string) api {
	return api{base: a.base, user: user, password: password}
}

// addUser creates a user with userPassword and returns the href and the user's api.
func (a api) addUser(t *testing.T, name string) (string, api) {
	t.Helper()
	var made object
	a.call(t, http.MethodPost, users, object{"username": name, "password": userPassword}, http.StatusCreated, &made)
	return text(made["pulp_href"]), a.asUser(name, userPassword)
}

// one finds the only object with a name in a list.
func (a api) one(t *testing.T, list, name string) string {
	t.Helper()
	found := a.list(t, list+"?name="+name)
	if found.Count != 1 {
		t.Fatalf("%s has %d objects named %s, want 1", list, found.Count, name)
	}
	return text(found.Results[0]["pulp_href"])
}

// role gives or takes (action add_role or remove_role) a role on an object.
func (a api) role(t *testing.T, action, href, role string, members object) {
	t.Helper()
	body := object{"role": role}
	for kind, names := range members {
		body[kind] = names
	}
	a.call(t, http.MethodPost, href+action+"/", body, http.StatusCreated, nil)
}

// hide makes a repository private.
func (a api) hide(t *testing.T, name string) {
	t.Helper()
	var started struct{ Task string }
	a.call(t, http.MethodPatch, a.one(t, distributions, name), object{"private": true}, http.StatusAccepted, &started)
	if task := a.finished(t, started.Task); task["state"] != "completed" {
		t.Fatalf("hide %s: %v", name, task)
	}
}

// registryUser logs in as a user of the registry and pushes and pulls. Each has a separate home directory.
type registryUser interface {
	login(t *testing.T, user, password string) (string, error)
	push(t *testing.T, reference string) (string, error)
	pull(t *testing.T, reference string) (string, error)
}

// registryUsers start the clients that the tests of users run.
var registryUsers = map[string]func(t *testing.T, s *server) registryUser{
	"podman": func(t *testing.T, s *server) registryUser {
		need(t, "podman")
		return podmanClient{newContainers(t, s)}
	},
	"skopeo": func(t *testing.T, s *server) registryUser {
		need(t, "skopeo")
		return skopeoClient{newContainers(t, s)}
	},
	"docker": func(t *testing.T, s *server) registryUser { return dockerClient{newDockerUser(t), s.host} },
}

type podmanClient struct{ *containers }

func (c podmanClient) login(t *testing.T, user, password string) (string, error) {
	return c.podman(t, nil, "login", "--tls-verify=false", "-u", user, "-p", password, c.server.host)
}

func (c podmanClient) push(t *testing.T, reference string) (string, error) {
	said, err := c.podman(t, nil, "pull", "--quiet", "--signature-policy", c.open, ociLayout(t, image(t, "amd64", reference)))
	if err != nil {
		return said, err
	}
	id := lastLine(said)
	return c.podman(t, nil, "push", "--tls-verify=false", "--signature-policy", c.open, id, c.server.host+"/"+reference)
}

func (c podmanClient) pull(t *testing.T, reference string) (string, error) {
	return c.podman(t, nil, "pull", "--tls-verify=false", "--signature-policy", c.open, c.server.host+"/"+reference)
}

type skopeoClient struct{ *containers }

func (c skopeoClient) login(t *testing.T, user, password string) (string, error) {
	return output(t, c.env(), "skopeo", "login", "--tls-verify=false", "-u", user, "-p", password, c.server.host)
}

func (c skopeoClient) push(t *testing.T, reference string) (string, error) {
	return output(t, c.env(), "skopeo", "--policy", c.open, "copy", "--dest-tls-verify=false",
		ociLayout(t, image(t, "amd64", reference)), "docker://"+c.server.host+"/"+reference)
}

func (c skopeoClient) pull(t *testing.T, reference string) (string, error) {
	return output(t, c.env(), "skopeo", "--policy", c.open, "copy", "--src-tls-verify=false",
		"docker://"+c.server.host+"/"+reference, "dir:"+t.TempDir())
}

type dockerClient struct {
	*dockerUser
	host string
}

func (c dockerClient) login(t *testing.T, user, password string) (string, error) {
	return c.run(t, "login", "--username", user, "--password", password, c.host)
}

func (c dockerClient) push(t *testing.T, reference string) (string, error) {
	if said, err := c.run(t, "load", "--input", dockerArchive(t, image(t, "amd64", reference), c.host+"/"+reference)); err != nil {
		return said, err
	}
	return c.run(t, "push", c.host+"/"+reference)
}

func (c dockerClient) pull(t *testing.T, reference string) (string, error) {
	return c.run(t, "pull", c.host+"/"+reference)
}

// TestClientsAsUsers pushes and pulls with each client as users with each role of a namespace, and without a login, to
// and from a public and a private repository.
func TestClientsAsUsers(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	admin := asAdmin(t, s)
	for _, name := range []string{"team/public", "team/private"} {
		admin.push(t, ociLayout(t, image(t, "amd64", name)), name+":1.0")
	}
	s.hide(t, "team/private")
	team := s.one(t, namespaces, "team")
	for user, role := range map[string]string{"olga": "owner", "carl": "collaborator", "cora": "consumer", "nora": ""} {
		s.addUser(t, user)
		if role != "" {
			s.role(t, "add_role", team, "container.containernamespace_"+role, object{"users": []string{user}})
		}
	}
	s.role(t, "add_role", s.one(t, distributions, "team/private"), "container.containerdistribution_consumer",
		object{"users": []string{"nora"}})
	for program, start := range registryUsers {
		for user, may := range map[string]struct{ pullPrivate, push bool }{
			"olga": {pullPrivate: true, push: true}, "carl": {pullPrivate: true, push: true}, "cora": {pullPrivate: true},
			"nora": {pullPrivate: true}, "": {},
		} {
			t.Run(program+" as "+user, func(t *testing.T) {
				c := start(t, s)
				if user != "" {
					if said, err := c.login(t, user, userPassword); err != nil {
						t.Fatalf("login: %v\n%s", err, said)
					}
				}
				mine := "team/" + program + user
				for _, step := range []struct {
					what string
					run  func(*testing.T, string) (string, error)
					ref  string
					want bool
				}{
					{"pull of the public image", c.pull, "team/public:1.0", true},
					{"pull of the private image", c.pull, "team/private:1.0", may.pullPrivate},
					{"pull of an absent image", c.pull, "team/absent:1.0", false},
					{"push to the private repository", c.push, "team/private:" + program + user, may.push},
					{"push to the public repository", c.push, "team/public:" + program + user, may.push},
					{"push to a new repository", c.push, mine + ":1.0", may.push},
					{"push to another namespace", c.push, "elsewhere/app:1.0", false},
					{"push to the namespace of the own name", c.push, user + "/app:" + program, user != ""},
				} {
					if user == "" && strings.HasPrefix(step.ref, "/") {
						continue
					}
					if said, err := step.run(t, step.ref); (err == nil) != step.want {
						t.Errorf("%s: %v, want success: %t\n%s", step.what, err, step.want, said)
					}
				}
			})
		}
	}
}

// revocationCases take the right to read team/private from a new user, in one request of an administrator each. The
// functions give the right and return that request.
var revocationCases = map[string]func(t *testing.T, admin api, user, href string) (method, path string, body object){
	"a role": func(t *testing.T, admin api, user, _ string) (string, string, object) {
		team := admin.one(t, namespaces, "team")
		admin.role(t, "add_role", team, consumer, object{"users": []string{user}})
		return http.MethodPost, team + "remove_role/", object{"role": consumer, "users": []string{user}}
	},
	"the membership of a group": func(t *testing.T, admin api, user, _ string) (string, string, object) {
		group := admin.addGroup(t, user+"s", user)
		admin.role(t, "add_role", admin.one(t, namespaces, "team"), consumer, object{"groups": []string{user + "s"}})
		var members page
		admin.call(t, http.MethodGet, group+"users/", nil, http.StatusOK, &members)
		return http.MethodDelete, text(members.Results[0]["pulp_href"]), nil
	},
	"the role of a group": func(t *testing.T, admin api, user, _ string) (string, string, object) {
		admin.addGroup(t, user+"s", user)
		team := admin.one(t, namespaces, "team")
		admin.role(t, "add_role", team, consumer, object{"groups": []string{user + "s"}})
		return http.MethodPost, team + "remove_role/", object{"role": consumer, "groups": []string{user + "s"}}
	},
	"a permission of the role": func(t *testing.T, admin api, user, _ string) (string, string, object) {
		var role object
		admin.call(t, http.MethodPost, apiRoot+"roles/", object{
			"name": "test." + user, "permissions": []string{"container.namespace_pull_containerdistribution"},
		}, http.StatusCreated, &role)
		admin.role(t, "add_role", admin.one(t, namespaces, "team"), "test."+user, object{"users": []string{user}})
		return http.MethodPatch, text(role["pulp_href"]), object{"permissions": []string{"core.view_task"}}
	},
	"the password": func(t *testing.T, admin api, user, href string) (string, string, object) {
		admin.role(t, "add_role", admin.one(t, namespaces, "team"), consumer, object{"users": []string{user}})
		return http.MethodPatch, href, object{"password": userPassword + "-changed"}
	},
	"the active account": func(t *testing.T, admin api, user, href string) (string, string, object) {
		admin.role(t, "add_role", admin.one(t, namespaces, "team"), consumer, object{"users": []string{user}})
		return http.MethodPatch, href, object{"is_active": false}
	},
	"the account": func(t *testing.T, admin api, user, href string) (string, string, object) {
		admin.role(t, "add_role", admin.one(t, namespaces, "team"), consumer, object{"users": []string{user}})
		return http.MethodDelete, href, nil
	},
}

const consumer = "container.containernamespace_consumer"

// addGroup creates a group with a member and returns its href.
func (a api) addGroup(t *testing.T, name, member string) string {
	t.Helper()
	var group object
	a.call(t, http.MethodPost, groups, object{"name": name}, http.StatusCreated, &group)
	a.call(t, http.MethodPost, text(group["pulp_href"])+"users/", object{"username": member}, http.StatusCreated, nil)
	return text(group["pulp_href"])
}

// bearerFor returns the header of a request with a bearer token for a scope.
func (s *server) bearerFor(t *testing.T, as api, scope string) http.Header {
	t.Helper()
	var got struct{ Token string }
	as.call(t, http.MethodGet, "/token/?service="+s.host+"&scope="+scope, nil, http.StatusOK, &got)
	return http.Header{"Authorization": {"Bearer " + got.Token}}
}

// TestRevocation takes a right from users through one of two processes. This process must refuse their next request
// with a bearer token that was issued before and with the password; the other process must refuse the token within a
// minute.
func TestRevocation(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 0)
	one, two := c.servers[0], c.servers[1]
	if _, err := one.pushTiny(t, "team/private", "v1", "private"); err != nil {
		t.Fatal(err)
	}
	one.hide(t, "team/private")
	for name, give := range revocationCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			user := "u" + strings.ReplaceAll(name, " ", "-")
			href, mine := one.addUser(t, user)
			method, path, body := give(t, one.api, user, href)
			read := func(s *server, header http.Header) int {
				anonymous := s.asUser("", "")
				status, _, _ := anonymous.do(t, http.MethodGet, "/v2/team/private/manifests/v1", header, nil)
				return status
			}
			tokens := map[*server]http.Header{}
			for _, s := range c.servers {
				tokens[s] = s.bearerFor(t, s.asUser(mine.user, mine.password), "repository:team/private:pull")
				if status := read(s, tokens[s]); status != http.StatusOK {
					t.Fatalf("before the change: %d", status)
				}
			}
			status, _, answer := one.do(t, method, path, jsonHeader(), encode(t, body))
			if status >= http.StatusBadRequest {
				t.Fatalf("%s %s: %d %s", method, path, status, answer)
			}
			if status := read(one, tokens[one]); status != http.StatusUnauthorized {
				t.Errorf("after the change, on the same process: %d", status)
			}
			// Once only: ten failed logins would block the address for all cases.
			plain := one.asUser(mine.user, mine.password)
			if status, _, _ := plain.do(t, http.MethodGet, "/v2/team/private/manifests/v1", nil, nil); status != http.StatusUnauthorized {
				t.Errorf("after the change, with the password on the same process: %d", status)
			}
			began := time.Now()
			eventually.True(t, revocation, func() bool { return read(two, tokens[two]) == http.StatusUnauthorized },
				"the other process refuses the user")
			t.Logf("the other process refuses the user after %v", time.Since(began).Round(100*time.Millisecond))
		})
	}
}

func jsonHeader() http.Header { return http.Header{"Content-Type": {"application/json"}} }

// encode returns a JSON body; nil for none.
func encode(t *testing.T, body object) []byte {
	t.Helper()
	if body == nil {
		return nil
	}
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// asServer returns the server with the api of another user.
func (s *server) asServer(user api) *server {
	other := *s
	other.api = user
	return &other
}

// allowSigning gives a user the role to use a signing service. Administrators need none.
func (s *server) allowSigning(t *testing.T, service, user string) {
	t.Helper()
	if user != s.user {
		s.role(t, "add_role", service, "core.signingservice_user", object{"users": []string{user}})
	}
}

// TestSeedStoryAsUser follows Pulp's guide to signing images as a user with two roles: collaborator of the namespace,
// and user of the signing service. Without one of them the user is refused.
func TestSeedStoryAsUser(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	for client, push := range seedPushes {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, trusted.env())
			_, builder := s.addUser(t, "builder")
			user := s.asServer(builder)
			if _, err := user.pushTiny(t, "test/minio", "v0", "refused"); err == nil {
				t.Error("a user without a role pushes to the namespace test")
			}
			s.call(t, http.MethodPost, namespaces, object{"name": "test"}, http.StatusCreated, nil)
			s.role(t, "add_role", s.one(t, namespaces, "test"), "container.containernamespace_collaborator",
				object{"users": []string{"builder"}})
			user.call(t, http.MethodGet, signingServices, nil, http.StatusForbidden, nil)
			seedStory(t, user, s, trusted, push)

			other := s.addService(t, "other", trusted, "")
			repository := text(user.repository(t, "test/minio")["pulp_href"])
			user.call(t, http.MethodPost, repository+"sign/", object{"manifest_signing_service": other}, http.StatusForbidden, nil)
			user.call(t, http.MethodGet, other, nil, http.StatusNotFound, nil)
		})
	}
}
