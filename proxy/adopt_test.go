package proxy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/adopt"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store/signatures"
	"github.com/countersign/countersign/proxy"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
	"github.com/countersign/countersign/storage/upstream"
)

// adoptingWorld is a registry in front of bare distribution whose pulls adopt content of the upstream.
type adoptingWorld struct {
	*world
	upstream string // the URL of the upstream
	adopter  *adopt.Adopter
	// before is called before each adoption by a pull.
	before func()
	// refuses reports the manifests that the upstream refuses to serve.
	refused func(d digest.Digest) bool
	lost    digest.Digest // a blob or manifest that the upstream lost
	// refers returns the referrers of a manifest; nil if the upstream does not list referrers.
	referrers map[digest.Digest][]digest.Digest
}

func newAdopting(t *testing.T, change ...func(*proxy.Options)) *adoptingWorld {
	t.Helper()
	a := &adoptingWorld{before: func() {}, refused: func(digest.Digest) bool { return false }}
	w, b := newUpstreamWorld(t, func(o *proxy.Options) {
		o.Adopt = func(ctx context.Context, caller, name, reference string, absentOnly bool) (bool, error) {
			a.before()
			return a.adopter.Pulled(ctx, caller, name, reference, absentOnly)
		}
		o.ForeignTag = func(ctx context.Context, caller string, repo pulp.Repository, tag string) (digest.Digest, error) {
			return a.adopter.SettleTag(ctx, caller, repo, tag)
		}
		for _, f := range change {
			f(o)
		}
	})
	w.store.Content.EnableOutbox()
	to, err := url.Parse(b.url)
	if err != nil {
		t.Fatal(err)
	}
	through := httputil.NewSingleHostReverseProxy(to)
	gate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, reference, _ := strings.Cut(r.URL.Path, "/manifests/")
		switch {
		case r.Method == http.MethodGet && reference != "" && a.refused(digest.Digest(reference)):
			w.WriteHeader(http.StatusPreconditionFailed) // as Harbor does with vulnerable images
		case a.lost != "" && strings.HasSuffix(r.URL.Path, "/"+string(a.lost)):
			w.WriteHeader(http.StatusNotFound)
		case a.referrers != nil && strings.Contains(r.URL.Path, "/referrers/"):
			_, subject, _ := strings.Cut(r.URL.Path, "/referrers/")
			list := []object{}
			for _, d := range a.referrers[digest.Digest(subject)] {
				list = append(list, object{"digest": d})
			}
			_ = json.NewEncoder(w).Encode(object{"manifests": list})
		default:
			through.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(gate.Close)
	s, err := upstream.New(upstream.Options{URL: gate.URL})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	a.world, a.upstream = w, b.url
	a.adopter = &adopt.Adopter{
		Store: w.store, Upstream: s, Blobs: ingest.Blobs{Storage: s, Foreign: true}, SignOnPush: &signonpush.Runner{Store: w.store, Log: log}, Log: log, Type: pulp.ContainerPush,
	}
	return a
}

// sendUpstream sends a request to the upstream, like another client of the upstream, and checks the status.
func (a *adoptingWorld) sendUpstream(want int, method, at, contentType, body string) *http.Response {
	a.t.Helper()
	r, err := http.NewRequestWithContext(a.t.Context(), method, at, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if said, _ := io.ReadAll(res.Body); res.StatusCode != want {
		a.t.Fatalf("upstream: %s %s: status %s: %s", method, at, res.Status, said)
	}
	return res
}

// pushBlobUpstream pushes a blob to the upstream.
func (a *adoptingWorld) pushBlobUpstream(name, content string) digest.Digest {
	a.t.Helper()
	d := digest.FromString(content)
	at, err := a.sendUpstream(http.StatusAccepted, http.MethodPost, a.upstream+"/v2/"+name+"/blobs/uploads/", "", "").
		Location()
	if err != nil {
		a.t.Fatal(err)
	}
	q := at.Query()
	q.Set("digest", string(d))
	at.RawQuery = q.Encode()
	a.sendUpstream(http.StatusCreated, http.MethodPut, at.String(), "application/octet-stream", content)
	return d
}

type object = map[string]any

// attachUpstream pushes to the upstream, by digest, an artifact whose subject is a manifest.
func (a *adoptingWorld) attachUpstream(name, text string, subject digest.Digest) digest.Digest {
	a.t.Helper()
	part := object{"mediaType": "text/plain", "digest": a.pushBlobUpstream(name, text), "size": len(text)}
	m, err := json.Marshal(object{
		"schemaVersion": 2, "mediaType": pulp.OCIManifest, "artifactType": "application/vnd.example.note", "config": part, "layers": []object{part},
		"subject": object{"mediaType": pulp.OCIManifest, "digest": subject, "size": 1},
	})
	if err != nil {
		a.t.Fatal(err)
	}
	d := digest.FromBytes(m)
	a.sendUpstream(
		http.StatusCreated,
		http.MethodPut,
		a.upstream+"/v2/"+name+"/manifests/"+string(d),
		pulp.OCIManifest,
		string(m),
	)
	return d
}

const layerType = "application/vnd.oci.image.layer.v1.tar"

// pushImageUpstream pushes an image to the upstream, like another client of it. layerType is the media type of its
// layer.
func (a *adoptingWorld) pushImageUpstream(name, text, tag, layerType string) digest.Digest {
	a.t.Helper()
	config, layer := `{"architecture":"amd64","os":"linux"}`, "layer "+text
	m := fmt.Sprintf(
		`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		pulp.OCIManifest,
		a.pushBlobUpstream(name, config),
		len(config),
		layerType,
		a.pushBlobUpstream(name, layer),
		len(layer),
	)
	a.sendUpstream(http.StatusCreated, http.MethodPut, a.upstream+"/v2/"+name+"/manifests/"+tag, pulp.OCIManifest, m)
	return digest.FromString(m)
}

func (a *adoptingWorld) repository(name string) pulp.Repository {
	a.t.Helper()
	r, err := a.store.Catalog.RepositoryByName(a.t.Context(), name)
	if err != nil {
		a.t.Fatal(err)
	}
	return r
}

// TestConcurrentPullsAdopt checks that a pull succeeds if another pull adopts the image after the first look-up.
func TestConcurrentPullsAdopt(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	var asked atomic.Int64
	first, goOn := make(chan struct{}), make(chan struct{})
	a.before = func() {
		if asked.Add(1) == 1 {
			close(first)
			<-goOn
		}
	}
	a.pushImageUpstream("company/app", "one", "v1", layerType)
	late := make(chan int, 1)
	go func() { late <- a.send(request{as: "admin", path: "/v2/company/app/manifests/v1"}).status }()
	<-first
	a.expect(request{as: "admin", path: "/v2/company/app/manifests/v1"}, http.StatusOK)
	close(goOn)
	if status := <-late; status != http.StatusOK {
		t.Errorf("the first of two pulls: status %d", status)
	}
}

// TestPullsAdoptPastADistributionWithTheirName checks that a distribution whose name is a path but that serves
// another path does not prevent adoption under the path.
func TestPullsAdoptPastADistributionWithTheirName(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	a.pushImageUpstream("company/app", "one", "v1", layerType)
	if _, err := a.store.Catalog.CreateDistribution(t.Context(), nil, pulp.Distribution{Name: "company/app", BasePath: "company/elsewhere"}, 0); err != nil {
		t.Fatal(err)
	}
	a.expect(request{as: "admin", path: "/v2/company/app/manifests/v1"}, http.StatusOK)
	if r := a.repository("company/app"); r.LatestVersion == 0 {
		t.Error("nothing was adopted into the repository of that name")
	}
}

// TestStrangersAdoptNothingIntoPrivateRepositories checks that a pull by a caller without permission to read a
// private repository does not change it, even if adopted repositories are public, and that the caller cannot
// distinguish the repository from an absent one. The caller uses its path or its name.
func TestStrangersAdoptNothingIntoPrivateRepositories(t *testing.T) {
	t.Parallel()
	a := newAdopting(t, func(o *proxy.Options) { o.AdoptPublic = true })
	a.adopter.Public = true
	for _, name := range []string{"acme/secret", "acme/moved"} {
		a.pushImageUpstream(name, "one", "v1", layerType)
		a.expect(request{as: "acme", path: "/v2/" + name + "/manifests/v1"}, http.StatusOK)
		a.setPrivate(name)
	}
	// The repository acme/moved is served only under another path.
	moved, err := a.store.Serving.Resolve(t.Context(), "acme/moved")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.store.Catalog.EditDistribution(t.Context(), nil, moved.Distribution.ID, 0, func(d *pulp.Distribution) { d.BasePath = "acme/elsewhere" }); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"acme/secret", "acme/moved", "acme/open"} {
		a.pushImageUpstream(name, "two", "v2", layerType)
	}
	for _, name := range []string{"acme/secret", "acme/moved"} {
		before := a.repository(name).LatestVersion
		for _, caller := range []string{"", "carol"} {
			a.expectError(
				request{as: caller, path: "/v2/" + name + "/manifests/v2"},
				http.StatusUnauthorized,
				"UNAUTHORIZED",
			)
			queries := func(name string) int64 {
				reads := a.store.DB.Reads()
				a.expectError(
					request{as: caller, path: "/v2/" + name + "/manifests/v1-" + caller},
					http.StatusUnauthorized,
					"UNAUTHORIZED",
				)
				return a.store.DB.Reads() - reads
			}
			if there, absent := queries(name), queries("acme/absent"+caller+name[5:]); there != absent {
				t.Errorf("%s as %q: %d queries, %d for an absent name", name, caller, there, absent)
			}
		}
		if after := a.repository(name).LatestVersion; after != before {
			t.Errorf("unauthorized pulls created version %d of %s", after, name)
		}
	}
	a.expect(request{as: "acme", path: "/v2/acme/secret/manifests/v2"}, http.StatusOK)
	a.expect(request{path: "/v2/acme/open/manifests/v2"}, http.StatusOK)
}

// TestPullsUnderOtherPathsAdopt checks that a pull under any path of a repository adopts from the upstream repository
// of the repository's name, except under the path of a pinned version.
func TestPullsUnderOtherPathsAdopt(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	a.pushImageUpstream("company/app", "one", "v1", layerType)
	a.expect(request{as: "admin", path: "/v2/company/app/manifests/v1"}, http.StatusOK)
	repo := a.repository("company/app")
	v, err := a.store.Content.Version(t.Context(), repo.ID, repo.LatestVersion)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []pulp.Distribution{
		{Name: "other", BasePath: "other", RepositoryID: repo.ID},
		{Name: "pinned", BasePath: "pinned", Pinned: &pulp.PinnedVersion{VersionID: v.ID, RepositoryID: repo.ID, Number: v.Number}},
	} {
		if _, err := a.store.Catalog.CreateDistribution(t.Context(), nil, d, 0); err != nil {
			t.Fatal(err)
		}
	}
	a.pushImageUpstream("company/app", "two", "v2", layerType)
	a.expectError(request{as: "admin", path: "/v2/pinned/manifests/v2"}, http.StatusNotFound, "MANIFEST_UNKNOWN")
	if now := a.repository("company/app"); now.LatestVersion != repo.LatestVersion {
		t.Errorf("a pull of a pinned version created version %d", now.LatestVersion)
	}
	a.expect(request{as: "admin", path: "/v2/other/manifests/v2"}, http.StatusOK)
	a.expect(request{as: "admin", path: "/v2/company/app/manifests/v2"}, http.StatusOK)
	a.expectError(request{as: "admin", path: "/v2/other/manifests/v3"}, http.StatusNotFound, "MANIFEST_UNKNOWN")
}

// TestForeignLayersAreAdopted checks that a foreign layer is adopted if the upstream has it, and that its image is
// adopted even if it does not.
func TestForeignLayersAreAdopted(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	const foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar"
	a.pushImageUpstream("company/windows", "base", "v1", foreign)
	a.expect(request{as: "admin", path: "/v2/company/windows/manifests/v1"}, http.StatusOK)
	blob := "/blobs/" + string(digest.FromString("layer base"))
	if got := a.expect(request{as: "admin", path: "/v2/company/windows" + blob}, http.StatusOK); got.body != "layer base" {
		t.Errorf("the layer is %q", got.body)
	}

	a.lost = digest.FromString("layer base")
	a.pushImageUpstream("company/other", "base", "v1", foreign)
	a.expect(request{as: "admin", path: "/v2/company/other/manifests/v1"}, http.StatusOK)
	a.expectError(request{as: "admin", path: "/v2/company/other" + blob}, http.StatusNotFound, "BLOB_UNKNOWN")
}

// refusingSigner signs every manifest but one.
type refusingSigner struct {
	t       *testing.T
	key     *signtest.Key
	refuses digest.Digest
}

// Sign implements signing.Signer.
func (s *refusingSigner) Sign(_ context.Context, r signing.Request) ([]byte, error) {
	if r.Claim.ManifestDigest == s.refuses {
		return nil, fault.New(fault.Invalid, "It is not to be signed.")
	}
	return s.key.Sign(s.t, r.Claim, time.Now()), nil
}

// TestUnsignableImageStopsNoOthers checks that an image that cannot be signed does not prevent the adoption of others
// into a repository that signs on push.
func TestUnsignableImageStopsNoOthers(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	signer := &refusingSigner{t: t, key: signtest.NewKey(t, time.Now().Add(-time.Hour), 0)}
	if _, err := a.store.Signatures.AddSigningService(t.Context(), pulp.SigningService{
		Name: "svc", Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript, Fingerprint: signer.key.Public.Fingerprint(), PublicKey: signer.key.Armor,
	}); err != nil {
		t.Fatal(err)
	}
	a.store.Signatures.SetPushPolicy(
		signatures.PushPolicy{Host: publicHost, Service: func(string) string { return "svc" }},
	)
	quiet := slog.New(slog.DiscardHandler)
	a.adopter.SignOnPush = &signonpush.Runner{
		Store:   a.store,
		Log:     quiet,
		Timeout: time.Minute,
		Signer: &signservice.Signer{
			Store: a.store, Parallel: 2,
			SignerFor: func(pulp.SigningService) (signing.Signer, error) { return signer, nil }, Usable: func(pulp.SigningService) bool { return true },
		},
	}
	const good = 5
	for i := range good {
		a.pushImageUpstream("company/app", fmt.Sprint("good", i), fmt.Sprint("good", i), layerType)
	}
	signer.refuses = a.pushImageUpstream("company/app", "bad", "bad", layerType)
	found, err := a.adopter.Repository(t.Context(), signservice.Caller{User: "alice"}, "company/app")
	if err != nil || found.Version == nil || found.Version.Counts[pulp.KindTag].Present != good ||
		found.Version.Counts[pulp.KindSignature].Present != good ||
		found.Refused != "" {
		t.Fatalf("adoption: version %+v, error %v, refused %q", found.Version, err, found.Refused)
	}
	if len(found.Drift) != 1 || found.Drift[0].Name != "bad" ||
		!strings.Contains(found.Drift[0].Note, "It is not to be signed.") {
		t.Errorf("reported differences: %+v", found.Drift)
	}
	a.expectError(
		request{as: "admin", path: "/v2/company/app/manifests/bad"},
		http.StatusServiceUnavailable,
		"UNAVAILABLE",
	)

	again, err := a.adopter.Repository(t.Context(), signservice.Caller{User: "alice"}, "company/app")
	if err != nil || again.Version != nil || len(again.Fresh) != 0 ||
		!strings.Contains(again.Refused, "It is not to be signed.") {
		t.Errorf(
			"next adoption: version %+v, error %v, new differences %v, refused %q",
			again.Version,
			err,
			again.Fresh,
			again.Refused,
		)
	}
}

// TestReferrersAreAdopted checks that the referrers of an image, and their referrers, are adopted with it if the
// upstream lists them. Invalid referrers and endless lists do not prevent that.
func TestReferrersAreAdopted(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	app := a.pushImageUpstream("company/app", "one", "v1", layerType)
	review := a.attachUpstream("company/app", "review", app)
	seal := a.attachUpstream("company/app", "seal", review)
	a.referrers = map[digest.Digest][]digest.Digest{
		app:    {digest.FromString("gone"), review},
		review: {seal},
		seal:   {app, review},
	}
	a.expect(request{as: "admin", path: "/v2/company/app/manifests/v1"}, http.StatusOK)
	for subject, referrer := range map[digest.Digest]digest.Digest{app: review, review: seal} {
		if list := a.expect(request{as: "admin", path: "/v2/company/app/referrers/" + string(subject)}, http.StatusOK); strings.Count(
			list.body,
			"sha256:",
		) != 1 ||
			!strings.Contains(list.body, string(referrer)) {
			t.Errorf("to %s refers %s, want %s", subject, list.body, referrer)
		}
	}
	// A referrer that was deleted here is not adopted with another image.
	a.expect(
		request{as: "admin", method: http.MethodDelete, path: "/v2/company/app/manifests/" + string(review)},
		http.StatusAccepted,
	)
	a.referrers[a.pushImageUpstream("company/app", "two", "v2", layerType)] = []digest.Digest{review}
	if found, err := a.adopter.Repository(t.Context(), signservice.Caller{User: "alice"}, "company/app"); err != nil ||
		found.Version == nil ||
		found.Version.Counts[pulp.KindManifest].Added != 1 {
		t.Errorf("next adoption: version %+v, error %v", found.Version, err)
	}
}
