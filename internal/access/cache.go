package access

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// CacheLife is the longest time for which the registry API uses what it has read about accounts and their permissions.
// So another process can take permissions away within this time.
const CacheLife = 10 * time.Second

// Cache keeps values that were read, for at most CacheLife, and evicts the least recently used ones. It is safe for
// concurrent use.
type Cache[K comparable, V any] struct {
	now func() time.Time

	mu         sync.Mutex
	generation uint64 // the number of calls of Purge
	kept       *simplelru.LRU[K, cached[V]]
}

type cached[V any] struct {
	value V
	until time.Time
}

// NewCache returns an empty Cache of at most size values.
func NewCache[K comparable, V any](size int) *Cache[K, V] {
	kept, err := simplelru.NewLRU[K, cached[V]](size, nil)
	if err != nil { // the size is a positive constant
		panic(err)
	}
	return &Cache[K, V]{now: time.Now, kept: kept}
}

// Get returns the value under a key that is kept.
func (c *Cache[K, V]) Get(key K) (value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.kept.Get(key)
	if !ok || !c.now().Before(e.until) {
		return value, false
	}
	return e.value, true
}

// Read returns the result of read and keeps it, unless it is an error or Purge was called while read ran: then the
// result may be older than the change.
func (c *Cache[K, V]) Read(key K, read func() (V, error)) (V, error) {
	c.mu.Lock()
	generation, until := c.generation, c.now().Add(CacheLife)
	c.mu.Unlock()
	value, err := read()
	if err != nil {
		return value, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation == c.generation {
		c.kept.Add(key, cached[V]{value, until})
	}
	return value, nil
}

// Purge removes all values. Call it after a change of the rows from which they were read.
func (c *Cache[K, V]) Purge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	c.kept.Purge()
}
