package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
)

// scanner is a row that can be read: *sql.Row or *sql.Rows.
type scanner interface{ Scan(...any) error }

// collect runs a query and scans every row of its answer. An answer without rows is an empty, non-nil slice.
func collect[T any](ctx context.Context, q querier, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
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

// scanString reads a row of one text column.
func scanString(row scanner) (string, error) {
	var v string
	err := row.Scan(&v)
	return v, err
}

// toJSON encodes a value for a JSON column. What is kept there (maps of strings, slices, plain structs) always encodes.
func toJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T for the database: %v", v, err))
	}
	return string(b)
}

// fromJSON decodes a JSON column.
func fromJSON(column, text string, v any) error {
	if err := json.Unmarshal([]byte(text), v); err != nil {
		return fmt.Errorf("decode column %s: %w", column, err)
	}
	return nil
}

// nullInt returns a SQL NULL for nil.
func nullInt(v *int64) sql.NullInt64 {
	if v == nil {
		return sql.NullInt64{}
	}
	return sql.NullInt64{Int64: *v, Valid: true}
}

// nullText returns a SQL NULL for nil.
func nullText(v *string) sql.NullString {
	if v == nil {
		return sql.NullString{}
	}
	return sql.NullString{String: *v, Valid: true}
}
