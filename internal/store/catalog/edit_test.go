package catalog_test

import (
	"errors"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/storetest"
)

// concurrentChange is a change of an object outside tasks that happens while an edit of another field of the object is in
// progress.
type concurrentChange struct {
	edit   func(during func()) error // calls during within the edit
	change func() error
	both   func() bool // reports whether the object has the effects of both
}

// TestEditsKeepConcurrentChanges proves that an edit does not undo a change of another field that is made at the same time.
// In particular it does not restore a revoked signing service.
func TestEditsKeepConcurrentChanges(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	if !s.DB.IsPostgres() {
		t.Skip("SQLite has one writer")
	}
	for name, c := range map[string]concurrentChange{
		"repository": changedRepository(t, s), "distribution": changedDistribution(t, s), "remote": changedRemote(t, s),
	} {
		t.Run(name, func(t *testing.T) {
			changed := make(chan error, 1)
			if err := c.edit(func() {
				go func() { changed <- c.change() }()
				if err := endedOrWaiting(t, s, changed); err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Fatal(err)
			}
			if err := <-changed; err != nil {
				t.Fatal(err)
			}
			if !c.both() {
				t.Error("one of the two changes is lost")
			}
		})
	}
}

func changedRepository(t *testing.T, s *store.Store) concurrentChange {
	t.Helper()
	r, text := storetest.Target(t, s, "acme/app").Repository, "edited"
	storetest.Assign(t, s, r, storetest.AddService(t, s, "release").ID, pulp.AssignedByOwner, false)
	return concurrentChange{
		edit: func(during func()) error {
			_, err := s.Catalog.EditRepository(t.Context(), nil, r.Type, r.ID, func(r *pulp.Repository) {
				during()
				r.Description = &text
			})
			return err
		},
		change: func() error {
			_, err := s.Signatures.RevokeSigningAssignments(t.Context(), []string{r.Name})
			return err
		},
		both: func() bool {
			r, err := s.Catalog.RepositoryByName(t.Context(), r.Name)
			return err == nil && r.SigningServiceID == "" && r.SigningAssigned == "" && *r.Description == text
		},
	}
}

func changedDistribution(t *testing.T, s *store.Store) concurrentChange {
	t.Helper()
	d, text := storetest.Target(t, s, "acme/distributed").Distribution, "edited"
	return concurrentChange{
		edit: func(during func()) error {
			_, err := s.Catalog.EditDistribution(t.Context(), nil, d.ID, 0, func(d *pulp.Distribution) {
				during()
				d.Description = &text
			})
			return err
		},
		change: func() error {
			return s.Catalog.SetLabel(t.Context(), pulp.DistributionCollection, d.ID, "label", &text)
		},
		both: func() bool {
			d, err := s.Catalog.Distribution(t.Context(), d.ID)
			return err == nil && d.Labels["label"] != nil && *d.Description == text
		},
	}
}

func changedRemote(t *testing.T, s *store.Store) concurrentChange {
	t.Helper()
	m, text := createRemote(t, s, "acme/remote"), "https://edited.example"
	return concurrentChange{
		edit: func(during func()) error {
			_, err := s.Catalog.EditRemote(t.Context(), nil, m.ID, func(m *pulp.Remote) {
				during()
				m.URL = text
			})
			return err
		},
		change: func() error { return s.Catalog.SetLabel(t.Context(), pulp.RemoteCollection, m.ID, "label", &text) },
		both: func() bool {
			m, err := s.Catalog.Remote(t.Context(), m.ID)
			return err == nil && m.Labels["label"] != nil && m.URL == text
		},
	}
}

// endedOrWaiting returns when a transaction has ended, whose error stays in ended, or any transaction waits for a lock.
func endedOrWaiting(t *testing.T, s *store.Store, ended chan error) error {
	var failed error
	if !eventually.Within(3*time.Minute, func() bool {
		var waiting int
		failed = s.DB.Read().QueryRowContext(t.Context(), `
			SELECT COUNT(*) FROM pg_stat_activity
			 WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting)
		return len(ended) > 0 || waiting > 0 || failed != nil
	}) {
		return errors.New("the concurrent change neither ends nor waits")
	}
	return failed
}
