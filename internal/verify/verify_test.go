package verify_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/verify"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/policy"
	"github.com/countersign/countersign/signing/signtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

const reference = "registry.example/acme/app:v1"

// fixture is a repository with the image v1, whose signatures the test adds, and a signing service.
type fixture struct {
	*testing.T
	store  *store.Store
	target record.Target
	image  pulp.Manifest
	key    *signtest.Key // of the service
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t, store: storetest.Open(t), key: newKey(t)}
	f.addService("svc", f.key.Armor)
	f.target = storetest.Target(t, f.store, "acme/app")
	f.image, _ = storetest.PushImage(t, f.store, f.target.Repository.ID, "one", "v1")
	return f
}

func newKey(t *testing.T) *signtest.Key { return signtest.NewKey(t, time.Now().Add(-time.Hour), 0) }

func (f *fixture) addService(name, publicKey string) {
	f.Helper()
	_, err := f.store.Signatures.AddSigningService(f.Context(), pulp.SigningService{
		Name: name, Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript, PublicKey: publicKey,
	})
	if err != nil {
		f.Fatal(err)
	}
}

// sign adds a signature of a manifest to the repository.
func (f *fixture) sign(m pulp.Manifest, key *signtest.Key, reference string) {
	f.Helper()
	raw := key.Sign(f, signing.Claim{ManifestDigest: m.Digest, DockerReference: reference}, time.Now())
	f.addSignature(m, raw, reference)
}

func (f *fixture) addSignature(m pulp.Manifest, raw []byte, reference string) {
	f.Helper()
	g := pulp.Signature{
		Digest: signing.Digest(raw), Name: signing.Name(m.Digest, raw), Content: raw, Reference: reference,
		KeyID: "0123456789ABCDEF", SignedAt: time.Now().Unix(),
	}
	if _, err := f.store.Signatures.PutSignature(f.Context(), f.target.Repository.ID, m.Digest, g); err != nil {
		f.Fatal(err)
	}
}

// putIndex pushes an index.
func (f *fixture) putIndex(tag string, children ...pulp.Manifest) pulp.Manifest {
	f.Helper()
	m := storetest.Index(children...)
	if _, err := f.store.Content.PutManifest(f.Context(), content.PutManifest{RepositoryID: f.target.Repository.ID, Manifest: m, Tags: []string{tag}}); err != nil {
		f.Fatal(err)
	}
	return m
}

func (f *fixture) keys() verify.Keys {
	f.Helper()
	keys, err := verify.ServiceKeys(f.Context(), f.store)
	if err != nil {
		f.Fatal(err)
	}
	return keys
}

func (f *fixture) report(tag string) verify.Report {
	f.Helper()
	r, err := verify.Tag(f.Context(), f.store, f.target, tag, f.keys(), time.Now())
	if err != nil {
		f.Fatal(err)
	}
	return r
}

func digests(manifests []verify.Manifest) []digest.Digest {
	var all []digest.Digest
	for _, m := range manifests {
		all = append(all, m.Digest)
	}
	return all
}

func TestCheck(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addService("broken", "no key")
	f.addService("twin", f.key.Armor)
	other, unknown := newKey(t), newKey(t)
	keys := f.keys().With([]signing.PublicKey{other.Public})
	claim := signing.Claim{ManifestDigest: f.image.Digest, DockerReference: reference}
	now := time.Now()
	fingerprint := f.key.Public.Fingerprint()
	for name, tt := range map[string]struct {
		raw      []byte
		key      string
		services []string
		reason   string // part of it
	}{
		"a key of two services":       {raw: f.key.Sign(t, claim, now), key: fingerprint, services: []string{"svc", "twin"}},
		"another key":                 {raw: other.Sign(t, claim, now), key: other.Public.Fingerprint()},
		"an unknown key":              {raw: unknown.Sign(t, claim, now), reason: "by another key"},
		"a signature from the future": {raw: f.key.Sign(t, claim, now.Add(time.Hour)), reason: "in the future"},
		"not a signature":             {raw: []byte("text"), reason: "Not one OpenPGP signed message"},
	} {
		got, err := keys.Check(t.Context(), tt.raw, now)
		var services []string
		for _, s := range got.Services {
			services = append(services, s.Name)
		}
		if err != nil || got.Verified != (tt.key != "") || got.Key != tt.key || !slices.Equal(services, tt.services) ||
			!strings.Contains(got.Reason, tt.reason) || (got.Reason == "") != got.Verified {
			t.Errorf("%s: Check = %+v, %v", name, got, err)
		}
	}
	for _, tt := range []struct {
		key  *signtest.Key
		want bool
	}{{key: f.key, want: true}, {key: other, want: true}, {key: unknown}} {
		if id := tt.key.Public.Fingerprint()[24:]; keys.Has(id) != tt.want {
			t.Errorf("Has(%s) = %t", id, !tt.want)
		}
	}
	cause := errors.New("client disconnected")
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := keys.Check(ended, f.key.Sign(t, claim, now), now); !errors.Is(err, cause) {
		t.Errorf("Check with an ended context = %v, want its cause", err)
	}
}

func TestTagOfAnImage(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if r := f.report("v1"); len(r.Manifests) != 1 || len(r.Manifests[0].Signatures) != 0 || r.Signed(reference) {
		t.Errorf("the report about an unsigned image is %+v", r)
	}
	f.sign(f.image, newKey(t), reference)
	if f.report("v1").Signed(reference) {
		t.Error("an unknown key signs")
	}
	f.sign(f.image, f.key, "registry.example/acme/other:v1")
	if f.report("v1").Signed(reference) {
		t.Error("a signature for another reference counts")
	}
	f.sign(f.image, f.key, reference)
	for _, name := range []string{"v1", string(f.image.Digest)} {
		r := f.report(name)
		if !r.Signed(reference) || len(r.Manifests[0].Signatures) != 3 || !slices.Equal(digests(r.Images()), []digest.Digest{f.image.Digest}) {
			t.Errorf("the report about %s is %+v", name, r)
		}
	}
	if _, err := verify.Tag(t.Context(), f.store, f.target, "absent", f.keys(), time.Now()); !fault.Is(err, fault.NotFound) {
		t.Errorf("Tag of an absent tag = %v, want NotFound", err)
	}
}

// TestTagOfAList proves that a report has the images in a list and in lists within it, each once, and that all of
// them must be signed.
func TestTagOfAList(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	second, _ := storetest.PushImage(t, f.store, f.target.Repository.ID, "two", "two")
	inner := f.putIndex("inner", f.image, second)
	list := f.putIndex("multi", inner, f.image)
	const multi = "registry.example/acme/app:multi"
	f.sign(f.image, f.key, multi)
	r := f.report("multi")
	got := digests(r.Manifests)
	if len(got) != 3 || got[0] != list.Digest || !slices.Contains(got, f.image.Digest) || !slices.Contains(got, second.Digest) {
		t.Errorf("the report has %v, want the list and its two images", got)
	}
	if got := digests(r.Images()); len(got) != 2 || slices.Contains(got, list.Digest) {
		t.Errorf("Images = %v, want the two images", got)
	}
	if r.Signed(multi) {
		t.Error("Signed is true with one image unsigned")
	}
	f.sign(second, f.key, multi)
	if !f.report("multi").Signed(multi) {
		t.Error("Signed is false with all images signed")
	}
}

// TestTagOfAnEmptyList proves that a list without known images is reported as a single manifest.
func TestTagOfAnEmptyList(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	list := f.putIndex("sparse", pulp.Manifest{Digest: digest.FromString("absent"), MediaType: pulp.OCIManifest})
	if got := digests(f.report("sparse").Images()); !slices.Equal(got, []digest.Digest{list.Digest}) {
		t.Errorf("Images = %v, want the list", got)
	}
}

// TestTagHasLimits proves that Tag fails for lists with too many manifests or too large signatures.
func TestTagHasLimits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	config := storetest.PushBlob(t, f.store, f.target.Repository.ID, "config")
	layer := storetest.PushBlob(t, f.store, f.target.Repository.ID, "layer")
	images := make([]pulp.Manifest, 1001)
	for i := range images {
		images[i] = storetest.Image(config, layer)
		images[i].Payload = fmt.Appendf(images[i].Payload, "%d", i)
		images[i].Digest = digest.FromBytes(images[i].Payload)
		p := content.PutManifest{RepositoryID: f.target.Repository.ID, Manifest: images[i]}
		if _, err := f.store.Content.PutManifest(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	const size, total = 2_900_000, 64 << 20
	signed := images[:total/size+1]
	for _, m := range signed {
		f.addSignature(m, fmt.Appendf(make([]byte, size), "%s", m.Digest), reference)
	}
	f.putIndex("large", signed...)
	f.putIndex("small", signed[1:]...)
	f.putIndex("many", images...)
	if r := f.report("small"); len(r.Images()) != len(signed)-1 || r.Signed(reference) {
		t.Errorf("the report within the limit has %d images", len(r.Images()))
	}
	for tag, want := range map[string]string{"large": "64 MiB of signatures", "many": "more than 1000 manifests"} {
		_, err := verify.Tag(t.Context(), f.store, f.target, tag, verify.Keys{}, time.Now())
		if !fault.Is(err, fault.TooLarge) || !strings.Contains(err.Error(), want) {
			t.Errorf("Tag of %s = %v, want TooLarge with %q", tag, err, want)
		}
	}
}

func TestEvaluate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	second, _ := storetest.PushImage(t, f.store, f.target.Repository.ID, "two", "two")
	list := f.putIndex("multi", f.image, second)
	p := f.policy()
	const multi = "registry.example/acme/app:multi"
	f.sign(f.image, f.key, multi)
	r := f.report("multi")
	got, err := r.Evaluate(t.Context(), p, multi, time.Now())
	if err != nil || got.Accepted || got.Reference != multi || len(got.Manifests) != 3 {
		t.Errorf("Evaluate with one image signed = %+v, %v, want it rejected", got, err)
	}
	f.sign(second, f.key, multi)
	got, err = f.report("multi").Evaluate(t.Context(), p, multi, time.Now())
	if err != nil || !got.Accepted || got.Manifests[0].Accepted || !got.Manifests[1].Accepted || !got.Manifests[2].Accepted {
		t.Errorf("Evaluate with both images signed = %+v, %v; want the images accepted, and the list rejected", got, err)
	}
	byDigest := "registry.example/acme/app@" + string(list.Digest)
	if got, err := f.report(string(list.Digest)).Evaluate(t.Context(), p, byDigest, time.Now()); err != nil || got.Reference != byDigest {
		t.Errorf("Evaluate of the list's digest = %+v, %v", got, err)
	}
	if _, err := r.Evaluate(t.Context(), p, "UPPER", time.Now()); !fault.Is(err, fault.Invalid) {
		t.Errorf("Evaluate of an invalid reference = %v, want Invalid", err)
	}
	cause := errors.New("client disconnected")
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := r.Evaluate(ended, p, multi, time.Now()); !errors.Is(err, cause) {
		t.Errorf("Evaluate with an ended context = %v, want its cause", err)
	}
}

// TestEvaluateSHA512 proves that signatures with the sha256 of a manifest apply to a manifest that is stored by its
// sha512.
func TestEvaluateSHA512(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	m := storetest.Image(storetest.PushBlob(t, f.store, f.target.Repository.ID, "config"), storetest.PushBlob(t, f.store, f.target.Repository.ID, "layer"))
	m.Digest = digest.SHA512.FromBytes(m.Payload)
	if _, err := f.store.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: f.target.Repository.ID, Manifest: m, Tags: []string{"long"}}); err != nil {
		t.Fatal(err)
	}
	const long = "registry.example/acme/app:long"
	claim := signing.Claim{ManifestDigest: digest.FromBytes(m.Payload), DockerReference: long}
	f.addSignature(m, f.key.Sign(t, claim, time.Now()), long)
	if got, err := f.report("long").Evaluate(t.Context(), f.policy(), long, time.Now()); err != nil || !got.Accepted {
		t.Errorf("Evaluate = %+v, %v, want it accepted", got, err)
	}
}

// policy returns a policy that requires signatures of the service's key.
func (f *fixture) policy() *policy.Policy {
	f.Helper()
	block, err := armor.Decode(strings.NewReader(f.key.Armor))
	if err != nil {
		f.Fatal(err)
	}
	key, err := io.ReadAll(block.Body)
	if err != nil {
		f.Fatal(err)
	}
	data := base64.StdEncoding.EncodeToString(key)
	p, err := policy.Parse([]byte(`{"default":[{"type":"signedBy","keyType":"GPGKeys","keyData":"` + data + `"}]}`))
	if err != nil {
		f.Fatal(err)
	}
	return p
}

// TestTimeouts proves that the contexts end with an error for the client.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	ctx, cancel := verify.WithTimeout(t.Context())
	defer cancel()
	if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > verify.Timeout || time.Until(deadline) < verify.Timeout/2 {
		t.Errorf("WithTimeout has the deadline %v", deadline)
	}
	ctx, cancel = verify.WithTimeoutAfter(t.Context(), verify.Timeout)
	defer cancel()
	<-ctx.Done()
	if err := context.Cause(ctx); !fault.Is(err, fault.Unavailable) {
		t.Errorf("the cause is %v, want Unavailable", err)
	}
}
