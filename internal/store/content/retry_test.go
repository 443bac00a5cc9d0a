package content_test

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// failCompletions makes the database abort the first completion of a task with a serialization failure, as for a conflict with
// another transaction, and the second one with another error if refuse. A sequence counts, because it survives rollbacks.
func failCompletions(t *testing.T, s *store.Store, refuse string) {
	t.Helper()
	storetest.ExecAll(t, s, `CREATE SEQUENCE completions`, `
		CREATE FUNCTION fail_completion() RETURNS trigger LANGUAGE plpgsql AS $$
		DECLARE n BIGINT := nextval('completions');
		BEGIN
			IF n = 1 THEN RAISE EXCEPTION 'conflict' USING ERRCODE = 'serialization_failure'; END IF;
			IF n = 2 AND `+refuse+` THEN RAISE EXCEPTION 'refused'; END IF;
			RETURN NEW;
		END $$`, `
		CREATE TRIGGER fail_completion BEFORE UPDATE ON task FOR EACH ROW WHEN (NEW.state = 'completed') EXECUTE FUNCTION fail_completion()`)
}

// TestRetriedSyncReturnsTheCommittedAttempt aborts the first attempt of the transaction of CommitSync after it made a version.
func TestRetriedSyncReturnsTheCommittedAttempt(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]bool{"the second attempt commits": false, "the second attempt fails": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := storetest.Open(t)
			if !s.DB.IsPostgres() {
				t.Skip("SQLite never aborts a transaction in favor of another one")
			}
			repository := storetest.Target(t, s, "acme/app").Repository
			m := fetchedImage(t, s, repository.ID, "one")
			claim := storetest.StartTask(t, s)
			condition := "FALSE"
			if refuse {
				condition = "TRUE"
			}
			failCompletions(t, s, condition)
			attempts := 0
			v, err := s.Content.CommitSync(t.Context(), claim, content.Synced{
				RepositoryID: repository.ID, Tags: map[string]digest.Digest{"v1": m.Digest},
				Report: func(added, removed int64) []taskstore.Progress {
					attempts++
					if added != 4 || removed != 0 {
						t.Errorf("attempt %d reports %d added and %d removed units, want 4 and 0", attempts, added, removed)
					}
					return nil
				},
			})
			if attempts != 2 {
				t.Errorf("%d attempts, want 2", attempts)
			}
			after, getErr := s.Catalog.Repository(t.Context(), repository.Type, repository.ID)
			if getErr != nil {
				t.Fatal(getErr)
			}
			if refuse {
				if err == nil || v != nil || after.LatestVersion != repository.LatestVersion {
					t.Errorf("CommitSync = %+v, %v, latest version %d; want an error and nothing else", v, err, after.LatestVersion)
				}
				return
			}
			if err != nil || v == nil || v.Number != after.LatestVersion || v.Number != repository.LatestVersion+1 {
				t.Fatalf("CommitSync = %+v, %v, latest version %d; want the version that was committed", v, err, after.LatestVersion)
			}
			if stored, err := s.Content.Version(t.Context(), repository.ID, v.Number); err != nil || stored.ID != v.ID {
				t.Errorf("the stored version is %q, %v; the returned one %q, of another attempt", stored.ID, err, v.ID)
			}
		})
	}
}

// fetchedImage records an image as fetched for a repository.
func fetchedImage(t *testing.T, s *store.Store, repositoryID, text string) pulp.Manifest {
	t.Helper()
	var parts []pulp.Descriptor
	for _, part := range []string{"config " + text, "layer " + text} {
		b := pulp.Blob{Digest: digest.FromString(part), Size: int64(len(part)), Data: []byte(part), Inline: true}
		if err := s.Content.FetchedBlob(t.Context(), repositoryID, "", b); err != nil {
			t.Fatal(err)
		}
		parts = append(parts, pulp.Descriptor{Digest: b.Digest, Size: b.Size, MediaType: "application/octet-stream"})
	}
	m := storetest.Image(parts[0], parts[1])
	if err := s.Content.FetchedManifest(t.Context(), repositoryID, m); err != nil {
		t.Fatal(err)
	}
	return m
}
