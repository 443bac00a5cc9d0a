package api

import (
	"strings"

	"github.com/countersign/countersign/internal/store"
)

// labelSelect is the filter pulp_label_select: terms with commas between them, all of which must hold (contract 1.3).
func labelSelect() filters {
	return filters{"pulp_label_select": func(_ *API, _ *request, _ string, values []string) (store.Filter, error) {
		text := last(values)
		if text == "" {
			return nil, nil
		}
		var all []store.Filter
		for _, term := range splitTerms(text) {
			f, err := labelTerm(term)
			if err != nil {
				return nil, err
			}
			all = append(all, f)
		}
		return store.All(all...), nil
	}}
}

// splitTerms splits at the commas that no backslash escapes.
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

func labelTerm(term string) (store.Filter, error) {
	negated := strings.HasPrefix(term, "!")
	rest := strings.TrimPrefix(term, "!")
	end := strings.IndexAny(rest, "=!~")
	key, operator := rest, ""
	if end >= 0 {
		key, operator = rest[:end], rest[end:]
	}
	if !validLabelKey(key) {
		return nil, badList("Invalid search term: '%s'.", term)
	}
	switch {
	case negated && operator != "":
		return nil, badList("Cannot use an operator with '!%s'.", key)
	case negated:
		return store.Label(key, store.LabelAbsent, ""), nil
	case operator == "":
		return store.Label(key, store.LabelPresent, ""), nil
	case operator[0] == '=':
		return store.Label(key, store.LabelIs, operator[1:]), nil
	case operator[0] == '~':
		return store.Label(key, store.LabelContains, operator[1:]), nil
	case strings.HasPrefix(operator, "!="):
		return store.Label(key, store.LabelIsNot, operator[2:]), nil
	}
	return nil, badList("Invalid search term: '%s'.", term)
}
