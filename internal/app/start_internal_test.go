package app

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/config"
)

// TestRoute verifies that the registry gets the paths of its protocol and of tokens, and the REST API all others.
func TestRoute(t *testing.T) {
	t.Parallel()
	answer := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) })
	}
	handler := route(answer("registry"), answer("rest"))
	for path, want := range map[string]string{
		"/v2":                          "registry",
		"/v2/":                         "registry",
		"/v2/team/app/manifests/v1":    "registry",
		"/extensions/v2/team/app/x":    "registry",
		"/token":                       "registry",
		"/token/":                      "registry",
		"/":                            "rest",
		"/v20":                         "rest",
		"/tokens/":                     "rest",
		"/extensions/":                 "rest",
		"/extensions/v2extra":          "rest",
		"/pulp/api/v3/status/":         "rest",
		"/pulp/api/v3/v2/team/app/":    "rest",
		"/pulp/container/team/app/v2/": "rest",
	} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		if got := w.Body.String(); got != want {
			t.Errorf("%s is answered by %s, want %s", path, got, want)
		}
	}
}

// loadConfig returns settings from variables without the prefix COUNTERSIGN_.
func loadConfig(t *testing.T, variables ...string) config.Config {
	t.Helper()
	for i := range variables {
		variables[i] = "COUNTERSIGN_" + variables[i]
	}
	loaded, err := config.Load("", variables)
	if err != nil {
		t.Fatal(err)
	}
	return loaded.Config
}

// TestGreet verifies the lines that depend on the settings: the login, the place of the blobs, the options of podman, and
// the command with the settings of the server.
func TestGreet(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		variables []string
		file      string
		password  string // that was generated
		want      []string
		wantNot   string
	}{
		"generated password": {
			variables: []string{"DATA=/data"}, password: "GENERATED",
			want: []string{"password      GENERATED   (shown only once", "COUNTERSIGN_DATA=/data countersign add-signing-service"},
		},
		"configured password": {
			variables: []string{"DATA=/data", "ADMIN_PASSWORD=secret"}, want: []string{"value of COUNTERSIGN_ADMIN_PASSWORD"},
			wantNot: "secret",
		},
		"later start": {variables: []string{"DATA=/data"}, want: []string{"password      unchanged"}},
		"configuration file": {
			variables: []string{"DATA=/data"}, file: "/etc/countersign.yaml",
			want: []string{"COUNTERSIGN_CONFIG=/etc/countersign.yaml countersign add-signing-service"}, wantNot: "COUNTERSIGN_DATA=",
		},
		"plain HTTP": {
			variables: []string{"LISTEN=127.0.0.1:5000"}, want: []string{"podman login --tls-verify=false -u admin localhost:5000"},
		},
		"HTTPS": {
			variables: []string{"PUBLIC_URL=https://registry.example"},
			want:      []string{"podman login -u admin registry.example\n", "curl -u admin https://registry.example/pulp/"},
			wantNot:   "--tls-verify",
		},
		"upstream": {variables: []string{"UPSTREAM_URL=https://upstream.example"}, want: []string{"(blobs: https://upstream.example)"}},
	} {
		var out strings.Builder
		a := New(Options{Config: loadConfig(t, tt.variables...), Version: "1.2.3", Log: slog.New(slog.DiscardHandler)})
		a.greet(Greeting{Out: &out, Command: "countersign", SettingsFile: tt.file}, tt.password)
		for _, want := range append(tt.want, "Countersign 1.2.3\n") {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: the greeting lacks %q:\n%s", name, want, &out)
			}
		}
		if tt.wantNot != "" && strings.Contains(out.String(), tt.wantNot) {
			t.Errorf("%s: the greeting contains %q:\n%s", name, tt.wantNot, &out)
		}
	}
}

// TestWithHSTS verifies that Strict-Transport-Security is sent over TLS, and over plain HTTP only if a proxy terminates
// TLS.
func TestWithHSTS(t *testing.T) {
	t.Parallel()
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	for _, tt := range []struct {
		target string
		public bool
		want   string
	}{
		{target: "https://registry.example/", want: "max-age=3600"},
		{target: "http://registry.example/", public: true, want: "max-age=3600"},
		{target: "http://registry.example/"},
	} {
		w := httptest.NewRecorder()
		withHSTS(next, time.Hour, tt.public).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, tt.target, nil))
		if got := w.Header().Get("Strict-Transport-Security"); got != tt.want || w.Code != http.StatusNotFound {
			t.Errorf("%+v: status %d, header %q", tt, w.Code, got)
		}
	}
}

// TestOpenQueueInMemory verifies that a server without Redis has a queue that cannot be unavailable.
func TestOpenQueueInMemory(t *testing.T) {
	t.Parallel()
	a := New(Options{Config: loadConfig(t), Log: slog.New(slog.DiscardHandler)})
	q, err := a.OpenQueue(t.Context())
	if err != nil || q.Queue == nil || q.Ping != nil {
		t.Errorf("OpenQueue = %+v, %v, want a queue without Ping", q, err)
	}
	q.Close()
}
