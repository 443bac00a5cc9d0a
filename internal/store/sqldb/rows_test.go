package sqldb_test

import (
	"database/sql"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestValuesSurviveTheDatabase stores NULLs, texts, numbers, times and JSON and reads them again.
func TestValuesSurviveTheDatabase(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	text, number := "text", int64(7)
	at := time.Date(2026, 12, 1, 2, 3, 4, 5000, time.UTC)
	tests := map[string]struct {
		store any // argument
		read  func(sqldb.Scanner) (any, error)
		want  any
	}{
		"an empty text": {store: sqldb.NullIfEmpty(""), read: readText, want: (*string)(nil)},
		"a text":        {store: sqldb.NullIfEmpty(text), read: readText, want: &text},
		"no text":       {store: sqldb.NullText(nil), read: readText, want: (*string)(nil)},
		"a pointer":     {store: sqldb.NullText(&text), read: readText, want: &text},
		"a list":        {store: sqldb.JSONList([]string{"a", "b"}), read: readList, want: []string{"a", "b"}},
		"an empty list": {store: sqldb.JSONList([]string{}), read: readList, want: []string{}},
		"no list":       {store: sqldb.JSONList(nil), read: readText, want: (*string)(nil)},
		"no number":     {store: sqldb.NullInt(nil), read: readTime, want: (*time.Time)(nil)},
		"a time":        {store: sqldb.Micros(at), read: readTime, want: &at},
		"a number":      {store: sqldb.NullInt(&number), read: readInt, want: number},
	}
	for name, tt := range tests {
		column := "CAST($1 AS TEXT)"
		if name == "a time" || name == "a number" || name == "no number" {
			column = "CAST($1 AS BIGINT)"
		}
		got, err := tt.read(d.Read().QueryRowContext(t.Context(), `SELECT `+column, tt.store))
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func readText(row sqldb.Scanner) (any, error) {
	var v sql.NullString
	err := row.Scan(&v)
	return sqldb.Pointer(v), err
}

func readTime(row sqldb.Scanner) (any, error) {
	var v sql.NullInt64
	err := row.Scan(&v)
	return sqldb.FromNullMicros(v), err
}

func readInt(row sqldb.Scanner) (any, error) { return sqldb.ScanInt(row) }

func readList(row sqldb.Scanner) (any, error) {
	v, err := sqldb.ScanString(row)
	if err != nil {
		return nil, err
	}
	var list []string
	err = sqldb.FromJSON("list", v, &list)
	return list, err
}

func TestFromJSONNamesTheColumn(t *testing.T) {
	t.Parallel()
	var v map[string]string
	err := sqldb.FromJSON("repository.labels", "[", &v)
	if err == nil || err.Error() != "decode column repository.labels: unexpected end of JSON input" {
		t.Errorf("FromJSON of broken text = %v", err)
	}
}

func TestToJSONPanicsOnChannels(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("ToJSON of a channel did not panic")
		}
	}()
	sqldb.ToJSON(make(chan int))
}

func TestCollect(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	none, err := sqldb.Collect(t.Context(), d.Read(), sqldb.ScanString, `SELECT name FROM setting WHERE name = $1`, "absent")
	if err != nil || none == nil || len(none) != 0 {
		t.Errorf("Collect without rows = %#v, %v, want an empty slice", none, err)
	}
	for _, name := range []string{"b", "a"} {
		if err := d.PutSetting(t.Context(), name, []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	type pair struct{ name, value string }
	got, err := sqldb.Collect(t.Context(), d.Read(), func(row sqldb.Scanner) (pair, error) {
		var p pair
		var err error
		p.name, err = sqldb.ScanString(sqldb.WithMore(row, &p.value))
		return p, err
	}, `SELECT name, value FROM setting WHERE name IN ('a', 'b') ORDER BY name`)
	if diff := cmp.Diff([]pair{{name: "a", value: "a"}, {name: "b", value: "b"}}, got, cmp.AllowUnexported(pair{})); err != nil || diff != "" {
		t.Errorf("Collect: %v (-want +got):\n%s", err, diff)
	}
	if _, err := sqldb.Collect(t.Context(), d.Read(), sqldb.ScanInt, `SELECT name FROM setting WHERE name = 'a'`); err == nil {
		t.Error("Collect with a scan function of another type succeeded")
	}
	if _, err := sqldb.Collect(t.Context(), d.Read(), sqldb.ScanInt, `SELECT FROM FROM`); err == nil {
		t.Error("Collect of a broken query succeeded")
	}
}
