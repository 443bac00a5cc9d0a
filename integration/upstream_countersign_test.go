package integration

import (
	"crypto/sha512"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/storage/storagetest"
	"github.com/countersign/countersign/storage/upstream"
)

// TestUpstreamIsCountersign runs the storage suite in front of another Countersign, which requires tokens.
func TestUpstreamIsCountersign(t *testing.T) {
	t.Parallel()
	behind := startServer(t)
	var opened atomic.Int64
	in := func(t *testing.T) storage.Storage {
		t.Helper()
		s, err := upstream.New(upstream.Options{
			URL: "http://" + behind.host, Username: "admin", Password: adminPassword, Prefix: fmt.Sprintf("run%d/", opened.Add(1)),
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	storagetest.Run(t, in)
	storagetest.RunManifests(t, in)
}

// TestOwnSHA512IsOwn pushes an image by its sha512 digest with tags, in front of an upstream that reports sha256
// digests for the tags: the server does not take its own writes for pushes by others.
func TestOwnSHA512IsOwn(t *testing.T) {
	t.Parallel()
	behind := startServer(t)
	s := startServer(t, "COUNTERSIGN_UPSTREAM_URL=http://"+behind.host, "COUNTERSIGN_UPSTREAM_USERNAME=admin", "COUNTERSIGN_UPSTREAM_PASSWORD="+adminPassword,
		"COUNTERSIGN_UPSTREAM_COMPARE_EVERY=1s")
	image := s.tiny(t, "long/app", "v1", "one")
	_, _, manifest := s.do(t, http.MethodGet, "/v2/long/app/manifests/"+image.name, nil, nil)
	long := fmt.Sprintf("sha512:%x", sha512.Sum512(manifest))
	if err := s.created(t, http.MethodPut, "/v2/long/app/manifests/"+long+"?tag=v1", ociManifest, manifest); err != nil {
		t.Fatal(err)
	}
	state := func() string {
		return fmt.Sprint(s.digest(t, "long/app", "v1"), s.repository(t, "long/app")["latest_version_href"])
	}
	before := state()
	if !strings.HasPrefix(before, long) {
		t.Fatalf("the tag is %s, want %s", before, long)
	}
	within(t, "the upstream has the tag", func() bool {
		status, header, _ := behind.do(t, http.MethodHead, "/v2/long/app/manifests/v1", nil, nil)
		return status == http.StatusOK && header.Get("Docker-Content-Digest") == image.name
	})
	if said, err := s.cli(t, nil, "drift"); err != nil || said != "no differences\n" {
		t.Errorf("drift: %v\n%s", err, said)
	}
	time.Sleep(4 * time.Second) // several comparisons run
	if after := state(); after != before {
		t.Errorf("our own write has made %s of %s", after, before)
	}
}

// TestAdoptedReferrers adopts an image from an upstream with the referrers API, with artifacts that oras attached to
// it, and to those.
func TestAdoptedReferrers(t *testing.T) {
	t.Parallel()
	behind := startServer(t)
	s := startServer(t, "COUNTERSIGN_UPSTREAM_URL=http://"+behind.host, "COUNTERSIGN_UPSTREAM_USERNAME=admin", "COUNTERSIGN_UPSTREAM_PASSWORD="+adminPassword)
	oras := newPinned(t, "oras", s)
	for _, at := range []*server{behind, s} {
		oras.must(t, "login", "--username", "admin", "--password", adminPassword, at.host)
	}
	app := behind.host + "/company/app"
	oras.must(t, "push", app+":1.0", oras.file(t, "content.txt", "one")+":text/plain")
	attach := func(to, kind string) string {
		t.Helper()
		return oras.line(t, "attach", "--artifact-type", kind, "--format", "go-template", "--template", "{{.digest}}", app+to, oras.file(t, "note.txt", kind)+":text/plain")
	}
	review := attach(":1.0", "application/vnd.example.review")
	seal := attach("@"+review, "application/vnd.example.seal")
	if said, err := s.cli(t, nil, "adopt", "company/app"); err != nil || said != "company/app  version 1\n" {
		t.Fatalf("adopt: %v\n%s", err, said)
	}
	if found := oras.must(t, "discover", s.host+"/company/app:1.0"); !strings.Contains(found, review) || !strings.Contains(found, seal) {
		t.Errorf("oras finds, want %s and %s:\n%s", review, seal, found)
	}
}
