package integration

import (
	"database/sql"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"golang.org/x/crypto/bcrypt"
)

// exec executes a statement in the server's database.
func (s *server) exec(t *testing.T, query string) {
	t.Helper()
	for _, entry := range s.env {
		if url, ok := strings.CutPrefix(entry, "COUNTERSIGN_DATABASE_URL=postgres"); ok {
			db, err := sql.Open("pgx", "postgres"+url)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.ExecContext(t.Context(), query); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	must(t, s.env, "sqlite3", "-cmd", ".timeout 10000", filepath.Join(s.data, "countersign.db"), query)
}

// repositoryHref returns the href of the repository with this name.
func (s *server) repositoryHref(t *testing.T, name string) string {
	t.Helper()
	href, _ := s.repository(t, name)["pulp_href"].(string)
	return href
}

// completes waits for the task of an answer and checks that it completed.
func (s *server) completes(t *testing.T, dispatched object) {
	t.Helper()
	task, _ := dispatched["task"].(string)
	if done := s.finished(t, task); done["state"] != "completed" {
		t.Fatalf("the task is %v %v", done["state"], done["error"])
	}
}

// as creates an ordinary account and returns an api for it.
func (s *server) as(t *testing.T, name string) api {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(adminPassword), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	s.exec(t, `INSERT INTO account (username, password_hash, is_staff, is_active, created, updated) VALUES ('`+name+`', '`+string(hash)+`', FALSE, TRUE, 1, 1)`)
	return api{base: s.base, user: name, password: adminPassword}
}

// ownsNamespace creates the namespace of an account's name and makes the account its owner.
func (s *server) ownsNamespace(t *testing.T, name string) {
	t.Helper()
	var namespace struct {
		Href string `json:"pulp_href"`
	}
	s.call(t, http.MethodPost, "/pulp/api/v3/pulp_container/namespaces/", object{"name": name}, http.StatusCreated, &namespace)
	s.call(t, http.MethodPost, namespace.Href+"add_role/",
		object{"role": "container.containernamespace_owner", "users": []string{name}}, http.StatusCreated, nil)
}

// TestAnAccountCannotTakeAKey checks over HTTP, with a real key, that an ordinary account cannot sign its own
// repository with an unassigned service, and can with a service that an administrator or the configuration assigned.
func TestAnAccountCannotTakeAKey(t *testing.T) {
	t.Parallel()
	need(t, "sqlite3")
	s := startServer(t, "COUNTERSIGN_SIGNING_DEFAULT_SERVICE=", "COUNTERSIGN_SIGNING_ASSIGN=mallory/approved*=release")
	k := keyHome(t)
	k.generate(t, "ed25519", "")
	release := s.addKeyService(t, "release", k, "--openpgp-key", k.secret(t, ""))
	mallory := s.as(t, "mallory")
	s.ownsNamespace(t, "mallory")
	for _, name := range []string{"mallory/app", "mallory/approved"} {
		if _, err := s.pushTiny(t, name, "v1", name); err != nil {
			t.Fatal(err)
		}
	}
	app, approved := s.repositoryHref(t, "mallory/app"), s.repositoryHref(t, "mallory/approved")
	mallory.call(t, http.MethodPatch, app, object{"manifest_signing_service": release}, http.StatusForbidden, nil)
	mallory.call(t, http.MethodPost, app+"sign/", object{"manifest_signing_service": release}, http.StatusForbidden, nil)
	mallory.call(t, http.MethodPatch, app, object{"sign_on_push": true}, http.StatusBadRequest, nil)
	mallory.call(t, http.MethodPatch, app, object{"name": "mallory/approved2"}, http.StatusAccepted, nil)
	if n := s.get(t, signatureList)["count"]; n != 0.0 {
		t.Fatalf("%v signatures were made", n)
	}
	var dispatched object
	mallory.call(t, http.MethodPost, approved+"sign/", nil, http.StatusAccepted, &dispatched)
	s.completes(t, dispatched)
	if n := s.get(t, signatureList)["count"]; n != 1.0 {
		t.Errorf("the configured service made %v signatures, want 1", n)
	}
}

// TestEarlierAssignmentsAreListedOnceAndRevoked upgrades a server on which users assigned signing services: the first
// start warns of each, the second of none, and the command line lists and revokes them.
func TestEarlierAssignmentsAreListedOnceAndRevoked(t *testing.T) {
	t.Parallel()
	need(t, "sqlite3")
	s := startServer(t, "COUNTERSIGN_SIGNING_DEFAULT_SERVICE=")
	k := keyHome(t)
	k.generate(t, "ed25519", "")
	release := s.addKeyService(t, "release", k, "--openpgp-key", k.secret(t, ""))
	owner := s.as(t, "team")
	s.ownsNamespace(t, "team")
	for _, name := range []string{"team/one", "team/two", "team/three"} {
		if _, err := s.pushTiny(t, name, "v1", name); err != nil {
			t.Fatal(err)
		}
		var dispatched object
		s.call(t, http.MethodPatch, s.repositoryHref(t, name), object{"manifest_signing_service": release}, http.StatusAccepted, &dispatched)
		s.completes(t, dispatched)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s.exec(t, `UPDATE repository SET signing_assigned = 'before' WHERE name <> 'team/three'`)
	s.exec(t, `DELETE FROM setting WHERE name = 'earlier_signing_assignments_listed'`)
	const warning = "this repository keeps its signing service"
	warned := func() string { // of the latest start
		before, _ := os.ReadFile(s.command.Log)
		s.start(t)
		after, err := os.ReadFile(s.command.Log)
		if err != nil {
			t.Fatal(err)
		}
		return string(after[len(before):])
	}
	if said := warned(); strings.Count(said, warning) != 2 || !strings.Contains(said, "repository=team/one service=release") || !strings.Contains(said, "revoke-signing-assignments") {
		t.Errorf("output of the first start:\n%s", said)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if said := warned(); strings.Contains(said, warning) {
		t.Errorf("output of the second start:\n%s", said)
	}
	var dispatched object
	owner.call(t, http.MethodPost, s.repositoryHref(t, "team/one")+"sign/", nil, http.StatusAccepted, &dispatched)
	s.completes(t, dispatched)

	said, err := s.cli(t, nil, "list-signing-assignments")
	if err != nil || strings.Count(said, "before the upgrade") != 2 || strings.Count(said, "an administrator") != 1 {
		t.Errorf("list-signing-assignments: %v\n%s", err, said)
	}
	for _, wrong := range [][]string{{}, {"--all", "team/one"}, {"team/absent", "team/one"}} {
		if said, err := s.cli(t, nil, append([]string{"revoke-signing-assignments"}, wrong...)...); err == nil {
			t.Errorf("revoke-signing-assignments %v: %s", wrong, said)
		}
	}
	if said, err = s.cli(t, nil, "revoke-signing-assignments", "--all"); err != nil || !strings.Contains(said, "Revoked 2 assignments.") || strings.Contains(said, "team/three") {
		t.Errorf("revoke-signing-assignments: %v\n%s", err, said)
	}
	for name, want := range map[string]any{"team/one": nil, "team/two": nil, "team/three": release} {
		if got := s.get(t, s.repositoryHref(t, name))["manifest_signing_service"]; got != want {
			t.Errorf("%s has the signing service %v, want %v", name, got, want)
		}
	}
	owner.call(t, http.MethodPost, s.repositoryHref(t, "team/one")+"sign/", object{"manifest_signing_service": release}, http.StatusForbidden, nil)
	owner.call(t, http.MethodPost, s.repositoryHref(t, "team/three")+"sign/", object{"manifest_signing_service": release}, http.StatusAccepted, nil)
}
