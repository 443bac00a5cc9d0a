package sqldb

import "io/fs"

// PreparedComposed is preparedComposed, for tests.
const PreparedComposed = preparedComposed

// PreparedStatements returns the numbers of statements that stay prepared on SQLite.
func (d *DB) PreparedStatements() (fixed, composed int) {
	p := d.read.pool.(*prepared) //nolint:forcetypeassert // the pool of SQLite
	return p.fixed.kept.Len(), p.lists.kept.Len()
}

// Functions for tests.
var (
	CompatibleFromOf = compatibleFromOf
	MigrationsOf     = migrationsOf
)

// Migrations returns the migrations of this binary.
func (d *DB) Migrations() fs.FS { return d.migrations }

// SetMigrations makes the database one of a binary with other migrations.
func (d *DB) SetMigrations(files fs.FS) { d.migrations = files }
