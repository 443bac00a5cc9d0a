// Package matrix_test compares the permissions of a running server with the table testdata/permissions.tsv: each kind of
// user performs each operation on public and private objects, of its own and of others.
package matrix_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/admin"
	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/app/apptest"
	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/oidc/oidctest"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/signing/openpgp"
	"github.com/countersign/countersign/signing/signtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

const (
	root     = pulp.Root
	password = "a good long password"
	patience = time.Minute
)

// server is a running server with two signing services.
type server struct {
	*apptest.Server
	config  config.Config
	host    string
	service string // href of the service that is assigned to repositories
	spare   string // href of another service
	key     *signtest.Key
	admin   identity
	issuer  *oidctest.Issuer
}

// identity authenticates requests. The zero identity is anonymous.
type identity struct{ user, secret string }

func newServer(t *testing.T, variables ...string) *server {
	t.Helper()
	variables = append(variables, "SIGNING_DEFAULT_SERVICE=", "MIRROR_ALLOW_PRIVATE_ADDRESSES=127.0.0.0/8")
	if database := pgtest.URL(t); database != "" {
		variables = append(variables, "DATABASE_URL="+database)
	}
	c := apptest.Load(t, variables...)
	issuer := oidctest.New(t)
	c.OIDC = trust(t, issuer)
	a, _ := apptest.New(c)
	file, err := openpgp.Ensure(t.TempDir(), "Test", "test@example.com")
	if err != nil {
		t.Fatal(err)
	}
	operator := admin.New(admin.Options{App: a, Config: c, Out: io.Discard, Log: slog.New(slog.DiscardHandler)})
	service := func(name string) error {
		return operator.AddSigningService(t.Context(), admin.NewService{
			Name: name, Class: pulp.ManifestSigningService, OpenPGPKey: file,
		})
	}
	if err := errors.Join(operator.Migrate(t.Context()), service("release"), service("spare")); err != nil {
		t.Fatal(err)
	}
	s := &server{
		Server: apptest.Start(t, c), host: c.Listen, key: signtest.NewKey(t, time.Now().Add(-time.Hour), 0), config: c,
		admin: identity{app.AdminName, apptest.AdminPassword}, issuer: issuer,
	}
	s.service, s.spare = s.find(t, "signing-services/?name=release"), s.find(t, "signing-services/?name=spare")
	return s
}

// audience is that of the tokens of CI jobs.
const audience = "https://registry.example"

// trust returns the rule for the CI job of the matrix, a collaborator of two namespaces who may use a signing service.
func trust(t *testing.T, issuer *oidctest.Issuer) config.OIDC {
	t.Helper()
	return config.OIDC{
		Issuers: []config.OIDCIssuer{{
			URL: issuer.URL, CAFile: issuer.CAFile(t), AllowPrivateAddresses: []string{oidctest.Loopback.String()},
		}},
		Rules: []config.OIDCRule{{
			Name: "job", Issuer: issuer.URL, Audience: audience,
			Claims: map[string]config.OIDCValues{
				"repository_id": {"22"}, "repository_owner_id": {"11"}, "ref": {"refs/heads/main"}, "event_name": {"push"},
			},
			Grants: []config.OIDCGrant{{
				Role: "container.containernamespace_collaborator", Repositories: []string{"ci-job-public/*", "ci-job-private/*"},
				SigningServices: []string{"spare"},
			}},
		}},
	}
}

// job returns the identity of a CI job.
func (s *server) job(t *testing.T) identity {
	t.Helper()
	return identity{"oidc", s.issuer.Token(t, s.issuer.GitHub(audience))}
}

// restart stops the server and starts it with a number of workers.
func (s *server) restart(t *testing.T, workers int) {
	t.Helper()
	if err := s.Stop(t); err != nil {
		t.Fatal(err)
	}
	s.config.Workers = workers
	s.Server = apptest.Start(t, s.config)
}

// response is a response whose body was read.
type response struct {
	status int
	header http.Header
	body   string
}

func (r response) String() string { return fmt.Sprintf("%d %.500s", r.status, r.body) }

// decode decodes a JSON body.
func (r response) decode(t *testing.T, to any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), to); err != nil {
		t.Fatalf("%v: %v", r, err)
	}
}

// send sends a request with an Authorization header; empty for none.
func (s *server) send(t *testing.T, authorization, method, path string, header http.Header, body []byte) response {
	t.Helper()
	request, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, s.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response{answer.StatusCode, answer.Header, string(text)}
}

// basic returns the Authorization header of an identity; empty for the anonymous one.
func (i identity) basic() string {
	if i == (identity{}) {
		return ""
	}
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(i.user, i.secret)
	return r.Header.Get("Authorization")
}

// bearer returns an Authorization header with a bearer token for scopes.
func (s *server) bearer(t *testing.T, as identity, scopes ...string) string {
	t.Helper()
	r := s.send(t, as.basic(), http.MethodGet, "/token/?"+url.Values{"service": {s.host}, "scope": scopes}.Encode(), nil, nil)
	var got struct{ Token string }
	r.decode(t, &got)
	if got.Token == "" {
		t.Fatalf("no token for %s: %v", as.user, r)
	}
	return "Bearer " + got.Token
}

// rest sends a request with a JSON body, or without one, to the REST API.
func (s *server) rest(t *testing.T, as identity, method, path, body string) response {
	t.Helper()
	header := http.Header{}
	if body != "" {
		header.Set("Content-Type", "application/json")
	}
	if !strings.HasPrefix(path, "/") {
		path = root + path
	}
	return s.send(t, as.basic(), method, path, header, []byte(body))
}

// must is rest as an administrator, with a status below 400. It waits for the end of a task, which must complete.
func (s *server) must(t *testing.T, method, path, body string) response {
	t.Helper()
	r := s.rest(t, s.admin, method, path, body)
	if r.status >= http.StatusBadRequest {
		t.Fatalf("%s %s %s: %v", method, path, body, r)
	}
	if state, why := s.ended(t, r); state != "completed" && state != "" {
		t.Fatalf("%s %s %s: the task %s: %s", method, path, body, state, why)
	}
	return r
}

// ended waits until the task that a response names has ended, and returns its state and its error. The state is empty if
// the response names no task.
func (s *server) ended(t *testing.T, r response) (state, why string) {
	t.Helper()
	if r.status != http.StatusAccepted || r.body == "" { // the registry answers 202 without a body
		return "", ""
	}
	var started struct{ Task string }
	r.decode(t, &started)
	if started.Task == "" {
		return "", ""
	}
	var task struct {
		State string
		Error any
	}
	eventually.True(t, patience, func() bool {
		s.rest(t, s.admin, http.MethodGet, started.Task, "").decode(t, &task)
		return task.State != "waiting" && task.State != "running" && task.State != "canceling"
	}, "the task %s ends", started.Task)
	return task.State, fmt.Sprint(task.Error)
}

// create creates an object as an administrator and returns its href.
func (s *server) create(t *testing.T, collection, body string) string {
	t.Helper()
	r := s.must(t, http.MethodPost, collection, body)
	if r.status == http.StatusAccepted { // a distribution is created by a task
		var created struct{ Name string }
		if err := json.Unmarshal([]byte(body), &created); err != nil {
			t.Fatal(err)
		}
		return s.find(t, collection+"?name="+url.QueryEscape(created.Name))
	}
	var made struct {
		Href string `json:"pulp_href"`
	}
	r.decode(t, &made)
	return made.Href
}

// find returns the href of the only object in a list.
func (s *server) find(t *testing.T, list string) string {
	t.Helper()
	found := s.hrefs(t, s.must(t, http.MethodGet, list, ""))
	if len(found) != 1 {
		t.Fatalf("%s has %d objects, want 1", list, len(found))
	}
	return found[0]
}

// hrefs returns the hrefs of the objects in a response with a list.
func (s *server) hrefs(t *testing.T, r response) []string {
	t.Helper()
	var list struct {
		Results []struct {
			Href string `json:"pulp_href"`
		}
	}
	r.decode(t, &list)
	var all []string
	for _, one := range list.Results {
		all = append(all, one.Href)
	}
	return all
}
