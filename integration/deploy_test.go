package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/pgtest"
)

// TestSystemdUnits holds the units to what systemd itself says of them: nothing to complain of, and little exposure. What they forbid is
// not put into force here, for that needs a running systemd.
func TestSystemdUnits(t *testing.T) {
	t.Parallel()
	need(t, "systemd-analyze")
	binary, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	// In tenths of systemd's exposure level, whose worst is 10.0 and whose "OK" ends at 4.9.
	const threshold = "--threshold=30"
	for _, name := range []string{"countersign.service", "countersign-worker.service"} {
		unit, err := os.ReadFile(filepath.Join(shared.root, "deploy/systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		// The program has to be where the unit says.
		const installed = "/usr/local/bin/countersign "
		if !strings.Contains(string(unit), "ExecStart="+installed) {
			t.Fatalf("%s does not start %s", name, installed)
		}
		home := t.TempDir()
		path := write(t, filepath.Join(home, name), strings.ReplaceAll(string(unit), installed, binary+" "), 0o644)
		if said := must(t, environment(home), "systemd-analyze", "verify", path); said != "" {
			t.Errorf("systemd-analyze verify %s:\n%s", name, said)
		}
		if said, err := output(t, environment(home), "systemd-analyze", "security", "--no-pager", "--offline=true", threshold, path); err != nil {
			t.Errorf("systemd-analyze security %s: %v\n%s", name, err, said)
		}
	}
}

// authority makes certificates for localhost, as a certificate authority of one test does.
type authority struct {
	dir  string // holds ca.crt, as skopeo wants its --cert-dir, and nothing else
	pool *x509.CertPool
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir(), pool: x509.NewCertPool()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the test's authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.key = key
	a.pool.AddCert(a.cert)
	pemFile(t, filepath.Join(a.dir, "ca.crt"), "CERTIFICATE", der)
	return a
}

// issue writes a certificate for localhost and its key, and returns the two files.
func (a *authority) issue(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return pemFile(t, filepath.Join(dir, "cert.pem"), "CERTIFICATE", der), pemFile(t, filepath.Join(dir, "key.pem"), "PRIVATE KEY", secret)
}

func pemFile(t *testing.T, path, kind string, der []byte) string {
	t.Helper()
	return write(t, path, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})), 0o600)
}

// changed reads a file of deploy/ and replaces what a site changes: each text has to be there, once.
func changed(t *testing.T, file string, pairs ...string) string {
	t.Helper()
	read, err := os.ReadFile(filepath.Join(shared.root, "deploy", file))
	if err != nil {
		t.Fatal(err)
	}
	text := string(read)
	for i := 0; i < len(pairs); i += 2 {
		if found := strings.Count(text, pairs[i]); found != 1 {
			t.Fatalf("%s holds %q %d times, want once", file, pairs[i], found)
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}

// startNginx starts nginx with the site of deploy/nginx, which listens on this address and passes on to that server; its complaints go to
// the file that is returned.
func startNginx(t *testing.T, ca *authority, listen, backend string) (complaints string) {
	t.Helper()
	dir := t.TempDir()
	certificate, key := ca.issue(t)
	site := write(t, filepath.Join(dir, "site.conf"), changed(t, "nginx/countersign.conf",
		"    server 127.0.0.1:24817;", "    server "+backend+";",
		"listen 443 ssl;", "listen "+listen+" ssl;",
		"server_name registry.example.com;", "server_name localhost;",
		"/etc/ssl/registry.example.com.pem", certificate,
		"/etc/ssl/private/registry.example.com.key", key), 0o600)
	complaints = filepath.Join(dir, "error.log")
	main := write(t, filepath.Join(dir, "nginx.conf"), fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[2]s warn;
events {}
http {
  access_log off; client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  include %[3]s;
}
`, dir, complaints, site), 0o600)
	nginx, err := process.Start(t.Context(), process.Command{
		Program: "nginx", Arguments: []string{"-e", complaints, "-p", dir, "-c", main}, Env: environment(dir), Log: filepath.Join(dir, "log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nginx.Kill)
	within(t, "nginx listens", func() bool {
		connection, err := net.Dial("tcp", listen)
		if err != nil {
			if nginx.Ended() {
				said, _ := os.ReadFile(complaints)
				t.Fatalf("nginx ended:\n%s%s", said, nginx.LogTail())
			}
			return false
		}
		return connection.Close() == nil
	})
	return complaints
}

// TestNginxInFront pushes, signs and pulls an image with layers of some megabytes over TLS, through the nginx site that deploy/ has: tokens
// come from the https address, signatures name its host, and nginx buffers nothing on its disk.
func TestNginxInFront(t *testing.T) {
	t.Parallel()
	need(t, "nginx", "skopeo")
	if pgtest.URL(t) != "" {
		t.Skip("only a start on SQLite makes a service of the server's own")
	}
	listen, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(listen, ":")
	s := startServer(t, "COUNTERSIGN_PUBLIC_URL=https://localhost:"+port)
	ca := newAuthority(t)
	complaints := startNginx(t, ca, listen, strings.Replace(s.host, "localhost", "127.0.0.1", 1))
	s.host = "localhost:" + port // for the registry's clients; the REST API is asked at the server itself

	over := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool}}, Timeout: time.Minute}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+s.host+"/v2/tls/app/blobs/uploads/", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := over.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if got, want := answer.Header.Get("WWW-Authenticate"), `Bearer realm="https://`+s.host+`/token/",service="`+s.host+`"`; answer.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(got, want) {
		t.Errorf("without credentials: %d, WWW-Authenticate %q, want %q", answer.StatusCode, got, want)
	}

	c := newContainers(t, s)
	must(t, c.env(), "skopeo", "login", "--cert-dir", ca.dir, "-u", "admin", "-p", adminPassword, s.host)
	reference := "docker://" + s.host + "/tls/app:v1"
	noise := make([]byte, 12<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	big := image(t, "amd64", string(noise))
	must(t, c.env(), "skopeo", "--policy", c.open, "copy", "--quiet", "--dest-cert-dir", ca.dir, ociLayout(t, big), reference)

	found := s.list(t, signingServices+"?name=countersign")
	if found.Count != 1 {
		t.Fatalf("%d signing services of the server's own, want 1", found.Count)
	}
	s.signed(t, text(s.repository(t, "tls/app")["pulp_href"]), object{"manifest_signing_service": found.Results[0]["pulp_href"]})
	public := write(t, filepath.Join(t.TempDir(), "public.asc"), text(found.Results[0]["public_key"]), 0o600)
	policy := c.signedBy(t, &key{public: public})
	into := t.TempDir()
	must(t, c.env(), "skopeo", "--policy", policy, "copy", "--quiet", "--src-cert-dir", ca.dir, reference, "dir:"+into)
	pulled, err := os.ReadFile(filepath.Join(into, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := describe("", pulled).Digest, digestOf(t, big); got != want {
		t.Errorf("pulled %s, pushed %s", got, want)
	}
	if said, err := os.ReadFile(complaints); err != nil || len(said) > 0 {
		t.Errorf("nginx complained (%v):\n%s", err, said)
	}
}
