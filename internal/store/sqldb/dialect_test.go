package sqldb

import "testing"

// TestToPostgres verifies the translation of each word that differs between the engines, and that other text stays.
func TestToPostgres(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, want string }{
		{text: `SELECT name FROM setting WHERE name = $1`, want: `SELECT name FROM setting WHERE name = $1`},
		{
			text: `id IN (SELECT j.value FROM json_each($2) j)`,
			want: `id IN (SELECT j.value COLLATE "C" FROM json_entries($2) j)`,
		},
		{text: `SELECT 1 FROM json_each(r.labels) j`, want: `SELECT 1 FROM json_entries(r.labels) j`},
		{text: `json_extract(j.value, '$.key')`, want: `json_member(j.value, 'key')`},
		{text: `INSTR(name, $1) > 0`, want: `STRPOS(name, $1) > 0`},
		{text: `name REGEXP $1`, want: `name ~ $1`},
		{text: `NOT name REGEXP $1 AND base REGEXP $2`, want: `NOT name ~ $1 AND base ~ $2`},
		{text: `SELECT x'', content`, want: `SELECT ''::bytea, content`},
	} {
		if got := toPostgres.Replace(tt.text); got != tt.want {
			t.Errorf("%q is translated to %q, want %q", tt.text, got, tt.want)
		}
	}
}

// TestDialectOfSQLite verifies that transactions on SQLite lock nothing: they run one at a time.
func TestDialectOfSQLite(t *testing.T) {
	t.Parallel()
	d := sqliteDialect
	for name, text := range map[string]string{
		"ForUpdate": d.ForUpdate, "ForUpdateFree": d.ForUpdateFree, "ForShare": d.ForShare, "lock": d.lock, "lockShared": d.lockShared,
	} {
		if text != "" {
			t.Errorf("%s is %q, want none", name, text)
		}
	}
	// A nil connection would fail any statement.
	x := &Tx{Dialect: &sqliteDialect}
	for name, lock := range map[string]func() error{
		"LockRow":           func() error { return x.LockRow("repository", "id") },
		"LockNamed":         func() error { return x.LockNamed("name") },
		"LockContent":       x.LockContent,
		"LockContentShared": x.LockContentShared,
	} {
		if err := lock(); err != nil {
			t.Errorf("%s = %v", name, err)
		}
	}
}
