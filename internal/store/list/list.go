package list

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Query selects rows of a list. Fields have the names of Pulp's attributes. Each list has its own; another field is an
// error.
type Query struct {
	Where  []Filter // all must hold
	Order  []Order  // ties go newest first; empty: the list's usual order
	Limit  int      // maximum number of rows; at least 1
	Offset int      // number of rows to skip
	// Wanted reports whether an attribute will be shown. Large columns that no wanted attribute shows are not read and are
	// empty in the rows. nil: all attributes are shown.
	Wanted func(attribute string) bool
}

// List describes the rows of a resource. The text of every query on it consists of these parts.
type List[T any] struct {
	columns string            // of scan
	source  string            // FROM and joins
	id      string            // column of the row's id
	fields  map[string]string // attribute -> expression
	long    []string          // fields with long texts; only their beginnings are sorted
	large   []large           // data that is read only if it is shown
	order   []Order           // usual order; nil: newest first
	visible visibility        // condition of the rows that a restricted viewer sees
	sparse  bool              // visible depends on statement.sparse
	kind    pulp.Kind         // of content units; 0: of every kind
	scan    func(sqldb.Scanner) (T, error)
}

// large is data of a row that may take many bytes.
type large struct {
	attributes []string // that show it
	column     string   // in List.columns; empty: it is read separately
	instead    string   // expression for the column if no attribute is wanted
	size       string   // expression of its approximate number of bytes; empty: the length of the column
}

// selection is the text of a query after its columns.
type selection struct {
	with    string // before SELECT
	source  string
	where   string
	order   string
	args    []any
	filters int // number of args that belong to where
}

// selection writes the text of a query.
func (l *List[T]) selection(ctx context.Context, s *Store, q Query) (selection, error) {
	b := &statement{
		fields: l.fields, long: l.long, id: l.id, visible: l.visible, kind: l.kind,
		viewer: viewerOf(q.Where), postgres: s.db.IsPostgres(),
	}
	if l.sparse {
		var err error
		if b.sparse, err = s.seesFew(ctx, b.viewer); err != nil {
			return selection{}, err
		}
	}
	sel := selection{source: l.source}
	if len(q.Where) > 0 {
		sel.where = " WHERE " + All(q.Where...).write(b)
	}
	sel.filters = len(b.args)
	sel.order = b.order(q.Order, l.order)
	sel.args, sel.with = b.args, b.with
	return sel, b.err
}

// page selects columns of the rows within the limit and offset of a query. more reports whether there are rows after them.
func page[T any](
	ctx context.Context, db sqldb.Querier, sel selection, q Query, columns string, scan func(sqldb.Scanner) (T, error),
) (rows []T, more bool, err error) {
	n := len(sel.args)
	rows, err = sqldb.Collect(ctx, db, scan,
		sel.with+`SELECT `+columns+sel.source+sel.where+sel.order+fmt.Sprintf(` LIMIT $%d OFFSET $%d`, n+1, n+2),
		append(sel.args[:n:n], q.Limit+1, q.Offset)...)
	if err != nil {
		return nil, false, fmt.Errorf("list: %w", patternError(err))
	}
	if len(rows) > q.Limit {
		return rows[:q.Limit], true, nil
	}
	return rows, false, nil
}

// count returns the number of rows of a query without its limit and offset. found is the number of rows with them, and more
// reports whether there are rows after them. The number agrees with both, also if it was counted earlier (see counts).
func (s *Store) count(ctx context.Context, db sqldb.Querier, sel selection, q Query, found int, more bool) (int64, error) {
	seen := int64(q.Offset) + int64(found)
	if !more && (found > 0 || q.Offset == 0) {
		return seen, nil
	}
	rows, err := s.counts.of(ctx, db, sel.with+`SELECT COUNT(*)`+sel.source+sel.where, sel.args[:sel.filters])
	switch {
	case err != nil:
		return 0, err
	case more:
		return max(rows, seen+1), nil
	default:
		return min(rows, seen), nil
	}
}

// Rows returns the rows of a query and the number of rows without its Limit and Offset. It reads all rows at once, so it is
// for small limits; see Find.
func (l *List[T]) Rows(ctx context.Context, s *Store, q Query) ([]T, int64, error) {
	db := s.db.ReadComposed()
	sel, err := l.selection(ctx, s, q)
	if err != nil {
		return nil, 0, err
	}
	columns, _ := l.selected(q.Wanted)
	rows, more, err := page(ctx, db, sel, q, columns, l.scan)
	if err != nil {
		return nil, 0, err
	}
	count, err := s.count(ctx, db, sel, q, len(rows), more)
	return rows, count, err
}

// Find finds the rows of a query without reading them.
func (l *List[T]) Find(ctx context.Context, s *Store, q Query) (*Found[T], error) {
	db := s.db.ReadComposed()
	sel, err := l.selection(ctx, s, q)
	if err != nil {
		return nil, err
	}
	ids, more, err := page(ctx, db, sel, q, l.id, sqldb.ScanString)
	if err != nil {
		return nil, err
	}
	columns, size := l.selected(q.Wanted)
	count, err := s.count(ctx, db, sel, q, len(ids), more)
	return &Found[T]{Count: count, IDs: ids, source: l.source, id: l.id, columns: columns, size: size, scan: l.scan, db: db}, err
}

// selected returns the columns to read, and an expression of the approximate bytes of large data in a row, empty if there is
// none.
func (l *List[T]) selected(wanted func(string) bool) (columns, size string) {
	columns = l.columns
	var sizes []string
	for _, d := range l.large {
		switch {
		case wanted != nil && !slices.ContainsFunc(d.attributes, wanted):
			if d.column != "" {
				columns = strings.Replace(columns, d.column, d.instead, 1)
			}
		case d.size != "":
			sizes = append(sizes, d.size)
		default:
			sizes = append(sizes, "COALESCE(LENGTH("+d.column+"), 0)")
		}
	}
	return columns, strings.Join(sizes, " + ")
}
