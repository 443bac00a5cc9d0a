package list_test

import (
	"context"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/storetest"
)

// errorOf returns the error of a list.
func errorOf[T any](_ []T, _ int64, err error) error { return err }

// TestListsReportFailures reads every list, and the parts of manifests, from a database that is closed. Each call returns an
// error: an empty list would look like an answer.
func TestListsReportFailures(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	alice := storetest.ViewerOf(t, s, "alice")
	if err := s.DB.Close(); err != nil {
		t.Fatal(err)
	}
	q := list.Query{Limit: 10, Offset: 5}
	for name, call := range map[string]func(context.Context) error{
		"tasks":         func(ctx context.Context) error { return errorOf(s.Lists.Tasks(ctx, q)) },
		"repositories":  func(ctx context.Context) error { return errorOf(s.Lists.Repositories(ctx, q)) },
		"versions":      func(ctx context.Context) error { return errorOf(s.Lists.Versions(ctx, q)) },
		"distributions": func(ctx context.Context) error { return errorOf(s.Lists.Distributions(ctx, q)) },
		"remotes":       func(ctx context.Context) error { return errorOf(s.Lists.Remotes(ctx, q)) },
		"namespaces":    func(ctx context.Context) error { return errorOf(s.Lists.Namespaces(ctx, q)) },
		"services":      func(ctx context.Context) error { return errorOf(s.Lists.SigningServices(ctx, q)) },
		"workers":       func(ctx context.Context) error { return errorOf(s.Lists.Workers(ctx, q)) },
		"tags":          func(ctx context.Context) error { return errorOf(s.Lists.Tags(ctx, q)) },
		"manifests":     func(ctx context.Context) error { return errorOf(s.Lists.Manifests(ctx, q)) },
		"blobs":         func(ctx context.Context) error { return errorOf(s.Lists.Blobs(ctx, q)) },
		"signatures":    func(ctx context.Context) error { return errorOf(s.Lists.Signatures(ctx, q)) },
		"blobs of manifests": func(ctx context.Context) error {
			_, err := s.Lists.ManifestParts(ctx, []string{pulp.NewID()}, nil, true, false)
			return err
		},
		"children of manifests": func(ctx context.Context) error {
			_, err := s.Lists.ManifestParts(ctx, []string{pulp.NewID()}, alice, false, true)
			return err
		},
		"natures of manifests": func(ctx context.Context) error {
			_, err := s.Lists.ManifestNatures(ctx, []string{pulp.NewID()}, nil)
			return err
		},
		"deleted objects": func(ctx context.Context) error {
			_, err := s.Lists.Gone(ctx, []string{pulp.RepositoryHref(pulp.Container, pulp.NewID())})
			return err
		},
		"found rows": func(ctx context.Context) error {
			_, err := list.RepositoryList.Find(ctx, s.Lists, q)
			return err
		},
	} {
		if err := call(t.Context()); err == nil {
			t.Errorf("%s: no error from a closed database", name)
		}
	}
}

// TestPiecesReportFailures closes the database between the search for rows and reading them. The pieces end with an error.
func TestPiecesReportFailures(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	storetest.Target(t, s, "acme/app")
	found, err := list.RepositoryList.Find(t.Context(), s.Lists, list.Query{Limit: 10})
	if err != nil || found.Count != 1 {
		t.Fatalf("Find = %+v, %v, want one row", found, err)
	}
	if err := s.DB.Close(); err != nil {
		t.Fatal(err)
	}
	pieces := 0
	for piece, err := range found.Pieces(t.Context()) {
		if err == nil {
			t.Errorf("a piece of %d rows from a closed database", len(piece))
		}
		pieces++
	}
	if pieces != 1 {
		t.Errorf("%d pieces, want the error alone", pieces)
	}
}
