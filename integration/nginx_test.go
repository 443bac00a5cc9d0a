package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
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

// authority is a certificate authority for one test. It issues certificates for localhost.
type authority struct {
	dir  string // contains only ca.crt, as a --cert-dir of skopeo
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

// issue writes a certificate for localhost and its key, and returns the paths of the two files.
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

// startNginx starts nginx with the site of deploy/nginx, which listens on an address and forwards to a server.
// Additional pairs of texts change the site. It returns the path of the error log.
func startNginx(t *testing.T, ca *authority, listen, backend string, pairs ...string) (complaints string) {
	t.Helper()
	dir := t.TempDir()
	certificate, key := ca.issue(t)
	site := write(t, filepath.Join(dir, "site.conf"), changed(t, "nginx/countersign.conf", append([]string{
		"    server 127.0.0.1:24817;", "    server " + backend + ";",
		"listen 443 ssl;", "listen " + listen + " ssl;",
		"server_name registry.example.com;", "server_name localhost;",
		"/etc/ssl/registry.example.com.pem", certificate,
		"/etc/ssl/private/registry.example.com.key", key,
	}, pairs...)...), 0o600)
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

// TestNginxInFront pushes, signs and pulls an image with layers of some megabytes over TLS, through the nginx site of
// deploy/: tokens come from the https address, signatures contain its host, and nginx buffers nothing on its disk.
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
	s.host = "localhost:" + port // for the registry's clients; REST requests go directly to the server

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

// TestNginxTellsClientsApart checks with a real nginx that failed logins count against the client that makes them,
// regardless of the X-Forwarded-For that it sends, that the log has the client's address, and that nginx limits the
// rate of requests with a password.
func TestNginxTellsClientsApart(t *testing.T) {
	t.Parallel()
	need(t, "nginx")
	listen, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(listen, ":")
	s := startServer(t, "COUNTERSIGN_PUBLIC_URL=https://localhost:"+port, "COUNTERSIGN_TRUSTED_PROXIES=127.0.0.1,::1")
	ca := newAuthority(t)
	startNginx(t, ca, listen, strings.Replace(s.host, "localhost", "127.0.0.1", 1), "rate=30r/s", "rate=1r/m", "burst=300", "burst=30")
	from := func(client string) *http.Client {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}
		return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: ca.pool},
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return d.DialContext(ctx, network, listen)
			},
		}}
	}
	ask := func(client *http.Client, password string) (status int, byServer bool, after string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://localhost:"+port+"/v2/", nil)
		if err != nil {
			t.Error(err)
			return 0, false, ""
		}
		r.SetBasicAuth("admin", password)
		r.Header.Set("X-Forwarded-For", "203.0.113.9, "+rand.Text())
		res, err := client.Do(r)
		if err != nil {
			t.Error(err)
			return 0, false, ""
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		return res.StatusCode, res.Header.Get("Docker-Distribution-Api-Version") != "", res.Header.Get("Retry-After")
	}
	attacker, other := from("127.0.0.2"), from("127.0.0.3")
	wrong := strings.Repeat("x", 73) // too long: refused without computing a hash
	for i := range 10 {
		if status, _, _ := ask(attacker, wrong); status != http.StatusUnauthorized {
			t.Errorf("failure %d: %d", i, status)
		}
	}
	if status, byServer, after := ask(attacker, adminPassword); status != http.StatusTooManyRequests || !byServer || after == "" {
		t.Errorf("after ten failures: %d, Retry-After %q, by the server: %v", status, after, byServer)
	}
	if status, _, _ := ask(other, adminPassword); status != http.StatusOK {
		t.Errorf("another client of the same proxy: %d", status)
	}
	if log := s.LogTail(); strings.Count(log, "msg=\"login refused\" user=admin from=127.0.0.2 ") != 10 {
		t.Errorf("the log does not have the client's address:\n%s", log)
	}
	byNginx := 0
	for range 60 {
		if status, byServer, _ := ask(attacker, wrong); status != http.StatusTooManyRequests {
			t.Errorf("one of many: %d", status)
		} else if !byServer {
			byNginx++
		}
	}
	if byNginx == 0 || byNginx == 60 {
		t.Errorf("nginx refused %d of 60 requests, want some", byNginx)
	}
}
