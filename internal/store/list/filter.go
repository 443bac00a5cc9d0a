package list

import (
	"fmt"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Filter is a condition on the rows of a list.
type Filter interface{ write(b *statement) string }

// clause is a Filter that is a function.
type clause func(b *statement) string

func (c clause) write(b *statement) string { return c(b) }

// All holds when every one of the filters does; without any it always holds.
func All(filters ...Filter) Filter { return combine(filters, " AND ", "1 = 1") }

// Any holds when one of the filters does; without any it never holds.
func Any(filters ...Filter) Filter { return combine(filters, " OR ", "1 = 0") }

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

// Not holds when the filter does not. A comparison with a NULL counts as one that does not hold.
func Not(f Filter) Filter {
	return clause(func(b *statement) string { return "NOT COALESCE(" + f.write(b) + ", FALSE)" })
}

// Op compares a field with a value.
type Op int

// The comparisons. Those that fold ignore the case of ASCII letters. A NULL field holds in none.
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
	Match // an RE2 regular expression, found anywhere; Invalid where it is none, or too complex
)

// operators are the comparisons as SQL: %f is the field, %v the value.
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

// Where compares a field with a value: a string, an int64 or a bool. Times are compared as microseconds since 1970.
func Where(field string, op Op, value any) Filter {
	return clause(func(b *statement) string {
		compared := value
		if op == Match {
			compared = b.pattern(value)
		}
		return strings.NewReplacer("%f", b.field(field), "%v", b.arg(compared)).Replace(operators[op])
	})
}

// OneOf holds when a field equals one of the values.
func OneOf(field string, values []string) Filter {
	return clause(func(b *statement) string {
		return b.field(field) + " IN " + b.set(values)
	})
}

// set writes a set of values as one argument, however many they are.
func (b *statement) set(values []string) string {
	return "(SELECT j.value FROM json_each(" + b.arg(sqldb.ToJSON(append([]string{}, values...))) + ") j)"
}

// IsNull holds when a field is NULL or, when null is false, when it is not.
func IsNull(field string, null bool) Filter {
	return clause(func(b *statement) string {
		if null {
			return b.field(field) + " IS NULL"
		}
		return b.field(field) + " IS NOT NULL"
	})
}

// LabelOp is a question about one label.
type LabelOp int

// The questions about a label (compatibility.md#lists, pulp_label_select).
const (
	LabelPresent LabelOp = iota
	LabelAbsent
	LabelIs       // the value is equal
	LabelIsNot    // the label is there and its value differs
	LabelContains // the value contains the text, ignoring case
)

// Label asks about the label of this key in the field "pulp_labels"; value is used where the question has one.
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

// VisibleTo narrows a list to what a user who is not staff sees: what lies in the namespace of their own name, and what a distribution that is not
// private serves (compatibility.md#permissions).
func VisibleTo(username string) Filter { return visibleTo(username) }

type visibleTo string

func (v visibleTo) write(b *statement) string {
	return "(" + strings.ReplaceAll(b.visible, "%s", b.arg(string(v))) + ")"
}

// viewer returns the user to whom filters narrow a list; empty if they do not.
func viewer(filters []Filter) string {
	for _, f := range filters {
		if v, ok := f.(visibleTo); ok {
			return string(v)
		}
	}
	return ""
}

// Membership relates a content unit to a repository version.
type Membership int

// The relations.
const (
	Present Membership = iota
	Added
	Removed
)

// InVersion narrows a list of content to the units that a repository version holds, brought or took away.
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
		return b.id + " IN (SELECT c.content_id FROM repository_content c WHERE c.repository_id = " + repository +
			" AND c.kind = " + b.arg(b.kind) + " AND " + relation + ")"
	})
}

// Holding narrows a list of repositories to those that hold one of these units, in any version or only in the latest.
func Holding(contentIDs []string, latestOnly bool) Filter {
	return clause(func(b *statement) string {
		only := ""
		if latestOnly {
			only = " AND c.version_removed IS NULL"
		}
		return b.id + " IN (SELECT c.repository_id FROM repository_content c WHERE c.content_id IN " + b.set(contentIDs) + only + ")"
	})
}

// VersionName names a repository version.
type VersionName struct {
	RepositoryID string
	Number       int64
}

// VersionsNamed narrows a list of versions to these.
func VersionsNamed(names []VersionName) Filter {
	return clause(func(b *statement) string {
		repositories, versions := make([]string, len(names)), make([]string, len(names))
		for i, n := range names {
			repositories[i], versions[i] = n.RepositoryID, fmt.Sprintf("%s/%d", n.RepositoryID, n.Number)
		}
		repository := b.field("repository")
		return "(" + repository + " IN " + b.set(repositories) + " AND " + repository + " || '/' || " + b.field("number") + " IN " + b.set(versions) + ")"
	})
}

// VersionHolding narrows a list of versions to those that hold one of these units.
func VersionHolding(contentIDs []string) Filter {
	return clause(func(b *statement) string {
		return "EXISTS (SELECT 1 FROM repository_content c WHERE c.repository_id = " + b.field("repository") +
			" AND c.content_id IN " + b.set(contentIDs) + " AND " + record.InVersion(b.field("number")) + ")"
	})
}

// Serving narrows a list of distributions to those that serve one of these units: in the latest version of their repository, or in the version that they
// are pinned to.
func Serving(contentIDs []string) Filter {
	return clause(func(b *statement) string {
		units := b.set(contentIDs)
		return "(" + b.field("repository") + " IN (SELECT c.repository_id FROM repository_content c WHERE c.content_id IN " + units + " AND c.version_removed IS NULL) OR " +
			b.field("repository_version") + " IN (SELECT v.id FROM repository_version v JOIN repository_content c ON c.repository_id = v.repository_id" +
			" WHERE c.content_id IN " + units + " AND " + record.InVersion("v.number") + "))"
	})
}

// Reserving narrows a list of tasks to those that reserve, or reserved, one of these resources: alone, shared, or either when both are set.
func Reserving(hrefs []string, exclusive, shared bool) Filter {
	return clause(func(b *statement) string {
		return b.id + " IN (SELECT x.task_id FROM task_resource x WHERE x.resource IN " + b.set(hrefs) +
			" AND (x.exclusive AND " + b.arg(exclusive) + " OR NOT x.exclusive AND " + b.arg(shared) + "))"
	})
}

// Creating narrows a list of tasks to those that made the object with this href or PRN.
func Creating(ref string) Filter {
	return clause(func(b *statement) string {
		v := b.arg(ref)
		return "EXISTS (SELECT 1 FROM json_each(" + b.field("created_resources") + ") j WHERE json_extract(j.value, '$.href') = " + v +
			" OR json_extract(j.value, '$.prn') = " + v + ")"
	})
}

// contentFields are the fields of a kind of content. Its labels are {}: nobody can set any yet.
func contentFields(alias string, kind pulp.Kind, more map[string]string) map[string]string {
	fields := common(alias)
	fields["pulp_labels"] = "CAST('{}' AS TEXT)"
	fields["pulp_type"] = "CAST('" + kind.String() + "' AS TEXT)"
	for name, expression := range more {
		fields[name] = expression
	}
	return fields
}

// common are the fields that every list has.
func common(alias string) map[string]string {
	return map[string]string{
		"pulp_id": alias + ".id", "pk": alias + ".id", "pulp_created": alias + ".created", "pulp_last_updated": alias + ".updated",
	}
}
