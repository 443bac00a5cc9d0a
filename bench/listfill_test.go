package main

import (
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite" // registers the driver

	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/list"
)

// TestFillLists fills a small database and counts its rows.
func TestFillLists(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "lists.db")
	s, err := store.Open(t.Context(), "sqlite:"+file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := s.DB.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := fillLists(t.Context(), "sqlite", "file:"+file, listSizes{repositories: 200, units: 2000, tasks: 2000}); err != nil {
		t.Fatal(err)
	}
	q := list.Query{Limit: 1}
	_, tasks, err := s.Lists.Tasks(t.Context(), q)
	if err != nil || tasks != 2000 {
		t.Errorf("%d tasks, %v, want 2000", tasks, err)
	}
	_, blobs, err := s.Lists.Blobs(t.Context(), q)
	if err != nil || blobs != 800 {
		t.Errorf("%d blobs, %v, want 800", blobs, err)
	}
	_, repositories, err := s.Lists.Repositories(t.Context(), q)
	if err != nil || repositories != 201 {
		t.Errorf("%d repositories, %v, want 201", repositories, err)
	}
}
