package api

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/countersign/countersign/api/internal/openapi"
	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
)

// numberPRN returns the PRN of an object whose id is a number.
func numberPRN(collection string, id int64) string {
	return pulp.PRN(collection, strconv.FormatInt(id, 10))
}

// numberIdentityFilters are the identity filters of a collection whose ids are numbers.
func numberIdentityFilters(collection string) filters {
	in := func(parse func(name, text string) (id string, err error)) filter {
		return filter{openapi.List(openapi.Text()), func(_ *API, _ *request, name string, values []string) (list.Filter, error) {
			parts, err := query.Split(name, values)
			if err != nil || len(parts) == 0 {
				return nil, err
			}
			var ids []string
			for _, v := range parts {
				id, err := parse(name, v)
				if err != nil {
					return nil, err
				}
				ids = append(ids, id)
			}
			return list.OneOf("pulp_id", ids), nil
		}}
	}
	reference := func(prefix, message string) func(name, text string) (string, error) {
		return func(_, text string) (string, error) {
			ref, ok := pulp.ParseRef(text)
			if !ok || !strings.HasPrefix(text, prefix) {
				return "", reply.BadRequest(message, text)
			}
			if ref.Collection != collection { // its id may be that of an object of this collection
				return "", nil
			}
			return ref.ID, nil
		}
	}
	id := in(func(name, text string) (string, error) {
		n, err := number(name, text)
		return strconv.FormatInt(n, 10), err
	})
	id.schema = openapi.List(openapi.Integer())
	return filters{
		"id": one(id), "id__in": id,
		"pulp_href__in": in(reference("/", "URI not valid: %s")),
		"prn__in":       in(reference("prn:", "Not a valid PRN: %s, must start with 'prn:'")),
	}
}

var numberForm = regexp.MustCompile(`^[1-9][0-9]{0,17}$`)

// byNumber returns the condition for the object whose id, a number, the path has as "id".
func byNumber(req *request) (list.Filter, error) {
	if !numberForm.MatchString(req.param("id")) {
		return nil, reply.ErrNotFound
	}
	id, err := strconv.ParseInt(req.param("id"), 10, 64)
	return list.Where("id", list.Equal, id), err
}
