package serving

import (
	"reflect"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
)

// Bounds of the cache.
const (
	maxCached      = 20_000   // entries
	maxCachedBytes = 64 << 20 // of all entries together
	// cachedOverhead is about the number of bytes that an entry takes beside its key and value: its place in the list and in
	// the map.
	cachedOverhead = 256
)

// EnableCache makes the store answer Resolve, ResolvePublic and ServedManifest from memory while nothing has been written since
// the answer was read. It has no effect on PostgreSQL, where other processes write. On SQLite only the process that holds the
// lock on the data directory may call it, before the store is used; commands that write beside that process change no content.
func (s *Store) EnableCache() {
	if !s.db.IsPostgres() {
		s.cache = newCache(s.db.Commits, maxCachedBytes)
	}
}

// cache holds answers that were read since the last commit and evicts the least recently used ones. It is safe for concurrent
// use. Its values are shared: callers must not change them. A nil cache is empty and keeps nothing.
type cache struct {
	commits func() uint64
	limit   int // bytes

	mu    sync.Mutex
	asOf  uint64                           // the number of commits when the entries were read
	kept  *simplelru.LRU[any, cachedEntry] // by a path (a string) or a manifestKey
	bytes int                              // of all entries
}

// manifestKey is the key of a manifest that a target serves.
type manifestKey struct {
	repositoryID string
	version      int64
	reference    string
}

// cachedEntry is a record.Target or a pulp.Manifest and about the number of bytes that it takes with its key.
type cachedEntry struct {
	value any
	bytes int
}

func newCache(commits func() uint64, limit int) *cache {
	m := &cache{commits: commits, limit: limit}
	// The only error is a size below 1.
	m.kept, _ = simplelru.NewLRU(maxCached, func(_ any, e cachedEntry) { m.bytes -= e.bytes })
	return m
}

// before returns the number of commits, for keep, before the caller reads from the database.
func (m *cache) before() uint64 {
	if m == nil {
		return 0
	}
	return m.commits()
}

// get returns the value under a key, unless there was a commit since it was read; nil if there is none.
func (m *cache) get(key any) any {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asOf != m.commits() {
		return nil
	}
	e, _ := m.kept.Get(key)
	return e.value
}

func (m *cache) target(path string) (t record.Target, ok bool) {
	t, ok = m.get(path).(record.Target)
	return t, ok
}

func (m *cache) manifest(k manifestKey) (v pulp.Manifest, ok bool) {
	v, ok = m.get(k).(pulp.Manifest)
	return v, ok
}

// keep stores a value that was read when there were asOf commits, unless there was a commit since.
func (m *cache) keep(asOf uint64, key, value any) {
	if m == nil {
		return
	}
	e := cachedEntry{value, cachedOverhead + sizeOf(reflect.ValueOf(key)) + sizeOf(reflect.ValueOf(value))}
	m.mu.Lock()
	defer m.mu.Unlock()
	if asOf != m.commits() || e.bytes > m.limit {
		return
	}
	if m.asOf != asOf {
		m.kept.Purge()
		m.asOf = asOf
	}
	m.kept.Remove(key) // another call may have been faster
	m.kept.Add(key, e)
	for m.bytes += e.bytes; m.bytes > m.limit; {
		m.kept.RemoveOldest()
	}
}

// sizeOf estimates the bytes of a value with everything that it refers to. The value must have no cycles.
func sizeOf(v reflect.Value) int { return int(v.Type().Size()) + referredSize(v) }

// referredSize estimates the bytes of everything that a value refers to.
func referredSize(v reflect.Value) int {
	size := 0
	switch v.Kind() {
	case reflect.String:
		size = v.Len()
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			size = sizeOf(v.Elem())
		}
	case reflect.Slice:
		size = v.Cap() * int(v.Type().Elem().Size())
		if v.Type().Elem().Kind() != reflect.Uint8 {
			for i := range v.Len() {
				size += referredSize(v.Index(i))
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			size += referredSize(v.Field(i))
		}
	case reflect.Map:
		for entries := v.MapRange(); entries.Next(); { // maps are half empty at worst
			size += 2*int(v.Type().Key().Size()+v.Type().Elem().Size()) + referredSize(entries.Key()) + referredSize(entries.Value())
		}
	default:
	}
	return size
}
