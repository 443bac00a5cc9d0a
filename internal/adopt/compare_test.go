package adopt_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/adopt"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/storage"
)

func TestNames(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		pattern   string
		catalog   []string
		fail      error
		want      []string
		malformed []string
		wantErr   error
	}{
		"a name needs no catalog":       {pattern: "acme/app", want: []string{"acme/app"}},
		"a pattern":                     {pattern: "acme/*", catalog: []string{"acme/a", "acme/b/c", "other"}, want: []string{"acme/a", "acme/b/c"}},
		"names that are malformed here": {pattern: "*", catalog: []string{"ok", "Not_OK-"}, want: []string{"ok"}, malformed: []string{"Not_OK-"}},
		"no catalog":                    {pattern: "*", wantErr: storage.ErrUnsupported},
		"an outage":                     {pattern: "*", catalog: []string{"ok"}, fail: errDown, wantErr: errDown},
	}
	for title, tt := range tests {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.upstream.catalog = tt.catalog
			if tt.fail != nil {
				f.failing("catalog", tt.fail)
			}
			names, malformed, err := f.adopter.Names(t.Context(), tt.pattern)
			if !slices.Equal(names, tt.want) || !slices.Equal(malformed, tt.malformed) || !errors.Is(err, tt.wantErr) {
				t.Errorf("Names = %q, %q, %v, want %q, %q, %v", names, malformed, err, tt.want, tt.malformed, tt.wantErr)
			}
		})
	}
}

// TestTransientFailures expects one further attempt if the upstream answers pings, and none if it does not.
func TestTransientFailures(t *testing.T) {
	t.Parallel()
	for title, tt := range map[string]struct {
		failures int
		down     bool
		wantErr  bool
		want     int // requests
	}{
		"one failure":  {failures: 1, want: 2},
		"two failures": {failures: 2, wantErr: true, want: 2},
		"an outage":    {down: true, wantErr: true, want: 1},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.upstream.catalog, f.upstream.down = []string{"ok"}, tt.down
			f.upstream.fail = func(string, string, string) error {
				if tt.failures--; tt.failures >= 0 {
					return errDown
				}
				return nil
			}
			_, _, err := f.adopter.Names(t.Context(), "*")
			if (err != nil) != tt.wantErr || f.upstream.asked("catalog") != tt.want {
				t.Errorf("%v after %d requests, want an error: %t after %d", err, f.upstream.asked("catalog"), tt.wantErr, tt.want)
			}
		})
	}
}

func TestRepositoryAdoptsAllTags(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	one, two := f.upstream.image(name, "one", "v1", "latest"), f.upstream.image(name, "two", "v2")
	f.upstream.image(name, "hidden", pulp.PinTag(one))
	f.upstream.tags[name+":bad tag"] = one
	f.upstream.store(name, "broken", pulp.OCIManifest, []byte(`{}`))
	found, err := f.adopter.Repository(t.Context(), caller, name)
	if err != nil || found.Version == nil || found.Version.Number != 1 {
		t.Fatalf("Repository = %+v, %v, want version 1", found, err)
	}
	want := map[string]digest.Digest{"v1": one, "latest": one, "v2": two}
	if diff := cmp.Diff(want, f.tags(name)); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	var skipped []string
	for _, s := range found.Skipped {
		skipped = append(skipped, s.Kind+" "+s.Name)
	}
	if want := []string{"tag bad tag", "tag broken"}; !slices.Equal(skipped, want) {
		t.Errorf("skipped %q, want %q", skipped, want)
	}
	found, err = f.adopter.Repository(t.Context(), caller, name)
	if err != nil || found.Version != nil {
		t.Errorf("a second adoption made %+v, %v, want no version", found.Version, err)
	}
}

func TestRepositoryErrors(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, err := f.adopter.Repository(t.Context(), caller, name); !fault.Is(err, fault.NotFound) {
		t.Errorf("Repository = %v, want NotFound for a name that the upstream does not have", err)
	}
	f.upstream.image("Invalid_", "one", "v1")
	if _, err := f.adopter.Repository(t.Context(), caller, "Invalid_"); !fault.Is(err, fault.Invalid) {
		t.Errorf("Repository = %v, want Invalid", err)
	}
	f.upstream.down = true
	if _, err := f.adopter.Repository(t.Context(), caller, name); !fault.IsOutage(err, fault.Upstream) {
		t.Errorf("Repository = %v, want an outage", err)
	}
}

// TestCompareTag compares one tag, v1, in all states that it can have here and upstream.
func TestCompareTag(t *testing.T) {
	t.Parallel()
	synced := func(f *fixture) digest.Digest {
		d := f.push(name, "one", "v1")
		f.flush()
		return d
	}
	tests := map[string]struct {
		prepare     func(f *fixture)
		options     adopt.CompareOptions
		want        []string // notes about differences
		wantSkipped []string // reasons
		wantHere    string   // text of the tag's image after the comparison
		wantDirty   bool     // the tag waits in the outbox after the comparison
	}{
		"equal":                    {prepare: func(f *fixture) { synced(f) }, wantHere: "one"},
		"waiting for its write":    {prepare: func(f *fixture) { f.push(name, "one", "v1") }, wantHere: "one", wantDirty: true},
		"absent here and upstream": {prepare: func(f *fixture) { f.here(name) }},
		"refused by the upstream": {
			prepare: func(f *fixture) {
				f.push(name, "one", "v1")
				due, err := f.store.Upstream.OutboxTags(f.Context(), 1)
				if err == nil {
					err = f.store.Upstream.DelayTag(f.Context(), due[0], 0)
				}
				if err != nil {
					f.Fatal(err)
				}
			},
			want:     []string{"tag v1: It waits to be written to the upstream, which has not accepted it so far; the log contains the reason."},
			wantHere: "one", wantDirty: true,
		},
		"moved by another client": {
			prepare: func(f *fixture) { synced(f); f.upstream.image(name, "two", "v1") },
			want:    []string{"tag v1: Somebody else has pushed it."}, wantHere: "one",
		},
		"moved by another client, followed": {
			prepare: func(f *fixture) { synced(f); f.upstream.image(name, "two", "v1") },
			options: adopt.CompareOptions{Follow: true}, wantHere: "two",
		},
		"created by another client, followed": {
			prepare: func(f *fixture) { f.here(name); f.upstream.image(name, "two", "v1") },
			options: adopt.CompareOptions{Follow: true}, wantHere: "two",
		},
		"moved to an invalid image": {
			prepare: func(f *fixture) { synced(f); f.upstream.store(name, "v1", pulp.OCIManifest, []byte(`{}`)) },
			want:    []string{"tag v1: Somebody else has pushed it, and it cannot be adopted: "}, wantSkipped: []string{""}, wantHere: "one",
		},
		"moved to an invalid image, followed": {
			prepare: func(f *fixture) { synced(f); f.upstream.store(name, "v1", pulp.OCIManifest, []byte(`{}`)) },
			options: adopt.CompareOptions{Follow: true},
			want:    []string{"tag v1: Somebody else has pushed it, and it cannot be adopted: "}, wantSkipped: []string{""}, wantHere: "one",
		},
		"deleted by another client": {
			prepare: func(f *fixture) { synced(f); f.upstream.remove(name, "v1") },
			want:    []string{"tag v1: It is gone upstream."}, wantHere: "one",
		},
		"deleted here, and the upstream does not delete": {
			prepare: func(f *fixture) { synced(f); f.upstream.keepsTags = true; f.untag("v1"); f.flush() },
			options: adopt.CompareOptions{Follow: true},
			want:    []string{"tag v1: It was deleted here; the upstream keeps it."},
		},
		"overwritten by a late write of this server": {
			prepare: func(f *fixture) {
				one := f.push(name, "one", "v1")
				f.interrupt()
				f.push(name, "two", "v1")
				f.flush()
				f.upstream.tags[name+":v1"] = one
			},
			options: adopt.CompareOptions{Follow: true},
			want:    []string{"tag v1: An older write of ours arrived late; it is written again."}, wantHere: "two", wantDirty: true,
		},
		"restored by a late write of this server": {
			prepare: func(f *fixture) {
				one := f.push(name, "one", "v1")
				f.interrupt()
				f.untag("v1")
				f.flush()
				f.upstream.tags[name+":v1"] = one
			},
			options:   adopt.CompareOptions{Follow: true},
			want:      []string{"tag v1: It was deleted here, and an older write of ours arrived late; it is deleted again."},
			wantDirty: true,
		},
		"deleted by a late deletion of this server": {
			prepare: func(f *fixture) {
				synced(f)
				f.untag("v1")
				f.interrupt()
				f.push(name, "two", "v1")
				f.flush()
				f.upstream.remove(name, "v1")
			},
			want: []string{"tag v1: Our own deletion of it arrived late; it is written again."}, wantHere: "two", wantDirty: true,
		},
		"listed without a manifest": {
			prepare: func(f *fixture) {
				f.here(name)
				f.upstream.image(name, "two", "v1")
				f.failing("resolve "+name+" v1", storage.ErrNotFound)
			},
			want:        []string{"tag v1: The upstream lists it, but serves no manifest under it that can be stored here."},
			wantSkipped: []string{"The upstream lists it, but serves no manifest under it that can be stored here."},
		},
		"refused to clients": {
			prepare: func(f *fixture) {
				synced(f)
				f.failing("resolve "+name+" v1", fault.New(fault.Denied, "The upstream denies access."))
			},
			want:        []string{"tag v1: The upstream does not serve it: The upstream denies access."},
			wantSkipped: []string{"The upstream does not serve it: The upstream denies access."}, wantHere: "one",
		},
	}
	for title, tt := range tests {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			tt.prepare(f)
			found := f.compare(tt.options)
			if got := notes(found.Drift); !startEqually(got, tt.want) {
				t.Errorf("differences %q, want %q", got, tt.want)
			}
			if len(found.Fresh) != len(found.Drift) {
				t.Errorf("%d of %d differences are new, want all at the first comparison", len(found.Fresh), len(found.Drift))
			}
			var reasons []string
			for _, s := range found.Skipped {
				reasons = append(reasons, s.Reason)
			}
			if !startEqually(reasons, tt.wantSkipped) {
				t.Errorf("skipped for %q, want %q", reasons, tt.wantSkipped)
			}
			f.wantTag("v1", f.imageDigest(tt.wantHere))
			state, err := f.store.Upstream.UpstreamTag(t.Context(), f.here(name).ID, "v1")
			if err != nil || state.Dirty != tt.wantDirty {
				t.Errorf("the tag waits in the outbox: %t, %v, want %t", state.Dirty, err, tt.wantDirty)
			}
			if again := f.compare(adopt.CompareOptions{}); !tt.options.Follow && !tt.wantDirty && len(again.Fresh) != 0 {
				t.Errorf("a second comparison has new differences: %v", notes(again.Fresh))
			}
		})
	}
}

// startEqually reports whether both have the same length, and each element of got begins with that of want.
func startEqually(got, want []string) bool {
	return slices.EqualFunc(got, want, strings.HasPrefix)
}

// imageDigest returns the digest of the upstream image with this text; empty for an empty text.
func (f *fixture) imageDigest(text string) digest.Digest {
	if text == "" {
		return ""
	}
	return f.upstream.image(name, text)
}

// TestKnownDifferencesAreNotExamined expects that a comparison reuses the previous answer about a tag that is not followed,
// and that a deep comparison does not.
func TestKnownDifferencesAreNotExamined(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.push(name, "one", "v1")
	f.flush()
	f.upstream.store(name, "v1", pulp.OCIManifest, []byte(`{}`))
	f.compare(adopt.CompareOptions{})
	before := f.upstream.asked("get ")
	if found := f.compare(adopt.CompareOptions{}); len(found.Drift) != 1 || len(found.Fresh) != 0 || len(found.Skipped) != 1 {
		t.Errorf("the second comparison found %+v, want the known difference", found)
	}
	if n := f.upstream.asked("get ") - before; n != 0 {
		t.Errorf("the second comparison made %d requests for manifests", n)
	}
	f.compare(adopt.CompareOptions{Deep: true})
	if n := f.upstream.asked("get ") - before; n == 0 {
		t.Error("the deep comparison made no request for the manifest")
	}
}

func TestUnansweredTags(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		tags    int
		wantErr bool
	}{{tags: 20}, {tags: 21, wantErr: true}} {
		t.Run(fmt.Sprint(tt.tags), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			repo := f.here(name)
			for i := range tt.tags {
				f.upstream.image(name, "one", fmt.Sprint("v", i))
			}
			f.failing("resolve "+name+" v", errDown)
			found, err := f.adopter.Compare(t.Context(), caller, repo, adopt.CompareOptions{})
			if (err != nil) != tt.wantErr {
				t.Errorf("Compare = %v, want an error: %t", err, tt.wantErr)
			}
			if !tt.wantErr && len(found.Drift) != tt.tags {
				t.Errorf("%d differences, want one for each of %d tags", len(found.Drift), tt.tags)
			}
		})
	}
}

// TestOutageDuringAComparison expects an error, and that the differences of the previous comparison stay.
func TestOutageDuringAComparison(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.push(name, "one", "v1")
	f.flush()
	f.upstream.image(name, "two", "v1")
	repo := f.here(name)
	f.compare(adopt.CompareOptions{})
	f.upstream.down = true
	if _, err := f.adopter.Compare(t.Context(), caller, repo, adopt.CompareOptions{}); !fault.IsOutage(err, fault.Upstream) {
		t.Errorf("Compare = %v, want an outage", err)
	}
	known, err := f.store.Upstream.TagDrift(t.Context(), repo.ID)
	if err != nil || len(known) != 1 {
		t.Errorf("%d differences are stored, %v, want that of the first comparison", len(known), err)
	}
}

// TestChangesDuringAComparison expects that a tag which changes here during a comparison is neither adopted nor reported.
func TestChangesDuringAComparison(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.push(name, "one", "v1")
	f.flush()
	f.upstream.image(name, "two", "v1")
	changed := false
	f.upstream.fail = func(operation, _, reference string) error {
		if operation == "resolve" && reference == "v1" && !changed {
			changed = true
			f.push(name, "three", "v1")
		}
		return nil
	}
	found := f.compare(adopt.CompareOptions{Follow: true})
	if len(found.Drift) != 0 {
		t.Errorf("differences %v, want none", notes(found.Drift))
	}
	f.wantTag("v1", f.imageDigest("three"))
}

func TestDeepComparison(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	d := f.push(name, "one", "v1")
	f.flush()
	deep := adopt.CompareOptions{Deep: true}
	if found := f.compare(deep); len(found.Drift) != 0 {
		t.Fatalf("differences %v, want none", notes(found.Drift))
	}
	layer := digest.FromString("layer one")
	f.upstream.lose(name, layer)
	f.upstream.remove(name, string(d))
	want := []string{
		"blob " + string(layer) + ": The upstream has lost it.",
		"manifest " + string(d) + ": The upstream does not have it under this name; pulls by it through here",
	}
	if found := f.compare(deep); !startEqually(notes(found.Drift), want) {
		t.Errorf("differences %q, want %q", notes(found.Drift), want)
	}
	if found := f.compare(adopt.CompareOptions{}); len(found.Drift) != 0 {
		t.Errorf("a comparison of tags found %v", notes(found.Drift))
	}
	f.upstream.fail = func(operation, _, _ string) error {
		if operation == "stat" {
			return errors.New("connection reset")
		}
		return nil
	}
	if _, err := f.adopter.Compare(t.Context(), caller, f.here(name), deep); err == nil {
		t.Error("an internal error of a lookup did not end the comparison")
	}
}

// TestDeepComparisonRestoresManifests expects that a lost manifest is put back under its pin tag if manifests are pinned.
func TestDeepComparisonRestoresManifests(t *testing.T) {
	t.Parallel()
	for title, tt := range map[string]struct {
		fail     string // prefix of failing requests
		wantNote string
		wantPin  bool
	}{
		"put back":        {wantNote: "it has been put there.", wantPin: true},
		"a rejected put":  {fail: "put ", wantNote: "and does not take it."},
		"a lost part too": {fail: "put " + name + " " + pinTagPrefix, wantNote: "and does not take it."},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.adopter.Pin = true
			d := f.push(name, "one", "v1")
			f.flush()
			f.upstream.remove(name, string(d))
			if tt.fail != "" {
				f.failing(tt.fail, fault.New(fault.Denied, "The upstream denies the push."))
			}
			found := f.compare(adopt.CompareOptions{Deep: true})
			if len(found.Drift) != 1 || !strings.HasSuffix(found.Drift[0].Note, tt.wantNote) {
				t.Errorf("differences %q, want one that ends with %q", notes(found.Drift), tt.wantNote)
			}
			if pinned := f.upstream.tags[name+":"+pulp.PinTag(d)] == d; pinned != tt.wantPin {
				t.Errorf("the manifest is pinned: %t, want %t", pinned, tt.wantPin)
			}
		})
	}
}

const pinTagPrefix = "countersign-keep."

// TestSentence expects that only messages for users are shown.
func TestSentence(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"The layer is too large.": fmt.Errorf("adopt: %w", fault.New(fault.TooLarge, "The layer is too large.")),
		"see the log.":            errors.New("dial tcp 10.0.0.1: connection refused"),
	} {
		if got := adopt.Sentence(err); got != want {
			t.Errorf("Sentence(%v) = %q, want %q", err, got, want)
		}
	}
	if got := adopt.Sentence(fault.Wrap(fault.Internal, errors.New("x"), "secret")); got != "see the log." {
		t.Errorf("Sentence of an internal error = %q", got)
	}
}
