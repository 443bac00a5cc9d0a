package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/eventually"
)

// wellBehavedFor is a script that signs correctly when a service is added (REFERENCE=test), and later runs the given
// commands.
func wellBehavedFor(then string) string {
	return `#!/usr/bin/env bash
if [ "$REFERENCE" = test ] || [ -e "` + goodAgain + `" ]; then
  skopeo standalone-sign "$1" "$REFERENCE" "$PULP_SIGNING_KEY_FINGERPRINT" --output "$SIG_PATH" >/dev/null &&
    printf '{"signature_path": "%s"}\n' "$SIG_PATH"
  exit
fi
` + then
}

// goodAgain is replaced by a path. If a file exists there, the script signs correctly.
const goodAgain = "@GOOD_AGAIN@"

// TestBadScripts runs scripts that fail in different ways after their service was added: the task fails with a clear
// error, makes no version, and the repository can be signed afterwards. See
// hostile-inputs.md#script-signs-something-else, hostile-inputs.md#script-output and hostile-inputs.md#script-hangs.
func TestBadScripts(t *testing.T) {
	t.Parallel()
	trusted, stranger := keyNamed(t, "trusted"), keyNamed(t, "stranger")
	s := startServer(t, "COUNTERSIGN_SIGNING_SCRIPT_TIMEOUT=2s")
	admin := asAdmin(t, s)
	admin.push(t, ociLayout(t, image(t, "amd64", "victim")), "acme/victim:1.0")
	repository := text(s.repository(t, "acme/victim")["pulp_href"])
	sign := `skopeo standalone-sign %s >/dev/null && printf '{"signature_path": "%%s"}\n' "$SIG_PATH"`
	for i, test := range []struct{ sentence, script, says string }{
		{"it fails", `echo "gpg: signing failed: No secret key" >&2; exit 2`, "gpg: signing failed: No secret key"},
		{"it hangs, and so does its child that ignores SIGTERM", `trap '' TERM; (trap '' TERM; sleep 300) & sleep 300`, "2s"},
		{"it prints rubbish", `echo rubbish`, "The signing service script did not return valid JSON!"},
		{"it prints no signature_path", `echo '{"signature": "x"}'`, "signature_path"},
		{"it prints without end", `yes rubbish`, ""},
		{"it names a path outside its directory", `echo '{"signature_path": "../../../../../../etc/passwd"}'`, ""},
		{"it names an absolute path outside its directory", `echo '{"signature_path": "/etc/passwd"}'`, ""},
		{"it names a link to outside", `ln -s /etc/passwd out; echo '{"signature_path": "out"}'`, ""},
		{"it names an empty file", `: >"$SIG_PATH"; printf '{"signature_path": "%s"}\n' "$SIG_PATH"`, ""},
		{"it names no file", `printf '{"signature_path": "%s"}\n' "$SIG_PATH"`, ""},
		{"it signs for another reference", fmt.Sprintf(sign, `"$1" example.com/other:1.0 "$PULP_SIGNING_KEY_FINGERPRINT" --output "$SIG_PATH"`), "reference"},
		{"it signs another manifest", fmt.Sprintf(`printf '{"schemaVersion":2} ' >other; `+sign, `other "$REFERENCE" "$PULP_SIGNING_KEY_FINGERPRINT" --output "$SIG_PATH"`), ""},
		{"it signs with another key", fmt.Sprintf("export GNUPGHOME='"+stranger.home+"'; "+sign, `"$1" "$REFERENCE" `+stranger.fingerprint+` --output "$SIG_PATH"`), ""},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			good := filepath.Join(t.TempDir(), "good")
			script := strings.ReplaceAll(wellBehavedFor(test.script), goodAgain, good)
			service := s.addService(t, fmt.Sprintf("bad-%d", i), trusted, script)
			before := s.get(t, repository)["latest_version_href"]
			task := s.finished(t, s.sign(t, repository, object{"manifest_signing_service": service, "force": true}))
			problem, _ := task["error"].(object)
			said := text(problem["description"])
			if task["state"] != "failed" || said == "" || !strings.Contains(said, test.says) {
				t.Errorf("the task: %v, %q; want failed with %q", task["state"], said, test.says)
			}
			if strings.Contains(said, "goroutine") || strings.Contains(said, s.data) || strings.HasPrefix(said, "b'") {
				t.Errorf("not a plain sentence for whoever asks: %q", said)
			}
			if made, _ := task["created_resources"].([]any); len(made) != 0 || s.get(t, repository)["latest_version_href"] != before {
				t.Errorf("a failed task made %v", made)
			}
			if test.sentence != "it fails" {
				return
			}
			if err := os.WriteFile(good, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			s.signed(t, repository, object{"manifest_signing_service": service})
		})
	}
}

// TestScriptsThatOthersMayChange checks that no service can be added with a script that other users can change, and
// that a script whose permissions change later is not run. The errors say what to do, and the server warns at start.
func TestScriptsThatOthersMayChange(t *testing.T) {
	t.Parallel()
	need(t, "skopeo")
	trusted := keyNamed(t, "trusted")
	s := startServer(t)
	dir := filepath.Join(t.TempDir(), "scripts")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := write(t, filepath.Join(dir, "sign.sh"), seedScript, 0o755)
	chmod := func(path string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	add := func() (string, error) {
		return s.cli(t, []string{trusted.env()}, "add-signing-service", "changeable", script, trusted.id, "--gnupghome", trusted.home)
	}
	bad := []struct {
		path     string
		bad, ok  os.FileMode
		sentence string
	}{{script, 0o777, 0o755, "chmod o-w " + script}, {dir, 0o777, 0o755, "chmod o-w " + dir}}
	for _, b := range bad {
		chmod(b.path, b.bad)
		if said, err := add(); err == nil || !strings.Contains(said, b.sentence) {
			t.Errorf("add-signing-service: %v, %s; want %q", err, said, b.sentence)
		}
		chmod(b.path, b.ok)
	}
	if said, err := add(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	service := text(s.list(t, signingServices+"?name=changeable").Results[0]["pulp_href"])
	s.tiny(t, "acme/app", "1", "one")
	repository := text(s.repository(t, "acme/app")["pulp_href"])
	for _, b := range bad {
		chmod(b.path, b.bad)
		task := s.finished(t, s.sign(t, repository, object{"manifest_signing_service": service}))
		problem, _ := task["error"].(object)
		if said := text(problem["description"]); task["state"] != "failed" || !strings.Contains(said, b.sentence) {
			t.Errorf("the task: %v, %q; want failed with %q", task["state"], said, b.sentence)
		}
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		warnings := func() int {
			log, err := os.ReadFile(s.command.Log)
			if err != nil {
				t.Fatal(err)
			}
			return strings.Count(string(log), "cannot use a signing service")
		}
		before := warnings()
		s.start(t)
		within(t, "the start warns", func() bool { return warnings() > before })
		chmod(b.path, b.ok)
	}
	s.signed(t, repository, object{"manifest_signing_service": service})
}

// TestCancelSigning cancels a task while its script runs: the script's process group ends, no version is made, and the
// next task runs.
func TestCancelSigning(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	s := startServer(t)
	admin := asAdmin(t, s)
	admin.push(t, ociLayout(t, image(t, "amd64", "slow")), "acme/slow:1.0")
	repository := text(s.repository(t, "acme/slow")["pulp_href"])
	dir := t.TempDir()
	pidFile, good := filepath.Join(dir, "pid"), filepath.Join(dir, "good")
	script := strings.ReplaceAll(wellBehavedFor(`sleep 300 & echo $! >"`+pidFile+`.new"; mv "`+pidFile+`.new" "`+pidFile+`"; wait`), goodAgain, good)
	service := s.addService(t, "slow", trusted, script)
	before := s.get(t, repository)["latest_version_href"]
	task := s.sign(t, repository, object{"manifest_signing_service": service})
	within(t, "the script starts", func() bool { _, err := os.Stat(pidFile); return err == nil })
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	s.call(t, http.MethodPatch, task, object{"state": "canceled"}, http.StatusOK, nil)
	if ended := s.finished(t, task); ended["state"] != "canceled" || ended["error"] != nil {
		t.Errorf("the task: %v", ended)
	}
	within(t, "the script's child ends", func() bool {
		state, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		return err != nil || strings.Contains(string(state), ") Z ")
	})
	if after := s.get(t, repository)["latest_version_href"]; after != before {
		t.Errorf("a cancelled task made %v", after)
	}
	s.call(t, http.MethodPatch, task, object{"state": "canceled"}, http.StatusOK, nil)
	if err := os.WriteFile(good, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	next := s.sign(t, repository, object{"manifest_signing_service": service})
	if ended := s.finished(t, next); ended["state"] != "completed" {
		t.Errorf("the next task: %v", ended)
	}
	s.call(t, http.MethodPatch, next, object{"state": "canceled"}, http.StatusConflict, nil)
}

// within waits until a condition holds, for at most process.Patience.
func within(t *testing.T, condition string, holds func() bool) {
	t.Helper()
	eventually.True(t, process.Patience, holds, "%s", condition)
}

// TestAddSigningServiceRefusals calls the command with wrong arguments: each call prints one line, exits with status 1,
// and adds no service.
func TestAddSigningServiceRefusals(t *testing.T) {
	t.Parallel()
	need(t, "skopeo")
	trusted := keyNamed(t, "trusted")
	s := startServer(t, "COUNTERSIGN_SIGNING_DEFAULT_SERVICE=") // the test counts services
	dir := t.TempDir()
	good := write(t, filepath.Join(dir, "good.sh"), seedScript, 0o755)
	rubbish := write(t, filepath.Join(dir, "rubbish.sh"), "#!/bin/sh\necho rubbish\n", 0o755)
	failing := write(t, filepath.Join(dir, "failing.sh"), "#!/bin/sh\necho it is broken >&2\nexit 3\n", 0o755)
	pathless := write(t, filepath.Join(dir, "pathless.sh"), "#!/bin/sh\necho '{}'\n", 0o755)
	class := "--class=container:ManifestSigningService"
	s.addService(t, "taken", trusted, "")
	for sentence, test := range map[string]struct {
		arguments []string
		says      string
	}{
		"an unknown key":          {[]string{"x", good, "0123456789ABCDEF", class}, "CommandError: gpg: error reading key: No public key"},
		"no such script":          {[]string{"x", "/nonexist", trusted.id, class}, "CommandError: [Errno 2] No such file or directory: '/nonexist'"},
		"a class without a colon": {[]string{"x", good, trusted.id, "--class=container"}, "CommandError: The signing service class was not provided in a proper format."},
		"an unknown model":        {[]string{"x", good, trusted.id, "--class=container:Foo"}, "CommandError: App 'container' doesn't have a 'Foo' model."},
		"a model of another kind": {[]string{"x", good, trusted.id, "--class=container:Tag"}, "CommandError: Class 'container:Tag' is not a subclass of the base 'core:SigningService' class."},
		"two homes":               {[]string{"x", good, trusted.id, class, "--home=" + trusted.home, "--gnupghome=" + trusted.home}, "CommandError: --home and --gnupghome are mutually exclusive."},
		"a script of rubbish":     {[]string{"x", rubbish, trusted.id, class}, "CommandError: The signing service script did not return valid JSON!"},
		"a script that fails":     {[]string{"x", failing, trusted.id, class}, "it is broken"},
		"a script without a path": {[]string{"x", pathless, trusted.id, class}, "signature_path"},
		"a name that is taken":    {[]string{"taken", good, trusted.id, class}, "(name)=(taken) already exists."},
	} {
		said, err := s.cli(t, []string{trusted.env()}, append([]string{"add-signing-service"}, test.arguments...)...)
		lines := strings.Split(strings.TrimSpace(said), "\n")
		last := lines[len(lines)-1]
		if err == nil || !strings.HasPrefix(last, "CommandError: ") || !strings.Contains(last, test.says) {
			t.Errorf("%s: %v, %q; want %q", sentence, err, said, test.says)
		}
	}
	if found := s.list(t, signingServices); found.Count != 1 {
		t.Errorf("%d services, want 1", found.Count)
	}
	if said, err := s.cli(t, nil, "remove-signing-service", "nope"); err == nil || !strings.Contains(said, "Signing service 'nope' does not exist.") {
		t.Errorf("removing an absent service: %v, %q", err, said)
	}
	if said, err := s.cli(t, nil, "remove-signing-service", "taken"); err != nil || !strings.Contains(said, "Signing service 'taken' has been successfully removed.") {
		t.Errorf("remove-signing-service: %v, %q", err, said)
	}
	if found := s.list(t, signingServices); found.Count != 0 {
		t.Errorf("%d services, want none", found.Count)
	}
}
