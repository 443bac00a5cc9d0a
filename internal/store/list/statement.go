package list

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Order is a field by which a list is sorted.
type Order struct {
	Field string
	Desc  bool
}

// statement collects the arguments of a query while filters and orders write its text.
type statement struct {
	fields   map[string]string // see List
	long     []string
	id       string
	visible  visibility
	kind     pulp.Kind
	viewer   *access.Viewer // to whom the list is restricted; nil for no restriction
	postgres bool
	with     string // common table expression of the viewer's repositories; empty if no condition needs it
	// sparse is set if the viewer sees few repositories. Conditions then select their content first; otherwise they are
	// checked row by row, in the order of the list.
	sparse bool

	args []any
	err  error // the first error: an invalid pattern or an unknown field
}

// visibility writes the condition of the rows that the viewer sees.
type visibility func(b *statement) string

// ownRepositories returns the query of the ids of the repositories that the viewer's roles permit to view. The statement
// contains the conditions once, in front.
func (b *statement) ownRepositories() string {
	if b.with == "" {
		own := record.Permitted{Viewer: b.viewer, Arg: b.arg}.IDs(access.Repository, access.View)
		b.with = "WITH own_repository (id) AS (" + own + ") "
	}
	return "SELECT s.id FROM own_repository s"
}

// seesRepository returns the condition that the viewer sees the repository with an id.
func (b *statement) seesRepository(id string) string {
	switch {
	case b.viewer.SeesAllRepositories():
		return "TRUE"
	case b.sparse:
		return id + " IN (" + record.PublicRepositories + " UNION ALL " + b.ownRepositories() + ")"
	}
	return record.SeesRepository(id, b.ownRepositories())
}

// seesContent returns the condition that the viewer sees the content unit with an id: it is in a version of a repository that
// the viewer sees.
func (b *statement) seesContent(id string) string {
	if b.sparse {
		return id + " IN (SELECT vc.content_id FROM repository_content vc WHERE " + b.seesRepository("vc.repository_id") + ")"
	}
	return record.SeesContent(id, b.seesRepository("vc.repository_id"))
}

// arg adds a value and returns its placeholder.
func (b *statement) arg(v any) string {
	b.args = append(b.args, v)
	return fmt.Sprintf("$%d", len(b.args))
}

// set adds values as one argument, whatever their number, and returns the set for IN.
func (b *statement) set(values []string) string {
	return "(SELECT j.value FROM json_each(" + b.arg(sqldb.ToJSON(append([]string{}, values...))) + ") j)"
}

// pattern returns an RE2 expression in the syntax of the engine. Both engines accept the same expressions.
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

// seeing matches %see(x) in the expressions of fields: the condition that the viewer sees the content unit with the id x.
var seeing = regexp.MustCompile(`%see\(([a-z.]+)\)`)

// field returns the expression of a field.
func (b *statement) field(name string) string {
	expression, ok := b.fields[name]
	if !ok && b.err == nil {
		b.err = fmt.Errorf("list: no field %q", name)
	}
	return seeing.ReplaceAllStringFunc(expression, func(text string) string {
		if b.viewer == nil {
			return "TRUE"
		}
		return "(" + b.seesContent(seeing.FindStringSubmatch(text)[1]) + ")"
	})
}

// sortedLength is the number of characters of a long text that a sorted list compares.
const sortedLength = 256

// order returns the ORDER BY clause of an order, or of the list's usual order if it is empty. Ties and an empty usual order
// go newest first. NULLs count as greatest, as in Pulp.
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
