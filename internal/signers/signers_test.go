package signers_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/safefile"
	"github.com/countersign/countersign/internal/signers"
	"github.com/countersign/countersign/signing/openpgp"
)

// newSigners returns Signers with a new data directory, and their log.
func newSigners(t *testing.T) (s *signers.Signers, dataDir string, log *bytes.Buffer) {
	t.Helper()
	dataDir, log = t.TempDir(), &bytes.Buffer{}
	return signers.New(signers.Options{
		DataDir: dataDir, WorkDir: t.TempDir(), ScriptTimeout: time.Minute, TokenWait: time.Second, Creator: "countersign test",
		Log: slog.New(slog.NewTextHandler(log, nil)),
	}), dataDir, log
}

// newService creates a key file in the data directory and returns a service with its relative path.
func newService(t *testing.T, s *signers.Signers, dataDir string) pulp.SigningService {
	t.Helper()
	file, err := openpgp.Ensure(filepath.Join(dataDir, "keys"), "Test", "test@example.com")
	if err != nil {
		t.Fatal(err)
	}
	relative, err := filepath.Rel(dataDir, file)
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.OpenPGPService(pulp.ServiceConfig{KeyFile: relative})
	if err != nil {
		t.Fatal(err)
	}
	v.ID, v.Name = "1", "release"
	return v
}

// writeScript creates a script with a mode.
func writeScript(t *testing.T, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sign.sh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestOpenPGPService verifies that a service of a key file signs, with an audit entry for the test signature.
func TestOpenPGPService(t *testing.T) {
	t.Parallel()
	s, dataDir, log := newSigners(t)
	v := newService(t, s, dataDir)
	if v.Kind != pulp.ServiceOpenPGP || len(v.Fingerprint) != 40 || !strings.Contains(v.PublicKey, "BEGIN PGP PUBLIC KEY BLOCK") {
		t.Errorf("service %+v", v)
	}
	if err := s.CheckUsable(v); err != nil {
		t.Errorf("CheckUsable = %v", err)
	}
	entries := audit.New(audit.Options{Log: slog.New(slog.NewTextHandler(log, nil))})
	if err := s.Validate(actor.With(t.Context(), actor.ByCommand()), v, entries); err != nil {
		t.Errorf("Validate = %v", err)
	}
	want := `msg=audit who="command line" kind=command action=sign object=test result=done key=` + v.Fingerprint + " service=release"
	if !strings.Contains(log.String(), want) {
		t.Errorf("log, want %q:\n%s", want, log)
	}
}

// TestChangedKeyFile verifies that a key file with another key than the service's is not used.
func TestChangedKeyFile(t *testing.T) {
	t.Parallel()
	s, dataDir, log := newSigners(t)
	v := newService(t, s, dataDir)
	v.Fingerprint = strings.Repeat("0", 40)
	if _, err := s.Signer(v); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "created with "+v.Fingerprint) {
		t.Errorf("Signer = %v, want an Invalid error with the fingerprint", err)
	}
	if err := s.Validate(t.Context(), v, audit.New(audit.Options{Log: slog.New(slog.NewTextHandler(log, nil))})); err == nil {
		t.Error("Validate of a service with another key succeeded")
	}
	if log.Len() > 0 {
		t.Errorf("log without a use of the key:\n%s", log)
	}
}

// TestCheckUsable verifies the reasons for which scripts and unknown kinds are unusable.
func TestCheckUsable(t *testing.T) {
	t.Parallel()
	s, _, _ := newSigners(t)
	for name, tt := range map[string]struct {
		service pulp.SigningService
		want    string // part of the error; "": usable
	}{
		"script":             {service: pulp.SigningService{Kind: pulp.ServiceScript, Script: writeScript(t, 0o755)}},
		"script with a home": {service: pulp.SigningService{Kind: pulp.ServiceScript, Script: writeScript(t, 0o755), GnuPGHome: t.TempDir()}},
		"missing home": {
			service: pulp.SigningService{Kind: pulp.ServiceScript, Script: writeScript(t, 0o755), GnuPGHome: "/nonexistent"},
			want:    "no such file",
		},
		"missing script": {
			service: pulp.SigningService{Kind: pulp.ServiceScript, Script: "/nonexistent"},
			want:    "no such file",
		},
		"script not executable": {
			service: pulp.SigningService{Kind: pulp.ServiceScript, Script: writeScript(t, 0o644)},
			want:    "is not executable",
		},
		"directory": {
			service: pulp.SigningService{Kind: pulp.ServiceScript, Script: t.TempDir()},
			want:    "is not executable",
		},
		"unsafe script": {
			service: pulp.SigningService{Kind: pulp.ServiceScript, Script: writeScript(t, 0o777)},
			want:    "other users could change it",
		},
		"missing key file": {
			service: pulp.SigningService{Kind: pulp.ServiceOpenPGP, Config: pulp.ServiceConfig{KeyFile: "missing"}},
			want:    "cannot be read",
		},
		"unknown kind": {
			service: pulp.SigningService{Kind: "cosign"},
			want:    "does not support signing services of the kind cosign",
		},
		"invalid token URI": {
			service: pulp.SigningService{Kind: pulp.ServicePKCS11, Config: pulp.ServiceConfig{PKCS11URI: "x"}},
			want:    "PKCS",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := s.CheckUsable(tt.service)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("CheckUsable = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// TestUsable verifies which services are usable and that each change of a service is logged once.
func TestUsable(t *testing.T) {
	t.Parallel()
	s, dataDir, log := newSigners(t)
	key := newService(t, s, dataDir)
	unsafe := pulp.SigningService{ID: "2", Name: "unsafe", Kind: pulp.ServiceScript, Script: writeScript(t, 0o777)}
	missing := pulp.SigningService{ID: "3", Name: "missing", Kind: pulp.ServiceScript, Script: filepath.Join(t.TempDir(), "later.sh")}
	if err := s.CheckUsable(unsafe); !errors.Is(err, safefile.ErrUnsafe) {
		t.Fatalf("CheckUsable of the unsafe script = %v", err)
	}
	all := []pulp.SigningService{key, unsafe, missing}
	usable := func() (names string) {
		for _, v := range s.Usable(t.Context(), all) {
			names += v.Name + " "
		}
		return names
	}
	for range 2 {
		if got := usable(); got != "release unsafe " { // tasks for an unsafe script fail with the reason, so the service counts as usable
			t.Errorf("usable: %s", got)
		}
	}
	for _, name := range []string{"unsafe", "missing"} {
		if got := strings.Count(log.String(), `msg="this process cannot use a signing service" service=`+name); got != 1 {
			t.Errorf("%d warnings about %s, want 1:\n%s", got, name, log)
		}
	}
	if err := os.WriteFile(missing.Script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	log.Reset()
	if got := usable(); got != "release unsafe missing " {
		t.Errorf("usable with the new script: %s", got)
	}
	if want := `level=INFO msg="this process can use a signing service again" service=missing`; strings.Count(log.String(), "level=") != 1 || !strings.Contains(log.String(), want) {
		t.Errorf("log, want only %q:\n%s", want, log)
	}
}

// TestWarnOfScripts verifies that it checks scripts only.
func TestWarnOfScripts(t *testing.T) {
	t.Parallel()
	s, _, log := newSigners(t)
	s.WarnOfScripts(t.Context(), []pulp.SigningService{
		{ID: "1", Name: "script", Kind: pulp.ServiceScript, Script: "/nonexistent"},
		{ID: "2", Name: "file", Kind: pulp.ServiceOpenPGP, Config: pulp.ServiceConfig{KeyFile: "/nonexistent"}},
	})
	if text := log.String(); !strings.Contains(text, "service=script") || strings.Contains(text, "service=file") {
		t.Errorf("log:\n%s", text)
	}
}
