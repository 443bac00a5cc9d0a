package sqldb_test

import (
	"fmt"
	"io/fs"
	"maps"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

func TestMigrate(t *testing.T) {
	t.Parallel()
	d := storetest.OpenAt(t, 1).DB
	if schema, err := d.Schema(t.Context()); err != nil || !schema.Older() || schema.Newer() {
		t.Errorf("Schema on an old schema = %+v, %v, want an older one", schema, err)
	}
	for range 2 { // the second call has nothing to do
		if err := d.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if schema, err := d.Schema(t.Context()); err != nil || schema.Older() || schema.Newer() {
		t.Errorf("Schema after Migrate = %+v, %v, want this binary's", schema, err)
	}
	if err := d.PutSetting(t.Context(), "a", []byte("1")); err != nil {
		t.Errorf("a write after Migrate: %v", err)
	}
}

// TestSchemaOfEmptyDatabase verifies that a database without a schema must be migrated.
func TestSchemaOfEmptyDatabase(t *testing.T) {
	t.Parallel()
	if schema, err := storetest.OpenEmpty(t).DB.Schema(t.Context()); err != nil || schema.Database != 0 || !schema.Older() {
		t.Errorf("Schema of an empty database = %+v, %v, want an older one", schema, err)
	}
}

// TestMigrationsStateCompatibility verifies that each migration since number 14 states the oldest schema version whose
// binaries can use the database after it, the same for both engines.
func TestMigrationsStateCompatibility(t *testing.T) {
	t.Parallel()
	const first = 14 // earlier binaries refuse every newer schema
	stated := map[string]map[string]int64{}
	for _, engine := range []string{"sqlite", "postgres"} {
		files, err := sqldb.MigrationsOf(engine == "postgres")
		if err != nil {
			t.Fatal(err)
		}
		stated[engine] = map[string]int64{}
		for _, name := range migrationNames(t, files) {
			number, err := strconv.ParseInt(name[:5], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if number < first {
				continue
			}
			text, err := fs.ReadFile(files, name)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(string(text), "-- compatible-from: ") {
				t.Errorf("%s/%s: want the first line `-- compatible-from: VERSION` (ARCHITECTURE.md, \"A migration\")", engine, name)
			}
			if stated[engine][name], err = sqldb.CompatibleFromOf(files, name); err != nil {
				t.Errorf("%s/%s: %v", engine, name, err)
			}
		}
	}
	if !maps.Equal(stated["sqlite"], stated["postgres"]) {
		t.Errorf("SQLite has the migrations %v, PostgreSQL %v, want the same", stated["sqlite"], stated["postgres"])
	}
}

func migrationNames(t *testing.T, files fs.FS) []string {
	t.Helper()
	names, err := fs.Glob(files, "*.sql")
	if err != nil || len(names) == 0 {
		t.Fatalf("migrations: %v, %v", names, err)
	}
	return names
}

func TestCompatibleFromOf(t *testing.T) {
	t.Parallel()
	const up = "-- +goose Up\nSELECT 1;\n"
	for text, want := range map[string]int64{
		up:                                                      20, // the migration's own number
		"-- compatible-from: 14\n" + up:                         14,
		"-- compatible-from: 20\n" + up:                         20,
		up + "-- compatible-from: 9\n":                          9,
		"-- Compatible-from: 14\n" + up:                         20,
		"-- compatible-from: 14 \n" + up:                        20,
		"-- compatible-from: 21\n" + up:                         0, // errors
		"-- compatible-from: 0\n" + up:                          0,
		"-- compatible-from: 999999" + up:                       20,
		"-- compatible-from: 14\n-- compatible-from: 15\n" + up: 0,
	} {
		const name = "00020_example.sql"
		got, err := sqldb.CompatibleFromOf(fstest.MapFS{name: {Data: []byte(text)}}, name)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("compatibility of %q = %d, %v, want %d", text, got, err, want)
		}
	}
}

// migrateNewer migrates a database as a newer binary would, with further migrations by their names.
func migrateNewer(t *testing.T, d *sqldb.DB, further map[string]string) error {
	t.Helper()
	own := d.Migrations()
	defer d.SetMigrations(own)
	newer := fstest.MapFS{}
	for _, name := range migrationNames(t, own) {
		text, err := fs.ReadFile(own, name)
		if err != nil {
			t.Fatal(err)
		}
		newer[name] = &fstest.MapFile{Data: text}
	}
	for name, text := range further {
		newer[name] = &fstest.MapFile{Data: []byte(text)}
	}
	d.SetMigrations(newer)
	return d.Migrate(t.Context())
}

// TestNewerCompatibleSchema verifies that a binary uses a newer schema if the newer binary declared it compatible, and
// leaves it as it is.
func TestNewerCompatibleSchema(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	current, err := s.DB.Schema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := migrateNewer(t, s.DB, map[string]string{"90000_newer.sql": fmt.Sprintf(`-- compatible-from: %d
-- +goose Up
ALTER TABLE account ADD COLUMN newer TEXT NOT NULL DEFAULT 'x';
CREATE TABLE newer (id BIGINT PRIMARY KEY);
INSERT INTO newer (id) VALUES (1);
`, current.Binary)}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.DB.Migrate(t.Context()); err != nil {
			t.Fatalf("Migrate on a newer, compatible schema: %v", err)
		}
		schema, err := s.DB.Schema(t.Context())
		if want := (sqldb.Schema{Database: 90000, Binary: current.Binary}); err != nil || schema != want || !schema.Newer() || schema.Older() {
			t.Errorf("Schema = %+v, %v, want %+v", schema, err, want)
		}
	}
	u, err := s.Accounts.PutUser(t.Context(), "alice", "hash", false, true)
	if err != nil {
		t.Fatalf("a write to a table with a new column: %v", err)
	}
	if got, err := s.Accounts.User(t.Context(), u.ID); err != nil || got.Username != "alice" {
		t.Errorf("User = %+v, %v", got, err)
	}
}

// TestNewerIncompatibleSchema verifies that a binary refuses a newer schema that excludes it, also after a later
// migration that alone would not exclude it, and that the error says what to do.
func TestNewerIncompatibleSchema(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	incompatible := map[string]string{"90000_newer.sql": "-- compatible-from: 90000\n-- +goose Up\nSELECT 1;\n"}
	if err := migrateNewer(t, s.DB, incompatible); err != nil {
		t.Fatal(err)
	}
	refused(t, s.DB, "90000")
	incompatible["90001_later.sql"] = "-- compatible-from: 1\n-- +goose Up\nSELECT 1;\n"
	if err := migrateNewer(t, s.DB, incompatible); err != nil {
		t.Fatal(err)
	}
	refused(t, s.DB, "90001")
}

// refused verifies that a binary refuses the schema of a database.
func refused(t *testing.T, d *sqldb.DB, version string) {
	t.Helper()
	_, schemaErr := d.Schema(t.Context())
	for name, err := range map[string]error{"Schema": schemaErr, "Migrate": d.Migrate(t.Context())} {
		text, _ := fault.Message(err)
		if !fault.Is(err, fault.Conflict) || !strings.Contains(text, version) || !strings.Contains(text, "restore the backup") {
			t.Errorf("%s on an incompatible schema = %v, want Conflict with %s", name, err, version)
		}
	}
}

// TestNewerSchemaOfUnknownCompatibility verifies that a binary refuses a newer schema of a binary that did not state its
// compatibility.
func TestNewerSchemaOfUnknownCompatibility(t *testing.T) {
	t.Parallel()
	for name, statement := range map[string]string{
		"none":    `DELETE FROM setting WHERE name = 'schema_compatible_from'`,
		"invalid": `UPDATE setting SET value = CAST('x' AS BLOB) WHERE name = 'schema_compatible_from'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := storetest.Open(t)
			if s.DB.IsPostgres() {
				statement = strings.ReplaceAll(statement, "BLOB", "BYTEA")
			}
			storetest.ExecAll(t, s, statement, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, TRUE)`)
			refused(t, s.DB, "99999")
		})
	}
}

// TestCompatibilityIsNeverLowered verifies that the stored version only grows, and that an interrupted migration has
// excluded older binaries before it changed anything.
func TestCompatibilityIsNeverLowered(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	stored := func() string {
		t.Helper()
		v, err := s.DB.Setting(t.Context(), "schema_compatible_from")
		if err != nil {
			t.Fatal(err)
		}
		return string(v)
	}
	if got := stored(); len(got) != 5 {
		t.Fatalf("stored compatibility %q, want five digits", got)
	}
	broken := map[string]string{"90000_broken.sql": "-- compatible-from: 80000\n-- +goose Up\nSELECT * FROM missing;\n"}
	if err := migrateNewer(t, s.DB, broken); err == nil {
		t.Fatal("Migrate with an invalid statement succeeded")
	}
	if got := stored(); got != "80000" {
		t.Errorf("stored compatibility %s after a failed migration, want 80000", got)
	}
	if err := s.DB.Migrate(t.Context()); err != nil {
		t.Errorf("the former binary, whose schema is unchanged: %v", err)
	}
	if got := stored(); got != "80000" {
		t.Errorf("stored compatibility %s after Migrate of the former binary, want 80000", got)
	}
}
