package sqldb

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOpenFile verifies the permissions and settings of a new database, at paths that a URL must escape.
func TestOpenFile(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain.db", "with space.db", "50%.db", "a?b#c.db", "ü.db"} {
		path := filepath.Join(t.TempDir(), "new directory", name)
		d, err := Open(t.Context(), "sqlite:"+path)
		if err != nil {
			t.Errorf("Open with the file %s: %v", name, err)
			continue
		}
		t.Cleanup(func() { _ = d.Close() })
		for path, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): os.ModeDir | 0o700} {
			if info, err := os.Stat(path); err != nil || info.Mode() != want {
				t.Errorf("%s: %v, %v, want the mode %v", path, info, err, want)
			}
		}
		for pragma, want := range map[string]string{"journal_mode": "wal", "foreign_keys": "1", "synchronous": "2", "busy_timeout": "10000"} {
			var got string
			if err := d.Read().QueryRowContext(t.Context(), `PRAGMA `+pragma).Scan(&got); err != nil || got != want {
				t.Errorf("%s: %s is %s, %v, want %s", name, pragma, got, err, want)
			}
		}
	}
}

// TestOpenFileErrors verifies the errors for paths where no database can be.
func TestOpenFileErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte(strings.Repeat("no database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ path, want string }{
		{path: filepath.Join(file, "x.db"), want: "database directory: "},
		{path: dir, want: "database: "},
		{path: file, want: ""},
	} {
		d, err := Open(t.Context(), "sqlite:"+tt.path)
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("Open(%s) = %v, want an error that begins with %q", tt.path, err, tt.want)
		}
		if err == nil {
			_ = d.Close()
		}
	}
}

// TestUnpreparedStatements verifies that long and invalid texts are not kept, and that invalid ones are errors.
func TestUnpreparedStatements(t *testing.T) {
	t.Parallel()
	db, err := openSQLite(filepath.Join(t.TempDir(), "long.db"), 2)
	if err != nil {
		t.Fatal(err)
	}
	p := newPrepared(db)
	for name, q := range map[string]*statements{"fixed": p.fixed, "composed": p.lists} {
		long := `SELECT 1 UNION ALL SELECT 1 /*` + strings.Repeat("x", preparedText) + `*/`
		if err := twoRows(t.Context(), q, long, 1); err != nil {
			t.Errorf("%s: a long text: %v", name, err)
		}
		var n int
		if err := q.QueryRowContext(t.Context(), long).Scan(&n); err != nil || n != 1 {
			t.Errorf("%s: a row of a long text: %d, %v", name, n, err)
		}
		if err := q.QueryRowContext(t.Context(), `SELECT FROM`).Scan(&n); err == nil {
			t.Errorf("%s: a row of an invalid text has no error", name)
		}
		if _, err := Collect(t.Context(), q, ScanInt, `SELECT FROM`); err == nil {
			t.Errorf("%s: an invalid text has no error", name)
		}
		for _, text := range q.kept.Keys() { // those of twoRows
			if len(text) > preparedText || text == `SELECT FROM` {
				t.Errorf("%s: the text %.20q is kept", name, text)
			}
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if p.fixed.kept.Len() != 0 || p.lists.kept.Len() != 0 {
		t.Error("statements are kept after Close")
	}
}
