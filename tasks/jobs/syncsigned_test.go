package jobs_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
	"github.com/countersign/countersign/tasks"
)

func signedOnly(a *tasks.SyncArgs) { a.Mirror, a.SignedOnly = true, true }

// companion returns the tag under which cosign stores an attachment of a manifest.
func companion(d digest.Digest, suffix string) string { return "sha256-" + d.Encoded() + suffix }

// wantTags compares the tags of the latest version.
func (w *mirrorWorld) wantTags(want ...string) {
	w.Helper()
	held, err := w.store.Content.HeldTags(w.Context(), w.repo.ID)
	if err != nil {
		w.Fatal(err)
	}
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(held)); !slices.Equal(got, want) {
		w.Errorf("tags %v, want %v", got, want)
	}
}

// holdsManifest reports whether the latest version contains a manifest.
func (w *mirrorWorld) holdsManifest(d digest.Digest) bool {
	w.Helper()
	have, _, err := w.store.Content.HasManifest(w.Context(), w.repo.ID, d)
	if err != nil {
		w.Fatal(err)
	}
	return have == content.HaveVersion
}

// An empty list of patterns is no filter.
func TestEmptyFilters(t *testing.T) {
	t.Parallel()
	g := newRemote(t)
	fillRemote(g)
	w := newMirror(t, g, func(r *pulp.Remote) { r.Includes, r.Excludes = []string{}, []string{} })
	w.sync(taskstore.TaskCompleted, mirrored)
	w.wantTags("latest", "multi")
	edit(w, func(r *pulp.Remote) { r.Includes, r.Excludes = nil, nil })
	w.sync(taskstore.TaskCompleted, mirrored)
	w.wantHeld(held{version: 1, blobs: 7, manifests: 4, tags: 2})
}

// With filters, cosign's companion tags are included with their images, whether or not a pattern matches them,
// and so are companions of companions. Excludes apply to them.
func TestCompanionsComeWithTheirImages(t *testing.T) {
	t.Parallel()
	g := newRemote(t)
	arm := g.image("arm", []int{10})
	one, two, list := g.image("one", []int{10}, "1.0"), g.image("two", []int{10}, "2.0"), g.index([]digest.Digest{arm}, "1.1")
	att := g.image("att of one", []int{10}, companion(one, ".att"))
	for i, d := range []digest.Digest{one, two, arm, list, att} {
		g.image(fmt.Sprintf("sig %d", i), []int{10}, companion(d, ".sig"))
	}
	for name, c := range map[string]struct {
		includes, excludes []string
		want               []string
	}{
		"included": {[]string{"1.*"}, nil, []string{
			"1.0", "1.1", companion(one, ".att"), companion(one, ".sig"), companion(att, ".sig"), companion(arm, ".sig"), companion(list, ".sig"),
		}},
		"everything but one": {[]string{"*"}, []string{"2.0"}, []string{
			"1.0", "1.1", companion(one, ".att"), companion(one, ".sig"), companion(att, ".sig"), companion(arm, ".sig"), companion(list, ".sig"),
		}},
		"no attestations": {nil, []string{"2.0", "1.1", "*.att"}, []string{"1.0", companion(one, ".sig")}},
		"no companions":   {[]string{"1.0"}, []string{"sha256-*"}, []string{"1.0"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newMirror(t, g, func(r *pulp.Remote) { r.Includes, r.Excludes = c.includes, c.excludes })
			w.sync(taskstore.TaskCompleted, mirrored)
			w.wantTags(c.want...)
		})
	}
}

const (
	bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	signs      = "https://sigstore.dev/cosign/sign/v1"
)

// referrer stores a manifest that refers to another and returns its entry for a list of referrers.
func (g *remoteRegistry) referrer(subject digest.Digest, artifactType, predicate string) map[string]any {
	g.Helper()
	config := g.blob([]byte("{}"))
	layer := g.blob([]byte(artifactType + predicate + string(subject)))
	text := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},`+
		`"layers":[{"mediaType":%q,"digest":%q,"size":%d}],"subject":{"mediaType":%q,"digest":%q,"size":1},"annotations":{"dev.sigstore.bundle.predicateType":%q}}`,
		pulp.OCIManifest, artifactType, config.Digest, artifactType, layer.Digest, layer.Size, pulp.OCIManifest, subject, predicate)
	d := g.manifest(pulp.OCIManifest, text)
	return map[string]any{"mediaType": pulp.OCIManifest, "digest": d, "size": len(text), "artifactType": artifactType, "annotations": map[string]string{"dev.sigstore.bundle.predicateType": predicate}}
}

func digestIn(entry map[string]any) digest.Digest { return entry["digest"].(digest.Digest) }

// referrersAPI makes a remote answer its referrers API with these entries, by subject.
func referrersAPI(by map[digest.Digest][]map[string]any) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		_, subject, ok := strings.Cut(r.URL.Path, "/referrers/")
		if !ok {
			return false
		}
		list := by[digest.Digest(subject)]
		if list == nil {
			list = []map[string]any{}
		}
		w.Header().Set("Content-Type", pulp.OCIIndex)
		_ = json.NewEncoder(w).Encode(map[string]any{"schemaVersion": 2, "mediaType": pulp.OCIIndex, "manifests": list})
		return true
	}
}

// A sync with signed_only recognizes signatures that refer to an image, by the referrers API or the tag that
// replaces it, and includes them. Other referrers, such as attestations, are not signatures. The signature of a
// list counts for all its images.
func TestSignedOnlyRecognisesReferrers(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"API", "tag"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			g := newRemote(t)
			arm, amd := g.image("arm", []int{10}), g.image("amd", []int{10})
			bundled, notary, attested := g.image("bundled", []int{10}, "bundled"), g.image("notary", []int{10}, "notary"), g.image("attested", []int{10}, "attested")
			list := g.index([]digest.Digest{arm, amd}, "list")
			g.image("amd again", []int{10}, "bare")
			g.index([]digest.Digest{bundled, attested}, "mixed")
			by := map[digest.Digest][]map[string]any{
				bundled:  {g.referrer(bundled, bundleType, signs), g.referrer(bundled, bundleType, "https://slsa.dev/provenance/v1")},
				notary:   {g.referrer(notary, "application/vnd.cncf.notary.signature", "")},
				attested: {g.referrer(attested, bundleType, "https://slsa.dev/provenance/v1"), g.referrer(attested, "application/spdx+json", "")},
				list:     {g.referrer(list, "application/vnd.dev.cosign.artifact.sig.v1+json", "")},
			}
			want := []string{"bundled", "notary", "list"}
			if how == "API" {
				g.set(referrersAPI(by))
			} else {
				for subject, entries := range by {
					text, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": pulp.OCIIndex, "manifests": entries})
					if err != nil {
						t.Fatal(err)
					}
					g.manifest(pulp.OCIIndex, string(text), companion(subject, ""))
					if subject != attested {
						want = append(want, companion(subject, ""))
					}
				}
			}
			w := newMirror(t, g, nil)
			w.sync(taskstore.TaskCompleted, signedOnly)
			w.wantTags(want...)
			for _, d := range []digest.Digest{digestIn(by[bundled][0]), digestIn(by[notary][0]), digestIn(by[list][0]), arm, amd} {
				if !w.holdsManifest(d) {
					t.Errorf("%s did not come along", d)
				}
			}
			number := w.latest().Number
			w.sync(taskstore.TaskCompleted, signedOnly)
			if got := w.latest().Number; got != number {
				t.Errorf("the same again made version %d", got)
			}
		})
	}
}

// A mirror with signed_only keeps images while the remote's signatures cannot be read: an outage fails the
// sync, and a remote that stops to answer requests for signatures removes no image that was signed.
func TestSignedOnlySurvivesLostSignatures(t *testing.T) {
	t.Parallel()
	type lie = func(http.ResponseWriter, *http.Request) bool
	on := func(part string, answer func(http.ResponseWriter)) lie {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, part) || part == "/v2/" && r.URL.Path == "/v2/" {
				answer(w)
				return true
			}
			return false
		}
	}
	status := func(code int) func(http.ResponseWriter) { return func(w http.ResponseWriter) { w.WriteHeader(code) } }
	version := func(path string, answer func(http.ResponseWriter)) lie {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == path {
				answer(w)
			}
			return r.URL.Path == path
		}
	}
	for name, c := range map[string]struct {
		lie   lie
		state taskstore.TaskState
		tags  []string
	}{
		"/v2/ fails":                       {version("/v2/", status(500)), taskstore.TaskFailed, []string{"referred", "signed"}},
		"/v2/ announces nothing":           {version("/v2/", status(200)), taskstore.TaskCompleted, []string{"referred", "signed"}},
		"signatures fail":                  {on("/signatures/", status(502)), taskstore.TaskFailed, []string{"referred", "signed"}},
		"signatures are not found":         {on("/signatures/", status(404)), taskstore.TaskCompleted, []string{"referred", "signed"}},
		"there are no signatures":          {on("/signatures/", func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"signatures":[]}`) }), taskstore.TaskCompleted, []string{"referred"}},
		"referrers fail":                   {on("/referrers/", status(503)), taskstore.TaskFailed, []string{"referred", "signed"}},
		"the referrers API is not found":   {on("/referrers/", status(404)), taskstore.TaskCompleted, []string{"referred", "signed"}},
		"there are no referrers":           {referrersAPI(nil), taskstore.TaskCompleted, []string{"signed"}},
		"the referrers are not an index":   {on("/referrers/", func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{}`) }), taskstore.TaskFailed, []string{"referred", "signed"}},
		"the signature's bytes are absent": {on("/manifests/sha256:", status(404)), taskstore.TaskCompleted, []string{"referred", "signed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newRemote(t)
			one, two := g.image("one", []int{10}, "signed"), g.image("two", []int{10}, "referred")
			key := signtest.NewKey(t, time.Now().Add(-time.Hour), 0)
			g.signatures = map[digest.Digest][]string{one: {b64(key.Sign(t, signing.Claim{ManifestDigest: one, DockerReference: "src.example/app:x"}, time.Now()))}}
			bundle := g.referrer(two, bundleType, signs)
			api := referrersAPI(map[digest.Digest][]map[string]any{two: {bundle}})
			g.set(api)
			w := newMirror(t, g, nil)
			w.sync(taskstore.TaskCompleted, signedOnly)
			w.wantTags("referred", "signed")
			g.set(func(w http.ResponseWriter, r *http.Request) bool { return c.lie(w, r) || api(w, r) })
			w.sync(c.state, signedOnly)
			w.wantTags(c.tags...)
			if slices.Contains(c.tags, "referred") != w.holdsManifest(digestIn(bundle)) {
				t.Errorf("the referrer is held: %t", w.holdsManifest(digestIn(bundle)))
			}
			// With allow_shrink it removes them.
			if c.state == taskstore.TaskCompleted {
				g.set(func(w http.ResponseWriter, r *http.Request) bool { return c.lie(w, r) || api(w, r) })
				w.sync(taskstore.TaskCompleted, func(a *tasks.SyncArgs) { signedOnly(a); a.AllowShrink = true })
				if tags, err := w.store.Content.HeldTags(t.Context(), w.repo.ID); err != nil || strings.Contains(name, "not found") && len(tags) != 1 {
					t.Errorf("with allow_shrink the tags are %v, %v", tags, err)
				}
			}
		})
	}
}

// A signature that lists its own subject does not stop the sync.
func TestReferrersInACycle(t *testing.T) {
	t.Parallel()
	g := newRemote(t)
	one := g.image("one", []int{10}, "one")
	list := g.index([]digest.Digest{one})
	g.set(referrersAPI(map[digest.Digest][]map[string]any{
		one:  {{"mediaType": pulp.OCIIndex, "digest": list, "size": 1, "artifactType": bundleType}},
		list: {{"mediaType": pulp.OCIIndex, "digest": list, "size": 1, "artifactType": bundleType}},
	}))
	w := newMirror(t, g, nil)
	w.sync(taskstore.TaskCompleted, signedOnly)
	w.wantTags("one")
	w.wantHeld(held{version: 1, blobs: 2, manifests: 2, tags: 1})
}
