package cli

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/app/apptest"
	"github.com/countersign/countersign/internal/doctor"
)

// finding returns the findings of a check whose name begins with a text.
func finding(all []doctor.Finding, check string) (found []doctor.Finding) {
	for _, f := range all {
		if strings.HasPrefix(f.Check, check) {
			found = append(found, f)
		}
	}
	return found
}

// parse reads the JSON output of doctor, whose exit status may be 1.
func parse(t *testing.T, o outcome) []doctor.Finding {
	t.Helper()
	o.err = nil
	return decode[[]doctor.Finding](t, o)
}

// expect fails the test unless a check has one finding with a result and a text.
func expect(t *testing.T, all []doctor.Finding, check string, result doctor.Result, text string) {
	t.Helper()
	found := finding(all, check)
	if len(found) != 1 || found[0].Result != result || !regexp.MustCompile(text).MatchString(found[0].Detail) {
		t.Errorf("%s: %+v, want %s and %s\nall: %+v", check, found, result, text, all)
		return
	}
	if (found[0].Next == "") != (result == doctor.OK) {
		t.Errorf("%s: next step %q", check, found[0].Next)
	}
}

// TestDoctor examines an installation that works, and then with one defect after the other.
func TestDoctor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := os.Chmod(w.config.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	healthy := w.local(t, "doctor")
	healthy.want(t, 0, `(?m)^ok +key of countersign +made a valid test signature$`)
	all := parse(t, w.local(t, "doctor", "-o", "json"))
	for _, check := range []string{
		"configuration", "data directory", "database schema", "key of countersign", "workers", "signing service countersign",
		"queue", "running tasks", "address http://", "clock of the server", "registry",
	} {
		expect(t, all, check, doctor.OK, "")
	}
	expect(t, all, "public_url", doctor.Warning, "is an address of this machine only")
	w.local(t, "doctor", "--strict").want(t, 1, "")
	expect(t, parse(t, w.local(t, "doctor", "-o", "json", "--no-sign")), "key of countersign", doctor.OK, "can be used by this process")

	remote := parse(t, w.admin(t, "doctor", "-o", "json"))
	expect(t, remote, "signing service countersign", doctor.OK, "1 of 1 workers")
	expect(t, remote, "queue", doctor.OK, "0 tasks wait")
	if len(finding(remote, "data directory")) > 0 {
		t.Error("the directory of another machine was checked")
	}
	anonymous := parse(t, w.remote(t, "", "", "doctor", "-o", "json"))
	expect(t, anonymous, "tasks", doctor.Warning, "are not checked")

	keys, err := filepath.Glob(filepath.Join(w.config.Data, "keys/*"))
	if err != nil || len(keys) == 0 {
		t.Fatalf("keys %v, %v", keys, err)
	}
	if err := os.Chmod(keys[0], 0o644); err != nil {
		t.Fatal(err)
	}
	expect(t, parse(t, w.local(t, "doctor", "-o", "json")), "key of countersign", doctor.Warning, "this process cannot sign with it")
	if err := os.Chmod(w.config.Data, 0o755); err != nil {
		t.Fatal(err)
	}
	expect(t, parse(t, w.local(t, "doctor", "-o", "json")), "data directory", doctor.Warning, "can be read by other users")

	if err := w.server.Stop(t); err != nil {
		t.Fatal(err)
	}
	stopped := w.local(t, "doctor", "-o", "json")
	if stopped.status != 1 {
		t.Errorf("exit status %d without a server", stopped.status)
	}
	expect(t, parse(t, stopped), "address http://", doctor.Failed, "does not answer")
	expect(t, parse(t, stopped), "workers", doctor.Failed, "none is online")
	absent := w.run(t, nil, "doctor", "-o", "json")
	expect(t, parse(t, absent), "database schema", doctor.Failed, "there is no database")
}

// TestDoctorFindsAnotherPublicURL examines a server behind a proxy whose address is not the public URL of the server.
func TestDoctorFindsAnotherPublicURL(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "PUBLIC_URL=https://registry.example")
	target, err := url.Parse(w.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(httpProxy(target))
	defer proxy.Close()
	all := parse(t, w.run(t, nil, "doctor", "-o", "json", "--server", proxy.URL))
	expect(t, all, "public_url", doctor.Failed, "the server has the public URL https://registry.example, but is used as http://127.0.0.1")
	expect(t, all, "registry", doctor.Warning, "are sent to https://registry.example/token/ for tokens")
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	expect(t, parse(t, w.run(t, nil, "doctor", "-o", "json", "--server", other.URL)), "status", doctor.Failed, "has no REST API")
}

// TestConfigCheck verifies the exit statuses and outputs of config check.
func TestConfigCheck(t *testing.T) {
	t.Parallel()
	w := &world{config: apptest.Load(t), dir: t.TempDir()}
	w.run(t, nil, "config", "check").want(t, 0, `(?m)^# configuration file: none\n(.*\n)*workers: \d+$`)
	dangerous := w.run(t, []string{"COUNTERSIGN_ADMIN_PASSWORD=hunter2", "COUNTERSIGN_UNKNOWN=x", "COUNTERSIGN_SERVER=x"}, "config", "check")
	dangerous.want(t, 0, `(?m)^admin_password: '\*\*\*'$`)
	for _, text := range []string{"warning: admin_password: ", "setting=COUNTERSIGN_UNKNOWN"} {
		if !strings.Contains(dangerous.errOut, text) {
			t.Errorf("no %s in %s", text, dangerous.errOut)
		}
	}
	if strings.Contains(dangerous.out+dangerous.errOut, "hunter2") || strings.Contains(dangerous.errOut, "COUNTERSIGN_SERVER") {
		t.Errorf("output %s\n%s", dangerous.out, dangerous.errOut)
	}
	w.run(t, []string{"COUNTERSIGN_ADMIN_PASSWORD=x"}, "config", "check", "--strict").want(t, 1, "admin_password")
	w.run(t, []string{"COUNTERSIGN_WORKERS=many"}, "config", "check").wantError(t, 2, "COUNTERSIGN_WORKERS: want a whole number")
	w.run(t, nil, "--config", "/nonexistent", "config", "check").wantError(t, 2, "no such file")
}
