package serving_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestCacheIsInvalidatedByWrites reads after each change: a change that was acknowledged is visible.
func TestCacheIsInvalidatedByWrites(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	s.Serving.EnableCache()
	to := storetest.Target(t, s, "acme/app")
	shows := func(want string) {
		t.Helper()
		for range 2 { // the second time it may be cached
			got, err := s.Serving.Resolve(t.Context(), "acme/app")
			if err != nil {
				t.Fatal(err)
			}
			m, err := s.Serving.ServedManifest(t.Context(), got, "v1")
			if want == "" && fault.Is(err, fault.NotFound) {
				continue
			}
			if err != nil || string(m.Digest) != want {
				t.Errorf("v1 is %s, %v, want %s", m.Digest, err, want)
			}
		}
	}
	shows("")
	first, _ := storetest.PushImage(t, s, to.Repository.ID, "one", "v1")
	shows(string(first.Digest))
	second, _ := storetest.PushImage(t, s, to.Repository.ID, "two", "v1")
	shows(string(second.Digest))
	if _, err := s.Content.DeleteTag(t.Context(), to.Repository.ID, "v1", nil); err != nil {
		t.Fatal(err)
	}
	shows("")
	if _, err := s.Catalog.EditDistribution(t.Context(), nil, to.Distribution.ID, 0, func(d *pulp.Distribution) { d.Private = true }); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Serving.Resolve(t.Context(), "acme/app"); err != nil || !got.Distribution.Private {
		t.Errorf("Resolve = %+v, %v, want a private distribution", got, err)
	}
	if err := s.Catalog.DeleteDistribution(t.Context(), nil, to.Distribution.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Serving.Resolve(t.Context(), "acme/app"); !fault.Is(err, fault.NotFound) {
		t.Errorf("Resolve of a deleted distribution = %v, want NotFound", err)
	}
}

// TestCacheBesideWriters lets several writers read their own last write while others read and write.
func TestCacheBesideWriters(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	s.Serving.EnableCache()
	var all sync.WaitGroup
	for w := range 4 {
		to := storetest.Target(t, s, fmt.Sprintf("acme/app%d", w))
		all.Go(func() {
			for n := range 40 {
				m, _ := storetest.PushImage(t, s, to.Repository.ID, fmt.Sprintf("%d of %d", n, w), "v1")
				for range 5 {
					got, err := s.Serving.ServedManifest(t.Context(), to, "v1")
					if err != nil || got.Digest != m.Digest {
						t.Errorf("v1 is %s, %v, want %s", got.Digest, err, m.Digest)
					}
				}
			}
		})
	}
	all.Wait()
	if !s.Serving.Cached() && pgtest.URL(t) == "" {
		t.Error("nothing was cached")
	}
}
