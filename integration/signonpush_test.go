package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/signing"
)

// signOnPush starts a server that signs pushes to prod/ with a key in the process. It returns the server, the key and
// its file.
func signOnPush(t *testing.T, env ...string) (s *server, k *key, file string) {
	t.Helper()
	s = startServer(t, append([]string{"COUNTERSIGN_SIGNING_ON_PUSH=prod/*=release"}, env...)...)
	k = keyHome(t)
	k.generate(t, "ed25519", "")
	file = k.secret(t, "")
	s.addKeyService(t, "release", k, "--openpgp-key", file)
	return s, k, file
}

// seenSigned fetches a tag like a client whose policy requires a signature, and returns what is wrong with it, or an
// empty string.
func (s *server) seenSigned(t *testing.T, public signing.PublicKey, repository, tag string) string {
	accept := http.Header{"Accept": {ociManifest}}
	status, header, _, err := s.try(t, http.MethodGet, "/v2/"+repository+"/manifests/"+tag, accept, nil)
	if err != nil || status != http.StatusOK {
		return "" // the tag does not exist yet
	}
	digest := header.Get("Docker-Content-Digest")
	status, _, body, err := s.try(t, http.MethodGet, "/extensions/v2/"+repository+"/signatures/"+digest, nil, nil)
	if err != nil || status != http.StatusOK {
		return fmt.Sprintf("signatures of %s: %d %s %v", digest, status, body, err)
	}
	var served struct{ Signatures []struct{ Content []byte } }
	if err := json.Unmarshal(body, &served); err != nil {
		return err.Error()
	}
	for _, g := range served.Signatures {
		v, err := signing.Verify(g.Content, public, time.Now())
		if err == nil && string(v.Claim().ManifestDigest) == digest && v.Claim().DockerReference == s.host+"/"+repository+":"+tag {
			return ""
		}
	}
	return fmt.Sprintf("%s:%s was seen as %s with none of %d signatures for it", repository, tag, digest, len(served.Signatures))
}

// TestScaleNoTagIsSeenUnsigned pushes 500 images, or 2,000 in the long form, some of them to one tag. Meanwhile
// seenSigned and skopeo pull under a policy in a loop.
func TestScaleNoTagIsSeenUnsigned(t *testing.T) {
	s, k, _ := signOnPush(t)
	armored, err := os.ReadFile(k.public)
	if err != nil {
		t.Fatal(err)
	}
	public, err := signing.ParsePublicKey(string(armored))
	if err != nil {
		t.Fatal(err)
	}
	const clients = 20
	each := 25
	if soaking() {
		each = 100
	}
	var pushing, checking sync.WaitGroup
	var newest [clients]atomic.Int64
	var checks, pulls atomic.Int64
	stop := make(chan struct{})
	running := func() bool {
		select {
		case <-stop:
			return false
		default:
			return true
		}
	}
	if _, err := s.pushTiny(t, "prod/app", "moving", "first"); err != nil {
		t.Fatal(err)
	}
	for checker := range 3 {
		checking.Go(func() {
			for n := 0; running(); n++ {
				tag := "moving"
				if client := (n + checker) % clients; n%2 == 0 { // the tag that is being pushed
					tag = fmt.Sprintf("c%d-n%d", client, newest[client].Load())
				}
				if wrong := s.seenSigned(t, public, "prod/app", tag); wrong != "" {
					t.Error(wrong)
					return
				}
				checks.Add(1)
				time.Sleep(time.Millisecond)
			}
		})
	}
	admin := asAdmin(t, s)
	policy := admin.signedBy(t, k)
	checking.Go(func() {
		for running() {
			if said, err := admin.pull(t, policy, "prod/app:moving"); err != nil {
				t.Errorf("skopeo under policy: %v\n%s", err, said)
				return
			}
			pulls.Add(1)
		}
	})
	for client := range clients {
		pushing.Go(func() {
			for n := range each {
				newest[client].Store(int64(n))
				tag := fmt.Sprintf("c%d-n%d", client, n)
				if n%10 == 0 {
					tag = "moving"
				}
				if _, err := s.pushTiny(t, "prod/app", tag, fmt.Sprintf("c%d-n%d", client, n)); err != nil {
					t.Errorf("push of %s: %v", tag, err)
					return
				}
			}
		})
	}
	pushing.Wait()
	close(stop)
	checking.Wait()
	if checks.Load() < 100 || pulls.Load() < 3 {
		t.Errorf("only %d checks and %d pulls beside the pushes", checks.Load(), pulls.Load())
	}
	latest := s.versionsAreComplete(t, text(s.repository(t, "prod/app")["pulp_href"]))
	if have, want := count(latest, "present", "container.tag"), clients*(each-(each+9)/10)+1; have != want {
		t.Errorf("%d tags, want %d", have, want)
	}
	t.Logf("%d pushes, %d checks and %d pulls with skopeo beside them", clients*each, checks.Load(), pulls.Load())
}

// TestSignedPushesWithRealClients pushes with podman, skopeo and docker to a repository that signs on push. podman and
// skopeo can pull the images under a policy at once, for each architecture of a list too.
func TestSignedPushesWithRealClients(t *testing.T) {
	t.Parallel()
	s, k, _ := signOnPush(t)
	admin := asAdmin(t, s)
	policy := admin.signedBy(t, k)
	layout := ociLayout(t, image(t, "amd64", "sealed"))
	admin.push(t, layout, "prod/skopeo:1.0")
	admin.pulls(t, policy, "prod/skopeo:1.0", true)
	admin.podmanPush(t, layout, "prod/podman:1.0")
	admin.pulls(t, policy, "prod/podman:1.0", true)
	admin.push(t, ociLayout(t, index(t, "sealed", "amd64", "arm64")), "prod/multi:1.0")
	for _, architecture := range []string{"amd64", "arm64"} {
		if said, err := admin.pull(t, policy, "prod/multi:1.0", "--override-arch", architecture); err != nil {
			t.Errorf("%s of a list: %v\n%s", architecture, err, said)
		}
	}
	admin.push(t, layout, "dev/app:1.0")
	admin.pulls(t, policy, "dev/app:1.0", false)

	// sign_on_push of a repository requires a signing service.
	repository := text(s.repository(t, "dev/app")["pulp_href"])
	s.call(t, http.MethodPatch, repository, object{"sign_on_push": true}, http.StatusBadRequest, nil)
	service := text(s.list(t, signingServices+"?name=release").Results[0]["pulp_href"])
	var task struct{ Task string }
	s.call(t, http.MethodPatch, repository, object{"sign_on_push": true, "manifest_signing_service": service}, http.StatusAccepted, &task)
	if ended := s.finished(t, task.Task); ended["state"] != "completed" {
		t.Fatalf("the change: %v", ended)
	}
	admin.push(t, layout, "dev/app:2.0")
	admin.pulls(t, policy, "dev/app:2.0", true)
	admin.pulls(t, policy, "dev/app:1.0", false) // existing images need a sign task
}

// TestAPushThatIsNotSignedIsRefused pushes while the key is missing.
func TestAPushThatIsNotSignedIsRefused(t *testing.T) {
	t.Parallel()
	for _, failure := range []string{"refuse", "accept"} {
		s, k, secret := signOnPush(t, "COUNTERSIGN_SIGNING_ON_PUSH_FAILURE="+failure, "COUNTERSIGN_SIGNING_ON_PUSH_TIMEOUT=1s")
		if _, err := s.pushTiny(t, "prod/app", "1.0", "one"); err != nil {
			t.Fatal(err)
		}
		away := filepath.Join(t.TempDir(), "away")
		if err := os.Rename(secret, away); err != nil {
			t.Fatal(err)
		}
		_, err := s.pushTiny(t, "prod/app", "1.0", "two")
		if failure == "refuse" {
			if err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "release") {
				t.Errorf("a push that cannot be signed: %v", err)
			}
			one := describe("", []byte("one")).Digest
			if _, _, body := s.do(t, http.MethodGet, "/v2/prod/app/manifests/1.0", http.Header{"Accept": {ociManifest}}, nil); !strings.Contains(string(body), one) {
				t.Errorf("the tag was moved: %s", body)
			}
			if err := os.Rename(away, secret); err != nil {
				t.Fatal(err)
			}
			if _, err := s.pushTiny(t, "prod/app", "1.0", "two"); err != nil {
				t.Errorf("with the key back: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("a push that may be signed later: %v", err)
		}
		if err := os.Rename(away, secret); err != nil {
			t.Fatal(err)
		}
		admin := asAdmin(t, s)
		policy := admin.signedBy(t, k)
		eventually.NoError(t, process.Patience, func() error {
			_, err := admin.pull(t, policy, "prod/app:1.0")
			return err
		}, "a task signs the image later")
	}
}
