package access

import (
	"errors"
	"testing"
	"time"
)

// TestCache checks when a value is read again.
func TestCache(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := NewCache[string, int](2)
	c.now = func() time.Time { return now }
	reads := 0
	get := func(key string, want, wantReads int) {
		t.Helper()
		v, ok := c.Get(key)
		if !ok {
			v, _ = c.Read(key, func() (int, error) { reads++; return reads, nil })
		}
		if v != want || reads != wantReads {
			t.Errorf("%s is %d after %d reads, want %d after %d", key, v, reads, want, wantReads)
		}
	}
	get("a", 1, 1)
	now = now.Add(CacheLife - 1)
	get("a", 1, 1)
	now = now.Add(1)
	get("a", 2, 2)
	c.Purge()
	get("a", 3, 3)
	if _, err := c.Read("b", func() (int, error) { return 9, errors.New("broken") }); err == nil {
		t.Error("Read returns no error")
	}
	get("b", 4, 4)
	get("c", 5, 5)
	get("b", 4, 5)
	get("a", 6, 6) // was evicted
}

// TestCacheKeepsNothingOlderThanAChange purges the cache while a value is read.
func TestCacheKeepsNothingOlderThanAChange(t *testing.T) {
	t.Parallel()
	c := NewCache[string, int](2)
	if v, err := c.Read("a", func() (int, error) { c.Purge(); return 1, nil }); v != 1 || err != nil {
		t.Errorf("Read = %d, %v", v, err)
	}
	if v, ok := c.Get("a"); ok {
		t.Errorf("the cache keeps %d, which was read before a change", v)
	}
}
