package matrix_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestTasksOfRevokedUsers starts the task of each operation as a user who loses the right before the task runs: the task
// fails. The tasks of a user who only changes the password run.
func TestTasksOfRevokedUsers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.mustPush(t, "seed/app", pushedImage, "v1")
	cases := map[string]func(t *testing.T, f *fixture, user, href string){
		"role": func(t *testing.T, f *fixture, user, _ string) {
			f.must(t, http.MethodPost, f.values["namespace"]+"remove_role/",
				fmt.Sprintf(`{"role":"container.containernamespace_owner","users":[%q]}`, user))
		},
		"disabled": func(t *testing.T, f *fixture, _, href string) {
			f.must(t, http.MethodPatch, href, `{"is_active":false}`)
		},
		"deleted": func(t *testing.T, f *fixture, _, href string) { f.must(t, http.MethodDelete, href, "") },
		"password": func(t *testing.T, f *fixture, _, href string) {
			f.must(t, http.MethodPatch, href, `{"password":"`+password+`2"}`)
		},
	}
	fixtures, users := map[string]*fixture{}, map[string]identity{}
	for name := range cases {
		users[name] = s.user(t, name)
		fixtures[name] = newFixture(t, s, name+"-team", true, identity{})
		fixtures[name].assign(t, "container.containernamespace_owner", "namespace", name)
	}
	s.restart(t, 0)
	started := map[string]map[string]response{}
	for name, revoke := range cases {
		href := s.find(t, "users/?username="+name)
		started[name] = map[string]response{}
		for _, o := range operations() {
			if o.rest == nil {
				continue
			}
			r := attempt{fixtures[name], name, users[name]}.request(t, o.rest)
			if r.status == http.StatusAccepted && s.waits(t, r) { // some tasks run at once
				started[name][o.name] = r
			}
		}
		if len(started[name]) < 20 {
			t.Errorf("only %d operations started tasks: %v", len(started[name]), started[name])
		}
		revoke(t, fixtures[name], name, href)
	}
	s.restart(t, 2)
	for name := range cases {
		completed := 0
		for operation, r := range started[name] {
			state, why := s.ended(t, r)
			if state == "completed" {
				completed++
			}
			if name != "password" && (state != "failed" || !strings.Contains(why, "The user who started this task")) {
				t.Errorf("%s after the change of %s: %s %s", operation, name, state, why)
			}
		}
		if name == "password" && completed < 5 {
			t.Errorf("after a change of the password, %d tasks completed", completed)
		}
	}
}

// waits reports whether the task that a response names has not started.
func (s *server) waits(t *testing.T, r response) bool {
	t.Helper()
	var started, task struct{ Task, State string }
	r.decode(t, &started)
	s.rest(t, s.admin, http.MethodGet, started.Task, "").decode(t, &task)
	return task.State == "waiting"
}
