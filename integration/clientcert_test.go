package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/integration/process"
)

// issueClient writes a client certificate for a common name and its key. It returns a directory in the form of a
// --cert-dir of podman, which trusts the servers of an authority.
func (a *authority) issueClient(t *testing.T, name string, servers *authority) (dir string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: a.cert.NotBefore,
		NotAfter: a.cert.NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	pemFile(t, filepath.Join(dir, "client.cert"), "CERTIFICATE", der)
	pemFile(t, filepath.Join(dir, "client.key"), "PRIVATE KEY", secret)
	pemFile(t, filepath.Join(dir, "ca.crt"), "CERTIFICATE", servers.cert.Raw)
	return dir
}

// startTLSServer starts a server with TLS, which accepts client certificates of an authority.
func startTLSServer(t *testing.T, servers, clients *authority) *server {
	t.Helper()
	binary, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(address, ":")
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	s := &server{host: "localhost:" + port, data: filepath.Join(dir, "data")}
	certificate, key := servers.issue(t)
	s.env = environment(home, "COUNTERSIGN_DATA="+s.data, "COUNTERSIGN_LISTEN="+address, "COUNTERSIGN_ADMIN_PASSWORD="+adminPassword,
		"COUNTERSIGN_TLS_CERT_FILE="+certificate, "COUNTERSIGN_TLS_KEY_FILE="+key,
		"COUNTERSIGN_TLS_CLIENT_CA_FILE="+filepath.Join(clients.dir, "ca.crt"), "COUNTERSIGN_TLS_CLIENT_IDENTITY=cn")
	s.command = process.Command{Program: binary, Arguments: []string{"serve"}, Env: s.env, Log: filepath.Join(dir, "log")}
	s.start(t)
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("the server's end: %v", err)
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", s.LogTail())
		}
	})
	within(t, "the server answers", func() bool {
		status, _ := tlsGet(t, s, servers, "", "/v2/")
		return status == http.StatusUnauthorized
	})
	return s
}

// tlsGet returns the response to a request without credentials, with the certificate of a --cert-dir if there is one.
func tlsGet(t *testing.T, s *server, servers *authority, certDir, path string) (status int, body string) {
	t.Helper()
	c := &tls.Config{RootCAs: servers.pool}
	if certDir != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(certDir, "client.cert"), filepath.Join(certDir, "client.key"))
		if err != nil {
			t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	transport := &http.Transport{TLSClientConfig: c}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+s.host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// TestClientCertificates pushes and pulls with podman and skopeo as an account that only a client certificate names,
// and reads the REST API with it.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	need(t, "sqlite3")
	servers, clients := newAuthority(t), newAuthority(t)
	s := startTLSServer(t, servers, clients)
	s.as(t, "alice")
	alice, stranger := clients.issueClient(t, "alice", servers), clients.issueClient(t, "bob", servers)
	forged := servers.issueClient(t, "alice", servers)
	c := newContainers(t, s)
	layout := ociLayout(t, image(t, "amd64", "certificate"))
	push := func(certDir, reference string) (string, error) {
		t.Helper()
		need(t, "skopeo")
		return output(t, c.env(), "skopeo", "--policy", c.open, "copy", "--quiet", "--dest-cert-dir", certDir, layout,
			"docker://"+s.host+"/"+reference)
	}
	if said, err := push(alice, "alice/app:1.0"); err != nil {
		t.Fatalf("skopeo push with the certificate: %v\n%s", err, said)
	}
	for certDir, reference := range map[string]string{alice: "team/app:1.0", stranger: "alice/app:2.0", forged: "alice/app:3.0", servers.dir: "alice/app:4.0"} {
		if said, err := push(certDir, reference); err == nil {
			t.Errorf("a push to %s with another or no certificate succeeds:\n%s", reference, said)
		}
	}
	if said, err := c.podman(t, nil, "pull", "--cert-dir", alice, "--signature-policy", c.open, s.host+"/alice/app:1.0"); err != nil {
		t.Errorf("podman pull: %v\n%s", err, said)
	}
	if said, err := c.podman(t, nil, "push", "--cert-dir", alice, "--signature-policy", c.open, s.host+"/alice/app:1.0",
		"docker://"+s.host+"/alice/copy:1.0"); err != nil {
		t.Errorf("podman push: %v\n%s", err, said)
	}
	for certDir, want := range map[string]int{alice: http.StatusOK, stranger: http.StatusUnauthorized, "": http.StatusUnauthorized, forged: 0} {
		for _, path := range []string{"/v2/", apiRoot + "repositories/container/container-push/"} {
			if status, body := tlsGet(t, s, servers, certDir, path); status != want {
				t.Errorf("GET %s: %d %s, want %d", path, status, body, want)
			}
		}
	}
	if status, body := tlsGet(t, s, servers, alice, "/token/?service="+s.host+"&scope=repository:alice/app:push,pull"); status != http.StatusOK ||
		!strings.Contains(body, "token") {
		t.Errorf("a token by certificate: %d %s", status, body)
	}
	s.exec(t, `UPDATE account SET is_active = FALSE WHERE username = 'alice'`)
	within(t, "the disabled account loses access", func() bool {
		status, _ := tlsGet(t, s, servers, alice, "/v2/")
		return status == http.StatusUnauthorized
	})
}
