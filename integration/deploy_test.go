package integration

import (
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/pgtest"
)

// TestSystemdUnits checks the units with systemd-analyze: no errors, and a low exposure level. Their restrictions are
// not applied here, because that requires a running systemd.
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

// readCompose checks deploy/compose.yaml with docker-compose, which resolves variables and anchors. It must fail
// without a value for each secret.
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

// TestCompose checks the compose file with docker-compose and runs its commands without containers, because no registry
// with the images is reachable: migrate, serve and worker run with its commands and environment, on a PostgreSQL and a
// Redis of the test. The health check of the server succeeds while it runs, and fails afterwards.
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
