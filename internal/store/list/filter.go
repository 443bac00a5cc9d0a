package list

import (
	"fmt"
	"strings"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/store/record"
)

// Filter is a condition on the rows of a list.
type Filter interface{ write(b *statement) string }

// clause implements Filter with a function that returns the condition's text.
type clause func(b *statement) string

func (c clause) write(b *statement) string { return c(b) }

// All holds if all filters hold. Without filters it always holds.
func All(filters ...Filter) Filter { return combine(filters, " AND ", "1 = 1") }

// Any holds if one of the filters holds. Without filters it never holds.
func Any(filters ...Filter) Filter { return combine(filters, " OR ", "1 = 0") }

// combine joins the conditions of filters with an operator. empty is the condition without filters.
func combine(filters []Filter, operator, empty string) Filter {
	return clause(func(b *statement) string {
		if len(filters) == 0 {
			return empty
		}
		terms := make([]string, len(filters))
		for i, f := range filters {
			terms[i] = f.write(b)
		}
		return "(" + strings.Join(terms, operator) + ")"
	})
}

// Not holds if the filter does not hold. A comparison with NULL does not hold.
func Not(f Filter) Filter {
	return clause(func(b *statement) string { return "NOT COALESCE(" + f.write(b) + ", FALSE)" })
}

// Op is a comparison of a field with a value.
type Op int

// The comparisons. Those named Fold ignore the case of ASCII letters. None holds for a NULL field.
const (
	Equal Op = iota
	NotEqual
	Less
	AtMost
	Greater
	AtLeast
	EqualFold
	Contains
	ContainsFold
	HasPrefix
	HasPrefixFold
	Match // the value is an RE2 expression that matches a part of the field; see CheckPattern
)

// operators are the conditions of comparisons. %f is the field and %v the value.
var operators = map[Op]string{
	Equal:         "%f = %v",
	NotEqual:      "%f <> %v",
	Less:          "%f < %v",
	AtMost:        "%f <= %v",
	Greater:       "%f > %v",
	AtLeast:       "%f >= %v",
	EqualFold:     "LOWER(%f) = LOWER(%v)",
	Contains:      "INSTR(%f, %v) > 0",
	ContainsFold:  "INSTR(LOWER(%f), LOWER(%v)) > 0",
	HasPrefix:     "SUBSTR(%f, 1, LENGTH(%v)) = %v",
	HasPrefixFold: "LOWER(SUBSTR(%f, 1, LENGTH(%v))) = LOWER(%v)",
	Match:         "%f REGEXP %v",
}

// Where compares a field with a value: a string, an int64 or a bool. A time is given in microseconds since 1970.
func Where(field string, op Op, value any) Filter {
	return clause(func(b *statement) string {
		compared := value
		if op == Match {
			compared = b.pattern(value)
		}
		return strings.NewReplacer("%f", b.field(field), "%v", b.arg(compared)).Replace(operators[op])
	})
}

// OneOf holds if a field equals one of the values.
func OneOf(field string, values []string) Filter {
	return clause(func(b *statement) string {
		if len(values) == 1 { // an index on the field has these rows in the order of the list
			return b.field(field) + " = " + b.arg(values[0])
		}
		return b.field(field) + " IN " + b.set(values)
	})
}

// IsNull holds if a field is NULL, or if null is false and the field is not NULL.
func IsNull(field string, null bool) Filter {
	return clause(func(b *statement) string {
		if null {
			return b.field(field) + " IS NULL"
		}
		return b.field(field) + " IS NOT NULL"
	})
}

// LabelOp is a condition on one label.
type LabelOp int

// The conditions of pulp_label_select (compatibility.md#lists).
const (
	LabelPresent LabelOp = iota
	LabelAbsent
	LabelIs       // the label exists and its value is equal
	LabelIsNot    // the label exists and its value differs
	LabelContains // the label exists and its value contains the text, ignoring case
)

// Label is a condition on the label with a key in the field "pulp_labels". LabelPresent and LabelAbsent ignore value.
func Label(key string, op LabelOp, value string) Filter {
	return clause(func(b *statement) string {
		exists := "EXISTS (SELECT 1 FROM json_each(" + b.field("pulp_labels") + ") l WHERE l.key = " + b.arg(key)
		switch op {
		case LabelAbsent:
			return "NOT " + exists + ")"
		case LabelIs:
			return exists + " AND l.value = " + b.arg(value) + ")"
		case LabelIsNot:
			return exists + " AND COALESCE(l.value <> " + b.arg(value) + ", TRUE))"
		case LabelContains:
			return exists + " AND INSTR(LOWER(l.value), LOWER(" + b.arg(value) + ")) > 0)"
		case LabelPresent:
		}
		return exists + ")"
	})
}

// VisibleTo restricts a list to the rows that a viewer sees: those on which the viewer has the permission to view, and
// those that are public or belong to public repositories (compatibility.md#permissions).
func VisibleTo(v *access.Viewer) Filter { return visibleTo{v} }

type visibleTo struct{ viewer *access.Viewer }

func (v visibleTo) write(b *statement) string {
	if v.viewer == nil {
		return "TRUE"
	}
	return "(" + b.visible(b) + ")"
}

// Permitted restricts a list to the rows of objects of a kind on which the viewer's roles permit an action, whether they
// are public or not.
func Permitted(v *access.Viewer, kind access.Kind, action access.Action) Filter {
	return clause(func(b *statement) string {
		if v == nil {
			return "TRUE"
		}
		return b.id + " IN (" + record.Permitted{Viewer: v, Arg: b.arg}.IDs(kind, action) + ")"
	})
}

// viewerOf returns the viewer of a VisibleTo among filters, or nil.
func viewerOf(filters []Filter) *access.Viewer {
	for _, f := range filters {
		if v, ok := f.(visibleTo); ok {
			return v.viewer
		}
	}
	return nil
}

// Membership is a relation of a content unit to a repository version.
type Membership int

// The relations to a version.
const (
	Present Membership = iota
	Added
	Removed
)

// InVersion restricts a list of content to the units that a repository version has, added or removed.
func InVersion(repositoryID string, number int64, m Membership) Filter {
	return clause(func(b *statement) string {
		repository, version := b.arg(repositoryID), b.arg(number)
		relation := record.InVersion(version)
		switch m {
		case Added:
			relation = record.AddedIn(repository, version)
		case Removed:
			relation = record.RemovedIn(repository, version)
		case Present:
		}
		if b.kind != 0 {
			relation = "c.kind = " + b.arg(b.kind) + " AND " + relation
		}
		return b.id + " IN (SELECT c.content_id FROM repository_content c WHERE c.repository_id = " + repository + " AND " + relation + ")"
	})
}

// Orphaned restricts a list of content to the units that are in no version of a repository, and that nothing has used since
// a time in microseconds since 1970.
func Orphaned(since int64) Filter {
	return clause(func(b *statement) string {
		before := b.arg(since)
		return "(" + b.field("timestamp_of_interest") + " < " + before +
			" AND NOT EXISTS (SELECT 1 FROM repository_content c WHERE c.content_id = " + b.id + ")" +
			" AND NOT EXISTS (SELECT 1 FROM unversioned_content x WHERE x.content_id = " + b.id + " AND x.touched >= " + before + "))"
	})
}

// Holding restricts a list of repositories to those with one of the units in any version, or with latestOnly in the latest
// version.
func Holding(contentIDs []string, latestOnly bool) Filter {
	return clause(func(b *statement) string {
		only := ""
		if latestOnly {
			only = " AND c.version_removed IS NULL"
		}
		return b.id + " IN (SELECT c.repository_id FROM repository_content c WHERE c.content_id IN " + b.set(contentIDs) + only + ")"
	})
}

// VersionName identifies a repository version.
type VersionName struct {
	RepositoryID string
	Number       int64
}

// VersionsNamed restricts a list of versions to those with a name.
func VersionsNamed(names []VersionName) Filter {
	return clause(func(b *statement) string {
		repositories, versions := make([]string, len(names)), make([]string, len(names))
		for i, n := range names {
			repositories[i], versions[i] = n.RepositoryID, fmt.Sprintf("%s/%d", n.RepositoryID, n.Number)
		}
		repository := b.field("repository")
		return "(" + repository + " IN " + b.set(repositories) +
			" AND " + repository + " || '/' || " + b.field("number") + " IN " + b.set(versions) + ")"
	})
}

// VersionHolding restricts a list of versions to those that have one of the units.
func VersionHolding(contentIDs []string) Filter {
	return clause(func(b *statement) string {
		return "EXISTS (SELECT 1 FROM repository_content c WHERE c.repository_id = " + b.field("repository") +
			" AND c.content_id IN " + b.set(contentIDs) + " AND " + record.InVersion(b.field("number")) + ")"
	})
}

// Serving restricts a list of distributions to those that serve one of the units: in the latest version of their repository,
// or in the version that they are pinned to.
func Serving(contentIDs []string) Filter {
	return clause(func(b *statement) string {
		units := b.set(contentIDs)
		return "(" + b.field("repository") + " IN (SELECT c.repository_id FROM repository_content c" +
			" WHERE c.content_id IN " + units + " AND c.version_removed IS NULL) OR " + b.field("repository_version") +
			" IN (SELECT v.id FROM repository_version v JOIN repository_content c ON c.repository_id = v.repository_id" +
			" WHERE c.content_id IN " + units + " AND " + record.InVersion("v.number") + "))"
	})
}

// Reserving restricts a list of tasks to those that reserve, or reserved, one of the resources: exclusively if exclusive is
// set, shared if shared is set, or both.
func Reserving(hrefs []string, exclusive, shared bool) Filter {
	return clause(func(b *statement) string {
		return b.id + " IN (SELECT x.task_id FROM task_resource x WHERE x.resource IN " + b.set(hrefs) +
			" AND (x.exclusive AND " + b.arg(exclusive) + " OR NOT x.exclusive AND " + b.arg(shared) + "))"
	})
}

// Creating restricts a list of tasks to those that created the object with an href or PRN.
func Creating(ref string) Filter {
	return clause(func(b *statement) string {
		v := b.arg(ref)
		return "EXISTS (SELECT 1 FROM json_each(" + b.field("created_resources") + ") j WHERE json_extract(j.value, '$.href') = " + v +
			" OR json_extract(j.value, '$.prn') = " + v + ")"
	})
}
