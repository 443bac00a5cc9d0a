package store

import (
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/countersign/countersign/internal/pulp"
)

// Bounds of what is remembered.
const (
	maxRemembered      = 20_000   // entries
	maxRememberedBytes = 64 << 20 // that the entries take
	// rememberedOverhead is about how many bytes an entry takes beside its key and value: its place in the list and in the map.
	rememberedOverhead = 256
)

// Remember has the store answer what a path serves, and what a tag or digest stands for there, from memory while nothing at all has been written since it was read.
// Only the one process that owns the database may do that: it is called by who has locked the data directory, and never on PostgreSQL (architecture 1). Verbs that
// write beside the owner change no content.
func (s *Store) Remember() {
	if s.postgres == nil {
		s.memory = newMemory(maxRememberedBytes)
	}
}

// memory is what was read since the last write; of that, what was used last. It is safe for concurrent use; what it returns is shared, and not to be changed.
type memory struct {
	writes atomic.Uint64 // that have been committed
	limit  int           // bytes

	mu    sync.Mutex
	asOf  uint64                               // writes, when the entries were read
	kept  *simplelru.LRU[any, rememberedEntry] // by a path (a string) or a remembered
	bytes int                                  // that the entries take
}

// remembered names a manifest by what a target serves it under.
type remembered struct {
	repositoryID string
	version      int64
	reference    string
}

// rememberedEntry is a Target or a pulp.Manifest and about how many bytes it takes with its key.
type rememberedEntry struct {
	value any
	bytes int
}

func newMemory(limit int) *memory {
	m := &memory{limit: limit}
	// The only error is a size below 1.
	m.kept, _ = simplelru.NewLRU(maxRemembered, func(_ any, e rememberedEntry) { m.bytes -= e.bytes })
	return m
}

// wrote forgets everything. It is called after a commit, before anybody hears of it.
func (m *memory) wrote() {
	if m != nil {
		m.writes.Add(1)
	}
}

// before returns the time as of which something is about to be read.
func (m *memory) before() uint64 {
	if m == nil {
		return 0
	}
	return m.writes.Load()
}

// recall returns what is under a key, unless there was a write since it was read; nil for nothing.
func (m *memory) recall(key any) any {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asOf != m.writes.Load() {
		return nil
	}
	e, _ := m.kept.Get(key)
	return e.value
}

func (m *memory) target(path string) (t Target, ok bool) {
	t, ok = m.recall(path).(Target)
	return t, ok
}

func (m *memory) manifest(k remembered) (v pulp.Manifest, ok bool) {
	v, ok = m.recall(k).(pulp.Manifest)
	return v, ok
}

// keep stores what was read as of a time, unless there was a write since. What was not used for longest makes room for it.
func (m *memory) keep(asOf uint64, key, value any) {
	if m == nil {
		return
	}
	e := rememberedEntry{value, rememberedOverhead + sizeOf(reflect.ValueOf(key)) + sizeOf(reflect.ValueOf(value))}
	m.mu.Lock()
	defer m.mu.Unlock()
	if asOf != m.writes.Load() || e.bytes > m.limit {
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

func (m *memory) keepTarget(asOf uint64, path string, t Target) { m.keep(asOf, path, t) }

func (m *memory) keepManifest(asOf uint64, k remembered, v pulp.Manifest) { m.keep(asOf, k, v) }

// sizeOf returns about how many bytes a value takes, with everything that it refers to. It is for values without cycles.
func sizeOf(v reflect.Value) int { return int(v.Type().Size()) + referredSize(v) }

// referredSize returns about how many bytes the things take that a value refers to.
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
