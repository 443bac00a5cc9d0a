package api

import (
	"fmt"
	"maps"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

// filter reads the values of one query parameter, which is named so that errors can name it, as a condition.
type filter func(a *API, req *request, name string, values []string) (store.Filter, error)

// filters are the parameters that narrow a list.
type filters map[string]filter

// unfiltered are the parameters of every list that narrow nothing.
var unfiltered = []string{"limit", "offset", "ordering", "fields", "exclude_fields", "format", "minimal", "page_size", "q"}

// filterSets makes one of several.
func filterSets(sets ...filters) filters {
	all := filters{}
	for _, s := range sets {
		maps.Copy(all, s)
	}
	return all
}

// parse reads a request's parameters as conditions. One that the list has not is an error, never ignored.
func (f filters) parse(a *API, req *request) ([]store.Filter, error) {
	var where []store.Filter
	for _, name := range slices.Sorted(maps.Keys(req.query)) {
		if slices.Contains(unfiltered, name) {
			continue
		}
		read, known := f[name]
		if !known {
			return nil, &httpError{400, map[string][]string{"errors": {fmt.Sprintf("Invalid Filter: '%s'", name)}}}
		}
		condition, err := read(a, req, name, req.query[name])
		if err != nil {
			return nil, err
		}
		if condition != nil {
			where = append(where, condition)
		}
	}
	if q := strings.TrimSpace(last(req.query["q"])); q != "" {
		condition, err := parseExpression(q, func(name, value string) (store.Filter, error) {
			return f.term(a, req, name, value)
		})
		if err != nil {
			return nil, err
		}
		where = append(where, condition)
	}
	return where, nil
}

// term reads one comparison of a complex expression.
func (f filters) term(a *API, req *request, name, value string) (store.Filter, error) {
	switch name {
	case "q":
		return nil, invalid("q", "You cannot use 'q' in complex filtering.")
	case "ordering":
		return nil, invalid("q", "An ordering filter cannot be used in complex filtering.")
	}
	read, known := f[name]
	if !known {
		return nil, invalid("q", "Filter '%s' does not exist.", name)
	}
	condition, err := read(a, req, name, []string{value})
	if condition == nil {
		condition = store.All()
	}
	return condition, err
}

func invalid(name, format string, args ...any) error { return fault.Field(name, format, args...) }

func invalidChoice(name, value string) error {
	return invalid(name, "Select a valid choice. %s is not one of the available choices.", value)
}

// last returns the value that counts when a parameter is repeated.
func last(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// compare filters by one text; an empty one narrows nothing.
func compare(field string, op store.Op) filter {
	return func(_ *API, _ *request, _ string, values []string) (store.Filter, error) {
		if v := last(values); v != "" {
			return store.Where(field, op, v), nil
		}
		return nil, nil
	}
}

// oneOf filters by texts with commas between them.
func oneOf(field string) filter {
	return func(_ *API, _ *request, name string, values []string) (store.Filter, error) {
		wanted, err := commaSeparated(name, values)
		if err != nil || len(wanted) == 0 {
			return nil, err
		}
		return store.OneOf(field, wanted), nil
	}
}

// maxPatternLength is how many bytes a regular expression may have.
const maxPatternLength = 1000

// matching filters by a regular expression.
func matching(field, flags string) filter {
	return func(_ *API, _ *request, name string, values []string) (store.Filter, error) {
		pattern := last(values)
		if pattern == "" {
			return nil, nil
		}
		if len(pattern) > maxPatternLength {
			return nil, invalid(name, "A regular expression may have at most %d bytes.", maxPatternLength)
		}
		if _, err := regexp.Compile(flags + pattern); err != nil {
			return nil, invalid(name, "Enter a valid regular expression.")
		}
		if err := store.CheckPattern(flags + pattern); err != nil {
			return nil, invalid(name, "The regular expression is too complex.")
		}
		return store.Where(field, store.Match, flags+pattern), nil
	}
}

// names are the filters that the contract calls NAME.
func names() filters {
	return filters{
		"name": compare("name", store.Equal), "name__iexact": compare("name", store.EqualFold), "name__in": oneOf("name"),
		"name__contains": compare("name", store.Contains), "name__icontains": compare("name", store.ContainsFold),
		"name__startswith": compare("name", store.HasPrefix), "name__istartswith": compare("name", store.HasPrefixFold),
		"name__regex": matching("name", ""), "name__iregex": matching("name", "(?i)"),
	}
}

// ranged are the filters of a field whose values have an order; parse reads one of them, or says what is wrong.
func ranged(field string, parse func(name, text string) (int64, error)) filters {
	at := func(op store.Op) filter {
		return func(_ *API, _ *request, name string, values []string) (store.Filter, error) {
			text := last(values)
			if text == "" {
				return nil, nil
			}
			v, err := parse(name, text)
			return store.Where(field, op, v), err
		}
	}
	between := func(_ *API, _ *request, name string, values []string) (store.Filter, error) {
		text := last(values)
		if text == "" {
			return nil, nil
		}
		from, to, two := strings.Cut(text, ",")
		if !two || strings.Contains(to, ",") {
			return nil, invalid(name, "Range query expects two values.")
		}
		least, err := parse(name, from)
		if err != nil {
			return nil, err
		}
		most, err := parse(name, to)
		return store.All(store.Where(field, store.AtLeast, least), store.Where(field, store.AtMost, most)), err
	}
	return filters{
		field: at(store.Equal), field + "__lt": at(store.Less), field + "__lte": at(store.AtMost), field + "__gt": at(store.Greater),
		field + "__gte": at(store.AtLeast), field + "__range": between,
	}
}

// dates are the filters that the contract calls DATE.
func dates(field string) filters {
	return filterSets(ranged(field, func(name, text string) (int64, error) {
		t, ok := parseTime(text)
		if !ok {
			return 0, invalid(name, "Enter a valid date/time.")
		}
		return t.UnixMicro(), nil
	}), filters{field + "__isnull": isNull(field)})
}

func number(name, text string) (int64, error) {
	n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil || n != math.Trunc(n) || math.Abs(n) > math.MaxInt32 {
		return 0, invalid(name, "Enter a number.")
	}
	return int64(n), nil
}

// numbers are the filters of a number that is never null.
func numbers(field string) filters { return ranged(field, number) }

// nullableNumbers are the filters that the contract calls NUM.
func nullableNumbers(field string) filters {
	return filterSets(numbers(field), filters{
		field + "__isnull": isNull(field),
		field + "__ne": func(_ *API, _ *request, name string, values []string) (store.Filter, error) {
			n, err := number(name, last(values))
			return store.Where(field, store.NotEqual, n), err
		},
	})
}

// boolean hands a filter a value that says true or false.
func boolean(with func(bool) store.Filter) filter {
	return func(_ *API, _ *request, name string, values []string) (store.Filter, error) {
		switch v := last(values); strings.ToLower(v) {
		case "true", "1":
			return with(true), nil
		case "false", "0":
			return with(false), nil
		case "":
			return nil, nil
		default:
			return nil, invalidChoice(name, v)
		}
	}
}

func isNull(field string) filter {
	return boolean(func(null bool) store.Filter { return store.IsNull(field, null) })
}

func is(field string) filter {
	return boolean(func(v bool) store.Filter { return store.Where(field, store.Equal, v) })
}

// choice filters by texts of which only some are possible.
func choice(possible []string, with func(values []string) store.Filter) filter {
	return func(_ *API, _ *request, name string, values []string) (store.Filter, error) {
		wanted, err := commaSeparated(name, values)
		if err != nil {
			return nil, err
		}
		for _, v := range wanted {
			if !slices.Contains(possible, v) {
				return nil, invalidChoice(name, v)
			}
		}
		if len(wanted) == 0 {
			return nil, nil
		}
		return with(wanted), nil
	}
}

// identity are the filters that every list has: by id, href and PRN.
func identity() filters {
	byID := func(read func(string) (string, error)) filter {
		return func(_ *API, _ *request, name string, values []string) (store.Filter, error) {
			named, err := commaSeparated(name, values)
			if err != nil || len(named) == 0 {
				return nil, err
			}
			var ids []string
			for _, v := range named {
				id, err := read(v)
				if err != nil {
					return nil, err
				}
				if id != "" {
					ids = append(ids, id)
				}
			}
			return store.OneOf("pulp_id", ids), nil
		}
	}
	return filters{
		"pulp_id__in": byID(func(v string) (string, error) {
			if !pulp.ValidUUID(v) {
				return "", invalid("pulp_id__in", "“%s” is not a valid UUID.", v)
			}
			return strings.ToLower(v), nil
		}),
		"pulp_href__in": byID(func(v string) (string, error) {
			ref, ok := pulp.ParseRef(v)
			if !ok || !strings.HasPrefix(v, "/") {
				return "", badList("URI not valid: %s", v)
			}
			if ref.Version >= 0 { // its id is that of the repository, which it is not
				return "", nil
			}
			return ref.ID, nil
		}),
		"prn__in": byID(prnID),
	}
}

func prnID(v string) (string, error) {
	if !strings.HasPrefix(v, "prn:") {
		return "", badList("Not a valid PRN: %s, must start with 'prn:'", v)
	}
	ref, ok := pulp.ParseRef(v)
	if !ok {
		return "", badList("Not a valid PRN: %s", v)
	}
	return ref.ID, nil
}

// reference reads an href, absolute or not, or a PRN.
func reference(v string) (pulp.Ref, error) {
	if u, err := url.Parse(v); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		v = u.Path
	}
	ref, ok := pulp.ParseRef(v)
	if !ok {
		return pulp.Ref{}, badList("URI not valid: %s", v)
	}
	return ref, nil
}

// related filters by references to objects, one or with commas between them; with makes the condition of them.
func related(with func([]pulp.Ref) store.Filter) filter {
	return func(_ *API, _ *request, name string, values []string) (store.Filter, error) {
		named, err := commaSeparated(name, values)
		if err != nil {
			return nil, err
		}
		var refs []pulp.Ref
		for _, v := range named {
			ref, err := reference(v)
			if err != nil {
				return nil, err
			}
			refs = append(refs, ref)
		}
		if len(refs) == 0 {
			return nil, nil
		}
		return with(refs), nil
	}
}

// relatedTo filters by a field that holds the id of another object.
func relatedTo(field string) filter {
	return related(func(refs []pulp.Ref) store.Filter { return store.OneOf(field, idsOf(refs)) })
}

// idsOf returns the ids of what is referred to, but for versions that are named by their repositories' ids.
func idsOf(refs []pulp.Ref) []string {
	ids := make([]string, 0, len(refs))
	for _, r := range refs {
		if r.Version < 0 {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// never filters by references to what no object of ours has: a valid one finds nothing.
var never = related(func([]pulp.Ref) store.Filter { return store.Any() })
