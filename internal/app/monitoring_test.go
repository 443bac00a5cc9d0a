package app_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/app/apptest"
)

// freeAddress returns an address to listen on.
func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// fetch returns the status and the body of a response. token is sent as a bearer token unless it is empty.
func fetch(t *testing.T, url, token string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// TestMonitoringListener verifies the endpoints of the listener, and that the public listener does not have them.
func TestMonitoringListener(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	s := apptest.Start(t, apptest.Load(t, "METRICS_LISTEN="+address))
	s.Push(t, "team/app", "v1")
	for path, want := range map[string]string{
		"/livez":  "ok",
		"/readyz": "ok",
		"/metrics": `http_server_request_duration_seconds_count{http_request_method="PUT",` +
			`http_response_status_code="201",http_route="/v2/{name}/manifests/{reference}"} 1`,
	} {
		if status, body := fetch(t, "http://"+address+path, ""); status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("GET %s: status %d, want 200 with %s: %s", path, status, want, body)
		}
	}
	if _, body := fetch(t, "http://"+address+"/metrics", ""); strings.Contains(body, "registry_storage") || strings.Contains(body, "team/app") {
		t.Errorf("the metrics have those of a library, or the name of a repository:\n%s", body)
	}
	if r := s.Get(t, "/metrics"); r.StatusCode != http.StatusNotFound {
		t.Errorf("GET /metrics on the public listener: status %d, want 404", r.StatusCode)
	}
}

// TestMetricsToken verifies that /metrics requires the token of the file, which may change, and that health checks do not.
func TestMetricsToken(t *testing.T) {
	t.Parallel()
	address, file := freeAddress(t), filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\nsecond line")
	c := apptest.Load(t, "METRICS_LISTEN="+address, "METRICS_TOKEN_FILE="+file)
	apptest.Start(t, c)
	for token, want := range map[string]int{"first": http.StatusOK, "": http.StatusUnauthorized, "other": http.StatusUnauthorized} {
		if status, _ := fetch(t, "http://"+address+"/metrics", token); status != want {
			t.Errorf("with the token %q: status %d, want %d", token, status, want)
		}
	}
	if status, _ := fetch(t, "http://"+address+"/livez", ""); status != http.StatusOK {
		t.Errorf("GET /livez without a token: status %d", status)
	}
	write("rotated")
	if status, _ := fetch(t, "http://"+address+"/metrics", "rotated"); status != http.StatusOK {
		t.Errorf("with the new token: status %d", status)
	}
	write("\n")
	if status, _ := fetch(t, "http://"+address+"/metrics", "rotated"); status != http.StatusServiceUnavailable {
		t.Errorf("with an empty file: status %d, want 503", status)
	}
}

// TestMonitoringErrors verifies that a process does not start with a listener that it cannot serve.
func TestMonitoringErrors(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		variables []string
		want      string
	}{
		"no file": {[]string{"METRICS_LISTEN=127.0.0.1:0", "METRICS_TOKEN_FILE=/nonexistent"}, "metrics.token_file"},
		"address": {[]string{"METRICS_LISTEN=192.0.2.1:9"}, "metrics.listen"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, _ := apptest.New(apptest.Load(t, tt.variables...))
			if err := a.Serve(t.Context(), app.Greeting{Out: io.Discard}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Serve = %v, want an error about %s", err, tt.want)
			}
		})
	}
}
