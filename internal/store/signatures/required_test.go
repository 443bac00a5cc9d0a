package signatures_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/signatures"
	"github.com/countersign/countersign/internal/store/storetest"
)

const fingerprint = "8F336A705074623F7FC3273945ACE14E3EBB9BBA"

// signed is a store with the repository acme/app, which signs on push by configuration.
type signed struct {
	*store.Store
	to record.Target
}

// openSigned opens a store whose policy covers acme/app. With lists, indexes are signed too.
func openSigned(t *testing.T, lists bool) *signed {
	t.Helper()
	s := storetest.Open(t)
	if _, err := s.Signatures.AddSigningService(t.Context(), pulp.SigningService{
		Name: "release", Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript, Fingerprint: fingerprint,
	}); err != nil {
		t.Fatal(err)
	}
	to := storetest.Target(t, s, "acme/app")
	s.Signatures.SetPushPolicy(signatures.PushPolicy{Host: "registry", Lists: lists, Service: func(name string) string {
		if name == "acme/app" {
			return "release"
		}
		return ""
	}})
	return &signed{s, to}
}

// blobs pushes the blobs of an image and returns its manifest.
func (s *signed) blobs(t *testing.T, text string) pulp.Manifest {
	t.Helper()
	id := s.to.Repository.ID
	return storetest.Image(storetest.PushBlob(t, s.Store, id, "config "+text), storetest.PushBlob(t, s.Store, id, "layer "+text))
}

// put pushes a manifest and returns the missing signatures as "reference digest", nil if it was accepted.
func (s *signed) put(t *testing.T, m pulp.Manifest, tags ...string) (missing *content.MissingSignatures) {
	t.Helper()
	_, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: s.to.Repository.ID, Manifest: m, Tags: tags})
	if missing, ok := errors.AsType[*content.MissingSignatures](err); ok {
		return missing
	}
	if err != nil {
		t.Fatal(err)
	}
	return nil
}

// sign stores pending signatures for the missing ones.
func (s *signed) sign(t *testing.T, missing *content.MissingSignatures) {
	t.Helper()
	var made []pulp.Signature
	for _, m := range missing.Missing {
		stored, err := s.Serving.ManifestByDigest(t.Context(), m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		bytes := "signature of " + string(m.Digest) + " for " + m.Reference
		made = append(made, pulp.Signature{
			Digest: digest.FromString(bytes), Name: string(m.Digest) + "@x", ManifestID: stored.ID, Content: []byte(bytes),
			KeyID: fingerprint[24:], VerifiedBy: fingerprint, Reference: m.Reference, SignedAt: 1,
		})
	}
	if err := s.Signatures.KeepPending(t.Context(), missing.RepositoryID, made); err != nil {
		t.Fatal(err)
	}
}

// wantMissing compares missing signatures with manifests by reference.
func wantMissing(t *testing.T, missing *content.MissingSignatures, want ...content.MissingSignature) {
	t.Helper()
	if missing == nil {
		t.Fatalf("no signature is missing, want %v", want)
	}
	if diff := cmp.Diff(want, missing.Missing); diff != "" {
		t.Errorf("missing signatures (-want +got):\n%s", diff)
	}
	if missing.Service.Name != "release" || missing.Namespace != "acme" {
		t.Errorf("missing by %s in %s, want release in acme", missing.Service.Name, missing.Namespace)
	}
}

// wantTags compares the visible tags of acme/app.
func (s *signed) wantTags(t *testing.T, want ...string) {
	t.Helper()
	tags, err := s.Serving.ServedTags(t.Context(), s.to, "", 100)
	if err != nil || !cmp.Equal(append([]string{}, want...), append([]string{}, tags...)) {
		t.Errorf("visible tags %v, %v, want %v", tags, err, want)
	}
}

func TestTagsAreVisibleOnceSigned(t *testing.T) {
	t.Parallel()
	s := openSigned(t, false)
	m := s.blobs(t, "one")
	missing := s.put(t, m, "v1", "v2")
	wantMissing(t, missing, content.MissingSignature{Digest: m.Digest, Reference: "registry/acme/app:v1"},
		content.MissingSignature{Digest: m.Digest, Reference: "registry/acme/app:v2"})
	if _, err := s.Serving.ServedManifest(t.Context(), s.to, string(m.Digest)); !fault.Is(err, fault.NotFound) {
		t.Errorf("the unsigned manifest is served: %v", err)
	}
	s.wantTags(t)
	s.sign(t, missing)
	if missing := s.put(t, m, "v1", "v2"); missing != nil {
		t.Fatalf("the signed image is refused: %v", missing)
	}
	s.wantTags(t, "v1", "v2")
	served, err := s.Serving.ServedManifest(t.Context(), s.to, "v1")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Serving.ServedSignatures(t.Context(), s.to, served.ID); err != nil || len(got) != 2 {
		t.Errorf("%d signatures are served, %v, want 2", len(got), err)
	}
	// The same image under another tag needs a signature for that tag.
	wantMissing(t, s.put(t, m, "v3"), content.MissingSignature{Digest: m.Digest, Reference: "registry/acme/app:v3"})
	// Companion tags and manifests without a tag need none.
	if missing := s.put(t, s.blobs(t, "companion"), "sha256-"+m.Digest.Encoded()+".sig"); missing != nil {
		t.Errorf("a companion tag is refused: %v", missing)
	}
	if missing := s.put(t, s.blobs(t, "by digest")); missing != nil {
		t.Errorf("a push by digest is refused: %v", missing)
	}
}

func TestSignaturesByOtherKeysDoNotCount(t *testing.T) {
	t.Parallel()
	s := openSigned(t, false)
	m := s.blobs(t, "one")
	missing := s.put(t, m, "v1")
	s.sign(t, missing)
	storetest.Exec(t, s.Store, `UPDATE signature SET verified_by = 'ANOTHER'`)
	wantMissing(t, s.put(t, m, "v1"), content.MissingSignature{Digest: m.Digest, Reference: "registry/acme/app:v1"})
	storetest.Exec(t, s.Store, `UPDATE signature SET verified_by = $1, reference = 'elsewhere/acme/app:v1'`, fingerprint)
	wantMissing(t, s.put(t, m, "v1"), content.MissingSignature{Digest: m.Digest, Reference: "registry/acme/app:v1"})
}

func TestDropPendingDeletesUnusedSignatures(t *testing.T) {
	t.Parallel()
	s := openSigned(t, false)
	used, refused := s.blobs(t, "used"), s.blobs(t, "refused")
	missing := s.put(t, used, "v1")
	s.sign(t, missing)
	if again := s.put(t, used, "v1"); again != nil {
		t.Fatal(again)
	}
	dropped := s.put(t, refused, "v2")
	s.sign(t, dropped)
	for _, m := range []*content.MissingSignatures{missing, dropped} {
		if err := s.Signatures.DropPending(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	wantMissing(t, s.put(t, refused, "v2"), content.MissingSignature{Digest: refused.Digest, Reference: "registry/acme/app:v2"})
	if holds, err := s.Content.HoldsSignature(t.Context(), s.to.Repository.ID, used.Digest); err != nil || !holds {
		t.Errorf("HoldsSignature of the visible image = %t, %v, want true", holds, err)
	}
}

func TestIndexesAreSignedWithTheirImages(t *testing.T) {
	t.Parallel()
	for name, lists := range map[string]bool{"images only": false, "indexes too": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openSigned(t, lists)
			first, late := s.blobs(t, "first"), s.blobs(t, "late")
			if missing := s.put(t, first); missing != nil {
				t.Fatal(missing)
			}
			index := storetest.Index(first, late)
			want := []content.MissingSignature{{Digest: first.Digest, Reference: "registry/acme/app:multi"}}
			if lists {
				want = append([]content.MissingSignature{{Digest: index.Digest, Reference: "registry/acme/app:multi"}}, want...)
			}
			missing := s.put(t, index, "multi")
			wantMissing(t, missing, want...)
			s.sign(t, missing)
			if again := s.put(t, index, "multi"); again != nil {
				t.Fatal(again)
			}
			// An image that completes the visible index must be signed before it is visible.
			missing = s.put(t, late)
			wantMissing(t, missing, content.MissingSignature{Digest: late.Digest, Reference: "registry/acme/app:multi"})
			s.sign(t, missing)
			if again := s.put(t, late); again != nil {
				t.Fatal(again)
			}
			if _, err := s.Serving.ServedManifest(t.Context(), s.to, string(late.Digest)); err != nil {
				t.Errorf("the signed image is not served: %v", err)
			}
		})
	}
}

func TestUnsignedChangesByPermission(t *testing.T) {
	t.Parallel()
	s := openSigned(t, false)
	ctx := content.AllowUnsigned(t.Context())
	m := s.blobs(t, "one")
	v, err := s.Content.PutManifest(ctx, content.PutManifest{RepositoryID: s.to.Repository.ID, Manifest: m, Tags: []string{"v1"}})
	if err != nil || v == nil {
		t.Fatalf("PutManifest = %v, %v", v, err)
	}
	s.wantTags(t, "v1")
}

func TestDistributionsShowSignedTagsOnly(t *testing.T) {
	t.Parallel()
	s := openSigned(t, false)
	m := s.blobs(t, "one")
	s.sign(t, s.put(t, m, "v1"))
	if missing := s.put(t, m, "v1"); missing != nil {
		t.Fatal(missing)
	}
	repository, err := s.Catalog.RepositoryByName(t.Context(), "acme/app")
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.Content.Version(t.Context(), repository.ID, repository.LatestVersion)
	if err != nil {
		t.Fatal(err)
	}
	distribute := func(path string, d pulp.Distribution) error {
		d.Name, d.BasePath = path, path
		_, err := s.Catalog.CreateDistribution(t.Context(), nil, d, 0)
		return err
	}
	pinned := &pulp.PinnedVersion{VersionID: v.ID, RepositoryID: repository.ID, Number: v.Number}
	if err := distribute("acme/pinned", pulp.Distribution{Pinned: pinned}); !fault.Is(err, fault.Invalid) {
		t.Errorf("a pinned version without signatures for the path: %v, want Invalid", err)
	}
	missing, ok := errors.AsType[*content.MissingSignatures](distribute("acme/other", pulp.Distribution{RepositoryID: repository.ID}))
	if !ok {
		t.Fatal("an unsigned path is served")
	}
	wantMissing(t, missing, content.MissingSignature{Digest: m.Digest, Reference: "registry/acme/other:v1"})
	s.sign(t, missing)
	if err := distribute("acme/other", pulp.Distribution{RepositoryID: repository.ID}); err != nil {
		t.Errorf("after signing: %v", err)
	}
	// From now on tags must be signed for both paths.
	two := s.blobs(t, "two")
	wantMissing(t, s.put(t, two, "v2"), content.MissingSignature{Digest: two.Digest, Reference: "registry/acme/app:v2"},
		content.MissingSignature{Digest: two.Digest, Reference: "registry/acme/other:v2"})
}

func TestMissingServiceRefusesChanges(t *testing.T) {
	t.Parallel()
	s := openSigned(t, false)
	if err := s.Signatures.RemoveSigningService(t.Context(), "release", pulp.ManifestSigningService); err != nil {
		t.Fatal(err)
	}
	_, err := s.Content.PutManifest(t.Context(), content.PutManifest{
		RepositoryID: s.to.Repository.ID, Manifest: s.blobs(t, "one"), Tags: []string{"v1"},
	})
	if !fault.Is(err, fault.Unavailable) {
		t.Errorf("PutManifest = %v, want Unavailable", err)
	}
	s.wantTags(t)
}

func TestSignatureReads(t *testing.T) {
	t.Parallel()
	s := openSigned(t, false)
	m := s.blobs(t, "one")
	s.sign(t, s.put(t, m, "v1"))
	if missing := s.put(t, m, "v1"); missing != nil {
		t.Fatal(missing)
	}
	served, err := s.Serving.ServedManifest(t.Context(), s.to, "v1")
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.Serving.ServedSignatures(t.Context(), s.to, served.ID)
	if err != nil || len(all) != 1 {
		t.Fatalf("served: %v, %v", all, err)
	}
	if g, err := s.Signatures.Signature(t.Context(), all[0].ID); err != nil || g.Digest != all[0].Digest {
		t.Errorf("Signature = %+v, %v", g, err)
	}
	if _, err := s.Signatures.Signature(t.Context(), "absent"); !fault.Is(err, fault.NotFound) {
		t.Errorf("an unknown signature: %v, want NotFound", err)
	}
	contents, err := s.Signatures.SignatureContents(t.Context(), []string{all[0].ID, "absent"})
	if err != nil || len(contents) != 1 || string(contents[all[0].ID]) != string(all[0].Content) {
		t.Errorf("SignatureContents = %v, %v", contents, err)
	}
	if contents, err := s.Signatures.SignatureContents(t.Context(), nil); err != nil || len(contents) != 0 {
		t.Errorf("SignatureContents of nothing = %v, %v", contents, err)
	}
	for host, want := range map[string]bool{"registry": true, "regis": false, "other": false} {
		if has, err := s.Signatures.HasSignaturesOf(t.Context(), host); err != nil || has != want {
			t.Errorf("HasSignaturesOf(%s) = %t, %v, want %t", host, has, err, want)
		}
	}
}
