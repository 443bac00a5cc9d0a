package sqldb

// PreparedComposed is preparedComposed, for tests.
const PreparedComposed = preparedComposed

// PreparedStatements returns the numbers of statements that stay prepared on SQLite.
func (d *DB) PreparedStatements() (fixed, composed int) {
	p := d.read.pool.(*prepared) //nolint:forcetypeassert // the pool of SQLite
	return p.fixed.kept.Len(), p.lists.kept.Len()
}
