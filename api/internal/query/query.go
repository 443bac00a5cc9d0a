// Package query reads the parameters of lists: page, order, selected fields, and the texts of complex filters.
package query

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/store/list"
)

// Bounds of a page (compatibility.md#lists). Pulp has no largest limit; this one is far above those that its clients
// use.
const (
	defaultLimit = 100
	maxLimit     = 10_000
	maxOffset    = 1 << 40
)

// maxValues is the largest number of values of one parameter.
const maxValues = 1000

// Last returns the value that counts when a parameter is repeated; "" when it is absent.
func Last(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// Split returns the parts of a parameter that may be repeated and contain commas, without space and empty parts. More
// than 1,000 parts are an error of the named parameter.
func Split(name string, values []string) ([]string, error) {
	var parts []string
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			if len(parts) == maxValues {
				return nil, fault.Field(name, "At most %d values are possible.", maxValues)
			}
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// BadChoice returns the error for a value that a parameter does not have.
func BadChoice(name, value string) error {
	return fault.Field(name, "Select a valid choice. %s is not one of the available choices.", value)
}

// Order reads the parameter "ordering": names of fields, each with a minus sign for descending order. Only some
// fields are possible.
func Order(query url.Values, possible []string) ([]list.Order, error) {
	names, err := Split("ordering", query["ordering"])
	if err != nil {
		return nil, err
	}
	var order []list.Order
	for _, name := range names {
		field, desc := strings.CutPrefix(name, "-")
		if !slices.Contains(possible, field) {
			return nil, BadChoice("ordering", name)
		}
		if !slices.ContainsFunc(order, func(o list.Order) bool { return o.Field == field }) {
			order = append(order, list.Order{Field: field, Desc: desc})
		}
	}
	return order, nil
}

// Page is the part of a list that a request asks for.
type Page struct{ Limit, Offset int }

// PageOf reads the parameters "limit" and "offset". Invalid values count as absent, large ones as the bound.
func PageOf(query url.Values) Page {
	limit, err := strconv.Atoi(query.Get("limit"))
	if err != nil || limit <= 0 {
		limit = defaultLimit
	}
	offset, err := strconv.Atoi(query.Get("offset"))
	if err != nil || offset < 0 {
		offset = 0
	}
	return Page{min(limit, maxLimit), min(offset, maxOffset)}
}

// Links returns the absolute URLs of the next and the previous page of a list with count rows; nil where there is none.
func (p Page) Links(r *http.Request, query url.Values, count int64) (next, previous *string) {
	at := func(offset int) *string {
		q := url.Values{}
		for name, values := range query {
			q[name] = values
		}
		q.Set("limit", strconv.Itoa(p.Limit))
		q.Set("offset", strconv.Itoa(offset))
		if offset <= 0 {
			q.Del("offset")
		}
		link := url.URL{Scheme: scheme(r), Host: r.Host, Path: r.URL.Path, RawQuery: q.Encode()}
		s := link.String()
		return &s
	}
	if int64(p.Offset)+int64(p.Limit) < count {
		next = at(p.Offset + p.Limit)
	}
	if p.Offset > 0 {
		previous = at(p.Offset - p.Limit)
	}
	return next, previous
}

// scheme returns the scheme of the client's URL, which a reverse proxy reports.
func scheme(r *http.Request) string {
	if s := r.Header.Get("X-Forwarded-Proto"); s == "http" || s == "https" {
		return s
	}
	if r.TLS != nil {
		return "https"
	}
	return "http"
}
