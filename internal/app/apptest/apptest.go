// Package apptest runs servers inside tests of the packages app and admin.
package apptest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/eventually"
)

// Version is the version of the program in tests.
const Version = "1.2.3"

// AdminPassword is the configured password of the user admin.
const AdminPassword = "admin-password"

// patience is the time after which a server that does not start or stop fails the test.
const patience = time.Minute

// Load returns settings for a new data directory, a free address and AdminPassword, changed by variables NAME=value
// whose names lack the prefix COUNTERSIGN_.
func Load(t testing.TB, variables ...string) config.Config {
	t.Helper()
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	environ := []string{
		"COUNTERSIGN_DATA=" + t.TempDir(), "COUNTERSIGN_LISTEN=" + address, "COUNTERSIGN_ADMIN_PASSWORD=" + AdminPassword,
		"COUNTERSIGN_WORKERS=2",
	}
	for _, v := range variables {
		environ = append(environ, "COUNTERSIGN_"+v)
	}
	loaded, err := config.Load("", environ)
	if err != nil {
		t.Fatal(err)
	}
	return loaded.Config
}

// Buffer is a bytes.Buffer that is safe for concurrent use.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String returns all that was written.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// New returns an App and its log.
func New(c config.Config) (*app.App, *Buffer) {
	log := &Buffer{}
	return app.New(app.Options{Config: c, Version: Version, Log: slog.New(slog.NewTextHandler(log, nil))}), log
}

// Server is a server that runs in the test.
type Server struct {
	Config config.Config
	URL    string
	Out    *Buffer // the greeting
	Log    *Buffer

	stop  context.CancelFunc
	ended chan struct{}
	err   error // of Serve; valid when ended is closed
}

// Start starts a server and waits until it answers. It is stopped at the end of the test.
func Start(t testing.TB, c config.Config) *Server {
	t.Helper()
	return StartUntil(t, c, http.StatusOK)
}

// StartUntil is Start for a server that answers requests of admin with AdminPassword with a status.
func StartUntil(t testing.TB, c config.Config, status int) *Server {
	t.Helper()
	a, log := New(c)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	s := &Server{Config: c, URL: "http://" + c.Listen, Out: &Buffer{}, Log: log, stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		s.err = a.Serve(ctx, app.Greeting{Out: s.Out, Command: "countersign"})
	}()
	t.Cleanup(func() {
		if err := s.Stop(t); err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	eventually.True(t, patience, func() bool {
		select {
		case <-s.ended:
			t.Fatalf("the server has ended: %v\n%s", s.err, log)
		default:
		}
		return s.Get(t, "/v2/").StatusCode == status
	}, "the server answers")
	return s
}

// Interrupt tells the server to stop and returns at once.
func (s *Server) Interrupt() { s.stop() }

// Stop stops the server and returns the error of Serve.
func (s *Server) Stop(t testing.TB) error {
	t.Helper()
	s.stop()
	select {
	case <-s.ended:
	case <-time.After(patience):
		t.Fatalf("the server does not stop\n%s", s.Log)
	}
	return s.err
}

// Response is a response whose body was read. The zero Response stands for a request without a response.
type Response struct {
	StatusCode int
	Header     http.Header
	Body       string
}

// Do sends a request as the user admin.
func (s *Server) Do(t testing.TB, method, path, contentType string, body io.Reader) Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", contentType)
	return send(http.DefaultClient, request)
}

// send sends a request as the user admin.
func send(client *http.Client, request *http.Request) Response {
	request.SetBasicAuth(app.AdminName, AdminPassword)
	response, err := client.Do(request)
	if err != nil {
		return Response{Body: err.Error()}
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return Response{Body: err.Error()}
	}
	return Response{StatusCode: response.StatusCode, Header: response.Header, Body: string(text)}
}

// Get sends a GET request as the user admin.
func (s *Server) Get(t testing.TB, path string) Response {
	t.Helper()
	return s.Do(t, http.MethodGet, path, "", nil)
}

// Login returns the status of a request with a user name and a password.
func (s *Server) Login(t testing.TB, name, password string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth(name, password)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// generatedPassword matches the generated password in a greeting.
var generatedPassword = regexp.MustCompile(`password +([A-Z2-7]{20,})`)

// GeneratedPassword returns the password in the greeting, or "".
func (s *Server) GeneratedPassword() string {
	if m := generatedPassword.FindStringSubmatch(s.Out.String()); m != nil {
		return m[1]
	}
	return ""
}

// Push pushes an image without layers to a tag, and returns the digest of its manifest.
func (s *Server) Push(t testing.TB, repository, tag string) string {
	t.Helper()
	const (
		manifestType = "application/vnd.oci.image.manifest.v1+json"
		configType   = "application/vnd.oci.image.config.v1+json"
	)
	const imageConfig = `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`
	upload := "/v2/" + repository + "/blobs/uploads/?digest=" + digestOf(imageConfig)
	s.want(t, http.StatusCreated, http.MethodPost, upload, "application/octet-stream", imageConfig)
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "layers": []any{},
		"config": map[string]any{"mediaType": configType, "digest": digestOf(imageConfig), "size": len(imageConfig)},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.want(t, http.StatusCreated, http.MethodPut, "/v2/"+repository+"/manifests/"+tag, manifestType, string(manifest))
	return digestOf(string(manifest))
}

// StartUpload starts a request that uploads a blob in parts. write sends a part; when the first call returns, the
// server is reading the body. response ends the request and returns the response.
func (s *Server) StartUpload(t testing.TB, repository string) (response func() Response, write func(part string)) {
	t.Helper()
	r := s.Do(t, http.MethodPost, "/v2/"+repository+"/blobs/uploads/", "", nil)
	if r.StatusCode != http.StatusAccepted {
		t.Fatalf("start an upload: status %d: %s", r.StatusCode, r.Body)
	}
	location := r.Header.Get("Location")
	if absolute, err := url.Parse(location); err == nil {
		location = absolute.RequestURI()
	}
	reader, writer := io.Pipe()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, s.URL+location, reader)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/octet-stream")
	request.Header.Set("Expect", "100-continue") // the client sends the body when the server reads it
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: patience}}
	ended := make(chan Response, 1)
	go func() { ended <- send(client, request) }()
	response = func() Response {
		_ = writer.Close()
		return <-ended
	}
	write = func(part string) {
		t.Helper()
		if _, err := io.WriteString(writer, part); err != nil {
			t.Fatal(err)
		}
	}
	return response, write
}

// want sends a request that must be answered with a status.
func (s *Server) want(t testing.TB, status int, method, path, contentType, body string) {
	t.Helper()
	if r := s.Do(t, method, path, contentType, strings.NewReader(body)); r.StatusCode != status {
		t.Fatalf("%s %s: status %d, want %d: %s\n%s", method, path, r.StatusCode, status, r.Body, s.Log)
	}
}

func digestOf(text string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text))) }

// Assign assigns a signing service to a push repository, as the user admin.
func (s *Server) Assign(t testing.TB, repository, service string) {
	t.Helper()
	const base = "/pulp/api/v3"
	body := fmt.Sprintf(`{"manifest_signing_service": %q}`, s.href(t, base+"/signing-services/?name="+url.QueryEscape(service)))
	path := s.href(t, base+"/repositories/container/container-push/?name="+url.QueryEscape(repository))
	if r := s.Do(t, http.MethodPatch, path, "application/json", strings.NewReader(body)); r.StatusCode >= http.StatusBadRequest {
		t.Fatalf("PATCH %s: status %d: %s", path, r.StatusCode, r.Body)
	}
	eventually.True(t, patience, func() bool {
		return !strings.Contains(s.Get(t, path).Body, `"manifest_signing_service":null`)
	}, "the repository %s has a signing service", repository)
}

// href returns the pulp_href of the only object in a list.
func (s *Server) href(t testing.TB, path string) string {
	t.Helper()
	var list struct {
		Results []struct {
			Href string `json:"pulp_href"`
		} `json:"results"`
	}
	r := s.Get(t, path)
	if err := json.Unmarshal([]byte(r.Body), &list); err != nil || len(list.Results) != 1 {
		t.Fatalf("GET %s: status %d, %v: %s", path, r.StatusCode, err, r.Body)
	}
	return list.Results[0].Href
}
