package upstream

// ShortLists bounds lists to a kilobyte a page, four in all, eight pages and eighty entries.
func ShortLists(s *Storage) {
	s.lists = bounds{page: 1 << 10, all: 4 << 10, pages: 8, entries: 80}
}
