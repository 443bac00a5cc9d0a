package query

import (
	"strings"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/store/list"
)

// maxLabelTerms is the largest number of terms of pulp_label_select. The database runs a subquery for each.
const maxLabelTerms = 32

// ParseLabels parses the parameter pulp_label_select: terms with commas between them, all of which must hold
// (compatibility.md#lists). Errors name the parameter.
func ParseLabels(name, text string) (list.Filter, error) {
	terms := splitTerms(text)
	if len(terms) > maxLabelTerms {
		return nil, fault.Field(name, "At most %d terms are possible.", maxLabelTerms)
	}
	var all []list.Filter
	for _, term := range terms {
		f, err := labelTerm(term)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return list.All(all...), nil
}

// splitTerms splits a text at its commas, except those after a backslash.
func splitTerms(text string) []string {
	var terms []string
	var term strings.Builder
	escaped := false
	for _, r := range text {
		switch {
		case escaped:
			if r != ',' {
				term.WriteByte('\\')
			}
			term.WriteRune(r)
			escaped = false
		case r == '\\':
			escaped = true
		case r == ',':
			terms = append(terms, term.String())
			term.Reset()
		default:
			term.WriteRune(r)
		}
	}
	if escaped {
		term.WriteByte('\\')
	}
	return append(terms, term.String())
}

// labelTerm parses one term: key, !key, key=value, key!=value or key~value.
func labelTerm(term string) (list.Filter, error) {
	negated := strings.HasPrefix(term, "!")
	rest := strings.TrimPrefix(term, "!")
	end := strings.IndexAny(rest, "=!~")
	key, operator := rest, ""
	if end >= 0 {
		key, operator = rest[:end], rest[end:]
	}
	if !body.ValidLabelKey(key) {
		return nil, reply.BadRequest("Invalid search term: '%s'.", term)
	}
	switch {
	case negated && operator != "":
		return nil, reply.BadRequest("Cannot use an operator with '!%s'.", key)
	case negated:
		return list.Label(key, list.LabelAbsent, ""), nil
	case operator == "":
		return list.Label(key, list.LabelPresent, ""), nil
	case operator[0] == '=':
		return list.Label(key, list.LabelIs, operator[1:]), nil
	case operator[0] == '~':
		return list.Label(key, list.LabelContains, operator[1:]), nil
	case strings.HasPrefix(operator, "!="):
		return list.Label(key, list.LabelIsNot, operator[2:]), nil
	}
	return nil, reply.BadRequest("Invalid search term: '%s'.", term)
}
