package integration

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/pgtest"
)

// TestFirstStart starts a server without configuration: its output has the address and, once, a password, which works.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.data); err != nil {
		t.Fatal(err)
	}
	s.command.Env = slices.DeleteFunc(slices.Clone(s.env), func(entry string) bool { return strings.HasPrefix(entry, "COUNTERSIGN_ADMIN_PASSWORD=") })
	said := func() string { // of the latest start
		before, _ := os.ReadFile(s.command.Log)
		s.start(t)
		after, err := os.ReadFile(s.command.Log)
		if err != nil {
			t.Fatal(err)
		}
		return string(after[len(before):])
	}

	first := said()
	for _, want := range []string{s.host, s.data, "podman login", "podman push", "add-signing-service"} {
		if !strings.Contains(first, want) {
			t.Errorf("the first start does not say %q:\n%s", want, first)
		}
	}
	shown := regexp.MustCompile(`password +([A-Z2-7]{20,})\s`).FindStringSubmatch(first)
	if shown == nil {
		t.Fatalf("the first start shows no password:\n%s", first)
	}
	s.password = shown[1]
	s.get(t, pushRepos)

	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if second := said(); strings.Contains(second, s.password) {
		t.Errorf("the second start shows the password again:\n%s", second)
	}
	s.get(t, pushRepos)
}

// TestAnotherStorage changes between own storage and an upstream: this is refused if the database has images, also in a
// database of an older version, and allowed otherwise.
func TestAnotherStorage(t *testing.T) {
	t.Parallel()
	need(t, "sqlite3")
	if pgtest.URL(t) != "" {
		t.Skip("it edits an SQLite database")
	}
	upstream := startPeer(t)
	inFront := "COUNTERSIGN_UPSTREAM_URL=" + upstream
	for name, c := range map[string]struct{ with, other, want string }{
		"in front":       {inFront, "COUNTERSIGN_UPSTREAM_URL=", "the images of this database are in an upstream registry, but the configuration is for storage of its own: set COUNTERSIGN_UPSTREAM_URL"},
		"not yet before": {"COUNTERSIGN_UPSTREAM_URL=", inFront, "the images of this database are in storage of its own, but the configuration is for an upstream registry: unset COUNTERSIGN_UPSTREAM_URL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, c.other)
			if err := s.Stop(); err != nil {
				t.Fatal(err)
			}
			s.env = append(s.env, c.with)
			s.command.Env = s.env
			s.start(t) // without images
			if _, err := s.pushTiny(t, "start/app", "v1", "storage"); err != nil {
				t.Fatal(err)
			}
			if err := s.Stop(); err != nil {
				t.Fatal(err)
			}
			refused := func(what string) {
				t.Helper()
				if said, err := s.cli(t, []string{c.other, "COUNTERSIGN_LISTEN=127.0.0.1:0"}, "serve"); err == nil || !strings.Contains(said, c.want) {
					t.Errorf("%s: %v, %s", what, err, said)
				}
			}
			refused("another storage")
			must(t, s.env, "sqlite3", filepath.Join(s.data, "countersign.db"), "DELETE FROM setting WHERE name = 'storage'")
			refused("another storage, and a database of an older version")
			s.start(t)
			s.get(t, pushRepos)
		})
	}
}

// TestFormerPublicURL changes public_url: existing signatures keep their host, each start warns of them, and signing
// again adds signatures for the new host.
func TestFormerPublicURL(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	if _, err := s.pushTiny(t, "start/app", "v1", "identity"); err != nil {
		t.Fatal(err)
	}
	service := s.addService(t, "identity", keyNamed(t, "trusted"), "")
	_, port, _ := strings.Cut(s.host, ":")
	const warning = "signatures name a former host of public_url"
	restarted := func(publicURL string) string {
		t.Helper()
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		before, _ := os.ReadFile(s.command.Log)
		s.env = append(s.env, "COUNTERSIGN_PUBLIC_URL="+publicURL)
		s.command.Env = s.env
		s.start(t)
		after, err := os.ReadFile(s.command.Log)
		if err != nil {
			t.Fatal(err)
		}
		return string(after[len(before):])
	}
	signed := func() {
		t.Helper()
		s.signed(t, text(s.repository(t, "start/app")["pulp_href"]), object{"manifest_signing_service": service})
	}
	if said := restarted("http://127.0.0.1:" + port); strings.Contains(said, warning) {
		t.Errorf("a start with nothing signed warns:\n%s", said)
	}
	signed()
	for i, url := range []string{"http://LOCALHOST:" + port + "/", "http://localhost:" + port} {
		if said := restarted(url); !strings.Contains(said, warning) || !strings.Contains(said, "host=127.0.0.1:"+port+" public_url=http://localhost:"+port) || strings.Count(said, warning) != 1 {
			t.Errorf("output of a start with %s:\n%s", url, said)
		}
		if i == 0 {
			signed()
		}
		references := []string{}
		for _, g := range s.list(t, signatureList).Results {
			references = append(references, text(g["docker_reference"]))
		}
		slices.Sort(references)
		if want := []string{"127.0.0.1:" + port + "/start/app:v1", "localhost:" + port + "/start/app:v1"}; !slices.Equal(references, want) {
			t.Errorf("after signing under %s there are signatures for %v, want %v", url, references, want)
		}
	}
}

// TestAbsentServicesAreWarnedOf checks that the server warns at start of each configured signing service that does not
// exist, and of no other.
func TestAbsentServicesAreWarnedOf(t *testing.T) {
	t.Parallel()
	s := startServer(t, "COUNTERSIGN_SIGNING_ASSIGN=team/*=countersign,dev/*=nosuch,qa/*=nosuch", "COUNTERSIGN_SIGNING_ON_PUSH=prod/*=relaese")
	said, err := os.ReadFile(s.command.Log)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"setting=signing.assign service=nosuch", "setting=signing.on_push service=relaese"} {
		if strings.Count(string(said), want) != 1 {
			t.Errorf("want one warning with %q:\n%s", want, said)
		}
	}
	if n := strings.Count(string(said), "a signing service that does not exist"); n != 2 {
		t.Errorf("%d warnings, want 2:\n%s", n, said)
	}
}

// TestSecondServer starts a second server on a data directory, which is refused.
func TestSecondServer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	said, err := s.cli(t, []string{"COUNTERSIGN_LISTEN=127.0.0.1:0"}, "serve")
	if err == nil || strings.Count(strings.TrimSpace(said), "\n") != 0 {
		t.Errorf("a second server: %v\n%s", err, said)
	}
	s.get(t, pushRepos)
}

// TestUploadGoesOnAfterAKill uploads half of a blob, kills the server, and uploads the other half after a restart.
func TestUploadGoesOnAfterAKill(t *testing.T) {
	t.Parallel()
	for sentence, environment := range map[string]func(t *testing.T) []string{
		"embedded storage": func(*testing.T) []string { return nil },
		"an upstream":      func(t *testing.T) []string { return []string{"COUNTERSIGN_UPSTREAM_URL=" + startPeer(t)} },
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, environment(t)...)
			for _, half := range []int{1 << 10, 1 << 20} {
				blob := bytes.Repeat([]byte("half"), half/2)
				digest := describe("", blob).Digest
				status, header, answer := s.do(t, http.MethodPost, "/v2/resume/app/blobs/uploads/", nil, nil)
				if status != http.StatusAccepted {
					t.Fatalf("POST: %d %s", status, answer)
				}
				octets := http.Header{"Content-Type": {"application/octet-stream"}}
				status, header, answer = s.do(t, http.MethodPatch, header.Get("Location"), octets, blob[:half])
				if status != http.StatusAccepted {
					t.Fatalf("PATCH: %d %s", status, answer)
				}
				location := header.Get("Location")
				s.Kill()
				s.start(t)
				status, header, _ = s.do(t, http.MethodGet, location, nil, nil)
				if status != http.StatusNoContent || !strings.HasPrefix(header.Get("Range"), "0-") {
					t.Fatalf("GET after the restart: %d, Range %q", status, header.Get("Range"))
				}
				if next := header.Get("Location"); next != "" {
					location = next
				}
				status, header, answer = s.do(t, http.MethodPatch, location, octets, blob[half:])
				if status != http.StatusAccepted {
					t.Fatalf("PATCH after the restart: %d %s", status, answer)
				}
				location = header.Get("Location")
				separator := "?"
				if strings.Contains(location, "?") {
					separator = "&"
				}
				if err := s.created(t, http.MethodPut, location+separator+"digest="+digest, "application/octet-stream", nil); err != nil {
					t.Fatal(err)
				}
				status, _, got := s.do(t, http.MethodGet, "/v2/resume/app/blobs/"+digest, nil, nil)
				if status != http.StatusOK || !bytes.Equal(got, blob) {
					t.Errorf("the blob: %d, %d bytes", status, len(got))
				}
			}
		})
	}
}
