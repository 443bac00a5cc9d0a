package serving

// Cached reports whether the store has a cache.
func (s *Store) Cached() bool { return s.cache != nil }
