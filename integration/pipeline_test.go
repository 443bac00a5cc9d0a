package integration

import (
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/oidc/oidctest"
)

// startPipeline starts a server with a rule for the tokens of an issuer as GitHub issues them for the branch main of
// acme/app. A job may push to acme/app and sign with the service release.
func startPipeline(t *testing.T, issuer *oidctest.Issuer, trusted *key) *server {
	t.Helper()
	config := fmt.Sprintf(`
oidc:
  issuers:
  - url: %s
    ca_file: %s
    allow_private_addresses: [127.0.0.0/8]
  rules:
  - name: app
    issuer: %s
    audience: https://registry.example
    claims:
      repository_id: "22"
      repository_owner_id: "11"
      ref: [refs/heads/main, refs/tags/v*]
      event_name: push
    grants:
    - role: container.containernamespace_collaborator
      repositories: [acme/app]
      signing_services: [release]
`, issuer.URL, issuer.CAFile(t), issuer.URL)
	file := write(t, filepath.Join(t.TempDir(), "countersign.yaml"), config, 0o600)
	s := startServer(t, trusted.env(), "COUNTERSIGN_CONFIG="+file)
	s.addService(t, "release", trusted, "")
	s.call(t, "POST", namespaces, object{"name": "acme"}, 201, nil)
	return s
}

// TestPipeline is a CI job without a stored secret: it exchanges its id token for a job token, pushes with podman,
// docker and skopeo, and signs with the example script. The image pulls under a policy that requires the signature.
func TestPipeline(t *testing.T) {
	t.Parallel()
	need(t, "curl", "jq")
	trusted := keyNamed(t, "trusted")
	issuer := oidctest.New(t)
	s := startPipeline(t, issuer, trusted)
	for name, start := range registryUsers {
		t.Run(name, func(t *testing.T) {
			job := s.jobToken(t, issuer.Token(t, issuer.GitHub("https://registry.example")))
			c := start(t, s)
			if said, err := c.login(t, "oidc", job); err != nil {
				t.Fatalf("login: %v\n%s", err, said)
			}
			if said, err := c.push(t, "acme/app:"+name); err != nil {
				t.Fatalf("push: %v\n%s", err, said)
			}
			if said, err := c.push(t, "acme/other:"+name); err == nil {
				t.Errorf("a push to a repository that the rule does not name succeeds:\n%s", said)
			}
			script := filepath.Join(shared.root, "deploy/examples/ci-sign.sh")
			env := environment(t.TempDir(), "REGISTRY="+s.host, "SCHEME=http", "JOB_TOKEN="+job)
			must(t, env, script, "acme/app", "release", name)
			if said, err := output(t, env, script, "acme/app", "countersign", name); err == nil {
				t.Errorf("the job signs with a service that the rule does not name:\n%s", said)
			}
			reader := newContainers(t, s)
			if said, err := reader.pull(t, reader.signedBy(t, trusted), "acme/app:"+name); err != nil {
				t.Errorf("pull under the policy: %v\n%s", err, said)
			}
		})
	}
}

// jobToken exchanges an id token with curl, as the documentation says.
func (s *server) jobToken(t *testing.T, token string) string {
	t.Helper()
	answer := must(t, environment(t.TempDir()), "curl", "-sSf", s.base.String()+"/token/",
		"-d", "grant_type=urn:ietf:params:oauth:grant-type:token-exchange",
		"-d", "subject_token_type=urn:ietf:params:oauth:token-type:id_token", "-d", "subject_token="+url.QueryEscape(token))
	var got struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(answer), &got); err != nil || got.Token == "" {
		t.Fatalf("no job token: %v %s", err, answer)
	}
	return got.Token
}

// TestPipelineOfOthers refuses the tokens of other jobs, at the exchange and as a password.
func TestPipelineOfOthers(t *testing.T) {
	t.Parallel()
	need(t, "curl", "skopeo")
	issuer := oidctest.New(t)
	key := keyNamed(t, "trusted")
	good := issuer.GitHub("https://registry.example")
	fork := oidctest.Fork()
	for name, claims := range map[string]oidctest.Claims{
		"a fork":             good.With(fork),
		"another audience":   good.With(oidctest.Claims{"aud": "https://other.example"}),
		"a further audience": good.With(oidctest.Claims{"aud": []string{"https://registry.example", "https://other.example"}}),
		"another branch":     good.With(oidctest.Claims{"ref": "refs/heads/feature"}),
		"a pull request":     good.With(oidctest.Claims{"event_name": "pull_request_target"}),
		"another issuer":     good.With(oidctest.Claims{"iss": "https://issuer.example"}),
	} {
		t.Run(name, func(t *testing.T) {
			s := startPipeline(t, issuer, key) // a new one, since refused tokens count as failed logins
			token := issuer.Token(t, claims.With(oidctest.Claims{"jti": name}))
			said, err := output(t, environment(t.TempDir()), "curl", "-sS", s.base.String()+"/token/",
				"-d", "grant_type=urn:ietf:params:oauth:grant-type:token-exchange",
				"-d", "subject_token_type=urn:ietf:params:oauth:token-type:id_token", "-d", "subject_token="+token)
			if err != nil || !strings.Contains(said, "invalid_grant") {
				t.Errorf("the exchange: %v %s", err, said)
			}
			c := newContainers(t, s)
			said, err = output(t, c.env(), "skopeo", "--policy", c.open, "copy", "--dest-tls-verify=false", "--dest-creds", "oidc:"+token,
				ociLayout(t, image(t, "amd64", name)), "docker://"+s.host+"/acme/app:evil")
			if err == nil {
				t.Errorf("a push succeeds:\n%s", said)
			}
			if strings.Contains(s.LogTail(), token) {
				t.Error("the log has the token")
			}
			if status, _, _ := s.do(t, "GET", "/v2/acme/app/manifests/evil", nil, nil); status != 404 {
				t.Errorf("the image of another job: %d", status)
			}
		})
	}
}
