package list

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Order is a field by which a list is sorted.
type Order struct {
	Field string
	Desc  bool
}

// ListQuery says which part of a list is wanted. Fields have the names of Pulp's attributes; each list has its own, and an unknown one is an error.
type Query struct {
	Where  []Filter // all of them must hold
	Order  []Order  // ties, and an empty Order, go newest first
	Limit  int      // at most so many rows; at least 1
	Offset int      // rows to skip
	// Wanted reports whether an attribute is going to be shown. Large data that no wanted attribute shows is not read, and is empty in the rows; nil: all
	// of them are wanted.
	Wanted func(attribute string) bool
}

// List is the closed vocabulary of one list: what text a query on it may be made of. Nothing that a user wrote is ever part of it.
type List[T any] struct {
	columns string
	source  string            // FROM and joins
	id      string            // the column of the row's id
	fields  map[string]string // attribute -> expression
	long    []string          // fields that may be long texts: lists are sorted by their beginnings
	large   []large
	order   []Order   // instead of newest first
	visible string    // a condition on what users other than staff see; one %s is their namespace
	kind    pulp.Kind // content: what repositories hold these rows as
	scan    func(sqldb.Scanner) (T, error)
}

// large is data of a row that may take many bytes.
type large struct {
	attributes []string // that show it
	column     string   // in List.columns; empty: it is read from elsewhere
	instead    string   // of the column, where none of the attributes is wanted
	size       string   // about how many bytes it has; empty: the length of the column
}

// Bounds of one piece of a list. They bound the memory that a list takes, beside that of its largest row.
const (
	pieceRows  = 100
	pieceBytes = 256 << 10
)

// Rows returns the rows of a query, all at once, and how many there are without its Limit and Offset. It is for few rows; see Find.
func (l *List[T]) Rows(ctx context.Context, s *Store, want Query) ([]T, int64, error) {
	q := s.db.ReadComposed()
	where, order, args, conditions, err := l.conditions(s, want)
	if err != nil {
		return nil, 0, err
	}
	columns, _ := l.selected(want.Wanted)
	rows, err := sqldb.Collect(ctx, q, l.scan, `SELECT `+columns+l.source+where+order+
		fmt.Sprintf(` LIMIT $%d OFFSET $%d`, len(args)+1, len(args)+2), append(args[:len(args):len(args)], want.Limit, want.Offset)...)
	if err != nil {
		return nil, 0, fmt.Errorf("list: %w", patternError(err))
	}
	count, err := l.count(ctx, q, want, len(rows), where, args[:conditions])
	return rows, count, err
}

// Find finds the rows of a query without reading them.
func (l *List[T]) Find(ctx context.Context, s *Store, want Query) (*Found[T], error) {
	q := s.db.ReadComposed()
	where, order, args, conditions, err := l.conditions(s, want)
	if err != nil {
		return nil, err
	}
	ids, err := sqldb.Collect(ctx, q, sqldb.ScanString, `SELECT `+l.id+l.source+where+order+
		fmt.Sprintf(` LIMIT $%d OFFSET $%d`, len(args)+1, len(args)+2), append(args[:len(args):len(args)], want.Limit, want.Offset)...)
	if err != nil {
		return nil, fmt.Errorf("list: %w", patternError(err))
	}
	count, err := l.count(ctx, q, want, len(ids), where, args[:conditions])
	return &Found[T]{Count: count, IDs: ids, list: l, from: q, wanted: want.Wanted}, err
}

// conditions writes the text behind the source of a query and its arguments, of which the first n belong to where.
func (l *List[T]) conditions(s *Store, want Query) (where, order string, args []any, n int, err error) {
	b := &statement{fields: l.fields, long: l.long, id: l.id, visible: l.visible, kind: l.kind, viewer: viewer(want.Where), postgres: s.db.IsPostgres()}
	if len(want.Where) > 0 {
		where = " WHERE " + All(want.Where...).write(b)
	}
	n = len(b.args)
	order = b.order(want.Order, l.order)
	return where, order, b.args, n, b.err
}

// count returns how many rows a query has without its Limit and Offset, given how many it has with them.
func (l *List[T]) count(ctx context.Context, q sqldb.Querier, want Query, got int, where string, args []any) (int64, error) {
	if want.Offset == 0 && got < want.Limit {
		return int64(got), nil
	}
	var count int64
	if err := q.QueryRowContext(ctx, `SELECT COUNT(*)`+l.source+where, args...).Scan(&count); err != nil {
		return 0, fmt.Errorf("count list: %w", patternError(err))
	}
	return count, nil
}

// selected returns the columns of the rows and an expression for about how many bytes of large data a row has; empty when it has none.
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

// Found are the rows of a query, of which only the ids are known.
type Found[T any] struct {
	Count int64    // of all rows that the query has without its Limit and Offset
	IDs   []string // of the rows, in order

	list   *List[T]
	from   sqldb.Querier
	wanted func(string) bool
}

// Pieces yields the rows in order, some at a time: as many as the bounds of a piece allow, at least one. Rows that are gone by then are left out. No
// connection to the database is held while a piece is being used. After an error nothing follows.
func (f *Found[T]) Pieces(ctx context.Context) iter.Seq2[[]T, error] {
	return func(yield func([]T, error) bool) {
		if len(f.IDs) == 0 {
			return
		}
		columns, size := f.list.selected(f.wanted)
		sizes, err := f.sizes(ctx, size)
		for ids := f.IDs; err == nil && len(ids) > 0; {
			n, bytes := 0, int64(0)
			for n < len(ids) && n < pieceRows && (n == 0 || bytes+sizes[ids[n]] <= pieceBytes) {
				bytes += sizes[ids[n]]
				n++
			}
			var piece []T
			if piece, err = f.piece(ctx, columns, ids[:n]); err == nil && !yield(piece, nil) {
				return
			}
			ids = ids[n:]
		}
		if err != nil {
			yield(nil, fmt.Errorf("list: %w", patternError(err)))
		}
	}
}

// identified is something with its row's id.
type identified[V any] struct {
	id    string
	value V
}

// sizes returns about how many bytes of large data the rows have.
func (f *Found[T]) sizes(ctx context.Context, expression string) (map[string]int64, error) {
	if expression == "" || len(f.IDs) == 0 {
		return nil, nil
	}
	rows, err := sqldb.Collect(ctx, f.from, func(row sqldb.Scanner) (identified[int64], error) {
		var v identified[int64]
		err := row.Scan(&v.id, &v.value)
		return v, err
	}, `SELECT `+f.list.id+`, `+expression+f.where(), sqldb.ToJSON(f.IDs))
	sizes := make(map[string]int64, len(rows))
	for _, r := range rows {
		sizes[r.id] = r.value
	}
	return sizes, err
}

// where selects rows by their ids, which are the only argument.
func (f *Found[T]) where() string {
	return f.list.source + ` WHERE ` + f.list.id + ` IN (SELECT j.value FROM json_each($1) j)`
}

// withID is a row whose first column is its id, ahead of those that a scan function reads.
type withID struct {
	sqldb.Scanner
	id *string
}

// Scan implements scanner.
func (r withID) Scan(into ...any) error { return r.Scanner.Scan(append([]any{r.id}, into...)...) }

// piece reads the rows with these ids, in this order.
func (f *Found[T]) piece(ctx context.Context, columns string, ids []string) ([]T, error) {
	rows, err := sqldb.Collect(ctx, f.from, func(row sqldb.Scanner) (identified[T], error) {
		var v identified[T]
		var err error
		v.value, err = f.list.scan(withID{row, &v.id})
		return v, err
	}, `SELECT `+f.list.id+`, `+columns+f.where(), sqldb.ToJSON(ids))
	if err != nil {
		return nil, err
	}
	position := make(map[string]int, len(ids))
	for i, id := range ids {
		position[id] = i
	}
	slices.SortFunc(rows, func(x, y identified[T]) int { return position[x.id] - position[y.id] })
	piece := make([]T, len(rows))
	for i, r := range rows {
		piece[i] = r.value
	}
	return piece, nil
}

// statement collects what filters write: text from the listing's vocabulary, and values only as arguments.
type statement struct {
	fields  map[string]string
	long    []string
	id      string
	visible string
	kind    pulp.Kind
	viewer  string // who sees the list; empty for those who see everything
	args    []any
	err     error // a pattern that is not valid, or a filter that this list has not: a defect of the caller

	postgres bool
}

// arg adds a value and returns its placeholder.
func (b *statement) arg(v any) string {
	b.args = append(b.args, v)
	return fmt.Sprintf("$%d", len(b.args))
}

// pattern returns an RE2 expression in the form of the engine. Both take the same ones.
func (b *statement) pattern(re2 any) any {
	text, ok := re2.(string)
	if !ok {
		b.err = cmp.Or(b.err, fmt.Errorf("list: the pattern is %T", re2))
		return re2
	}
	translated, err := postgresPattern(text)
	b.err = cmp.Or(b.err, err)
	if b.postgres {
		return translated
	}
	return text
}

// field returns the expression of an attribute. In expressions, %see(x) is the condition that the viewer sees the content unit x.
func (b *statement) field(name string) string {
	expression, ok := b.fields[name]
	if !ok && b.err == nil {
		b.err = fmt.Errorf("list: no field %q", name)
	}
	return seeing.ReplaceAllStringFunc(expression, func(text string) string {
		if b.viewer == "" {
			return "TRUE"
		}
		return "(" + strings.ReplaceAll(record.VisibleContent(seeing.FindStringSubmatch(text)[1]), "%s", b.arg(b.viewer)) + ")"
	})
}

var seeing = regexp.MustCompile(`%see\(([a-z.]+)\)`)

// sortedLength is how many characters of a long text count where a list is sorted by it.
const sortedLength = 256

// order writes the ORDER BY. NULLs count as the greatest, as Pulp's database has it.
func (b *statement) order(wanted, usual []Order) string {
	if len(wanted) == 0 {
		wanted = usual
	}
	terms := make([]string, 0, len(wanted)+2)
	for _, o := range wanted {
		direction := " ASC NULLS LAST"
		if o.Desc {
			direction = " DESC NULLS FIRST"
		}
		expression := b.field(o.Field)
		if slices.Contains(b.long, o.Field) {
			expression = fmt.Sprintf("SUBSTR(%s, 1, %d)", expression, sortedLength)
		}
		terms = append(terms, expression+direction)
	}
	return " ORDER BY " + strings.Join(append(terms, b.field("pulp_created")+" DESC", b.id+" DESC"), ", ")
}
