package adopt_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/adopt"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/signatures"
	"github.com/countersign/countersign/internal/store/upstreamstate"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
)

// copyTo copies a manifest and everything that it references to another repository of this server, and nothing upstream.
func (f *fixture) copyTo(to string, d digest.Digest) pulp.Repository {
	f.Helper()
	from, target := f.here(name), f.here(to)
	if _, err := f.store.Content.CopyContent(f.Context(), nil, target.ID, content.Copy{
		RepositoryID: from.ID, Number: from.LatestVersion, Digests: []string{string(d)},
	}); err != nil {
		f.Fatal(err)
	}
	return target
}

func (f *fixture) pushList(tag string, children ...digest.Digest) digest.Digest {
	f.Helper()
	d := f.upstream.list(name, "", children...)
	payload, mediaType, err := f.upstream.GetManifest(f.Context(), name, string(d))
	if err != nil {
		f.Fatal(err)
	}
	m, err := pulp.ParseManifest(payload, mediaType)
	if err != nil {
		f.Fatal(err)
	}
	m.Digest = d
	if _, err := f.store.Content.PutManifest(f.Context(), content.PutManifest{RepositoryID: f.here(name).ID, Manifest: m, Tags: []string{tag}}); err != nil {
		f.Fatal(err)
	}
	return d
}

// TestPutBringsCopiedContent expects that a list which was copied here is complete upstream, too: blobs are mounted from the
// repository that they were copied from, and children are written before the list.
func TestPutBringsCopiedContent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	one, two := f.push(name, "one", "v1"), f.push(name, "two", "v2")
	list := f.pushList("list", one, two, one)
	f.flush()
	to := f.copyTo("acme/copy", list)
	f.upstream.requests = nil
	if err := f.adopter.Put(t.Context(), to, "list", list); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two"} {
		if _, err := f.upstream.Stat(t.Context(), "acme/copy", digest.FromString("layer "+text)); err != nil {
			t.Errorf("the layer of %s: %v", text, err)
		}
	}
	var puts []string
	for _, request := range f.upstream.requests {
		if put, ok := strings.CutPrefix(request, "put acme/copy "); ok {
			puts = append(puts, put)
		}
	}
	if len(puts) != 3 || puts[2] != "list" {
		t.Errorf("written manifests %q, want two children and then the list", puts)
	}
	if err := f.adopter.Put(t.Context(), to, "second", list); err != nil {
		t.Fatal(err)
	}
	if n := f.upstream.asked("put acme/copy sha256"); n != 2 {
		t.Errorf("the children were written %d times, want twice in all", n)
	}
}

func TestPutErrors(t *testing.T) {
	t.Parallel()
	layer := digest.FromString("layer one")
	tests := map[string]struct {
		prepare func(f *fixture, d digest.Digest)
		digest  digest.Digest
		want    string // part of the error; empty: none
	}{
		"a manifest that was deleted": {digest: digest.FromString("deleted")},
		"a blob that is lost":         {prepare: func(f *fixture, _ digest.Digest) { f.upstream.lose(name, layer) }, want: "The upstream has lost " + string(layer)},
		"a rejected mount": {
			prepare: func(f *fixture, _ digest.Digest) { f.failing("mount", fault.New(fault.Denied, "No mounts.")) }, want: "No mounts.",
		},
		"a failing lookup": {
			prepare: func(f *fixture, _ digest.Digest) { f.failing("stat acme/copy", errors.New("reset")) }, want: "reset",
		},
		"a rejected manifest": {
			prepare: func(f *fixture, _ digest.Digest) { f.failing("put", fault.New(fault.Denied, "No pushes.")) }, want: "No pushes.",
		},
	}
	for title, tt := range tests {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			d := f.push(name, "one", "v1")
			f.flush()
			to := f.copyTo("acme/copy", d)
			if tt.digest != "" {
				d = tt.digest
			}
			if tt.prepare != nil {
				tt.prepare(f, d)
			}
			err := f.adopter.Put(t.Context(), to, "v1", d)
			if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Put = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// TestPinning follows a manifest that loses its tag: a pin tag protects it upstream until no version contains it.
func TestPinning(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	one := f.push(name, "one", "v1")
	f.flush()
	pin := func(repositoryID string) {
		t.Helper()
		if err := f.adopter.PinManifests(t.Context(), repositoryID); err != nil {
			t.Fatalf("PinManifests = %v", err)
		}
	}
	pinned := func() bool { return f.upstream.tags[name+":"+pulp.PinTag(one)] == one }
	f.push(name, "two", "v1")
	f.flush()
	pin("") // without Pin it does nothing
	if pinned() {
		t.Error("the manifest is pinned although Pin is not set")
	}
	f.adopter.Pin = true
	pin(f.here("acme/other").ID)
	if pinned() {
		t.Error("the pins of another repository include the manifest")
	}
	pin(f.here(name).ID)
	if !pinned() {
		t.Fatal("the manifest without a tag is not pinned")
	}
	before := f.upstream.asked("put")
	pin("")
	if n := f.upstream.asked("put") - before; n != 0 {
		t.Errorf("%d writes for manifests that are pinned already", n)
	}
	if err := f.adopter.UnpinManifests(t.Context()); err != nil || !pinned() {
		t.Errorf("UnpinManifests = %v, and the manifest is pinned: %t, want true while a version contains it", err, pinned())
	}
	keep := int64(1)
	if _, err := f.store.Catalog.EditRepository(t.Context(), nil, pulp.ContainerPush, f.here(name).ID, func(r *pulp.Repository) { r.RetainRepoVersions = &keep }); err != nil {
		t.Fatal(err)
	}
	if _, err := f.store.Content.DeleteManifest(t.Context(), f.here(name).ID, one); err != nil {
		t.Fatal(err)
	}
	f.push(name, "three", "v3")
	f.flush()
	if err := f.adopter.UnpinManifests(t.Context()); err != nil || pinned() {
		t.Errorf("UnpinManifests = %v, and the manifest is pinned: %t, want false", err, pinned())
	}
}

// TestPinningFailures expects that a rejected pin is not tried again, and that an unanswered one is.
func TestPinningFailures(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		err       error
		down      bool
		wantErr   bool
		wantAgain bool
	}{
		"rejected":   {err: fault.New(fault.Denied, "No.")},
		"unanswered": {err: errDown, wantAgain: true},
		"internal":   {err: errors.New("unexpected"), wantAgain: true},
		"an outage":  {down: true, wantErr: true, wantAgain: true},
	}
	for title, tt := range tests {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.adopter.Pin = true
			f.push(name, "one", "v1")
			f.push(name, "two", "v1")
			f.flush()
			f.failing("put", tt.err)
			f.upstream.down = tt.down
			if err := f.adopter.PinManifests(t.Context(), ""); (err != nil) != tt.wantErr {
				t.Errorf("PinManifests = %v, want an error: %t", err, tt.wantErr)
			}
			f.upstream.fail, f.upstream.down = nil, false
			before := f.upstream.asked("put")
			if err := f.adopter.PinManifests(t.Context(), ""); err != nil {
				t.Errorf("PinManifests = %v", err)
			}
			if again := f.upstream.asked("put") > before; again != tt.wantAgain {
				t.Errorf("tried again: %t, want %t", again, tt.wantAgain)
			}
		})
	}
}

// TestPinsThatCannotBeDeleted expects that a pin tag which the upstream does not delete is forgotten.
func TestPinsThatCannotBeDeleted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.adopter.Pin, f.upstream.keepsTags = true, true
	repo := f.here(name)
	if err := f.store.Upstream.PinManifest(t.Context(), upstreamstate.Pin{RepositoryID: repo.ID, Repository: name, Digest: digest.FromString("gone")}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.adopter.UnpinManifests(t.Context()); err != nil {
			t.Errorf("UnpinManifests = %v", err)
		}
	}
	if n := f.upstream.asked("delete"); n != 1 {
		t.Errorf("%d deletions, want 1", n)
	}
	f.upstream.down = true
	if err := f.store.Upstream.PinManifest(t.Context(), upstreamstate.Pin{RepositoryID: repo.ID, Repository: name, Digest: digest.FromString("gone")}); err != nil {
		t.Fatal(err)
	}
	if err := f.adopter.UnpinManifests(t.Context()); !fault.IsOutage(err, fault.Upstream) {
		t.Errorf("UnpinManifests = %v, want an outage", err)
	}
}

// pickySigner refuses to sign some manifests.
type pickySigner struct {
	t       *testing.T
	key     *signtest.Key
	refuses map[digest.Digest]bool
}

func (s *pickySigner) Sign(_ context.Context, r signing.Request) ([]byte, error) {
	if s.refuses[r.Claim.ManifestDigest] {
		return nil, fault.New(fault.Invalid, "The signer refuses this image.")
	}
	return s.key.Sign(s.t, r.Claim, time.Now()), nil
}

// TestTagsThatCannotBeSigned adopts tags into a repository that signs on push. Those whose images cannot be signed are
// reported and do not keep out the others.
func TestTagsThatCannotBeSigned(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.adopter.Follow = true
	signer := &pickySigner{t: t, key: signtest.NewKey(t, time.Now().Add(-time.Hour), 0), refuses: map[digest.Digest]bool{}}
	f.signOnPush(signer)
	want := map[string]digest.Digest{}
	for i := range 12 {
		tag := fmt.Sprintf("v%02d", i)
		d := f.upstream.image(name, tag, tag)
		if i%5 == 0 {
			signer.refuses[d] = true
		} else {
			want[tag] = d
		}
	}
	found := f.compare(adopt.CompareOptions{Follow: true})
	if found.Version == nil {
		t.Fatal("the comparison created no version")
	}
	got := f.tags(name)
	for tag, d := range want {
		if got[tag] != d {
			t.Errorf("tag %s is %q here, want %q", tag, got[tag], d)
		}
	}
	if len(got) != len(want) || len(found.Drift) != 3 || len(found.Skipped) != 3 {
		t.Errorf("%d tags were adopted with %d differences, %d skipped; want %d, 3 and 3", len(got), len(found.Drift), len(found.Skipped), len(want))
	}
	for _, d := range found.Drift {
		if !strings.Contains(d.Note, "The signer refuses this image.") {
			t.Errorf("note %q lacks the reason", d.Note)
		}
	}
	// With nothing but refused tags there is a reason for the whole repository.
	if found = f.compare(adopt.CompareOptions{Follow: true}); found.Version != nil || !strings.Contains(found.Refused, "The signer refuses") {
		t.Errorf("the next comparison made %v with the reason %q", found.Version, found.Refused)
	}
}

// signOnPush makes the repository of the tests sign on push with a signer.
func (f *fixture) signOnPush(signer *pickySigner) {
	f.Helper()
	f.store.Signatures.SetPushPolicy(signatures.PushPolicy{Host: "registry.example", Use: pulp.SigningUse{Assigned: func(string) []string { return []string{"svc"} }}})
	service, err := f.store.Signatures.AddSigningService(f.Context(), pulp.SigningService{
		Name: "svc", Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript,
		Fingerprint: signer.key.Public.Fingerprint(), PublicKey: signer.key.Armor,
	})
	if err != nil {
		f.Fatal(err)
	}
	f.adopter.SignOnPush.Signer = &signservice.Signer{
		Store: f.store, Parallel: 2,
		SignerFor: func(pulp.SigningService) (signing.Signer, error) { return signer, nil },
		Usable:    func(pulp.SigningService) bool { return true },
	}
	f.adopter.SignOnPush.Timeout = time.Minute
	if _, err := f.store.Catalog.EditRepository(f.Context(), nil, pulp.ContainerPush, f.here(name).ID, func(r *pulp.Repository) {
		r.SigningServiceID, r.SigningAssigned, r.SignOnPush = service.ID, pulp.AssignedByAdmin, true
	}); err != nil {
		f.Fatal(err)
	}
}
