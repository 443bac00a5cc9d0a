package app_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/app/apptest"
	"github.com/countersign/countersign/internal/eventually"
)

// TestServe verifies that a server serves the registry and the REST API on one address, and stops without an error.
func TestServe(t *testing.T) {
	t.Parallel()
	s := apptest.Start(t, apptest.Load(t))
	for path, want := range map[string]string{
		"/v2/":                 "{}",
		"/pulp/api/v3/status/": `"version":"` + apptest.Version,
		"/pulp/api/v3/signing-services/?name=countersign": `"count":1`,
	} {
		if r := s.Get(t, path); r.StatusCode != http.StatusOK || !strings.Contains(r.Body, want) {
			t.Errorf("GET %s: status %d, want 200 with %s: %s", path, r.StatusCode, want, r.Body)
		}
	}
	s.Push(t, "team/app", "v1")
	if r := s.Get(t, "/v2/team/app/tags/list"); !strings.Contains(r.Body, `"v1"`) {
		t.Errorf("tags after a push: %s", r.Body)
	}
	if err := s.Stop(t); err != nil {
		t.Errorf("Serve = %v, want nil", err)
	}
	if r := s.Get(t, "/v2/"); r.StatusCode != 0 {
		t.Errorf("status %d after the stop, want no answer", r.StatusCode)
	}
}

// TestServeGreeting verifies that only the first start generates and shows a password, and that the greeting has the
// command that uses the same data.
func TestServeGreeting(t *testing.T) {
	t.Parallel()
	c := apptest.Load(t)
	c.AdminPassword = ""
	first := start(t, c)
	password := first.GeneratedPassword()
	if password == "" {
		t.Fatalf("the greeting shows no password:\n%s", first.Out)
	}
	if status := first.Login(t, app.AdminName, password); status != http.StatusOK {
		t.Errorf("login with the generated password: status %d, want 200", status)
	}
	for _, want := range []string{"Countersign " + apptest.Version, c.Listen, "COUNTERSIGN_DATA=" + c.Data + " countersign add-signing-service"} {
		if !strings.Contains(first.Out.String(), want) {
			t.Errorf("the greeting lacks %q:\n%s", want, first.Out)
		}
	}
	if err := first.Stop(t); err != nil {
		t.Fatal(err)
	}
	second := start(t, c)
	if got := second.GeneratedPassword(); got != "" {
		t.Errorf("the second start shows the password %s", got)
	}
	if status := second.Login(t, app.AdminName, password); status != http.StatusOK {
		t.Errorf("login after a second start: status %d, want 200", status)
	}
}

// start starts a server whose admin has no configured password.
func start(t *testing.T, c config.Config) *apptest.Server {
	t.Helper()
	return apptest.StartUntil(t, c, http.StatusUnauthorized)
}

// TestServeAdminPassword verifies that each start sets a configured password.
func TestServeAdminPassword(t *testing.T) {
	t.Parallel()
	c := apptest.Load(t)
	if err := apptest.Start(t, c).Stop(t); err != nil {
		t.Fatal(err)
	}
	c.AdminPassword = "another"
	s := start(t, c)
	if status := s.Login(t, app.AdminName, apptest.AdminPassword); status != http.StatusUnauthorized {
		t.Errorf("login with the former password: status %d, want 401", status)
	}
	if status := s.Login(t, app.AdminName, "another"); status != http.StatusOK {
		t.Errorf("login with the configured password: status %d, want 200", status)
	}
}

// TestServeWaitsForRequests verifies that a server that is told to stop finishes a request and accepts no others.
func TestServeWaitsForRequests(t *testing.T) {
	t.Parallel()
	s := apptest.Start(t, apptest.Load(t))
	upload, written := s.StartUpload(t, "team/app")
	written("first part")
	s.Interrupt()
	eventually.True(t, time.Minute, func() bool {
		c, err := net.Dial("tcp", s.Config.Listen)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	}, "the server refuses connections")
	written("second part")
	if r := upload(); r.StatusCode != http.StatusAccepted {
		t.Errorf("a request in progress: status %d, want 202: %s", r.StatusCode, r.Body)
	}
	if err := s.Stop(t); err != nil {
		t.Errorf("Serve = %v, want nil", err)
	}
}

// TestServeEndsRequests verifies that a request which does not end delays the stop for the grace period only.
func TestServeEndsRequests(t *testing.T) {
	t.Parallel()
	c := apptest.Load(t, "SHUTDOWN_GRACE=200ms")
	s := apptest.Start(t, c)
	upload, written := s.StartUpload(t, "team/app")
	written("first part")
	began := time.Now()
	if err := s.Stop(t); err != nil {
		t.Errorf("Serve = %v, want nil", err)
	}
	if took := time.Since(began); took < c.ShutdownGrace || took > 30*time.Second {
		t.Errorf("the stop took %v, want about %v", took, c.ShutdownGrace)
	}
	if r := upload(); r.StatusCode == http.StatusAccepted {
		t.Error("the request succeeded although its body was incomplete")
	}
}

// TestServeErrors verifies the errors of starts that cannot succeed, which name the setting to change.
func TestServeErrors(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		variables []string
		want      string
	}{
		"address in use": {variables: []string{"LISTEN=" + taken.Addr().String()}, want: "COUNTERSIGN_LISTEN"},
		"token key":      {variables: []string{"TOKEN_PRIVATE_KEY_FILE=" + text, "TOKEN_PUBLIC_KEY_FILE=" + text}, want: text},
		"missing Redis CA file": {
			variables: []string{"REDIS_URL=rediss://localhost", "REDIS_CA_FILE=/nonexistent"},
			want:      "redis.ca_file: ",
		},
		"Redis CA file": {
			variables: []string{"REDIS_URL=rediss://localhost", "REDIS_CA_FILE=" + text},
			want:      "redis.ca_file: the file contains no certificate",
		},
		"Redis URL":       {variables: []string{"REDIS_URL=http://localhost"}, want: "redis_url: "},
		"TLS certificate": {variables: []string{"TLS_CERT_FILE=" + text, "TLS_KEY_FILE=" + text}, want: "PEM"},
		"upstream CA file": {
			variables: []string{"UPSTREAM_URL=https://localhost:1", "UPSTREAM_CA_FILE=/nonexistent"},
			want:      "/nonexistent",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, _ := apptest.New(apptest.Load(t, tt.variables...))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := a.Serve(ctx, app.Greeting{Out: io.Discard, Command: "countersign"})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Serve = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// TestServeLocksSQLite verifies that a second server on the same SQLite database does not start.
func TestServeLocksSQLite(t *testing.T) {
	t.Parallel()
	s := apptest.Start(t, apptest.Load(t))
	c := apptest.Load(t)
	c.Data, c.DatabaseURL = s.Config.Data, s.Config.DatabaseURL
	a, _ := apptest.New(c)
	if err := a.Serve(t.Context(), app.Greeting{Out: io.Discard}); err == nil || !strings.Contains(err.Error(), c.Data) {
		t.Errorf("Serve on a used data directory = %v, want an error with the directory", err)
	}
}

// TestServeStorage verifies that a server refuses to start with another kind of storage than the one with the blobs
// of its database, and that a database without blobs can be used with both.
func TestServeStorage(t *testing.T) {
	t.Parallel()
	c := apptest.Load(t)
	s := apptest.Start(t, c)
	if err := s.Stop(t); err != nil {
		t.Fatal(err)
	}
	upstream := c
	upstream.UpstreamURL = "http://127.0.0.1:1"
	s = apptest.Start(t, upstream)
	if !strings.Contains(s.Log.String(), "the storage is not available") {
		t.Errorf("no warning about an unavailable upstream:\n%s", s.Log)
	}
	if err := s.Stop(t); err != nil {
		t.Fatal(err)
	}
	s = apptest.Start(t, c)
	s.Push(t, "team/app", "v1")
	if err := s.Stop(t); err != nil {
		t.Fatal(err)
	}
	a, _ := apptest.New(upstream)
	if err := a.Serve(t.Context(), app.Greeting{Out: io.Discard}); err == nil || !strings.Contains(err.Error(), "unset COUNTERSIGN_UPSTREAM_URL") {
		t.Errorf("Serve with an upstream on a database with blobs = %v, want an error with the remedy", err)
	}
}

// TestServeWarnings verifies the warnings of a start: about former hosts in signatures, services that do not exist
// and readable secrets.
func TestServeWarnings(t *testing.T) {
	t.Parallel()
	c := apptest.Load(t, "SIGNING_ON_PUSH=team/*=countersign,prod/*=missing", "SIGNING_ASSIGN=qa/*=missing,qa2/*=absent")
	s := apptest.Start(t, c)
	s.Push(t, "team/app", "v1")
	for _, want := range []string{"setting=signing.on_push service=missing", "setting=signing.assign service=missing", "setting=signing.assign service=absent"} {
		if got := strings.Count(s.Log.String(), want); got != 1 {
			t.Errorf("%d warnings with %q, want 1:\n%s", got, want, s.Log)
		}
	}
	if strings.Contains(s.Log.String(), "former host") {
		t.Errorf("a warning about a former host at the first start:\n%s", s.Log)
	}
	if err := s.Stop(t); err != nil {
		t.Fatal(err)
	}
	former := c.Public().Host
	c.PublicURL = "https://registry.example"
	s = apptest.Start(t, c)
	if want := "host=" + former; !strings.Contains(s.Log.String(), want) {
		t.Errorf("no warning with %q after a change of public_url:\n%s", want, s.Log)
	}
}
