package store

import (
	"sync"
	"sync/atomic"

	"github.com/countersign/countersign/internal/pulp"
)

// Bounds of what is remembered.
const (
	maxRemembered      = 20_000
	maxRememberedBytes = 64 << 20 // of manifests
)

// Remember has the store answer what a path serves, and what a tag or digest stands for there, from memory while nothing at all has been written since it was read.
// Only the one process that owns the database may do that: it is called by who has locked the data directory, and never on PostgreSQL (architecture 1). Verbs that
// write beside the owner change no content.
func (s *Store) Remember() {
	if s.postgres == nil {
		s.memory = &memory{}
	}
}

// memory is what was read since the last write. It is safe for concurrent use; what it returns is shared, and not to be changed.
type memory struct {
	writes atomic.Uint64 // that have been committed

	mu        sync.RWMutex
	asOf      uint64 // writes, when what is here was read
	targets   map[string]Target
	manifests map[remembered]pulp.Manifest
	bytes     int
}

type remembered struct {
	repositoryID string
	version      int64
	reference    string
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

func (m *memory) target(path string) (t Target, ok bool) {
	if m == nil {
		return t, false
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.asOf != m.writes.Load() {
		return t, false
	}
	t, ok = m.targets[path]
	return t, ok
}

func (m *memory) manifest(k remembered) (v pulp.Manifest, ok bool) {
	if m == nil {
		return v, false
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.asOf != m.writes.Load() {
		return v, false
	}
	v, ok = m.manifests[k]
	return v, ok
}

// keep stores what was read as of a time, unless there was a write since.
func (m *memory) keep(asOf uint64, store func()) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if asOf != m.writes.Load() {
		return
	}
	if m.asOf != asOf || m.targets == nil || len(m.targets)+len(m.manifests) >= maxRemembered || m.bytes >= maxRememberedBytes {
		m.asOf, m.bytes, m.targets, m.manifests = asOf, 0, map[string]Target{}, map[remembered]pulp.Manifest{}
	}
	store()
}

func (m *memory) keepTarget(asOf uint64, path string, t Target) {
	m.keep(asOf, func() { m.targets[path] = t })
}

func (m *memory) keepManifest(asOf uint64, k remembered, v pulp.Manifest) {
	m.keep(asOf, func() {
		m.manifests[k] = v
		m.bytes += len(v.Payload)
	})
}
