package store

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/pulp"
)

// TestNothingIsRememberedAcrossAWrite reads, again and again, what others change: who has been told of a change sees it.
func TestNothingIsRememberedAcrossAWrite(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.Remember()
	to := target(t, s, "acme/app")
	shows := func(want string) {
		t.Helper()
		for range 2 { // the second time it may be remembered
			got, err := s.Resolve(t.Context(), "acme/app")
			if err != nil {
				t.Fatal(err)
			}
			m, err := s.ServedManifest(t.Context(), got, "v1")
			if want == "" && fault.Is(err, fault.NotFound) {
				continue
			}
			if err != nil || string(m.Digest) != want {
				t.Errorf("v1 is %s, %v, want %s", m.Digest, err, want)
			}
		}
	}
	shows("")
	first, _ := pushImage(t, s, to.Repository.ID, "one", "v1")
	shows(string(first.Digest))
	second, _ := pushImage(t, s, to.Repository.ID, "two", "v1")
	shows(string(second.Digest))
	if _, err := s.DeleteTag(t.Context(), to.Repository.ID, "v1", nil); err != nil {
		t.Fatal(err)
	}
	shows("")
	if _, err := s.EditDistribution(t.Context(), nil, to.Distribution.ID, func(d *pulp.Distribution) { d.Private = true }); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Resolve(t.Context(), "acme/app"); err != nil || !got.Distribution.Private {
		t.Errorf("Resolve = %+v, %v, want a private distribution", got, err)
	}
	if err := s.DeleteDistribution(t.Context(), nil, to.Distribution.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resolve(t.Context(), "acme/app"); !fault.Is(err, fault.NotFound) {
		t.Errorf("Resolve of what was deleted = %v", err)
	}
}

// TestRememberingBesideWriters has each of several writers see its own last write, while others read and write.
func TestRememberingBesideWriters(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.Remember()
	var all sync.WaitGroup
	for w := range 4 {
		to := target(t, s, fmt.Sprintf("acme/app%d", w))
		all.Go(func() {
			for n := range 40 {
				m, _ := pushImage(t, s, to.Repository.ID, fmt.Sprintf("%d of %d", n, w), "v1")
				for range 5 {
					got, err := s.ServedManifest(t.Context(), to, "v1")
					if err != nil || got.Digest != m.Digest {
						t.Errorf("v1 is %s, %v, want %s", got.Digest, err, m.Digest)
					}
				}
			}
		})
	}
	all.Wait()
	if s.memory == nil && pgtest.URL(t) == "" {
		t.Error("nothing was remembered at all")
	}
}

// TestMemoryCountsAllBytes proves that the limit of what is remembered counts everything that entries hold, also where payloads are small, and that entries in
// use survive while others make room.
func TestMemoryCountsAllBytes(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	m := newMemory(limit)
	text := strings.Repeat("x", 1000)
	hot := remembered{"repository", 1, "hot"}
	m.keepManifest(0, hot, pulp.Manifest{ID: "hot"})
	held := func() (n int) {
		for i := range 2000 {
			if v, ok := m.manifest(remembered{"repository", int64(i), text}); ok {
				n += len(text) + len(v.Payload) + len(*v.Architecture) + len(v.ArtifactType)
			}
			if v, ok := m.target(fmt.Sprint(text, i)); ok {
				n += len(text) + len(*v.Distribution.Description) + len(v.Repository.Labels)*(len(text)+32)
			}
		}
		return n
	}
	for i := range 2000 {
		m.keepManifest(0, remembered{"repository", int64(i), text}, pulp.Manifest{Payload: []byte("small"), Architecture: &text, ArtifactType: text})
		m.keepTarget(0, fmt.Sprint(text, i), Target{
			Distribution: pulp.Distribution{Description: &text}, Repository: pulp.Repository{Labels: pulp.Labels{"a": &text, "b": &text, "c": &text}},
		})
		if v, ok := m.manifest(hot); !ok || v.ID != "hot" {
			t.Fatalf("an entry in use is gone after %d others", i)
		}
	}
	if n := held(); n < limit/4 || n > limit {
		t.Errorf("entries hold %d bytes, want at most %d and not few", n, limit)
	}
	for i := range 500 { // the same again and again
		m.keepManifest(0, hot, pulp.Manifest{ID: "hot", Payload: make([]byte, i)})
	}
	sum := 0
	for _, e := range m.kept.Values() {
		sum += e.bytes
	}
	if sum != m.bytes || m.bytes > limit {
		t.Errorf("%d bytes are counted, the entries have %d, the limit is %d", m.bytes, sum, limit)
	}
	m.keepManifest(0, remembered{reference: "large"}, pulp.Manifest{Payload: make([]byte, limit)})
	if _, ok := m.manifest(remembered{reference: "large"}); ok || held() == 0 {
		t.Error("an entry beyond the limit is kept, or has displaced the others")
	}
	m.wrote()
	m.keepTarget(1, "after", Target{})
	if m.kept.Len() != 1 || m.bytes > 10_000 {
		t.Errorf("after a write %d entries with %d bytes are left", m.kept.Len(), m.bytes)
	}
}
