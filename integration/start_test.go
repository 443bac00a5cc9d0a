package integration

import (
	"bytes"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestFirstStart starts with nothing configured: the output says where the server is and shows a password once, and that password works.
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
	said := func() string { // by this start
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

// TestAnotherStorage is refused where images lie that it has not, and taken where there are none.
func TestAnotherStorage(t *testing.T) {
	t.Parallel()
	upstream := startPeer(t)
	s := startServer(t)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s.command.Env = append(slices.Clone(s.command.Env), "COUNTERSIGN_UPSTREAM_URL="+upstream)
	s.start(t) // nothing has been pushed
	if _, err := s.pushTiny(t, "start/app", "v1", "in front"); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	said, err := s.cli(t, []string{"COUNTERSIGN_LISTEN=127.0.0.1:0"}, "serve")
	if err == nil || !strings.Contains(said, "the images of this database lie in an upstream registry") || !strings.Contains(said, "COUNTERSIGN_UPSTREAM_URL") {
		t.Errorf("without the upstream: %v, %s", err, said)
	}
	s.start(t)
	s.get(t, pushRepos)
}

// TestSecondServer is refused on a data directory that a server owns.
func TestSecondServer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	said, err := s.cli(t, []string{"COUNTERSIGN_LISTEN=127.0.0.1:0"}, "serve")
	if err == nil || strings.Count(strings.TrimSpace(said), "\n") != 0 {
		t.Errorf("a second server: %v\n%s", err, said)
	}
	s.get(t, pushRepos)
}

// TestUploadGoesOnAfterAKill uploads half of a blob, kills the server, and uploads the other half to the one that comes back.
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
