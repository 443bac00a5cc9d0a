package integration

import (
	"bufio"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/oidc/oidctest"
	"github.com/countersign/countersign/internal/oidclogin"
)

// loginConfig lets people log in at the issuer.
const loginConfig = `
oidc:
  login:
    issuer: ISSUER
    client_id: countersign-cli
    ca_file: CA
    allow_private_addresses: [127.0.0.0/8]
    groups: {idp-dev: developers}
    device_flow: true
`

// TestPersonLogsIn logs a person in with the command, without and with the device flow. podman and curl use the token.
func TestPersonLogsIn(t *testing.T) {
	t.Parallel()
	need(t, "podman")
	i := oidctest.New(t)
	ca := i.CAFile(t)
	text := strings.NewReplacer("ISSUER", i.URL, "CA", ca).Replace(loginConfig)
	s := startServer(t, "COUNTERSIGN_CONFIG="+write(t, filepath.Join(t.TempDir(), "countersign.yaml"), text, 0o600))
	i.SetPerson(oidctest.Claims{"preferred_username": "alice", "groups": []string{"idp-dev"}})
	if _, err := s.pushTiny(t, "team/private", "v1", "private"); err != nil {
		t.Fatal(err)
	}
	s.hide(t, "team/private")
	token := s.login(t, ca)
	alice := s.asUser("alice", token)
	if status, _, body := alice.do(t, http.MethodGet, "/v2/team/private/tags/list", nil, nil); status != http.StatusUnauthorized {
		t.Errorf("without a role: %d %s", status, body)
	}
	s.role(t, "add_role", s.one(t, namespaces, "team"), "container.containernamespace_consumer", object{"groups": []string{"developers"}})
	c := newContainers(t, s)
	if said, err := c.podman(t, nil, "login", "--tls-verify=false", "-u", "alice", "-p", token, s.host); err != nil {
		t.Fatalf("podman login: %v\n%s", err, said)
	}
	if status, _, body := alice.do(t, http.MethodGet, "/v2/team/private/tags/list", nil, nil); status != http.StatusOK {
		t.Errorf("with the role of the group: %d %s", status, body)
	}
	if second := s.login(t, ca, "--device"); second == token {
		t.Error("two logins have one token")
	}
}

// login runs the command and returns the token. The person opens the address that it prints, unless on another device.
func (s *server) login(t *testing.T, ca string, options ...string) string {
	t.Helper()
	client, err := oidclogin.Client(ca)
	if err != nil {
		t.Fatal(err)
	}
	arguments := append([]string{"login", "http://" + s.host, "--no-browser", "--ca-file", ca}, options...)
	command := exec.CommandContext(t.Context(), s.command.Program, arguments...)
	command.Env = environment(t.TempDir())
	var out strings.Builder
	command.Stdout = &out
	messages, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for lines := bufio.NewScanner(messages); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if strings.HasPrefix(lines.Text(), "https://") {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, lines.Text(), nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
		}
	}
	if err := command.Wait(); err != nil || !strings.Contains(said.String(), "Logged in as alice until ") {
		t.Fatalf("countersign login: %v\n%s", err, said.String())
	}
	token := strings.TrimSpace(out.String())
	if !strings.HasPrefix(token, "cst_") {
		t.Fatalf("the token is %q", token)
	}
	return token
}
