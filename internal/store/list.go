package store

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
)

// Order is a field by which a list is sorted.
type Order struct {
	Field string
	Desc  bool
}

// ListQuery says which part of a list is wanted. Fields have the names of Pulp's attributes; each list has its own, and an unknown one is an error.
type ListQuery struct {
	Where  []Filter // all of them must hold
	Order  []Order  // ties, and an empty Order, go newest first
	Limit  int      // at most so many rows; at least 1
	Offset int      // rows to skip
}

// listing is the closed vocabulary of one list: what text a query on it may be made of. Nothing that a user wrote is ever part of it.
type listing[T any] struct {
	columns string
	source  string            // FROM and joins
	id      string            // the column of the row's id
	fields  map[string]string // attribute -> expression
	order   []Order           // instead of newest first
	visible string            // a condition on what users other than staff see; one %s is their namespace
	kind    pulp.Kind         // content: what repositories hold these rows as
	scan    func(scanner) (T, error)
}

// list returns the rows of a query and how many there are without its Limit and Offset.
func list[T any](ctx context.Context, q querier, l listing[T], want ListQuery) ([]T, int64, error) {
	b := &statement{fields: l.fields, id: l.id, visible: l.visible, kind: l.kind, viewer: viewer(want.Where)}
	where := ""
	if len(want.Where) > 0 {
		where = " WHERE " + All(want.Where...).write(b)
	}
	order := b.order(want.Order, l.order)
	if b.err != nil {
		return nil, 0, b.err
	}
	args := b.args
	rows, err := collect(ctx, q, l.scan, `SELECT `+l.columns+l.source+where+order+
		fmt.Sprintf(` LIMIT $%d OFFSET $%d`, len(args)+1, len(args)+2), append(args[:len(args):len(args)], want.Limit, want.Offset)...)
	if err != nil {
		return nil, 0, fmt.Errorf("list: %w", err)
	}
	if want.Offset == 0 && len(rows) < want.Limit {
		return rows, int64(len(rows)), nil
	}
	var count int64
	if err := q.QueryRowContext(ctx, `SELECT COUNT(*)`+l.source+where, args...).Scan(&count); err != nil {
		return nil, 0, fmt.Errorf("count list: %w", err)
	}
	return rows, count, nil
}

// statement collects what filters write: text from the listing's vocabulary, and values only as arguments.
type statement struct {
	fields  map[string]string
	id      string
	visible string
	kind    pulp.Kind
	viewer  string // who sees the list; empty for those who see everything
	args    []any
	err     error // a filter that this list has not: a defect of the caller
}

// arg adds a value and returns its placeholder.
func (b *statement) arg(v any) string {
	b.args = append(b.args, v)
	return fmt.Sprintf("$%d", len(b.args))
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
		return "(" + strings.ReplaceAll(visibleContent(seeing.FindStringSubmatch(text)[1]), "%s", b.arg(b.viewer)) + ")"
	})
}

var seeing = regexp.MustCompile(`%see\(([a-z.]+)\)`)

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
		terms = append(terms, b.field(o.Field)+direction)
	}
	return " ORDER BY " + strings.Join(append(terms, b.field("pulp_created")+" DESC", b.id+" DESC"), ", ")
}
