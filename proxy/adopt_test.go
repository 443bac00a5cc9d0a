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
	"slices"
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
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/signatures"
	"github.com/countersign/countersign/proxy"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
	"github.com/countersign/countersign/storage/upstream"
)

// adopting is a registry whose pulls adopt what bare distribution has, and which compares itself with that.
type adopting struct {
	*world
	upstream string // its URL, for those who use it directly
	adopter  *adopt.Adopter
	// before runs before each adoption by a pull.
	before func()
	// refuses says which manifests the upstream has and does not give.
	refuses func(d digest.Digest) bool
	loses   digest.Digest // a blob or manifest that it has not
	// refers is what the upstream says refers to manifests; nil: it does not list that.
	refers map[digest.Digest][]digest.Digest
}

func newAdopting(t *testing.T, change ...func(*proxy.Options)) *adopting {
	t.Helper()
	a := &adopting{before: func() {}, refuses: func(digest.Digest) bool { return false }}
	w, b := newFront(t, func(o *proxy.Options) {
		o.Adopt = func(ctx context.Context, who, name, reference string, absentOnly bool) (bool, error) {
			a.before()
			return a.adopter.Pulled(ctx, who, name, reference, absentOnly)
		}
		o.UpstreamTag = func(ctx context.Context, who string, repo pulp.Repository, tag string) (digest.Digest, error) {
			return a.adopter.Current(ctx, who, repo, tag)
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
		case r.Method == http.MethodGet && reference != "" && a.refuses(digest.Digest(reference)):
			w.WriteHeader(http.StatusPreconditionFailed) // as Harbor does with vulnerable images
		case a.loses != "" && strings.HasSuffix(r.URL.Path, "/"+string(a.loses)):
			w.WriteHeader(http.StatusNotFound)
		case a.refers != nil && strings.Contains(r.URL.Path, "/referrers/"):
			_, subject, _ := strings.Cut(r.URL.Path, "/referrers/")
			list := []object{}
			for _, d := range a.refers[digest.Digest(subject)] {
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

// direct sends a request to the upstream, as others do who use it too, and demands a status.
func (a *adopting) direct(want int, method, at, contentType, body string) *http.Response {
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
		a.t.Fatalf("the upstream answers %s %s with %s: %s", method, at, res.Status, said)
	}
	return res
}

func (a *adopting) pushDirectly(name, content string) digest.Digest {
	a.t.Helper()
	d := digest.FromString(content)
	at, err := a.direct(http.StatusAccepted, http.MethodPost, a.upstream+"/v2/"+name+"/blobs/uploads/", "", "").
		Location()
	if err != nil {
		a.t.Fatal(err)
	}
	q := at.Query()
	q.Set("digest", string(d))
	at.RawQuery = q.Encode()
	a.direct(http.StatusCreated, http.MethodPut, at.String(), "application/octet-stream", content)
	return d
}

type object = map[string]any

// attachDirectly pushes to the upstream, by its digest, an artifact that refers to a manifest.
func (a *adopting) attachDirectly(name, text string, subject digest.Digest) digest.Digest {
	a.t.Helper()
	part := object{"mediaType": "text/plain", "digest": a.pushDirectly(name, text), "size": len(text)}
	m, err := json.Marshal(object{
		"schemaVersion": 2, "mediaType": pulp.OCIManifest, "artifactType": "application/vnd.example.note", "config": part, "layers": []object{part},
		"subject": object{"mediaType": pulp.OCIManifest, "digest": subject, "size": 1},
	})
	if err != nil {
		a.t.Fatal(err)
	}
	d := digest.FromBytes(m)
	a.direct(
		http.StatusCreated,
		http.MethodPut,
		a.upstream+"/v2/"+name+"/manifests/"+string(d),
		pulp.OCIManifest,
		string(m),
	)
	return d
}

const layerType = "application/vnd.oci.image.layer.v1.tar"

// imageDirectly pushes an image to the upstream as somebody else, with a layer of a media type.
func (a *adopting) imageDirectly(name, text, tag, layerType string) digest.Digest {
	a.t.Helper()
	config, layer := `{"architecture":"amd64","os":"linux"}`, "layer "+text
	m := fmt.Sprintf(
		`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		pulp.OCIManifest,
		a.pushDirectly(name, config),
		len(config),
		layerType,
		a.pushDirectly(name, layer),
		len(layer),
	)
	a.direct(http.StatusCreated, http.MethodPut, a.upstream+"/v2/"+name+"/manifests/"+tag, pulp.OCIManifest, m)
	return digest.FromString(m)
}

func (a *adopting) repository(name string) pulp.Repository {
	a.t.Helper()
	r, err := a.store.Catalog.RepositoryByName(a.t.Context(), name)
	if err != nil {
		a.t.Fatal(err)
	}
	return r
}

// Who did not find an image, and comes to adopt it after somebody else's pull has, finds it.
func TestLatePullFindsWhatAnotherAdopted(t *testing.T) {
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
	a.imageDirectly("company/app", "one", "v1", layerType)
	late := make(chan int, 1)
	go func() { late <- a.send(request{as: "admin", path: "/v2/company/app/manifests/v1"}).status }()
	<-first
	a.expect(request{as: "admin", path: "/v2/company/app/manifests/v1"}, http.StatusOK)
	close(goOn)
	if status := <-late; status != http.StatusOK {
		t.Errorf("who asked first and came second is answered %d", status)
	}
}

// TestPullsAdoptPastADistributionWithTheirName proves that a distribution which has a path as its name, and serves
// another, keeps nobody from adopting under the path.
func TestPullsAdoptPastADistributionWithTheirName(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	a.imageDirectly("company/app", "one", "v1", layerType)
	if _, err := a.store.Catalog.CreateDistribution(t.Context(), nil, pulp.Distribution{Name: "company/app", BasePath: "company/elsewhere"}); err != nil {
		t.Fatal(err)
	}
	a.expect(request{as: "admin", path: "/v2/company/app/manifests/v1"}, http.StatusOK)
	if r := a.repository("company/app"); r.LatestVersion == 0 {
		t.Error("nothing was adopted into the repository of that name")
	}
}

// TestStrangersAdoptNothingIntoPrivateRepositories proves that, where adopted repositories are public, a pull by a
// caller who may not read a private repository changes nothing in it, whether the caller names its path or only its
// name, and that the caller cannot tell it from an absent one.
func TestStrangersAdoptNothingIntoPrivateRepositories(t *testing.T) {
	t.Parallel()
	a := newAdopting(t, func(o *proxy.Options) { o.AdoptPublic = true })
	a.adopter.Public = true
	for _, name := range []string{"acme/secret", "acme/moved"} {
		a.imageDirectly(name, "one", "v1", layerType)
		a.expect(request{as: "acme", path: "/v2/" + name + "/manifests/v1"}, http.StatusOK)
		a.private(name)
	}
	// The repository acme/moved is served under another path, and its name is no path.
	moved, err := a.store.Serving.Resolve(t.Context(), "acme/moved")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.store.Catalog.EditDistribution(t.Context(), nil, moved.Distribution.ID, func(d *pulp.Distribution) { d.BasePath = "acme/elsewhere" }); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"acme/secret", "acme/moved", "acme/open"} {
		a.imageDirectly(name, "two", "v2", layerType)
	}
	for _, name := range []string{"acme/secret", "acme/moved"} {
		before := a.repository(name).LatestVersion
		for _, who := range []string{"", "carol"} {
			a.expectError(
				request{as: who, path: "/v2/" + name + "/manifests/v2"},
				http.StatusUnauthorized,
				"UNAUTHORIZED",
			)
			queries := func(name string) int64 {
				reads := a.store.DB.Reads()
				a.expectError(
					request{as: who, path: "/v2/" + name + "/manifests/v1-" + who},
					http.StatusUnauthorized,
					"UNAUTHORIZED",
				)
				return a.store.DB.Reads() - reads
			}
			if there, absent := queries(name), queries("acme/absent"+who+name[5:]); there != absent {
				t.Errorf("%s as %q: %d queries, %d for an absent name", name, who, there, absent)
			}
		}
		if after := a.repository(name).LatestVersion; after != before {
			t.Errorf("strangers' pulls made version %d of %s", after, name)
		}
	}
	a.expect(request{as: "acme", path: "/v2/acme/secret/manifests/v2"}, http.StatusOK)
	a.expect(request{path: "/v2/acme/open/manifests/v2"}, http.StatusOK)
}

// A pull under any path that serves a repository adopts into it what the upstream has under the repository's name;
// one of a pinned version does not.
func TestPullsUnderOtherPathsAdopt(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	a.imageDirectly("company/app", "one", "v1", layerType)
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
		if _, err := a.store.Catalog.CreateDistribution(t.Context(), nil, d); err != nil {
			t.Fatal(err)
		}
	}
	a.imageDirectly("company/app", "two", "v2", layerType)
	a.expectError(request{as: "admin", path: "/v2/pinned/manifests/v2"}, http.StatusNotFound, "MANIFEST_UNKNOWN")
	if now := a.repository("company/app"); now.LatestVersion != repo.LatestVersion {
		t.Errorf("a pull of a pinned version made version %d", now.LatestVersion)
	}
	a.expect(request{as: "admin", path: "/v2/other/manifests/v2"}, http.StatusOK)
	a.expect(request{as: "admin", path: "/v2/company/app/manifests/v2"}, http.StatusOK)
	a.expectError(request{as: "admin", path: "/v2/other/manifests/v3"}, http.StatusNotFound, "MANIFEST_UNKNOWN")
}

// A layer that lies elsewhere is adopted when the upstream has it all the same, and is no reason against its image
// when it has not.
func TestForeignLayersAreAdopted(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	const foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar"
	a.imageDirectly("company/windows", "base", "v1", foreign)
	a.expect(request{as: "admin", path: "/v2/company/windows/manifests/v1"}, http.StatusOK)
	blob := "/blobs/" + string(digest.FromString("layer base"))
	if got := a.expect(request{as: "admin", path: "/v2/company/windows" + blob}, http.StatusOK); got.body != "layer base" {
		t.Errorf("the layer is %q", got.body)
	}

	a.loses = digest.FromString("layer base")
	a.imageDirectly("company/other", "base", "v1", foreign)
	a.expect(request{as: "admin", path: "/v2/company/other/manifests/v1"}, http.StatusOK)
	a.expectError(request{as: "admin", path: "/v2/company/other" + blob}, http.StatusNotFound, "BLOB_UNKNOWN")
}

// refuser signs everything but one manifest.
type refuser struct {
	t       *testing.T
	key     *signtest.Key
	refuses digest.Digest
}

// Sign implements signing.Signer.
func (s *refuser) Sign(_ context.Context, r signing.Request) ([]byte, error) {
	if r.Claim.ManifestDigest == s.refuses {
		return nil, fault.New(fault.Invalid, "It is not to be signed.")
	}
	return s.key.Sign(s.t, r.Claim, time.Now()), nil
}

// Where a repository signs on push, an image that cannot be signed keeps no other from being adopted.
func TestUnsignableImageStopsNoOthers(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	signer := &refuser{t: t, key: signtest.NewKey(t, time.Now().Add(-time.Hour), 0)}
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
			Store: a.store, Log: quiet, Parallel: 2,
			SignerFor: func(pulp.SigningService) (signing.Signer, error) { return signer, nil }, Usable: func(pulp.SigningService) bool { return true },
		},
	}
	const good = 5
	for i := range good {
		a.imageDirectly("company/app", fmt.Sprint("good", i), fmt.Sprint("good", i), layerType)
	}
	signer.refuses = a.imageDirectly("company/app", "bad", "bad", layerType)
	found, err := a.adopter.Repository(t.Context(), signservice.Caller{User: "alice"}, "company/app")
	if err != nil || found.Version == nil || found.Version.Counts[pulp.KindTag].Present != good ||
		found.Version.Counts[pulp.KindSignature].Present != good ||
		found.Refused != "" {
		t.Fatalf("the adoption made %+v, %v, and refuses all for %q", found.Version, err, found.Refused)
	}
	if len(found.Drift) != 1 || found.Drift[0].Name != "bad" ||
		!strings.Contains(found.Drift[0].Note, "It is not to be signed.") {
		t.Errorf("it tells of %+v", found.Drift)
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
			"the next adoption made %+v, %v, tells anew of %v, and refuses all for %q",
			again.Version,
			err,
			again.Fresh,
			again.Refused,
		)
	}
}

// What refers to an image is adopted with it, and what refers to that, where the upstream lists them. What is wrong
// with it, and lists without an end, keep nothing out.
func TestReferrersAreAdopted(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	app := a.imageDirectly("company/app", "one", "v1", layerType)
	review := a.attachDirectly("company/app", "review", app)
	seal := a.attachDirectly("company/app", "seal", review)
	a.refers = map[digest.Digest][]digest.Digest{
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
	// One that was deleted here does not come with another image.
	a.expect(
		request{as: "admin", method: http.MethodDelete, path: "/v2/company/app/manifests/" + string(review)},
		http.StatusAccepted,
	)
	a.refers[a.imageDirectly("company/app", "two", "v2", layerType)] = []digest.Digest{review}
	if found, err := a.adopter.Repository(t.Context(), signservice.Caller{User: "alice"}, "company/app"); err != nil ||
		found.Version == nil ||
		found.Version.Counts[pulp.KindManifest].Added != 1 {
		t.Errorf("the next adoption made %+v, %v", found.Version, err)
	}
}

// What somebody else has pushed to the upstream counts for a push that demands what a tag stands for, whether a
// comparison has seen it or not.
func TestConditionsInFrontOfAnUpstream(t *testing.T) {
	t.Parallel()
	for name, follow := range map[string]bool{"followed": true, "not followed": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAdopting(t)
			a.adopter.Follow = follow
			image := a.imageOf("company/app", "ours")
			ours := digest.FromString(image)
			put := func(status int, tag string, header ...string) {
				t.Helper()
				code := ""
				if status == http.StatusPreconditionFailed {
					code = "PRECONDITION_FAILED"
				}
				a.expectError(
					request{
						as:      "admin",
						method:  http.MethodPut,
						path:    "/v2/company/app/manifests/" + tag,
						body:    image,
						headers: append([]string{"Content-Type", pulp.OCIManifest}, header...),
					},
					status,
					code,
				)
			}
			theirs := a.imageDirectly("company/app", "theirs", "v1", layerType)
			put(http.StatusPreconditionFailed, "v1", "If-None-Match", "*")
			put(http.StatusPreconditionFailed, string(ours)+"?tag=new&tag=v1", "If-None-Match", "*")
			put(http.StatusPreconditionFailed, "v1", "If-Match", `"`+string(ours)+`"`)
			a.expectError(
				request{
					as:      "admin",
					method:  http.MethodDelete,
					path:    "/v2/company/app/manifests/v1",
					headers: []string{"If-Match", `"` + string(ours) + `"`},
				},
				http.StatusPreconditionFailed,
				"PRECONDITION_FAILED",
			)
			status := http.StatusPreconditionFailed // here it stands for something else
			if follow {
				status = http.StatusCreated
			}
			put(status, "v1", "If-Match", `"`+string(theirs)+`"`)
			put(http.StatusCreated, "v1") // who demands nothing writes over it
			put(http.StatusPreconditionFailed, "v1", "If-None-Match", "*")
			put(http.StatusCreated, "new", "If-None-Match", "*")

			// What cannot be adopted is there all the same.
			refused := a.imageDirectly("company/app", "refused", "v2", layerType)
			a.refuses = func(d digest.Digest) bool { return d == refused }
			put(http.StatusPreconditionFailed, "v2", "If-None-Match", "*")
			// A hidden tag is nobody's to demand anything of.
			hidden := pulp.PinTag(theirs)
			a.imageDirectly("company/app", "theirs", hidden, layerType)
			for _, demand := range []string{`"sha256:1234"`, "*"} {
				a.expectError(
					request{
						as:      "admin",
						method:  http.MethodDelete,
						path:    "/v2/company/app/manifests/" + hidden,
						headers: []string{"If-Match", demand},
					},
					http.StatusNotFound,
					"MANIFEST_UNKNOWN",
				)
			}
			if list := a.expect(request{as: "admin", path: "/v2/company/app/tags/list"}, http.StatusOK); strings.Contains(
				list.body,
				hidden,
			) {
				t.Errorf("the tags: %s", list.body)
			}
		})
	}
}

// What refers to an image of a list that cannot be adopted does not come alone.
func TestNoReferrerComesAlone(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	byDigest := func(text string) digest.Digest {
		return a.imageDirectly(
			"company/app",
			text,
			string(a.imageDirectly("elsewhere", text, text, layerType)),
			layerType,
		)
	}
	good, bad := byDigest("good"), byDigest("bad")
	a.refers = map[digest.Digest][]digest.Digest{good: {a.attachDirectly("company/app", "review", good)}}
	list, err := json.Marshal(object{"schemaVersion": 2, "mediaType": pulp.OCIIndex, "manifests": []object{
		{
			"mediaType": pulp.OCIManifest,
			"digest":    good,
			"size":      1,
		}, {"mediaType": pulp.OCIManifest, "digest": bad, "size": 1},
	}})
	if err != nil {
		t.Fatal(err)
	}
	a.direct(
		http.StatusCreated,
		http.MethodPut,
		a.upstream+"/v2/company/app/manifests/list",
		pulp.OCIIndex,
		string(list),
	)
	a.loses = digest.FromString("layer bad")
	found, err := a.adopter.Repository(t.Context(), signservice.Caller{User: "alice"}, "company/app")
	if err != nil || found.Version != nil || len(found.Drift) != 1 {
		t.Errorf("the adoption made %+v, %v, and tells of %+v", found.Version, err, found.Drift)
	}
	a.loses = ""
	found, err = a.adopter.Repository(t.Context(), signservice.Caller{User: "alice"}, "company/app")
	if err != nil || found.Version == nil || found.Version.Counts[pulp.KindManifest].Added != 4 {
		t.Errorf("when it is whole, %+v, %v", found.Version, err)
	}
}

// A deep look tells of what the upstream has lost. Of what was copied by its digest alone it has not the manifest
// under the other name, and the blobs are not lost.
func TestDeepLookAtCopies(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	d := a.imageDirectly("company/app", "one", "v1", layerType)
	a.expect(request{as: "admin", path: "/v2/company/app/manifests/v1"}, http.StatusOK)
	from := a.repository("company/app")
	to, _, err := a.store.Catalog.AdoptTarget(t.Context(), "company/copy", pulp.ContainerPush, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.store.Content.CopyContent(t.Context(), nil, to.ID, content.Copy{RepositoryID: from.ID, Number: from.LatestVersion, Digests: []string{string(d)}}); err != nil {
		t.Fatal(err)
	}
	layer := digest.FromString("layer one")
	a.expect(request{as: "admin", path: "/v2/company/copy/manifests/" + string(d)}, http.StatusOK)
	a.expect(request{as: "admin", path: "/v2/company/copy/blobs/" + string(layer)}, http.StatusOK)
	differs := func(repo pulp.Repository, want ...string) {
		t.Helper()
		found, err := a.adopter.Compare(
			t.Context(),
			signservice.Caller{User: "alice"},
			repo,
			adopt.CompareOptions{Deep: true},
		)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range found.Drift {
			got = append(got, d.Kind+" "+d.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("with %q lost upstream, %s differs in %v, want %v", a.loses, repo.Name, got, want)
		}
	}
	manifest := "manifest " + string(d)
	differs(from)
	differs(to, manifest) // which is nowhere under this name; its blobs are where it was copied from
	a.loses = layer
	differs(to, "blob "+string(layer), manifest)
	differs(from, "blob "+string(layer))
	a.loses = d
	differs(from, manifest)
}

// What the upstream refuses to give keeps nothing else from being adopted, however much it is.
func TestRefusedTagsStopNoOthers(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	good := a.imageDirectly("company/app", "good", "good", layerType)
	const refused = 30
	for i := range refused {
		a.imageDirectly("company/app", fmt.Sprint("bad", i), fmt.Sprint("bad", i), layerType)
	}
	a.refuses = func(d digest.Digest) bool { return d != good }
	found, err := a.adopter.Repository(t.Context(), signservice.Caller{User: "alice"}, "company/app")
	if err != nil || found.Version == nil || found.Version.Counts[pulp.KindTag].Present != 1 ||
		len(found.Drift) != refused {
		t.Fatalf("the adoption made %+v, %v, and tells of %d differences", found.Version, err, len(found.Drift))
	}
	if note := found.Drift[0].Note; !strings.Contains(note, "412 Precondition Failed") {
		t.Errorf("it tells of one: %s", note)
	}
}

// What was deleted here by its digest is not adopted again by a pull by it, whatever became of the versions that held
// it.
func TestDeletedByDigestStaysDeleted(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	d := a.imageDirectly("company/app", "one", "v1", layerType)
	path := "/v2/company/app/manifests/" + string(d)
	a.expect(request{as: "admin", path: path}, http.StatusOK)
	one := int64(1)
	if _, err := a.store.Catalog.EditRepository(t.Context(), nil, pulp.ContainerPush, a.repository("company/app").ID, func(r *pulp.Repository) { r.RetainRepoVersions = &one }); err != nil {
		t.Fatal(err)
	}
	a.expect(request{as: "admin", method: http.MethodDelete, path: path}, http.StatusAccepted)
	a.expectError(request{as: "admin", path: path}, http.StatusNotFound, "MANIFEST_UNKNOWN")
}
