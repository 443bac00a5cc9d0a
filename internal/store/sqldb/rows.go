package sqldb

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"
)

// NullIfEmpty returns NULL for an empty string.
func NullIfEmpty(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }

// Pointer returns nil for NULL.
func Pointer(s sql.NullString) *string {
	if !s.Valid {
		return nil
	}
	return &s.String
}

// JSONList encodes a list for a JSON column; nil is NULL.
func JSONList(list []string) sql.NullString {
	if list == nil {
		return sql.NullString{}
	}
	return sql.NullString{String: ToJSON(list), Valid: true}
}

// Scanner is a row that can be read: *sql.Row or *sql.Rows.
type Scanner interface{ Scan(...any) error }

// WithMore returns a row whose last columns are scanned into more, for scan functions of the columns before them.
func WithMore(row Scanner, more ...any) Scanner { return withMore{row, more} }

type withMore struct {
	row  Scanner
	more []any
}

// Scan implements Scanner.
func (w withMore) Scan(dests ...any) error { return w.row.Scan(append(dests, w.more...)...) }

// Collect runs a query and scans its rows. Without rows it returns an empty, non-nil slice.
func Collect[T any](ctx context.Context, q Querier, scan func(Scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	all := []T{}
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

// ScanString reads a row of one text column.
func ScanString(row Scanner) (string, error) {
	var v string
	err := row.Scan(&v)
	return v, err
}

// ToJSON encodes a value for a JSON column. It panics for a value that has no JSON form; the columns hold maps of strings,
// slices and plain structs.
func ToJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T for the database: %v", v, err))
	}
	return string(b)
}

// FromJSON decodes the text of a JSON column into v. The column's name is for the error.
func FromJSON(column, text string, v any) error {
	if err := json.Unmarshal([]byte(text), v); err != nil {
		return fmt.Errorf("decode column %s: %w", column, err)
	}
	return nil
}

// NullInt returns NULL for nil.
func NullInt(v *int64) sql.NullInt64 {
	if v == nil {
		return sql.NullInt64{}
	}
	return sql.NullInt64{Int64: *v, Valid: true}
}

// NullText returns NULL for nil.
func NullText(v *string) sql.NullString {
	if v == nil {
		return sql.NullString{}
	}
	return sql.NullString{String: *v, Valid: true}
}

// ScanInt reads a row of one integer column.
func ScanInt(row Scanner) (int64, error) {
	var v int64
	err := row.Scan(&v)
	return v, err
}

// Micros returns a time as the database stores it, in microseconds since 1970.
func Micros(t time.Time) int64 { return t.UnixMicro() }

// FromMicros returns a stored time, in UTC.
func FromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }

// FromNullMicros returns a stored time, nil for NULL.
func FromNullMicros(us sql.NullInt64) *time.Time {
	if !us.Valid {
		return nil
	}
	t := FromMicros(us.Int64)
	return &t
}
