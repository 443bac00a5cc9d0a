package api

import (
	"net/http"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

// maxLabelTerms is how many terms one pulp_label_select may have: each is a subquery.
const maxLabelTerms = 32

// labelSelect is the filter pulp_label_select: terms with commas between them, all of which must hold (contract 1.3).
func labelSelect() filters {
	return filters{"pulp_label_select": func(_ *API, _ *request, name string, values []string) (store.Filter, error) {
		text := last(values)
		if text == "" {
			return nil, nil
		}
		terms := splitTerms(text)
		if len(terms) > maxLabelTerms {
			return nil, invalid(name, "At most %d terms are possible.", maxLabelTerms)
		}
		var all []store.Filter
		for _, term := range terms {
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

// setLabel is one label with its value, as it is sent and answered.
type setLabel struct {
	Key   string  `json:"key"`
	Value *string `json:"value"`
}

// labelRoutes are the actions that set and unset one label of an object, at once (contract 2.5.2). permitted finds the object that the path names, if the caller may change it.
func labelRoutes[T any](a *API, collection string, permitted func(*request) (T, error)) []route {
	act := func(do func(req *request, b *body, key string) (*string, error)) map[string]handler {
		return map[string]handler{http.MethodPost: func(req *request) (answer, error) {
			if _, err := permitted(req); err != nil {
				return answer{}, err
			}
			b, err := req.body()
			if err != nil {
				return answer{}, err
			}
			key := b.text("key", true, false).Value
			if key != nil && len(b.errs["key"]) == 0 && !validLabelKey(*key) {
				b.fail("key", "Key '%s' contains non-alphanumerics.", *key)
			}
			if key == nil {
				return answer{}, b.finish()
			}
			value, err := do(req, b, *key)
			if err != nil {
				return answer{}, err
			}
			href := pulp.Href(collection, strings.ToLower(req.param("id")))
			req.audit("change label", href)
			return answer{status: http.StatusCreated, body: setLabel{*key, value}}, nil
		}}
	}
	set := func(req *request, b *body, key string) (*string, error) {
		value := b.text("value", true, true).Value
		if value != nil && strings.ContainsAny(*value, "()") {
			b.fail("value", "Key '%s' contains value with parenthesis.", key)
		}
		if err := b.finish(); err != nil {
			return nil, err
		}
		return value, a.Store.SetLabel(req.Context(), collection, strings.ToLower(req.param("id")), key, value)
	}
	unset := func(req *request, b *body, key string) (*string, error) {
		if err := b.finish(); err != nil {
			return nil, err
		}
		return a.Store.UnsetLabel(req.Context(), collection, strings.ToLower(req.param("id")), key)
	}
	return []route{
		{path: collection + ":id/set_label/", methods: act(set)},
		{path: collection + ":id/unset_label/", methods: act(unset)},
	}
}
