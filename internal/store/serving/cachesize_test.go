package serving

import (
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
)

// TestCacheCountsAllBytes proves that the limit of the cache counts everything that entries refer to, also if payloads are small, and that entries in
// use survive while others make room.
func TestCacheCountsAllBytes(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	commits := uint64(0)
	m := newCache(func() uint64 { return commits }, limit)
	text := strings.Repeat("x", 1000)
	hot := manifestKey{"repository", 1, "hot"}
	m.keep(0, hot, pulp.Manifest{ID: "hot"})
	held := func() (n int) {
		for i := range 2000 {
			if v, ok := m.manifest(manifestKey{"repository", int64(i), text}); ok {
				n += len(text) + len(v.Payload) + len(*v.Architecture) + len(v.ArtifactType)
			}
			if v, ok := m.target(fmt.Sprint(text, i)); ok {
				n += len(text) + len(*v.Distribution.Description) + len(v.Repository.Labels)*(len(text)+32)
			}
		}
		return n
	}
	for i := range 2000 {
		m.keep(0, manifestKey{"repository", int64(i), text}, pulp.Manifest{Payload: []byte("small"), Architecture: &text, ArtifactType: text})
		m.keep(0, fmt.Sprint(text, i), record.Target{
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
		m.keep(0, hot, pulp.Manifest{ID: "hot", Payload: make([]byte, i)})
	}
	sum := 0
	for _, e := range m.kept.Values() {
		sum += e.bytes
	}
	if sum != m.bytes || m.bytes > limit {
		t.Errorf("%d bytes are counted, the entries have %d, the limit is %d", m.bytes, sum, limit)
	}
	m.keep(0, manifestKey{reference: "large"}, pulp.Manifest{Payload: make([]byte, limit)})
	if _, ok := m.manifest(manifestKey{reference: "large"}); ok || held() == 0 {
		t.Error("an entry beyond the limit is kept, or has displaced the others")
	}
	commits++
	m.keep(1, "after", record.Target{})
	if m.kept.Len() != 1 || m.bytes > 10_000 {
		t.Errorf("after a write %d entries with %d bytes are left", m.kept.Len(), m.bytes)
	}
}
