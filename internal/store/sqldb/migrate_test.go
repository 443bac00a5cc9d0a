package sqldb_test

import (
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

func TestMigrate(t *testing.T) {
	t.Parallel()
	d := storetest.OpenAt(t, 1).DB
	if pending, err := d.Pending(t.Context()); err != nil || !pending {
		t.Errorf("Pending on an old schema = %t, %v, want true", pending, err)
	}
	for range 2 { // the second call has nothing to do
		if err := d.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if pending, err := d.Pending(t.Context()); err != nil || pending {
		t.Errorf("Pending after Migrate = %t, %v, want false", pending, err)
	}
	if err := d.PutSetting(t.Context(), "a", []byte("1")); err != nil {
		t.Errorf("a write after Migrate: %v", err)
	}
}

func TestNewerSchemaIsAConflict(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	err := d.InTx(t.Context(), func(x *sqldb.Tx) error {
		_, err := x.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, TRUE)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Migrate(t.Context()); !fault.Is(err, fault.Conflict) {
		t.Errorf("Migrate on a newer schema = %v, want Conflict", err)
	}
	if _, err := d.Pending(t.Context()); !fault.Is(err, fault.Conflict) {
		t.Errorf("Pending on a newer schema = %v, want Conflict", err)
	}
}
