package api

import (
	"maps"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign/countersign/api/internal/openapi"
	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
)

// filter is the condition that one query parameter sets.
type filter struct {
	schema *openapi.Schema // of the parameter
	parse  parseFilter
}

// parseFilter returns the condition for the values of one query parameter; nil: none. It gets the name for its errors.
type parseFilter func(a *API, req *request, name string, values []string) (list.Filter, error)

// filters are the filters of a list by parameter (compatibility.md#lists).
type filters map[string]filter

// notFilters are parameters of every list that are not filters.
var notFilters = []string{
	"limit", "offset", "ordering", "fields", "exclude_fields", "format", "minimal", "page_size", "q",
}

// mergeFilters returns the union of several sets.
func mergeFilters(sets ...filters) filters {
	all := filters{}
	for _, s := range sets {
		maps.Copy(all, s)
	}
	return all
}

// parameters declares the filters as parameters of the query string. A list with the filter of ids has "q" too.
func (f filters) parameters() []openapi.Parameter {
	var all []openapi.Parameter
	for _, name := range slices.Sorted(maps.Keys(f)) {
		all = append(all, openapi.InQuery(name, "", f[name].schema))
	}
	if len(f) > 0 {
		all = append(all, openapi.InQuery("q", "Filters combined with NOT, AND, OR and parentheses.", openapi.Text()))
	}
	return all
}

// parse returns the conditions for a request's parameters. An unknown parameter is an error.
func (f filters) parse(a *API, req *request) ([]list.Filter, error) {
	var where []list.Filter
	for _, name := range slices.Sorted(maps.Keys(req.query)) {
		if slices.Contains(notFilters, name) {
			continue
		}
		read, known := f[name]
		if !known {
			return nil, reply.BadQuery("Invalid Filter: '%s'", name)
		}
		condition, err := read.parse(a, req, name, req.query[name])
		if err != nil {
			return nil, err
		}
		if condition != nil {
			where = append(where, condition)
		}
	}
	if q := strings.TrimSpace(query.Last(req.query["q"])); q != "" {
		condition, err := query.ParseExpression(q, func(name, value string) (list.Filter, error) {
			return f.term(a, req, name, value)
		})
		if err != nil {
			return nil, err
		}
		where = append(where, condition)
	}
	return where, nil
}

// term returns the condition of one comparison in the parameter "q".
func (f filters) term(a *API, req *request, name, value string) (list.Filter, error) {
	switch name {
	case "q":
		return nil, fault.Field("q", "You cannot use 'q' in complex filtering.")
	case "ordering":
		return nil, fault.Field("q", "An ordering filter cannot be used in complex filtering.")
	}
	read, known := f[name]
	if !known {
		return nil, fault.Field("q", "Filter '%s' does not exist.", name)
	}
	condition, err := read.parse(a, req, name, []string{value})
	if condition == nil {
		condition = list.All()
	}
	return condition, err
}

// compare filters by one text. An empty text is no condition.
func compare(field string, op list.Op) filter {
	return filter{openapi.Text(), func(_ *API, _ *request, _ string, values []string) (list.Filter, error) {
		if v := query.Last(values); v != "" {
			return list.Where(field, op, v), nil
		}
		return nil, nil
	}}
}

// oneOf filters by several texts.
func oneOf(field string) filter {
	return filter{openapi.List(openapi.Text()), func(_ *API, _ *request, name string, values []string) (list.Filter, error) {
		parts, err := query.Split(name, values)
		if err != nil || len(parts) == 0 {
			return nil, err
		}
		return list.OneOf(field, parts), nil
	}}
}

// exactFilters filter by one whole text or by several.
func exactFilters(field string) filters {
	return filters{field: compare(field, list.Equal), field + "__in": oneOf(field)}
}

// maxPatternLength is the largest length of a regular expression in bytes.
const maxPatternLength = 1000

// matching filters by a regular expression, which gets a prefix of flags.
func matching(field, flags string) filter {
	return filter{openapi.Text(), func(_ *API, _ *request, name string, values []string) (list.Filter, error) {
		pattern := query.Last(values)
		if pattern == "" {
			return nil, nil
		}
		if len(pattern) > maxPatternLength {
			return nil, fault.Field(name, "A regular expression may have at most %d bytes.", maxPatternLength)
		}
		if _, err := regexp.Compile(flags + pattern); err != nil {
			return nil, fault.Field(name, "Enter a valid regular expression.")
		}
		if err := list.CheckPattern(flags + pattern); err != nil {
			return nil, fault.Field(name, "The regular expression is too complex.")
		}
		return list.Where(field, list.Match, flags+pattern), nil
	}}
}

// nameFilters are the filters of objects with a name.
func nameFilters() filters {
	return mergeFilters(exactFilters("name"), filters{
		"name__iexact":      compare("name", list.EqualFold),
		"name__contains":    compare("name", list.Contains),
		"name__icontains":   compare("name", list.ContainsFold),
		"name__startswith":  compare("name", list.HasPrefix),
		"name__istartswith": compare("name", list.HasPrefixFold),
		"name__regex":       matching("name", ""),
		"name__iregex":      matching("name", "(?i)"),
	})
}

// rangeFilters are the filters of a field whose values have an order and a schema. parse converts one value.
func rangeFilters(field string, schema *openapi.Schema, parse func(name, text string) (int64, error)) filters {
	at := func(op list.Op) filter {
		return filter{schema, func(_ *API, _ *request, name string, values []string) (list.Filter, error) {
			text := query.Last(values)
			if text == "" {
				return nil, nil
			}
			v, err := parse(name, text)
			return list.Where(field, op, v), err
		}}
	}
	between := func(_ *API, _ *request, name string, values []string) (list.Filter, error) {
		text := query.Last(values)
		if text == "" {
			return nil, nil
		}
		from, to, err := cutRange(name, text)
		if err != nil {
			return nil, err
		}
		least, err := parse(name, from)
		if err != nil {
			return nil, err
		}
		most, err := parse(name, to)
		return list.All(list.Where(field, list.AtLeast, least), list.Where(field, list.AtMost, most)), err
	}
	return filters{
		field: at(list.Equal), field + "__lt": at(list.Less), field + "__lte": at(list.AtMost),
		field + "__gt": at(list.Greater), field + "__gte": at(list.AtLeast), field + "__range": {openapi.List(schema), between},
	}
}

// cutRange splits a text into the two values that a comma separates.
func cutRange(name, text string) (from, to string, err error) {
	from, to, found := strings.Cut(text, ",")
	if !found || strings.Contains(to, ",") {
		return "", "", fault.Field(name, "Range query expects two values.")
	}
	return from, to, nil
}

// dateFilters are the filters of a point in time that may be null.
func dateFilters(field string) filters {
	return mergeFilters(rangeFilters(field, openapi.Time(), func(name, text string) (int64, error) {
		t, ok := timestamp.Parse(text)
		if !ok {
			return 0, fault.Field(name, "Enter a valid date/time.")
		}
		return t.UnixMicro(), nil
	}), filters{field + "__isnull": isNull(field)})
}

// number parses a 32-bit integer, which may be written as a float.
func number(name, text string) (int64, error) {
	n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil || n != math.Trunc(n) || math.Abs(n) > math.MaxInt32 {
		return 0, fault.Field(name, "Enter a number.")
	}
	return int64(n), nil
}

// numberFilters are the filters of a number that is never null.
func numberFilters(field string) filters { return rangeFilters(field, openapi.Integer(), number) }

// nullableNumberFilters are the filters of a number that may be null.
func nullableNumberFilters(field string) filters {
	return mergeFilters(numberFilters(field), filters{
		field + "__isnull": isNull(field),
		field + "__ne": {openapi.Integer(), func(_ *API, _ *request, name string, values []string) (list.Filter, error) {
			text := query.Last(values)
			if text == "" {
				return nil, nil
			}
			n, err := number(name, text)
			return list.Where(field, list.NotEqual, n), err
		}},
	})
}

// boolean filters by a boolean, for which with returns the condition.
func boolean(with func(bool) list.Filter) filter {
	return filter{openapi.Bool(), func(_ *API, _ *request, name string, values []string) (list.Filter, error) {
		switch v := query.Last(values); strings.ToLower(v) {
		case "true", "1":
			return with(true), nil
		case "false", "0":
			return with(false), nil
		case "":
			return nil, nil
		default:
			return nil, query.BadChoice(name, v)
		}
	}}
}

func isNull(field string) filter {
	return boolean(func(null bool) list.Filter { return list.IsNull(field, null) })
}

func is(field string) filter {
	return boolean(func(v bool) list.Filter { return list.Where(field, list.Equal, v) })
}

// choice filters by some of the possible texts, for which with returns the condition.
func choice(possible []string, with func(values []string) list.Filter) filter {
	return filter{openapi.List(openapi.Choice(possible...)), func(_ *API, _ *request, name string, values []string) (list.Filter, error) {
		parts, err := query.Split(name, values)
		if err != nil {
			return nil, err
		}
		for _, v := range parts {
			if !slices.Contains(possible, v) {
				return nil, query.BadChoice(name, v)
			}
		}
		if len(parts) == 0 {
			return nil, nil
		}
		return with(parts), nil
	}}
}

// identityFilters are the filters of every list: by id, href and PRN.
func identityFilters() filters {
	in := func(parse func(string) (id string, err error)) filter {
		return filter{openapi.List(openapi.Text()), func(_ *API, _ *request, name string, values []string) (list.Filter, error) {
			parts, err := query.Split(name, values)
			if err != nil || len(parts) == 0 {
				return nil, err
			}
			var ids []string
			for _, v := range parts {
				id, err := parse(v)
				if err != nil {
					return nil, err
				}
				if id != "" {
					ids = append(ids, id)
				}
			}
			return list.OneOf("pulp_id", ids), nil
		}}
	}
	return filters{
		"pulp_id__in": in(func(v string) (string, error) {
			if !pulp.ValidUUID(v) {
				return "", fault.Field("pulp_id__in", "“%s” is not a valid UUID.", v)
			}
			return strings.ToLower(v), nil
		}),
		"pulp_href__in": in(func(v string) (string, error) {
			ref, ok := pulp.ParseRef(v)
			if !ok || !strings.HasPrefix(v, "/") {
				return "", reply.BadRequest("URI not valid: %s", v)
			}
			if ref.Version >= 0 { // the id is that of the version's repository
				return "", nil
			}
			return ref.ID, nil
		}),
		"prn__in": in(func(v string) (string, error) {
			if !strings.HasPrefix(v, "prn:") {
				return "", reply.BadRequest("Not a valid PRN: %s, must start with 'prn:'", v)
			}
			ref, ok := pulp.ParseRef(v)
			if !ok {
				return "", reply.BadRequest("Not a valid PRN: %s", v)
			}
			return ref.ID, nil
		}),
	}
}

// parseReference parses an href, a URL or a PRN.
func parseReference(v string) (pulp.Ref, error) {
	if u, err := url.Parse(v); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		v = u.Path
	}
	ref, ok := pulp.ParseRef(v)
	if !ok {
		return pulp.Ref{}, reply.BadRequest("URI not valid: %s", v)
	}
	return ref, nil
}

// related filters by references to objects, for which with returns the condition.
func related(with func([]pulp.Ref) list.Filter) filter {
	return filter{openapi.List(openapi.Text()), func(_ *API, _ *request, name string, values []string) (list.Filter, error) {
		parts, err := query.Split(name, values)
		if err != nil {
			return nil, err
		}
		var refs []pulp.Ref
		for _, v := range parts {
			ref, err := parseReference(v)
			if err != nil {
				return nil, err
			}
			refs = append(refs, ref)
		}
		if len(refs) == 0 {
			return nil, nil
		}
		return with(refs), nil
	}}
}

// relatedTo filters by a field that holds the id of another object.
func relatedTo(field string) filter {
	return related(func(refs []pulp.Ref) list.Filter { return list.OneOf(field, idsOf(refs)) })
}

// one returns a filter that is declared with one value, although it accepts several.
func one(f filter) filter {
	f.schema = f.schema.Items
	return f
}

// idsOf returns the ids of objects. It omits repository versions, since their references contain the repositories' ids.
func idsOf(refs []pulp.Ref) []string {
	ids := make([]string, 0, len(refs))
	for _, r := range refs {
		if r.Version < 0 {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// matchNone filters by references that no object here has: any valid reference matches nothing.
var matchNone = related(func([]pulp.Ref) list.Filter { return list.Any() })
