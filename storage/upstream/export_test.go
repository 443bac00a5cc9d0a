package upstream

// ShortLists reduces the bounds of lists to 1 KiB a page, 4 KiB in all, 8 pages and 80 entries.
func ShortLists(s *Storage) {
	s.lists = bounds{page: 1 << 10, all: 4 << 10, pages: 8, entries: 80}
}
