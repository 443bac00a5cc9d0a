package integration

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/oidc/oidctest"
)

const jobAudience = "https://registry.example.com"

// jobConfig has a rule for pushes to main of acme/app, which may also sign.
const jobConfig = `
oidc:
  issuers:
  - url: ISSUER
    ca_file: CA
    allow_private_addresses: [127.0.0.0/8]
  rules:
  - name: app
    issuer: ISSUER
    audience: https://registry.example.com
    claims: {repository_id: 22, ref: refs/heads/main, event_name: push}
    grants:
    - role: container.containernamespace_collaborator
      repositories: [acme/app]
      signing_services: [release]
`

// jobServer is a server that accepts the jobs of an issuer, with two signing services and the namespace acme.
type jobServer struct {
	*server
	issuer        *oidctest.Issuer
	key           *key
	release, test string // hrefs of signing services; the rule grants the first
}

func startJobServer(t *testing.T) *jobServer {
	t.Helper()
	i := oidctest.New(t)
	j := &jobServer{issuer: i, server: startServer(t, "COUNTERSIGN_CONFIG="+writeJobConfig(t, i))}
	j.prepare(t)
	return j
}

// writeJobConfig writes jobConfig for an issuer and returns the path.
func writeJobConfig(t *testing.T, i *oidctest.Issuer) string {
	t.Helper()
	text := strings.NewReplacer("ISSUER", i.URL, "CA", i.CAFile(t)).Replace(jobConfig)
	return write(t, filepath.Join(t.TempDir(), "countersign.yaml"), text, 0o600)
}

// prepare creates the namespace and the signing services.
func (j *jobServer) prepare(t *testing.T) {
	t.Helper()
	j.call(t, http.MethodPost, namespaces, object{"name": "acme"}, http.StatusCreated, nil)
	j.key = keyHome(t)
	j.key.generate(t, "ed25519", "")
	j.release = j.addKeyService(t, "release", j.key, "--openpgp-key", j.key.secret(t, ""))
	other := keyHome(t)
	other.generate(t, "ed25519", "")
	j.test = j.addKeyService(t, "test", other, "--openpgp-key", other.secret(t, ""))
}

// token returns the id token of a job with changed claims.
func (j *jobServer) token(t *testing.T, change oidctest.Claims) string {
	t.Helper()
	return j.issuer.Token(t, j.issuer.GitHub(jobAudience).With(change))
}

// skopeo pushes an image with a token as the password.
func (j *jobServer) skopeo(t *testing.T, token, reference string) (string, error) {
	t.Helper()
	c := newContainers(t, j.server)
	return output(t, c.env(), "skopeo", "--policy", c.open, "copy", "--quiet", "--dest-tls-verify=false",
		"--dest-creds", "oidc:"+token, ociLayout(t, image(t, "amd64", reference)), "docker://"+j.host+"/"+reference)
}

// curl sends a request with a token as the password and returns the status and the body.
func (j *jobServer) curl(t *testing.T, token, path string, body object) (status string, answer object) {
	t.Helper()
	arguments := []string{"-sS", "-w", "\n%{http_code}", "-u", "oidc:" + token}
	if body != nil {
		arguments = append(arguments, "-H", "Content-Type: application/json", "-d", string(encode(t, body)))
	}
	said := must(t, environment(t.TempDir()), "curl", append(arguments, "http://"+j.host+path)...)
	end := strings.LastIndex(said, "\n")
	if err := json.Unmarshal([]byte(said[:end]), &answer); err != nil {
		t.Fatalf("curl %s: %v\n%s", path, err, said)
	}
	return said[end+1:], answer
}

// exchange exchanges an id token for a job token with curl.
func (j *jobServer) exchange(t *testing.T, token string) (answer map[string]any) {
	t.Helper()
	said := must(t, environment(t.TempDir()), "curl", "-sS", "http://"+j.host+"/token/",
		"-d", "grant_type=urn:ietf:params:oauth:grant-type:token-exchange",
		"-d", "subject_token_type=urn:ietf:params:oauth:token-type:id_token", "-d", "subject_token="+token)
	if err := json.Unmarshal([]byte(said), &answer); err != nil {
		t.Fatalf("exchange: %v\n%s", err, said)
	}
	return answer
}

// TestJobPushesAndSigns runs a pipeline: a job pushes with skopeo and signs with curl, with its id token only. podman
// accepts the image under a policy that requires the signature.
func TestJobPushesAndSigns(t *testing.T) {
	t.Parallel()
	need(t, "skopeo", "podman", "curl")
	j := startJobServer(t)
	token := j.token(t, nil)
	if said, err := j.skopeo(t, token, "acme/app:1.0"); err != nil {
		t.Fatalf("push: %v\n%s", err, said)
	}
	_, found := j.curl(t, token, pushRepos+"?name=acme/app", nil)
	results, _ := found["results"].([]any)
	if len(results) != 1 {
		t.Fatalf("the job sees the repositories %v", found)
	}
	repository := text(results[0].(map[string]any)["pulp_href"])
	_, services := j.curl(t, token, signingServices, nil)
	if services["count"] != 1.0 || !strings.Contains(string(encode(t, services)), j.release) {
		t.Errorf("the job sees the signing services %v, want %s only", services, j.release)
	}
	status, started := j.curl(t, token, repository+"sign/", object{"manifest_signing_service": j.release})
	if status != "202" {
		t.Fatalf("sign: %s %v", status, started)
	}
	if done := j.finished(t, text(started["task"])); done["state"] != "completed" {
		t.Fatalf("the task is %v", done)
	}
	if status, task := j.curl(t, token, text(started["task"]), nil); status != "200" || task["state"] != "completed" {
		t.Errorf("the job reads its task: %s %v", status, task)
	}
	admin := asAdmin(t, j.server)
	admin.pulls(t, admin.signedBy(t, j.key), "acme/app:1.0", true)

	if status, answer := j.curl(t, token, repository+"sign/", object{"manifest_signing_service": j.test}); status == "202" {
		t.Errorf("the job signs with a service that its rule does not grant: %v", answer)
	}
	for _, reference := range []string{"acme/other:1.0", "other/app:1.0"} {
		if said, err := j.skopeo(t, token, reference); err == nil {
			t.Errorf("the job pushes %s: %s", reference, said)
		}
	}
	if log := j.LogTail(); strings.Contains(log, token) {
		t.Error("the log contains the token")
	}
}

// TestJobToken logs podman and docker in with a job token, which outlives the id token.
func TestJobToken(t *testing.T) {
	t.Parallel()
	need(t, "podman", "curl")
	j := startJobServer(t)
	token := j.token(t, nil)
	job := text(j.exchange(t, token)["access_token"])
	if job == "" {
		t.Fatal("no job token")
	}
	if again := j.exchange(t, token); again["error"] != "invalid_grant" {
		t.Errorf("a second exchange: %v", again)
	}
	c := newContainers(t, j.server)
	if said, err := c.podman(t, nil, "login", "--tls-verify=false", "-u", "oidc", "-p", job, j.host); err != nil {
		t.Fatalf("podman login: %v\n%s", err, said)
	}
	c.podmanPush(t, ociLayout(t, image(t, "amd64", "job")), "acme/app:podman")
	t.Run("docker", func(t *testing.T) {
		docker := newDockerUser(t)
		docker.must(t, "login", "--username", "oidc", "--password", job, j.host)
		docker.must(t, "load", "--input", dockerArchive(t, image(t, "amd64", "job"), j.host+"/acme/app:docker"))
		docker.must(t, "push", j.host+"/acme/app:docker")
	})
}

// TestForeignJobs verifies that tokens of a fork, for another audience, of another branch, and of a pull request are
// refused everywhere.
func TestForeignJobs(t *testing.T) {
	t.Parallel()
	need(t, "skopeo", "podman", "curl")
	j := startJobServer(t)
	if said, err := j.skopeo(t, j.token(t, nil), "acme/app:1.0"); err != nil {
		t.Fatalf("push: %v\n%s", err, said)
	}
	repository := text(j.repository(t, "acme/app")["pulp_href"])
	latest := j.repository(t, "acme/app")["latest_version_href"]
	for name, change := range map[string]oidctest.Claims{
		"fork":             oidctest.Fork(),
		"another audience": {"aud": "https://other.example.com"},
		"two audiences":    {"aud": []string{jobAudience, "https://other.example.com"}},
		"another branch":   {"ref": "refs/heads/feature"},
		"pull request":     {"event_name": "pull_request_target"},
		"expired":          {"exp": 1, "iat": 0},
	} {
		t.Run(name, func(t *testing.T) {
			token := j.token(t, change)
			if said, err := j.skopeo(t, token, "acme/app:stolen"); err == nil {
				t.Errorf("skopeo pushes: %s", said)
			}
			status, answer := j.curl(t, token, repository+"sign/", object{"manifest_signing_service": j.release})
			if status != "401" && status != "429" {
				t.Errorf("sign: %s %v", status, answer)
			}
			if job := j.exchange(t, token); job["access_token"] != nil {
				t.Errorf("exchange: %v", job)
			}
			c := newContainers(t, j.server)
			if said, err := c.podman(t, nil, "login", "--tls-verify=false", "-u", "oidc", "-p", token, j.host); err == nil {
				t.Errorf("podman login: %s", said)
			}
		})
	}
	if now := j.repository(t, "acme/app")["latest_version_href"]; now != latest {
		t.Errorf("the latest version is %v, was %v", now, latest)
	}
	if said, err := j.skopeo(t, j.token(t, nil), "acme/app:1.1"); err != nil {
		t.Errorf("a valid token after the refusals: %v\n%s", err, said)
	}
}

// TestJobsOnTwoServers verifies that two servers and a worker on one database treat jobs as one server does: an id
// token is exchanged once, the job token is valid on both, and the worker signs with the rights of the rule.
func TestJobsOnTwoServers(t *testing.T) {
	t.Parallel()
	need(t, "skopeo", "curl")
	i := oidctest.New(t)
	c := startCluster(t, 1, "COUNTERSIGN_CONFIG="+writeJobConfig(t, i))
	one, two := &jobServer{issuer: i, server: c.servers[0]}, &jobServer{issuer: i, server: c.servers[1]}
	one.prepare(t)
	token := one.token(t, nil)
	job := text(one.exchange(t, token)["access_token"])
	if again := two.exchange(t, token); job == "" || again["error"] != "invalid_grant" {
		t.Errorf("a second exchange on the other server: %v", again)
	}
	if said, err := two.skopeo(t, job, "acme/app:1.0"); err != nil {
		t.Fatalf("push to the other server: %v\n%s", err, said)
	}
	repository := text(one.repository(t, "acme/app")["pulp_href"])
	status, started := two.curl(t, job, repository+"sign/", object{"manifest_signing_service": one.release})
	if status != "202" {
		t.Fatalf("sign: %s %v", status, started)
	}
	if done := one.finished(t, text(started["task"])); done["state"] != "completed" {
		t.Errorf("the task is %v", done)
	}
}
