package sqldb_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestTexts runs the words that are translated for PostgreSQL: both engines return the same, in and outside transactions.
func TestTexts(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	for _, tt := range []struct {
		name, text string
		args       []any
		want       []string
	}{
		{
			name: "entries of a list, in the order of bytes", text: `SELECT j.value FROM json_each($1) j ORDER BY 1`,
			args: []any{`["b","_","B","a","ä","10","9"]`}, want: []string{"10", "9", "B", "_", "a", "b", "ä"},
		},
		{name: "empty list", text: `SELECT j.value FROM json_each($1) j`, args: []any{`[]`}, want: []string{}},
		{
			name: "keys and values of an object", text: `SELECT j.key || '=' || j.value FROM json_each($1) j ORDER BY j.key`,
			args: []any{`{"env":"prod","app":"x"}`}, want: []string{"app=x", "env=prod"},
		},
		{
			name: "null in an object", text: `SELECT j.key FROM json_each($1) j WHERE j.value IS NULL`,
			args: []any{`{"env":"prod","empty":null}`}, want: []string{"empty"},
		},
		{
			name: "members of objects in a list", text: `SELECT json_extract(j.value, '$.href') FROM json_each($1) j ORDER BY 1`,
			args: []any{`[{"href":"/b/","exclusive":true},{"href":"/a/"}]`}, want: []string{"/a/", "/b/"},
		},
		{name: "position in a text", text: `SELECT CAST(INSTR($1, $2) AS TEXT)`, args: []any{"team/app", "/"}, want: []string{"5"}},
		{name: "no position in a text", text: `SELECT CAST(INSTR($1, $2) AS TEXT)`, args: []any{"team", "/"}, want: []string{"0"}},
		{name: "empty bytes", text: `SELECT CAST(LENGTH(x'') AS TEXT)`, want: []string{"0"}},
	} {
		for name, q := range map[string]sqldb.Querier{"Read": d.Read(), "ReadComposed": d.ReadComposed()} {
			if got, err := sqldb.Collect(t.Context(), q, sqldb.ScanString, tt.text, tt.args...); err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("%s, %s: %q, %v, want %q", tt.name, name, got, err, tt.want)
			}
		}
		got, err := sqldb.InTx(t.Context(), d, func(x *sqldb.Tx) ([]string, error) {
			return sqldb.Collect(x.Ctx, x, sqldb.ScanString, tt.text, tt.args...)
		})
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s, in a transaction: %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}

// TestRegexp verifies that both engines match the same texts.
func TestRegexp(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	for _, tt := range []struct {
		pattern, text string
		want          bool
	}{
		{pattern: "app", text: "team/app/v1", want: true},
		{pattern: "^app", text: "team/app", want: false},
		{pattern: "^team/(app|web)$", text: "team/web", want: true},
		{pattern: "^team/(app|web)$", text: "team/web2", want: false},
		{pattern: "^v[0-9]+$", text: "v12", want: true},
		{pattern: "V1", text: "v1", want: false},
		{pattern: `a\.b`, text: "a.b", want: true},
		{pattern: `a\.b`, text: "axb", want: false},
		{pattern: "", text: "any", want: true},
		{pattern: "^$", text: "", want: true},
		{pattern: "ü", text: "grün", want: true},
	} {
		var got bool
		err := d.ReadComposed().QueryRowContext(t.Context(), `SELECT CAST($1 AS TEXT) REGEXP CAST($2 AS TEXT)`, tt.text, tt.pattern).Scan(&got)
		if err != nil || got != tt.want {
			t.Errorf("%q REGEXP %q: %t, %v, want %t", tt.text, tt.pattern, got, err, tt.want)
		}
	}
}

// TestRegexpOfNull verifies that NULL matches no pattern, not even negated.
func TestRegexpOfNull(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	for _, condition := range []string{`CAST(NULL AS TEXT) REGEXP $1`, `NOT CAST(NULL AS TEXT) REGEXP $1`} {
		got, err := sqldb.Collect(t.Context(), d.ReadComposed(), sqldb.ScanString, `SELECT 'row' WHERE `+condition, ".*")
		if err != nil || len(got) != 0 {
			t.Errorf("%s selects %q, %v, want nothing", condition, got, err)
		}
	}
}

func TestInvalidRegexp(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	for _, pattern := range []string{"(", "[", "*"} {
		var got bool
		if err := d.ReadComposed().QueryRowContext(t.Context(), `SELECT CAST('x' AS TEXT) REGEXP CAST($1 AS TEXT)`, pattern).Scan(&got); err == nil {
			t.Errorf("the pattern %q results in %t, want an error", pattern, got)
		}
	}
}

// TestRegexpPatternsAtOnce matches rows with two patterns in one query, in several queries at once: no query uses the
// pattern of another one.
func TestRegexpPatternsAtOnce(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	var calls sync.WaitGroup
	for _, tt := range []struct{ first, second, want string }{
		{first: "^a", second: "x$", want: "ax"},
		{first: "^b", second: "y$", want: "by"},
		{first: "^a", second: "y$", want: "ay"},
		{first: "^b", second: "x$", want: "bx"},
	} {
		calls.Go(func() {
			for range 50 {
				got, err := sqldb.Collect(t.Context(), d.Read(), sqldb.ScanString,
					`SELECT j.value FROM json_each('["ax","ay","bx","by"]') j WHERE j.value REGEXP $1 AND j.value REGEXP $2`, tt.first, tt.second)
				if err != nil || !slices.Equal(got, []string{tt.want}) {
					t.Errorf("%s and %s select %q, %v, want %s", tt.first, tt.second, got, err, tt.want)
					return
				}
			}
		})
	}
	calls.Wait()
}
