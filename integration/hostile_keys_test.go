package integration

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAScriptThatHangsHoldsUpNobody signs one repository with a script that hangs together with a child process.
// Meanwhile it pushes to this repository, and pushes and signs others. A cancel ends the task and both processes.
//
// See hostile-inputs.md#script-hangs.
func TestAScriptThatHangsHoldsUpNobody(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	s := startServer(t, "COUNTERSIGN_WORKERS=2")
	for _, name := range []string{"hang/app", "busy/app"} {
		if _, err := s.pushTiny(t, name, "1.0", name); err != nil {
			t.Fatal(err)
		}
	}
	hanging, busy := text(s.repository(t, "hang/app")["pulp_href"]), text(s.repository(t, "busy/app")["pulp_href"])
	pids := filepath.Join(t.TempDir(), "pids")
	hang := s.addService(t, "hang", trusted, wellBehavedFor(`trap '' TERM INT HUP
(trap '' TERM INT HUP; sleep 300) &
echo $$ $! >"`+pids+`.new"; mv "`+pids+`.new" "`+pids+`"
while :; do wait; done
`))
	good := s.addService(t, "good", trusted, "")
	before := s.get(t, hanging)["latest_version_href"]
	task := s.sign(t, hanging, object{"manifest_signing_service": hang})
	within(t, "the script hangs", func() bool { _, err := os.Stat(pids); return err == nil })
	running, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}

	image, err := s.pushTiny(t, "hang/app", "2.0", "into the same repository")
	if err != nil {
		t.Errorf("a push into the repository: %v", err)
	}
	s.isServed(t, "hang/app", image)
	for _, tag := range []string{"2.0", "3.0"} {
		if image, err = s.pushTiny(t, "busy/app", tag, tag); err != nil {
			t.Errorf("a push into another repository: %v", err)
		}
		s.isServed(t, "busy/app", image)
		s.signed(t, busy, object{"manifest_signing_service": good})
	}
	if state := s.get(t, task)["state"]; state != "running" {
		t.Errorf("the task is %v, want running: otherwise the test proves nothing", state)
	}
	s.call(t, http.MethodPatch, task, object{"state": "canceled"}, http.StatusOK, nil)
	if ended := s.finished(t, task); ended["state"] != "canceled" {
		t.Errorf("the task: %v", ended)
	}
	for _, pid := range strings.Fields(string(running)) {
		within(t, "process "+pid+" ends", func() bool {
			state, err := os.ReadFile("/proc/" + pid + "/stat")
			return err != nil || strings.Contains(string(state), ") Z ")
		})
	}
	if after := s.get(t, hanging); after["latest_version_href"] == before {
		t.Error("the push made no version")
	}
	for _, digest := range []string{s.digest(t, "hang/app", "1.0"), s.digest(t, "hang/app", "2.0")} {
		if kept := s.signatures(t, "hang/app", digest); len(kept) != 0 {
			t.Errorf("%d signatures are stored", len(kept))
		}
	}
}

// TestForeignHostsAreNotSigned sends sign requests with other hosts in every header that has one: signatures contain
// the configured host.
//
// See hostile-inputs.md#foreign-host-headers.
func TestForeignHostsAreNotSigned(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	s := startServer(t)
	service := s.addService(t, "good", trusted, "")
	for i, header := range []http.Header{
		{}, {"X-Forwarded-Host": {"evil.example"}}, {"X-Forwarded-Host": {"evil.example", s.host}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Port": {"443"}},
		{"Forwarded": {`for=127.0.0.1;host="evil.example";proto=https`}}, {"X-Original-Host": {"evil.example"}, "X-Host": {"evil.example"}, "X-Http-Host-Override": {"evil.example"}},
	} {
		name := "host/app" + string(rune('a'+i))
		image, err := s.pushTiny(t, name, "1.0", name)
		if err != nil {
			t.Fatal(err)
		}
		body := strings.NewReader(`{"manifest_signing_service":"` + service + `"}`)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.base.String()+text(s.repository(t, name)["pulp_href"])+"sign/", body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = header
		r.Header.Set("Content-Type", "application/json")
		r.SetBasicAuth(s.user, s.password)
		r.Host = "evil.example"
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusAccepted || strings.Contains(string(said), "evil") {
			t.Fatalf("%v: %d %s, %v", header, answer.StatusCode, said, err)
		}
		href := strings.Split(string(said), `"`)[3]
		if done := s.finished(t, href); done["state"] != "completed" {
			t.Fatalf("the task: %v", done)
		}
		kept := s.signatures(t, name, image.name)
		if len(kept) != 1 {
			t.Fatalf("%d signatures, want 1", len(kept))
		}
		if got, want := trusted.claimOf(t, kept[0].Content).Critical.Identity.Reference, s.host+"/"+name+":1.0"; got != want {
			t.Errorf("%v: the signature is for %s, want %s", header, got, want)
		}
	}
}

// TestScriptsSeeNoSecretOfTheServer runs a script that records its environment, arguments and open files, called by the
// server and by the command line.
//
// See hostile-inputs.md#script-environment.
func TestScriptsSeeNoSecretOfTheServer(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	const secret = "not-for-scripts"
	s := startServer(t, "AWS_SECRET_ACCESS_KEY="+secret)
	seen := filepath.Join(t.TempDir(), "seen")
	service := s.addService(t, "curious", trusted, strings.Replace(seedScript, "\n\n", "\n{ echo \"$REFERENCE:\"; env; ls -l /proc/$$/fd; cat <&0; } >>'"+seen+"'\n", 1))
	if _, err := s.pushTiny(t, "curious/app", "1.0", "x"); err != nil {
		t.Fatal(err)
	}
	s.signed(t, text(s.repository(t, "curious/app")["pulp_href"]), object{"manifest_signing_service": service})
	raw, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	for _, reference := range []string{"test:\n", s.host + "/curious/app:1.0:\n", "PULP_SIGNING_KEY_FINGERPRINT=" + trusted.fingerprint} {
		if !strings.Contains(string(raw), reference) {
			t.Errorf("the script was not seen to run with %q", reference)
		}
	}
	for _, word := range []string{adminPassword, secret, "COUNTERSIGN_", "AWS_", "countersign.db", "socket:"} {
		if strings.Contains(string(raw), word) {
			t.Errorf("the script sees %q:\n%s", word, raw)
		}
	}
}
