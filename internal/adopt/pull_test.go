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
	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/storage"
)

func TestPulledAdoptsAnImage(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	d := f.upstream.image(name, "one", "v1")
	f.wantPulled("v1", true)
	f.wantTag("v1", d)
	if v := f.version(name); v != 1 {
		t.Errorf("the latest version is %d, want 1", v)
	}
	_, m, err := f.store.Content.HasManifest(t.Context(), f.here(name).ID, d)
	if err != nil || m.Architecture == nil || *m.Architecture != "amd64" || m.OS == nil || *m.OS != "linux" {
		t.Errorf("the manifest lacks the platform of its config: %+v, %v", m, err)
	}
	due, err := f.store.Upstream.OutboxTags(t.Context(), 10)
	if err != nil || len(due) != 0 {
		t.Errorf("the outbox has %d entries, %v; an adopted tag must not be written to the upstream", len(due), err)
	}
	// From now on this server decides about the tag.
	before := f.upstream.asked("resolve")
	f.wantPulled("v1", true)
	if after := f.upstream.asked("resolve"); after != before {
		t.Errorf("a pull of a known tag made %d lookups", after-before)
	}
	if log := f.log.String(); !strings.Contains(log, `action="adopt repository"`) || !strings.Contains(log, `action="adopt content"`) ||
		strings.Count(log, "on_behalf_of=alice") != 2 {
		t.Errorf("the audit log lacks the adoption: %s", log)
	}
}

func TestPulledByDigest(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	d := f.upstream.image(name, "one", "v1")
	f.wantPulled(string(d), true)
	if held, _, err := f.store.Content.HasManifest(t.Context(), f.here(name).ID, d); held != content.HaveVersion || err != nil {
		t.Errorf("the repository has the manifest: %v, %v, want it in a version", held, err)
	}
	f.wantTag("v1", "") // only the manifest was pulled
}

func TestPulledRemembersMisses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for range 3 {
		f.wantPulled("v1", false)
	}
	if n := f.upstream.asked("resolve " + name + " v1"); n != 1 {
		t.Errorf("the upstream was asked %d times for an absent tag, want once", n)
	}
	if v := f.version(name); v != 0 {
		t.Errorf("a miss created version %d", v)
	}
	f.wantPulled("v2", false) // another reference is another lookup
	if n := f.upstream.asked("resolve"); n != 2 {
		t.Errorf("%d lookups, want 2", n)
	}
}

func TestPulledWhileTheUpstreamIsDown(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.upstream.down = true
	for range 2 {
		if ok, err := f.adopter.Pulled(t.Context(), "alice", name, "v1", false); ok || !fault.IsOutage(err, fault.Upstream) {
			t.Errorf("Pulled = %t, %v, want an outage of the upstream", ok, err)
		}
	}
	if n := f.upstream.asked("resolve"); n != 1 {
		t.Errorf("%d lookups, want 1: the outage is remembered for a while", n)
	}
}

func TestConcurrentPullsShareALookup(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	d := f.upstream.image(name, "one", "v1")
	begun, goOn := make(chan struct{}), make(chan struct{})
	f.upstream.fail = func(operation, _, _ string) error {
		if operation == "resolve" {
			close(begun)
			<-goOn
		}
		return nil
	}
	type result struct {
		ok  bool
		err error
	}
	pull := func(ctx context.Context) <-chan result {
		got := make(chan result, 1)
		go func() {
			ok, err := f.adopter.Pulled(ctx, "alice", name, "v1", false)
			got <- result{ok, err}
		}()
		return got
	}
	leaving, leave := context.WithCancel(t.Context())
	first := pull(leaving)
	<-begun
	second := pull(t.Context())
	leave()
	if r := <-first; r.ok || !errors.Is(r.err, context.Canceled) {
		t.Errorf("the canceled call returned %t, %v", r.ok, r.err)
	}
	close(goOn)
	if r := <-second; !r.ok || r.err != nil {
		t.Errorf("the other call returned %t, %v, want true", r.ok, r.err)
	}
	f.wantTag("v1", d)
}

// TestPulledDecides covers references about which the upstream does not decide.
func TestPulledDecides(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		prepare    func(f *fixture) (reference string)
		absentOnly bool
		want       bool
		wantAsked  bool
	}{
		"a tag that is here": {
			prepare: func(f *fixture) string { f.push(name, "one", "v1"); return "v1" }, want: true,
		},
		"a tag whose deletion waits in the outbox": {
			prepare: func(f *fixture) string { f.push(name, "one", "v1"); f.flush(); f.untag("v1"); return "v1" }, want: true,
		},
		"a tag with a late write of this server": {
			prepare: func(f *fixture) string {
				d := f.push(name, "one", "v1")
				f.interrupt()
				f.untag("v1")
				f.flush()
				f.upstream.tags[name+":v1"] = d
				return "v1"
			},
			wantAsked: true,
		},
		"a manifest that was deleted here": {
			prepare: func(f *fixture) string {
				d := f.push(name, "one", "v1")
				f.flush()
				if _, err := f.store.Content.DeleteManifest(f.Context(), f.here(name).ID, d); err != nil {
					f.Fatal(err)
				}
				return string(d)
			},
			want: true, // to look it up here, where it is not found
		},
		"a mirror": {
			prepare: func(f *fixture) string {
				f.upstream.image(name, "one", "v1")
				remote, err := f.store.Catalog.CreateRemote(f.Context(), pulp.Remote{Name: "r", URL: "https://r.example", UpstreamName: "app", Policy: pulp.Immediate}, 0)
				if err != nil {
					f.Fatal(err)
				}
				if _, err := f.store.Catalog.CreateRepository(f.Context(), pulp.Repository{Name: name, Type: pulp.Container, RemoteID: remote.ID}, 0); err != nil {
					f.Fatal(err)
				}
				return "v1"
			},
			want: true,
		},
		"a pin tag": {
			prepare: func(f *fixture) string {
				d := f.upstream.image(name, "one")
				f.upstream.image(name, "one", pulp.PinTag(d))
				return pulp.PinTag(d)
			},
			want: true,
		},
		"an unused name for a caller without permissions": {
			prepare: func(f *fixture) string { f.upstream.image(name, "one", "v1"); return "v1" }, absentOnly: true,
			want: true, wantAsked: true,
		},
		"a used name for a caller without permissions": {
			prepare: func(f *fixture) string { f.here(name); f.upstream.image(name, "one", "v1"); return "v1" }, absentOnly: true,
			wantAsked: true,
		},
		"a path that serves another repository": {
			prepare: func(f *fixture) string {
				other := f.here("acme/other")
				if _, err := f.store.Catalog.CreateDistribution(f.Context(), nil, pulp.Distribution{Name: "d", BasePath: name, RepositoryID: other.ID}, 0); err != nil {
					f.Fatal(err)
				}
				f.upstream.image(name, "one", "v1")
				return "v1"
			},
			wantAsked: true,
		},
	}
	for title, tt := range tests {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			reference := tt.prepare(f)
			before, asked := f.version(name), f.upstream.asked("resolve "+name+" "+reference)
			got, err := f.adopter.Pulled(t.Context(), "alice", name, reference, tt.absentOnly)
			if got != tt.want || err != nil {
				t.Errorf("Pulled(%s) = %t, %v, want %t", reference, got, err, tt.want)
			}
			if asked = f.upstream.asked("resolve "+name+" "+reference) - asked; (asked > 0) != tt.wantAsked {
				t.Errorf("%d lookups, want any: %t", asked, tt.wantAsked)
			}
			if adopted := tt.want && tt.wantAsked; (f.version(name) != before) != adopted {
				t.Errorf("the version changed from %d to %d, want a change: %t", before, f.version(name), adopted)
			}
		})
	}
}

// TestContentThatCannotBeStored expects that invalid content of the upstream is logged, and that the pull finds nothing.
func TestContentThatCannotBeStored(t *testing.T) {
	t.Parallel()
	nested := func(f *fixture, depth int) string {
		d := f.upstream.image(name, "leaf")
		for i := range depth {
			tag := fmt.Sprint("level", i)
			d = f.upstream.push(name, object{
				"schemaVersion": 2, "mediaType": pulp.OCIIndex,
				"manifests": []object{{"mediaType": pulp.OCIIndex, "digest": d, "size": 2}},
			}, tag)
		}
		return fmt.Sprint("level", depth-1)
	}
	tests := map[string]struct {
		prepare func(f *fixture) (tag string)
		want    bool
		wantLog string
	}{
		"an invalid manifest": {
			prepare: func(f *fixture) string {
				f.upstream.store(name, "bad", pulp.OCIManifest, []byte(`{"config":1}`))
				return "bad"
			},
			wantLog: "not adopted",
		},
		"an image without its layer": {
			prepare: func(f *fixture) string {
				f.upstream.image(name, "one", "v1")
				f.upstream.lose(name, digest.FromString("layer one"))
				return "v1"
			},
			wantLog: "The upstream does not have " + string(digest.FromString("layer one")),
		},
		"an image without its foreign layer": {
			prepare: func(f *fixture) string {
				m := f.upstream.imageOf(name, "one")
				layer := m["layers"].([]object)[0]
				layer["urls"] = []string{"https://layers.example/one"}
				f.upstream.push(name, m, "v1")
				f.upstream.lose(name, digest.FromString("layer one"))
				return "v1"
			},
			want: true,
		},
		"an image with the empty layer, which nobody uploads": {
			prepare: func(f *fixture) string {
				m := f.upstream.imageOf(name, "one")
				m["layers"] = []object{{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": pulp.EmptyLayer, "size": len(pulp.EmptyLayerContent())}}
				f.upstream.push(name, m, "v1")
				return "v1"
			},
			want: true,
		},
		"a manifest that is deleted during the adoption": {
			prepare: func(f *fixture) string {
				f.upstream.image(name, "one", "v1")
				f.failing("get ", storage.ErrNotFound)
				return "v1"
			},
			wantLog: "It was deleted during the adoption.",
		},
		"a list without one of its images": {
			prepare: func(f *fixture) string {
				f.upstream.list(name, "list", f.upstream.image(name, "one"), digest.FromString("absent"))
				return "list"
			},
			want: true,
		},
		"a list within the nesting limit": {prepare: func(f *fixture) string { return nested(f, 8) }, want: true},
		"a list beyond the nesting limit": {prepare: func(f *fixture) string { return nested(f, 10) }, wantLog: "nests more than 8 deep"},
	}
	for title, tt := range tests {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			tag := tt.prepare(f)
			f.wantPulled(tag, tt.want)
			if (f.tags(name)[tag] != "") != tt.want {
				t.Errorf("the tag was adopted: %t, want %t", !tt.want, tt.want)
			}
			if !strings.Contains(f.log.String(), tt.wantLog) {
				t.Errorf("the log lacks %q: %s", tt.wantLog, f.log.String())
			}
		})
	}
}

func TestInvalidNamesAreNotAdopted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.upstream.image("Acme/App", "one", "v1")
	if ok, err := f.adopter.Pulled(t.Context(), "alice", "Acme/App", "v1", false); ok || err != nil {
		t.Errorf("Pulled = %t, %v, want false", ok, err)
	}
	if v := f.version("Acme/App"); v != 0 {
		t.Errorf("a repository with an invalid name was created")
	}
}

func TestReferrersAreAdoptedWithTheirSubject(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	image := f.upstream.image(name, "one", "v1")
	subject := object{"mediaType": pulp.OCIManifest, "digest": image, "size": 2}
	artifact := f.upstream.imageOf(name, "signature")
	artifact["subject"] = subject
	signature := f.upstream.push(name, artifact)
	broken := f.upstream.imageOf(name, "broken")
	broken["subject"] = subject
	lost := f.upstream.push(name, broken)
	f.upstream.lose(name, digest.FromString("layer broken"))
	f.upstream.referrers = map[digest.Digest][]digest.Digest{image: {signature, lost, image}, signature: {image}} // with a cycle
	f.wantPulled("v1", true)
	repo := f.here(name)
	for d, want := range map[digest.Digest]content.Have{image: content.HaveVersion, signature: content.HaveVersion, lost: content.HaveNothing} {
		if have, _, err := f.store.Content.HasManifest(t.Context(), repo.ID, d); have != want || err != nil {
			t.Errorf("the repository has %s: %v, %v, want %v", d, have, err, want)
		}
	}
	if !strings.Contains(f.log.String(), string(lost)) {
		t.Errorf("the log lacks the referrer that cannot be stored: %s", f.log.String())
	}
}

func TestErrorsAboutReferrersDoNotStopAnAdoption(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.upstream.referrers = map[digest.Digest][]digest.Digest{}
	f.upstream.list(name, "list", f.upstream.image(name, "one"), f.upstream.image(name, "two"))
	f.failing("referrers ", fault.New(fault.Invalid, "The upstream refuses the request."))
	f.wantPulled("list", true)
	if n := f.upstream.asked("referrers"); n != 1 {
		t.Errorf("%d requests for referrers, want 1: the upstream does not list them", n)
	}
	f.upstream.image(name, "three", "v3")
	f.failing("referrers ", errDown) // transient: the upstream answers pings
	f.wantPulled("v3", true)
	f.upstream.image(name, "four", "v4")
	f.upstream.fail = func(operation, _, _ string) error {
		if operation == "referrers" {
			f.upstream.mu.Lock()
			defer f.upstream.mu.Unlock()
			f.upstream.down = true
			return errDown
		}
		return nil
	}
	if ok, err := f.adopter.Pulled(t.Context(), "alice", name, "v4", false); ok || !fault.IsOutage(err, fault.Upstream) {
		t.Errorf("Pulled = %t, %v, want the outage that began meanwhile", ok, err)
	}
}

// TestPullOfARepositoryThatIsCreatedMeanwhile adopts two tags of a new repository at the same time.
func TestPullOfARepositoryThatIsCreatedMeanwhile(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	want := map[string]digest.Digest{}
	for i := range 5 {
		tag := fmt.Sprint("v", i)
		want[tag] = f.upstream.image(name, tag, tag)
		go func() { _, _ = f.adopter.Pulled(t.Context(), "alice", name, tag, false) }()
	}
	eventually.True(t, time.Minute, func() bool {
		repo, err := f.store.Catalog.RepositoryByName(t.Context(), name)
		if err != nil {
			return false
		}
		tags, err := f.store.Content.HeldTags(t.Context(), repo.ID)
		return err == nil && len(tags) == len(want)
	}, "all tags are adopted")
	for tag, d := range want {
		f.wantTag(tag, d)
	}
	found := f.compare(adopt.CompareOptions{})
	if len(found.Drift) != 0 {
		t.Errorf("differences after the adoption: %v", notes(found.Drift))
	}
}
