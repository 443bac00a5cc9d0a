package list

// CheckRows makes lists check rows one by one, as for viewers of many repositories.
func (s *Store) CheckRows() { s.few = -1 }
