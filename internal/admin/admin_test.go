package admin_test

import (
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/admin"
	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/app/apptest"
	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/signing/openpgp"
)

// newAdmin returns an Admin with the settings of c, its output and its log.
func newAdmin(c config.Config) (a *admin.Admin, out, logged *apptest.Buffer) {
	parts, logged := apptest.New(c)
	out = &apptest.Buffer{}
	return admin.New(admin.Options{App: parts, Config: c, Out: out, Log: slog.New(slog.NewTextHandler(logged, nil))}), out, logged
}

// newDatabase returns settings of a new, empty database.
func newDatabase(t *testing.T, variables ...string) config.Config {
	t.Helper()
	c := apptest.Load(t, variables...)
	a, _, _ := newAdmin(c)
	if err := a.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestMigrate verifies that Migrate creates a database, confirms it, and does nothing the second time.
func TestMigrate(t *testing.T) {
	t.Parallel()
	a, out, _ := newAdmin(apptest.Load(t))
	for range 2 {
		if err := a.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if want := strings.Repeat("The database schema is up to date.\n", 2); out.String() != want {
		t.Errorf("output %q, want %q", out, want)
	}
}

// TestCommandsWithoutDatabase verifies that commands about existing data fail in a wrong directory and create nothing
// there.
func TestCommandsWithoutDatabase(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(context.Context, *admin.Admin) error{
		"remove-signing-service":     func(ctx context.Context, a *admin.Admin) error { return a.RemoveSigningService(ctx, "x", class) },
		"list-signing-services":      func(ctx context.Context, a *admin.Admin) error { return a.ListSigningServices(ctx) },
		"list-signing-assignments":   func(ctx context.Context, a *admin.Admin) error { return a.ListSigningAssignments(ctx) },
		"revoke-signing-assignments": func(ctx context.Context, a *admin.Admin) error { return a.RevokeSigningAssignments(ctx, nil, true) },
		"verify": func(ctx context.Context, a *admin.Admin) error {
			return a.Verify(ctx, admin.Verification{Reference: "x"})
		},
		"reset-admin-password": func(ctx context.Context, a *admin.Admin) error { return a.ResetAdminPassword(ctx, "") },
		"adopt":                func(ctx context.Context, a *admin.Admin) error { return a.Adopt(ctx, "*") },
		"drift":                func(ctx context.Context, a *admin.Admin) error { return a.Drift(ctx, "*", false) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := apptest.Load(t, "UPSTREAM_URL=http://127.0.0.1:1")
			a, out, _ := newAdmin(c)
			if err := run(t.Context(), a); err == nil || !strings.Contains(err.Error(), "there is no database at "+c.Data) {
				t.Errorf("error %v, want one with the missing database", err)
			}
			if entries, err := os.ReadDir(c.Data); err != nil || len(entries) > 0 || out.String() != "" {
				t.Errorf("directory %v, %v, output %q, want nothing", entries, err, out)
			}
		})
	}
}

// TestResetAdminPassword verifies given and generated passwords, and that the server, which may be running, accepts
// only the last one.
func TestResetAdminPassword(t *testing.T) {
	t.Parallel()
	const given = "a given passphrase"
	s := apptest.Start(t, apptest.Load(t))
	a, out, _ := newAdmin(s.Config)
	if err := a.ResetAdminPassword(t.Context(), "password"); err == nil || !strings.Contains(err.Error(), "too common") {
		t.Errorf("a weak password: %v", err)
	}
	if err := a.ResetAdminPassword(t.Context(), given); err != nil {
		t.Fatal(err)
	}
	if err := a.ResetAdminPassword(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`^The password of admin was changed\.\nThe password of admin is now (\S{20,})\n$`).FindStringSubmatch(out.String())
	if m == nil {
		t.Fatalf("output %q", out)
	}
	for password, want := range map[string]int{
		m[1]: http.StatusOK, given: http.StatusUnauthorized, apptest.AdminPassword: http.StatusUnauthorized,
	} {
		if got := s.Login(t, app.AdminName, password); got != want {
			t.Errorf("login with %s: status %d, want %d", password, got, want)
		}
	}
}

// class is the only class of signing services.
const class = "container:ManifestSigningService"

// TestSigningServices adds, lists and removes a service with a key file, with the output of Pulp's commands.
func TestSigningServices(t *testing.T) {
	t.Parallel()
	c := apptest.Load(t)
	key, err := openpgp.Ensure(t.TempDir(), "Test", "test@example.com")
	if err != nil {
		t.Fatal(err)
	}
	a, out, logged := newAdmin(c)
	service := admin.NewService{Name: "release", Class: class, OpenPGPKey: key}
	if err := a.AddSigningService(t.Context(), service); err != nil {
		t.Fatal(err)
	}
	if want := regexp.MustCompile(`^Successfully added signing service release for key [0-9A-F]{40}\.\n$`); !want.MatchString(out.String()) {
		t.Errorf("output %q, want %s", out, want)
	}
	if audit := `msg=audit who="command line" kind=command action=sign object=test result=done`; !strings.Contains(logged.String(), audit) {
		t.Errorf("no audit entry for the test signature:\n%s", logged)
	}
	err = a.AddSigningService(t.Context(), service)
	if _, ok := errors.AsType[admin.CommandError](err); !ok || !strings.HasPrefix(err.Error(), "CommandError: ") {
		t.Errorf("a second service of the name: %v, want a CommandError", err)
	}
	a, out, _ = newAdmin(c)
	for _, step := range []error{
		a.ListSigningServices(t.Context()), a.RemoveSigningService(t.Context(), "release", class), a.ListSigningServices(t.Context()),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if want := "release\nSigning service 'release' has been successfully removed.\n"; out.String() != want {
		t.Errorf("output %q, want %q", out, want)
	}
	if err := a.RemoveSigningService(t.Context(), "release", class); err == nil || !strings.HasPrefix(err.Error(), "CommandError: ") {
		t.Errorf("removing a missing service: %v, want a CommandError", err)
	}
}

// TestAddSigningServiceErrors verifies the errors for wrong classes, in the words of Pulp, and for wrong combinations
// of arguments. All of them are one line with the prefix of Pulp's commands.
func TestAddSigningServiceErrors(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		service admin.NewService
		want    string
	}{
		"class without an app": {
			service: admin.NewService{Class: "x"},
			want:    "The signing service class was not provided in a proper format.",
		},
		"unknown app": {service: admin.NewService{Class: "x:Y"}, want: "No installed app with label 'x'."},
		"unknown model": {
			service: admin.NewService{Class: "container:X"},
			want:    "App 'container' doesn't have a 'X' model.",
		},
		"no signing class": {
			service: admin.NewService{Class: "container:Tag"},
			want:    "Class 'container:Tag' is not a subclass of the base 'core:SigningService' class.",
		},
		"other signing class": {
			service: admin.NewService{Class: "core:SigningService"},
			want:    "This server signs container manifests only; use --class " + class + ".",
		},
		"nothing": {
			service: admin.NewService{},
			want:    "Give a SCRIPT and its KEY, or --openpgp-key FILE, or --pkcs11-uri URI.",
		},
		"no key": {service: admin.NewService{Script: "/bin/true"}, want: "Give a SCRIPT and its KEY"},
		"two homes": {
			service: admin.NewService{Script: "/bin/true", Key: "x", Home: "a", Gnupghome: "b"},
			want:    "--home and --gnupghome are mutually exclusive.",
		},
		"script and key file": {
			service: admin.NewService{Script: "/bin/true", OpenPGPKey: "f"},
			want:    "SCRIPT, KEY, --home, --gnupghome and --keyring cannot be combined with --openpgp-key.",
		},
		"script and token": {
			service: admin.NewService{Script: "/bin/true", PKCS11URI: "pkcs11:"},
			want:    "SCRIPT, KEY, --home, --gnupghome, --keyring, --openpgp-key and --passphrase-file cannot be combined with --pkcs11-uri.",
		},
		"key file and token": {
			service: admin.NewService{OpenPGPKey: "f", PKCS11URI: "pkcs11:"},
			want:    "SCRIPT, KEY, --home, --gnupghome, --keyring, --openpgp-key and --passphrase-file cannot be combined with --pkcs11-uri.",
		},
		"passphrase alone": {service: admin.NewService{Passphrase: "f"}, want: "--passphrase-file requires --openpgp-key."},
		"public key alone": {
			service: admin.NewService{PublicKey: "f"},
			want:    "--public-key and --user-id require --pkcs11-uri.",
		},
		"token without a key": {
			service: admin.NewService{PKCS11URI: "pkcs11:"},
			want:    "With --pkcs11-uri give one of --public-key FILE",
		},
		"token with both keys": {
			service: admin.NewService{PKCS11URI: "pkcs11:", PublicKey: "f", UserID: "x"},
			want:    "With --pkcs11-uri give one of --public-key FILE",
		},
		"missing public key": {
			service: admin.NewService{PKCS11URI: "pkcs11:", PublicKey: "/nonexistent"},
			want:    "The public key cannot be read: ",
		},
		"missing key file": {
			service: admin.NewService{OpenPGPKey: "/nonexistent"},
			want:    "The key file cannot be read: no such file or directory.",
		},
		"unusable passphrase": {service: admin.NewService{OpenPGPKey: "/dev/null", Passphrase: "/nonexistent"}, want: "file"},
		"key that gpg does not": {
			service: admin.NewService{Script: "/bin/true", Key: "0000000000000000", Home: t.TempDir()},
			want:    "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, out, _ := newAdmin(apptest.Load(t))
			service := tt.service
			service.Name = "x"
			if service.Class == "" {
				service.Class = class
			}
			err := a.AddSigningService(t.Context(), service)
			if err == nil || !strings.HasPrefix(err.Error(), "CommandError: ") || !strings.Contains(err.Error(), tt.want) ||
				strings.Contains(err.Error(), "\n") {
				t.Errorf("AddSigningService = %v, want one line with %q", err, tt.want)
			}
			if out.String() != "" {
				t.Errorf("output %q, want none", out)
			}
		})
	}
}

// TestVerify verifies the decision about a signed and an unsigned image, with and without a policy, and the errors
// for images that cannot be verified.
func TestVerify(t *testing.T) {
	t.Parallel()
	s := apptest.Start(t, apptest.Load(t, "SIGNING_ON_PUSH=signed/*=countersign"))
	digest := s.Push(t, "signed/app", "v1")
	s.Push(t, "unsigned/app", "v1")
	policy := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(policy, []byte(`{"default":[{"type":"reject"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	host := s.Config.Public().Host
	for name, tt := range map[string]struct {
		reference, policy string
		want              string // the last line of the output; "": an error
		accepted          bool
		err               string
	}{
		"signed": {
			reference: host + "/signed/app:v1",
			want:      "signed for exactly " + host + "/signed/app:v1", accepted: true,
		},
		"unsigned": {
			reference: host + "/unsigned/app:v1",
			want:      "NOT signed, by a key that the server knows, for exactly " + host + "/unsigned/app:v1",
		},
		"by digest": {
			reference: host + "/signed/app@" + digest,
			want:      "NOT signed, by a key that the server knows, for exactly " + host + "/signed/app@" + digest,
		},
		"policy":          {reference: host + "/signed/app:v1", policy: policy, want: "NOT accepted by " + policy},
		"other host":      {reference: "registry.example/signed/app:v1", err: "is not a reference of this installation"},
		"no tag":          {reference: host + "/signed/app", err: "want " + host + "/PATH:TAG"},
		"wrong digest":    {reference: host + "/signed/app@sha256:1", err: "want " + host + "/PATH@DIGEST"},
		"missing tag":     {reference: host + "/signed/app:v2", err: host + "/signed/app:v2: "},
		"missing path":    {reference: host + "/missing:v1", err: "missing: "},
		"missing policy":  {reference: host + "/signed/app:v1", policy: "/nonexistent", err: "/nonexistent"},
		"unusable policy": {reference: host + "/signed/app:v1", policy: "/dev/null", err: "/dev/null: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, out, _ := newAdmin(s.Config)
			err := a.Verify(t.Context(), admin.Verification{Reference: tt.reference, Policy: tt.policy})
			if tt.want == "" {
				if err == nil || errors.Is(err, admin.ErrNotAccepted) || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("Verify = %v, want an error with %q", err, tt.err)
				}
				return
			}
			if tt.accepted && err != nil || !tt.accepted && !errors.Is(err, admin.ErrNotAccepted) {
				t.Errorf("Verify = %v, want accepted: %t", err, tt.accepted)
			}
			if !strings.HasSuffix(out.String(), "\n"+tt.want+"\n") {
				t.Errorf("output, want a last line %q:\n%s", tt.want, out)
			}
		})
	}
}

// TestSigningAssignments verifies that the assignment that an administrator made is listed and revoked, that --all
// leaves it, and that a revocation is in the audit log.
func TestSigningAssignments(t *testing.T) {
	t.Parallel()
	s := apptest.Start(t, apptest.Load(t))
	s.Push(t, "team/app", "v1")
	s.Assign(t, "team/app", "countersign")
	assigned := regexp.MustCompile(`^team/app  countersign  assigned by an administrator *\n$`)
	a, out, _ := newAdmin(s.Config)
	if err := a.ListSigningAssignments(t.Context()); err != nil || !assigned.MatchString(out.String()) {
		t.Errorf("list: %v, output %q", err, out)
	}
	a, out, _ = newAdmin(s.Config)
	if err := a.RevokeSigningAssignments(t.Context(), nil, true); err != nil || out.String() != "Revoked 0 assignments.\n" {
		t.Errorf("revoke all: %v, output %q", err, out)
	}
	for _, wrong := range []struct {
		names []string
		all   bool
	}{{}, {names: []string{"team/app"}, all: true}} {
		if err := a.RevokeSigningAssignments(t.Context(), wrong.names, wrong.all); err == nil || !strings.Contains(err.Error(), "--all") {
			t.Errorf("revoke %v, all %t: %v, want an error with --all", wrong.names, wrong.all, err)
		}
	}
	a, out, logged := newAdmin(s.Config)
	err := a.RevokeSigningAssignments(t.Context(), []string{"team/app"}, false)
	if err != nil || !strings.HasSuffix(out.String(), "Revoked 1 assignments.\n") {
		t.Errorf("revoke: %v, output %q", err, out)
	}
	if !strings.Contains(logged.String(), `action="revoke signing assignment" object=team/app result=done service=countersign`) {
		t.Errorf("no audit entry:\n%s", logged)
	}
	a, out, _ = newAdmin(s.Config)
	if err := a.ListSigningAssignments(t.Context()); err != nil || out.String() != "" {
		t.Errorf("list after the revocation: %v, output %q", err, out)
	}
}

// newUpstream returns the URL of an upstream registry with one image, company/app:v1.
func newUpstream(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	(&apptest.Server{URL: server.URL}).Push(t, "company/app", "v1")
	return server.URL
}

// TestAdoptAndDrift verifies the output of both commands: a difference before the adoption, the new version, and no
// difference after it.
func TestAdoptAndDrift(t *testing.T) {
	t.Parallel()
	s := apptest.Start(t, apptest.Load(t,
		"UPSTREAM_URL="+newUpstream(t), "UPSTREAM_PREFIX=company/", "UPSTREAM_FOLLOW=false", "UPSTREAM_COMPARE_EVERY=0"))
	s.Push(t, "other", "v1")
	run := func(command func(*admin.Admin) error) (string, error) {
		a, out, _ := newAdmin(s.Config)
		err := command(a)
		return out.String(), err
	}
	adopt := func(pattern string) func(*admin.Admin) error {
		return func(a *admin.Admin) error { return a.Adopt(t.Context(), pattern) }
	}
	if out, err := run(adopt("app")); err != nil || out != "app  version 1\n" {
		t.Errorf("adopt: %v, output %q", err, out)
	}
	if out, err := run(adopt("app")); err != nil || out != "app  nothing new\n" {
		t.Errorf("adopt again: %v, output %q", err, out)
	}
	if out, err := run(adopt("company/app")); err == nil || !strings.Contains(err.Error(), `do not include upstream.prefix: try "app"`) {
		t.Errorf("adopt with the prefix: %v, output %q", err, out)
	}
	drift := func(a *admin.Admin) error { return a.Drift(t.Context(), "app", true) }
	if out, err := run(drift); err != nil || out != "no differences\n" {
		t.Errorf("drift: %v, output %q", err, out)
	}
	(&apptest.Server{URL: s.Config.UpstreamURL}).Push(t, "company/app", "v2")
	out, err := run(drift)
	if err != nil || !regexp.MustCompile(`^REPOSITORY +KIND +NAME +HERE +UPSTREAM +NOTE\napp +tag +v2 +- +[0-9a-f]{12} `).MatchString(out) {
		t.Errorf("drift after a push to the upstream: %v, output %q", err, out)
	}
}

// TestUpstreamErrors verifies the errors without an upstream, and of a command that is interrupted while no server
// runs its task.
func TestUpstreamErrors(t *testing.T) {
	t.Parallel()
	a, _, _ := newAdmin(newDatabase(t))
	if err := a.Drift(t.Context(), "*", false); err == nil || !strings.Contains(err.Error(), "COUNTERSIGN_UPSTREAM_URL") {
		t.Errorf("drift without an upstream: %v, want an error with the setting", err)
	}
	for name, tt := range map[string]struct{ upstream, want string }{
		"upstream answers":  {upstream: newUpstream(t), want: "the task waits for a server or worker"},
		"no upstream there": {upstream: "http://127.0.0.1:1", want: "the upstream registry at http://127.0.0.1:1 does not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, out, logged := newAdmin(newDatabase(t, "UPSTREAM_URL="+tt.upstream))
			ctx, interrupt := context.WithCancelCause(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- a.Adopt(ctx, "*") }()
			eventually.True(t, time.Minute, func() bool { return strings.Contains(logged.String(), tt.want) }, "a warning with %q", tt.want)
			interrupt(errors.New("interrupted"))
			if err := <-ended; err == nil || !regexp.MustCompile(`^task \S+ continues: interrupted$`).MatchString(err.Error()) {
				t.Errorf("Adopt = %v, want an error with the task", err)
			}
			if out.String() != "" {
				t.Errorf("output %q, want none", out)
			}
		})
	}
}

// TestCommandError verifies that the text is one line with the message that is safe to show.
func TestCommandError(t *testing.T) {
	t.Parallel()
	a, _, _ := newAdmin(newDatabase(t))
	err := a.RemoveSigningService(t.Context(), "two\nlines", class)
	if want := "CommandError: Signing service 'two lines' does not exist."; err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
}

// TestServiceInANewDatabase verifies that add-signing-service warns when it creates a database, which happens in a wrong
// directory, and that the refusal of a taken name says the next step.
func TestServiceInANewDatabase(t *testing.T) {
	t.Parallel()
	c := apptest.Load(t)
	file, err := openpgp.Ensure(t.TempDir(), "Test", "test@example.com")
	if err != nil {
		t.Fatal(err)
	}
	service := admin.NewService{Name: "x", Class: class, OpenPGPKey: file}
	a, _, logged := newAdmin(c)
	if err := a.AddSigningService(t.Context(), service); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(logged.String(), "created a new database") || !strings.Contains(logged.String(), c.Data) {
		t.Errorf("log, want a warning with the path of the new database:\n%s", logged)
	}
	a, _, logged = newAdmin(c)
	err = a.AddSigningService(t.Context(), service)
	if err == nil || !strings.Contains(err.Error(), "(name)=(x) already exists. Choose another name") {
		t.Errorf("AddSigningService = %v, want the next step", err)
	}
	if strings.Contains(logged.String(), "created a new database") {
		t.Errorf("log, want no warning about an existing database:\n%s", logged)
	}
}
