package catalog_test

import (
	"errors"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestEditsKeepWhatOthersChange changes an object, outside its tasks, while an edit of another field of it is under way. The edit does not undo the change: above all it gives no
// repository a revoked signing service back.
func TestEditsKeepWhatOthersChange(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	if !s.DB.IsPostgres() {
		t.Skip("SQLite has one writer")
	}
	made := storetest.Target(t, s, "acme/app")
	repo, d := made.Repository, made.Distribution
	storetest.Assign(t, s, repo, storetest.AddService(t, s, "release").ID, pulp.AssignedByOwner, false)
	m, err := s.Catalog.CreateRemote(t.Context(), pulp.Remote{Name: "acme/remote", URL: "https://remote.example", UpstreamName: "app", Policy: pulp.Immediate})
	if err != nil {
		t.Fatal(err)
	}
	label := func(collection, id string) func() error {
		value := "new"
		return func() error { return s.Catalog.SetLabel(t.Context(), collection, id, "label", &value) }
	}
	text := "edited"
	for name, tt := range map[string]struct {
		edit   func(meanwhile func()) error
		change func() error
		kept   func() bool
	}{
		"a repository": {
			edit: func(meanwhile func()) error {
				_, err := s.Catalog.EditRepository(t.Context(), nil, repo.Type, repo.ID, func(r *pulp.Repository) { meanwhile(); r.Description = &text })
				return err
			},
			change: func() error {
				_, err := s.Signatures.RevokeSigningAssignments(t.Context(), []string{repo.Name})
				return err
			},
			kept: func() bool {
				r, err := s.Catalog.RepositoryByName(t.Context(), repo.Name)
				return err == nil && r.SigningServiceID == "" && r.SigningAssigned == "" && *r.Description == text
			},
		},
		"a distribution": {
			edit: func(meanwhile func()) error {
				_, err := s.Catalog.EditDistribution(t.Context(), nil, d.ID, func(d *pulp.Distribution) { meanwhile(); d.Description = &text })
				return err
			},
			change: label(pulp.DistributionCollection, d.ID),
			kept: func() bool {
				d, err := s.Catalog.Distribution(t.Context(), d.ID)
				return err == nil && d.Labels["label"] != nil && *d.Description == text
			},
		},
		"a remote": {
			edit: func(meanwhile func()) error {
				_, err := s.Catalog.EditRemote(t.Context(), nil, m.ID, func(m *pulp.Remote) { meanwhile(); m.URL = "https://" + text + ".example" })
				return err
			},
			change: label(pulp.RemoteCollection, m.ID),
			kept: func() bool {
				m, err := s.Catalog.Remote(t.Context(), m.ID)
				return err == nil && m.Labels["label"] != nil && m.URL == "https://"+text+".example"
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			changed := make(chan error, 1)
			if err := tt.edit(func() {
				go func() { changed <- tt.change() }()
				if err := doneOrWaiting(s, t, changed); err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Fatal(err)
			}
			if err := <-changed; err != nil {
				t.Fatal(err)
			}
			if !tt.kept() {
				t.Error("one of the two changes is lost")
			}
		})
	}
}

// doneOrWaiting returns when a transaction has ended, which then is still in done, or waits for a lock.
func doneOrWaiting(s *store.Store, t *testing.T, done chan error) error {
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); {
		select {
		case err := <-done:
			done <- err
			return nil
		default:
		}
		var waiting int
		err := s.DB.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting)
		if err != nil || waiting > 0 {
			return err
		}
	}
	return errors.New("the other change neither ends nor waits")
}
