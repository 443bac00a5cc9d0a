package script_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/script"
	"github.com/countersign/countersign/signing/signtest"
)

// key is a key of gpg.
type key struct {
	home, fingerprint, armor string
	public                   signing.PublicKey
}

// gpgKey makes a key in a new GnuPG home. The path of the home is short, since it contains the socket of gpg-agent.
func gpgKey(t *testing.T) key {
	t.Helper()
	for _, tool := range []string{"gpg", "gpgconf", "skopeo"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	home, err := os.MkdirTemp("", "cs") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd := exec.Command("gpgconf", "--homedir", home, "--kill", "all")
		_ = cmd.Run()
		_ = os.RemoveAll(home)
	})
	addKey(t, home)
	k := key{home: home}
	k.armor, k.fingerprint, err = script.LookupKey(t.Context(), script.KeyQuery{KeyID: "test@example.com", GnuPGHome: home})
	if err != nil {
		t.Fatal(err)
	}
	if k.public, err = signing.ParsePublicKey(k.armor); err != nil {
		t.Fatal(err)
	}
	return k
}

func addKey(t *testing.T, home string) {
	t.Helper()
	gpg(t, home, "--passphrase", "", "--quick-generate-key", "Test <test@example.com>", "rsa2048", "sign", "never")
}

func gpg(t *testing.T, home string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "gpg", append([]string{"--batch", "--quiet", "--yes", "--no-tty", "--homedir", home}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Logf("%s", exit.Stderr)
		}
		t.Fatalf("gpg %v: %v", args, err)
	}
	return out
}

// write makes an executable file.
func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "sign.sh")
	// A child process that another test starts meanwhile would keep the file open for writing, and exec would fail
	// with ETXTBSY.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}

// guide is the script in Pulp's guide, unchanged.
const guide = `#!/usr/bin/env bash

MANIFEST_PATH=$1
FINGEPRINT="$PULP_SIGNING_KEY_FINGERPRINT"
IMAGE_REFERENCE="$REFERENCE"
SIGNATURE_PATH="$SIG_PATH"

# Create atomic container signature
skopeo standalone-sign $MANIFEST_PATH $IMAGE_REFERENCE $FINGEPRINT --output $SIGNATURE_PATH
# Check the exit status
STATUS=$?
if [ $STATUS -eq 0 ]; then
  echo {\"signature_path\": \"$SIGNATURE_PATH\"}
else
  exit $STATUS
fi
`

func TestRealScripts(t *testing.T) {
	t.Parallel()
	k := gpgKey(t)
	ours, err := filepath.Abs("../../deploy/examples/sign.sh")
	if err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"of Pulp's guide": write(t, guide), "in deploy/examples": ours} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			signtest.Run(t, func(t *testing.T) (signing.Signer, signing.PublicKey) {
				work := t.TempDir()
				t.Cleanup(func() {
					if left, err := os.ReadDir(work); err != nil || len(left) != 0 {
						t.Errorf("%d directories remain, %v", len(left), err)
					}
				})
				return script.New(script.Options{Path: path, Fingerprint: k.fingerprint, GnuPGHome: k.home, WorkDir: work, Timeout: time.Minute}), k.public
			})
		})
	}
	t.Run("Validate", func(t *testing.T) {
		t.Parallel()
		s := script.New(script.Options{Path: ours, Fingerprint: k.fingerprint, GnuPGHome: k.home, WorkDir: t.TempDir(), Timeout: time.Minute})
		if err := signing.Validate(t.Context(), s, k.public); err != nil {
			t.Errorf("Validate = %v", err)
		}
		if err := signing.Validate(t.Context(), s, gpgKey(t).public); !fault.Is(err, fault.Invalid) {
			t.Errorf("Validate with another key = %v, want Invalid", err)
		}
	})
	t.Run("only binary signatures with strong hashes are accepted", func(t *testing.T) {
		t.Parallel()
		payload, err := signing.EncodeClaim(signtest.Request("localhost/a:1", "{}").Claim)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "claim")
		if err := os.WriteFile(file, payload, 0o600); err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		if _, err := signing.Verify(gpg(t, k.home, "--sign", "--output", "-", file), k.public, now); err != nil {
			t.Errorf("a signature by gpg: %v", err)
		}
		weak := gpg(t, k.home, "--digest-algo", "SHA1", "--sign", "--output", "-", file)
		if _, err := signing.Verify(weak, k.public, now); !fault.Is(err, fault.Invalid) {
			t.Errorf("one over SHA-1: %v, want Invalid", err)
		}
		if _, err := signing.Parse(gpg(t, k.home, "--textmode", "--sign", "--output", "-", file)); !fault.Is(err, fault.Invalid) {
			t.Errorf("a signature of a text: %v, want Invalid", err)
		}
		if _, err := signing.Parse(gpg(t, k.home, "--armor", "--sign", "--output", "-", file)); !fault.Is(err, fault.Invalid) {
			t.Errorf("an armored one: %v, want Invalid", err)
		}
		for _, algorithm := range []string{"zip", "zlib", "bzip2", "none"} {
			if _, err := signing.Verify(gpg(t, k.home, "--compress-algo", algorithm, "--sign", "--output", "-", file), k.public, time.Now()); err != nil {
				t.Errorf("one compressed with %s: %v", algorithm, err)
			}
		}
		if _, err := signing.Parse(gpg(t, k.home, "--clearsign", "--output", "-", file)); !fault.Is(err, fault.Invalid) {
			t.Errorf("a cleartext-signed text: %v, want Invalid", err)
		}
	})
}

// TestPassphrase signs with a protected key and the example script for such keys. A wrong passphrase is an error.
func TestPassphrase(t *testing.T) {
	t.Parallel()
	k := gpgKey(t)
	gpg(t, k.home, "--passphrase", "open", "--pinentry-mode", "loopback", "--quick-generate-key", "Protected <protected@example.com>", "rsa2048", "sign", "never")
	gpgconf := exec.CommandContext(t.Context(), "gpgconf", "--homedir", k.home, "--kill", "gpg-agent") // it caches the passphrase
	if err := gpgconf.Run(); err != nil {
		t.Fatal(err)
	}
	armored, fingerprint, err := script.LookupKey(t.Context(), script.KeyQuery{KeyID: "protected@example.com", GnuPGHome: k.home})
	if err != nil {
		t.Fatal(err)
	}
	public, err := signing.ParsePublicKey(armored)
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../../deploy/examples/sign-with-passphrase.sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, passphrase := range []string{"wrong", "open"} { // in this order, since the agent caches the right one
		file := filepath.Join(t.TempDir(), "passphrase")
		if err := os.WriteFile(file, []byte(passphrase+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		path := write(t, strings.Replace(string(example), "/etc/countersign/signing-passphrase", file, 1))
		s := script.New(script.Options{Path: path, Fingerprint: fingerprint, GnuPGHome: k.home, WorkDir: t.TempDir(), Timeout: time.Minute})
		if err := signing.Validate(t.Context(), s, public); (err == nil) != (passphrase == "open") {
			t.Errorf("with the passphrase %q: %v", passphrase, err)
		}
	}
}

// TestBadScripts runs scripts that fail or return invalid output (hostile-inputs.md#script-signs-something-else,
// hostile-inputs.md#script-output, hostile-inputs.md#script-hangs).
func TestBadScripts(t *testing.T) {
	t.Parallel()
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	const noFile = "outside its directory, or no file"
	tests := map[string]struct{ script, want string }{
		"fails with a message":           {script: "echo 'gpg: signing failed: No secret key' >&2; exit 2", want: "^gpg: signing failed: No secret key$"},
		"fails without a message":        {script: "exit 3", want: "exit status 3"},
		"writes control characters":      {script: "printf 'a\\033[31mb\\000c' >&2; exit 1", want: `^a\[31mbc$`},
		"fails with a long message":      {script: "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 1", want: "^…x{1000}x*.end$"},
		"prints text":                    {script: "echo hello", want: "did not return valid JSON"},
		"prints nothing":                 {script: "true", want: "did not return valid JSON"},
		"prints two objects":             {script: `echo '{"signature_path":"a"} {}'`, want: "did not return valid JSON"},
		"prints a list":                  {script: "echo '[]'", want: "did not return valid JSON"},
		"prints null":                    {script: "echo null", want: "did not return valid JSON"},
		"exceeds the output limit":       {script: "head -c 100000000 /dev/zero", want: "printed more than"},
		"prints no path":                 {script: "echo '{}'", want: "'signature_path'"},
		"path is a number":               {script: `echo '{"signature_path":1}'`, want: "'signature_path'"},
		"path is in a parent directory":  {script: `echo '{"signature_path":"../../etc/passwd"}'`, want: noFile},
		"path is outside":                {script: `echo '{"signature_path":"` + outside + `"}'`, want: noFile},
		"path is a link":                 {script: `ln -s ` + outside + ` link; echo '{"signature_path":"link"}'`, want: noFile},
		"path contains a link":           {script: `ln -s ` + filepath.Dir(outside) + ` link; echo '{"signature_path":"link/outside"}'`, want: noFile},
		"path is a directory":            {script: `echo '{"signature_path":"."}'`, want: noFile},
		"path is a pipe":                 {script: `mkfifo pipe; echo '{"signature_path":"pipe"}'`, want: noFile},
		"path is empty":                  {script: `echo '{"signature_path":""}'`, want: noFile},
		"path does not exist":            {script: `echo '{"signature_path":"nothing"}'`, want: noFile},
		"signature is empty":             {script: `touch s; echo '{"signature_path":"s"}'`, want: "empty signature"},
		"signature is too long":          {script: `truncate -s 5000000 s; echo '{"signature_path":"s"}'`, want: "more than"},
		"hangs":                          {script: "sleep 60", want: "did not end within"},
		"hangs and ignores signals":      {script: "trap '' TERM INT HUP; sleep 60 & while :; do wait; done", want: "did not end within"},
		"leaves a child with its pipes":  {script: `sleep 60 & echo '{"signature_path":"nothing"}'`, want: noFile},
		"leaves a daemon with its pipes": {script: `setsid sleep 20 & echo '{"signature_path":"nothing"}'`, want: noFile},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			timeout := time.Minute
			if strings.Contains(tt.want, "within") {
				timeout = time.Second
			}
			s := script.New(script.Options{Path: write(t, "#!/usr/bin/env bash\n"+tt.script+"\n"), WorkDir: t.TempDir(), Timeout: timeout})
			raw, err := s.Sign(t.Context(), signtest.Request("localhost/a:1", "{}"))
			if !fault.Is(err, fault.Invalid) || !regexp.MustCompile("(?s)"+tt.want).MatchString(err.(*fault.Error).Msg) { //nolint:errorlint // fault.Is has verified the type
				t.Errorf("Sign = %q, %v, want %s", raw, err, tt.want)
			}
		})
	}
	s := script.New(script.Options{Path: "/no/such/script", WorkDir: t.TempDir(), Timeout: time.Minute})
	if _, err := s.Sign(t.Context(), signtest.Request("a/b:c", "{}")); !fault.Is(err, fault.Invalid) {
		t.Errorf("Sign with a missing script = %v, want Invalid", err)
	}
}

func TestCancelKillsProcessGroup(t *testing.T) {
	t.Parallel()
	pids := filepath.Join(t.TempDir(), "pids")
	path := write(t, "#!/usr/bin/env bash\ntrap '' TERM INT HUP\n(trap '' TERM INT HUP; sleep 300) &\necho $$ $! > "+pids+".new; mv "+pids+".new "+pids+"\nwait\n")
	s := script.New(script.Options{Path: path, WorkDir: t.TempDir(), Timeout: time.Minute})
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("client disconnected")
	signed := make(chan error, 1)
	go func() {
		_, err := s.Sign(ctx, signtest.Request("a/b:c", "{}"))
		signed <- err
	}()
	waitForFile(t, pids)
	cancel(cause)
	if err := <-signed; !errors.Is(err, cause) {
		t.Errorf("Sign = %v, want the cause", err)
	}
	wantEnded(t, pids)
}

// waitForFile waits until a script has written a file.
func waitForFile(t *testing.T, name string) {
	t.Helper()
	eventually.NoError(t, 3*time.Minute, func() error { _, err := os.Stat(name); return err }, "the script starts")
}

// wantEnded waits until the processes with the ids in a file have ended.
func wantEnded(t *testing.T, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range strings.Fields(string(b)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		eventually.True(t, 3*time.Minute, func() bool { return !alive(pid) }, "process %d ends", pid)
	}
}

// serverOfScript is the environment variable with the script that this test binary runs as a server, instead of its
// tests.
const serverOfScript = "SCRIPT_TEST_SERVER_OF"

func TestMain(m *testing.M) {
	if path := os.Getenv(serverOfScript); path != "" {
		s := script.New(script.Options{Path: path, WorkDir: filepath.Dir(path), Timeout: time.Minute})
		_, err := s.Sign(context.Background(), signtest.Request("a/b:c", "{}"))
		panic(err) // not reached: the test kills this process
	}
	os.Exit(m.Run())
}

func TestScriptEndsWithKilledServer(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux kills the children of a killed process")
	}
	pids := filepath.Join(t.TempDir(), "pids")
	path := write(t, "#!/usr/bin/env bash\ntrap '' TERM INT HUP\necho $$ > "+pids+".new; mv "+pids+".new "+pids+"\nwhile :; do sleep 1; done\n")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	server := exec.CommandContext(t.Context(), self)
	server.Env = append(os.Environ(), serverOfScript+"="+path)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	waitForFile(t, pids)
	if err := server.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = server.Wait() // returns an error for a killed process
	wantEnded(t, pids)
}

func TestSignReturnsDeadlineOfCaller(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s := script.New(script.Options{Path: write(t, "#!/bin/sh\nsleep 60\n"), WorkDir: t.TempDir(), Timeout: time.Minute})
	if _, err := s.Sign(ctx, signtest.Request("a/b:c", "{}")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Sign = %v, want the caller's deadline", err)
	}
}

// alive reports whether a process runs. A process that waits to be reaped does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	_, state, _ := strings.Cut(string(b), ") ")
	return err == nil && !strings.HasPrefix(state, "Z")
}

// TestEnvironmentHasNoSecrets has a script print its environment and arguments (hostile-inputs.md#script-environment).
func TestEnvironmentHasNoSecrets(t *testing.T) {
	t.Setenv("COUNTERSIGN_ADMIN_PASSWORD", "secret")
	t.Setenv("GNUPGHOME", "/server/home")
	dump := filepath.Join(t.TempDir(), "env")
	path := write(t, "#!/bin/sh\n/usr/bin/env > "+dump+"\npwd >> "+dump+"\necho \"arg=$*\" >> "+dump+"\ncat >> "+dump+" \necho '{}'\n")
	for home, want := range map[string]string{"": "/server/home", "/service/home": "/service/home"} {
		s := script.New(script.Options{Path: path, Fingerprint: "ABCD", GnuPGHome: home, WorkDir: t.TempDir(), Timeout: time.Minute})
		if _, err := s.Sign(t.Context(), signtest.Request("localhost/a:1", "{}")); err == nil {
			t.Fatal("Sign succeeded without a signature")
		}
		b, err := os.ReadFile(dump)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for line := range strings.Lines(string(b)) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
			got[k] = v
		}
		for k := range got {
			allowed := "PATH HOME LANG TMPDIR CORRELATION_ID PULP_SIGNING_KEY_FINGERPRINT REFERENCE SIG_PATH GNUPGHOME PWD OLDPWD SHLVL _ arg"
			if !strings.Contains(" "+allowed+" ", " "+k+" ") && !strings.HasPrefix(k, "/") {
				t.Errorf("the environment of the script has %s=%s", k, got[k])
			}
		}
		if got["GNUPGHOME"] != want || got["PULP_SIGNING_KEY_FINGERPRINT"] != "ABCD" || got["REFERENCE"] != "localhost/a:1" || got["CORRELATION_ID"] != "suite" {
			t.Errorf("the environment of the script is %v", got)
		}
		if !filepath.IsAbs(got["SIG_PATH"]) || !filepath.IsAbs(got["arg"]) || filepath.Dir(got["SIG_PATH"]) != filepath.Dir(got["arg"]) {
			t.Errorf("SIG_PATH=%s, argument %s", got["SIG_PATH"], got["arg"])
		}
	}
}

func TestLookupKey(t *testing.T) {
	t.Parallel()
	k := gpgKey(t)
	if len(k.fingerprint) != 40 || k.public.Fingerprint() != k.fingerprint || !strings.Contains(k.armor, "BEGIN PGP PUBLIC KEY BLOCK") {
		t.Errorf("LookupKey = %s, %s", k.fingerprint, k.armor)
	}
	ring := filepath.Join(t.TempDir(), "ring.gpg")
	if err := os.WriteFile(ring, gpg(t, k.home, "--export", k.fingerprint), 0o600); err != nil {
		t.Fatal(err)
	}
	other := gpgKey(t)
	if _, got, err := script.LookupKey(t.Context(), script.KeyQuery{KeyID: k.fingerprint[24:], GnuPGHome: other.home, Keyring: ring}); err != nil || got != k.fingerprint {
		t.Errorf("LookupKey in a keyring = %s, %v", got, err)
	}
	addKey(t, other.home)
	tests := map[string]struct {
		query script.KeyQuery
		want  string
	}{
		"no such key": {query: script.KeyQuery{KeyID: "1234567812345678", GnuPGHome: k.home}, want: "gpg: error reading key: No public key"},
		"two keys":    {query: script.KeyQuery{KeyID: "test@example.com", GnuPGHome: other.home}, want: "There are 2 keys matching the key id."},
		"an option":   {query: script.KeyQuery{KeyID: "--version", GnuPGHome: k.home}, want: "gpg: error reading key: No public key"},
		"nothing":     {query: script.KeyQuery{GnuPGHome: k.home}, want: "gpg: error reading key: No public key"},
	}
	for name, tt := range tests {
		_, _, err := script.LookupKey(t.Context(), tt.query)
		if e, ok := errors.AsType[*fault.Error](err); !ok || e.Msg != tt.want {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	path := write(t, "#!/bin/sh\n")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if got, err := script.Resolve(link); err != nil || got != path {
		t.Errorf("Resolve of a link = %s, %v, want %s", got, err, path)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"/nonexist": "[Errno 2] No such file or directory: '/nonexist'", plain: "Permission denied", t.TempDir(): "Permission denied"} {
		if _, err := script.Resolve(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Resolve(%s) = %v, want %s", name, err, want)
		}
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	work := filepath.Join(t.TempDir(), "a[b*") // must not be used as a pattern
	if err := script.Sweep(work, time.Minute); err != nil {
		t.Errorf("Sweep of a missing directory = %v", err)
	}
	for name, age := range map[string]time.Duration{"sign-old": time.Hour, "sign-young": time.Minute, "other": time.Hour} {
		dir := filepath.Join(work, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := script.Sweep(work, 30*time.Minute); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(work)
	if err != nil || len(left) != 2 {
		t.Errorf("%v remain, %v, want sign-young and other", left, err)
	}
}
