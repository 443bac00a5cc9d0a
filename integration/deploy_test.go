package integration

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/pgtest"
)

// TestSystemdUnits checks the units with systemd-analyze: no errors, and a low exposure level. Their restrictions are not applied
// here, because that requires a running systemd.
func TestSystemdUnits(t *testing.T) {
	t.Parallel()
	need(t, "systemd-analyze")
	binary, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	// In tenths of systemd's exposure level, which is at most 10.0, and "OK" up to 4.9.
	const threshold = "--threshold=30"
	for _, name := range []string{"countersign.service", "countersign-worker.service"} {
		unit, err := os.ReadFile(filepath.Join(shared.root, "deploy/systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		// The program must exist at the path in the unit.
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

// changed reads a file of deploy/ and replaces texts, each of which must occur exactly once.
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

// startNginx starts nginx with the site of deploy/nginx, which listens on an address and forwards to a server. Additional pairs of
// texts change the site. It returns the path of the error log.
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

// TestNginxInFront pushes, signs and pulls an image with layers of some megabytes over TLS, through the nginx site of deploy/: tokens
// come from the https address, signatures contain its host, and nginx buffers nothing on its disk.
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

// TestNginxTellsClientsApart checks with a real nginx that failed logins count against the client that makes them, regardless of the
// X-Forwarded-For that it sends, that the log has the client's address, and that nginx limits the rate of requests with a password.
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

// composed has the parts of a compose file that the test reads.
type composed struct {
	Services map[string]struct {
		Image       string
		Command     []string
		Environment map[string]string
		Ports       []string
		Healthcheck struct{ Test []string }
		DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
	}
}

// readCompose checks deploy/compose.yaml with docker-compose, which resolves variables and anchors. It must fail without a value for
// each secret.
func readCompose(t *testing.T, env ...string) composed {
	t.Helper()
	command := []string{"docker-compose"}
	if _, err := exec.LookPath(command[0]); err != nil {
		need(t, "docker")
		if command = []string{"docker", "compose"}; exec.CommandContext(t.Context(), "docker", "compose", "version").Run() != nil {
			t.Skip("neither docker-compose nor docker compose is installed; tools/install-test-tools.sh says how to get it")
		}
	}
	file := write(t, filepath.Join(t.TempDir(), "deploy", "compose.yaml"), changed(t, "compose.yaml"), 0o600)
	command = append(command, "-f", file, "config")
	for missing := range env {
		some := slices.Delete(slices.Clone(env), missing, missing+1)
		if said, err := output(t, environment(t.TempDir(), some...), command[0], command[1:]...); err == nil {
			t.Errorf("without %s the file is accepted:\n%s", env[missing], said)
		}
	}
	must(t, environment(t.TempDir(), env...), command[0], append(command[1:], "--quiet")...)
	var c composed
	if err := yaml.Unmarshal([]byte(must(t, environment(t.TempDir(), env...), command[0], command[1:]...)), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestCompose checks the compose file with docker-compose and runs its commands without containers, because no registry with the
// images is reachable: migrate, serve and worker run with its commands and environment, on a PostgreSQL and a Redis of the test. The
// health check of the server succeeds while it runs, and fails afterwards.
func TestCompose(t *testing.T) {
	t.Parallel()
	need(t, "bash")
	c := readCompose(t, "POSTGRES_PASSWORD=0a", "COUNTERSIGN_ADMIN_PASSWORD="+adminPassword, "COUNTERSIGN_PUBLIC_URL=http://registry.example.com")
	for name, service := range c.Services {
		if len(service.Ports) > 0 != (name == "serve") {
			t.Errorf("%s publishes %v", name, service.Ports)
		}
	}
	serve := c.Services["serve"]
	if condition := serve.DependsOn["migrate"].Condition; condition != "service_completed_successfully" {
		t.Errorf("serve starts when migrate is at %q", condition)
	}
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(address, ":")
	binary, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	database, queue, data := pgtest.Database(t), startRedis(t), t.TempDir()
	run := func(name string) process.Command {
		service := c.Services[name]
		own := process.Command{Program: binary, Arguments: service.Command, Log: filepath.Join(data, name+".log"), Env: environment(data)}
		for key, value := range service.Environment {
			switch value {
			case "postgres://countersign:0a@postgres:5432/countersign?sslmode=disable":
				value = database
			case "redis://redis:6379":
				value = "redis://" + queue.address
			case "/var/lib/countersign":
				value = data
			case "0.0.0.0:24817":
				value = address
			}
			own.Env = append(own.Env, key+"="+value)
		}
		return own
	}
	migrate := run("migrate")
	must(t, migrate.Env, migrate.Program, migrate.Arguments...)
	command := run("serve")
	command.Ready = []string{"http://" + address + "/pulp/api/v3/readyz/"}
	server, err := process.Start(t.Context(), command)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)
	worker, err := process.Start(t.Context(), run("worker"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(worker.Kill)
	a := api{base: &url.URL{Scheme: "http", Host: address}, user: "admin", password: adminPassword}
	within(t, "the worker is online", func() bool {
		online, _ := a.get(t, apiRoot+"status/")["online_workers"].([]any)
		return len(online) == 1
	})
	check := slices.Clone(serve.Healthcheck.Test[1:])
	for i := range check {
		check[i] = strings.NewReplacer("$$", "$", "24817", port).Replace(check[i])
	}
	must(t, environment(data), check[0], check[1:]...)
	if err := errors.Join(worker.Stop(), server.Stop()); err != nil {
		t.Error(err)
	}
	if said, err := output(t, environment(data), check[0], check[1:]...); err == nil {
		t.Errorf("a server that has ended is healthy:\n%s", said)
	}
}

// builder is buildah with a separate storage in dir. It requires root, for chroot.
type builder struct {
	dir    string
	policy string
}

func (b builder) run(t *testing.T, arguments ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "buildah", append([]string{
		"--root", filepath.Join(b.dir, "root"), "--runroot", filepath.Join(b.dir, "run"), "--storage-driver", "vfs",
	}, arguments...)...)
	command.Env = environment(b.dir)
	var said bytes.Buffer
	command.Stderr = &said
	out, err := command.Output()
	if err != nil {
		t.Fatalf("buildah %s: %v\n%s%s", strings.Join(arguments, " "), err, out, said.String())
	}
	return strings.TrimSpace(string(out))
}

// standIn creates an image that replaces one with Go: an empty root, with this machine's /usr, modules and build cache mounted when it
// runs. It returns the image's name and the mounts.
func (b builder) standIn(t *testing.T) (name string, mounts []string) {
	t.Helper()
	var from map[string]string
	if err := json.Unmarshal([]byte(must(t, os.Environ(), "go", "env", "-json", "GOROOT", "GOMODCACHE", "GOCACHE")), &from); err != nil {
		t.Fatal(err)
	}
	container := b.run(t, "from", "scratch")
	root := b.run(t, "mount", container)
	for _, dir := range []string{"usr", "go", "modules", "cache", "tmp", "etc/ssl/certs"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"bin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+link, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "etc/ssl/certs/ca-certificates.crt"), "stands for certificates", 0o644)
	b.run(t, "config", "--env", "PATH=/go/bin:/usr/bin", "--env", "HOME=/cache", "--env", "GOMODCACHE=/modules", "--env", "GOCACHE=/cache",
		"--env", "GOPROXY=off", "--env", "GOFLAGS=-buildvcs=false", container)
	b.run(t, "commit", "--quiet", "--rm", container, "localhost/go:stand-in")
	return "localhost/go:stand-in", []string{
		"--volume", "/usr:/usr:ro", "--volume", from["GOROOT"] + ":/go:ro", "--volume", from["GOMODCACHE"] + ":/modules:ro", "--volume", from["GOCACHE"] + ":/cache",
	}
}

// TestContainerfile builds the image static with buildah, and runs its server in its root as its user. A stand-in replaces the image
// with Go, because no registry may be reachable. The image full is not tested: its base and its packages.
func TestContainerfile(t *testing.T) {
	t.Parallel()
	need(t, "buildah", "chroot")
	if os.Getuid() != 0 {
		t.Skip("chroot needs root")
	}
	b := builder{dir: t.TempDir()}
	b.policy = write(t, filepath.Join(b.dir, "policy.json"), `{"default": [{"type": "insecureAcceptAnything"}]}`, 0o600)
	base, mounts := b.standIn(t)
	const version, name = "1.2.3-test", "localhost/countersign:static"
	file := filepath.Join(shared.root, "deploy/Containerfile")
	arguments := append([]string{
		"bud", "--isolation", "chroot", "--network", "host", "--pull-never", "--signature-policy", b.policy, "--build-arg", "GO_IMAGE=" + base,
		"--build-arg", "VERSION=" + version, "--file", file, "--ignorefile", file + ".dockerignore", "--target", "static", "--tag", name,
	}, mounts...)
	b.run(t, append(arguments, shared.root)...)

	var made struct {
		OCIv1 struct {
			Config struct {
				User, WorkingDir     string
				Env, Entrypoint, Cmd []string
				ExposedPorts         map[string]any
				Volumes              map[string]any
			} `json:"config"`
		}
	}
	if err := json.Unmarshal([]byte(b.run(t, "inspect", "--type", "image", name)), &made); err != nil {
		t.Fatal(err)
	}
	config := made.OCIv1.Config
	_, exposed := config.ExposedPorts["24817/tcp"]
	if _, kept := config.Volumes[config.WorkingDir]; config.User != "65532:65532" || !exposed || !kept || len(config.Entrypoint) != 1 {
		t.Fatalf("the image's configuration: %+v", config)
	}
	root := b.run(t, "mount", b.run(t, "from", "--pull-never", "--signature-policy", b.policy, name))
	line := append([]string{"--userspec=" + config.User, root}, config.Entrypoint...)
	if said := must(t, config.Env, "chroot", append(line, "version")...); !strings.Contains(said, version) {
		t.Errorf("the version is %q, want %s", said, version)
	}
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	server, err := process.Start(t.Context(), process.Command{
		Program: "chroot", Arguments: append(line, config.Cmd...), Env: append(config.Env, "COUNTERSIGN_LISTEN="+address),
		Log: filepath.Join(b.dir, "log"), Ready: []string{"http://" + address + "/v2/", "http://" + address + "/pulp/api/v3/readyz/"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)
	for path, want := range map[string]os.FileMode{"tmp": os.ModeDir | os.ModeSticky | 0o777, config.WorkingDir: os.ModeDir | 0o700, config.WorkingDir + "/countersign.db": 0o600} {
		if have, err := os.Stat(filepath.Join(root, path)); err != nil || have.Mode() != want {
			t.Errorf("/%s: %v, %v, want %v", path, have, err, want)
		}
	}
	if err := server.Stop(); err != nil {
		t.Error(err)
	}
}
