package api

import (
	"github.com/countersign/countersign/internal/pulp"
)

// object are the fields that everything has (contract 2).
type object struct {
	Href    string `json:"pulp_href"`
	PRN     string `json:"prn"`
	Created stamp  `json:"pulp_created"`
	Updated stamp  `json:"pulp_last_updated"`
}

// objectOf returns the common fields of an object of a collection.
func objectOf(collection, id string, s pulp.Stamps) object {
	return object{pulp.Href(collection, id), pulp.PRN(collection, id), stamp(s.Created), stamp(s.Updated)}
}

// hrefOrNil names an object of a collection; nil when the id is empty.
func hrefOrNil(collection, id string) *string {
	if id == "" {
		return nil
	}
	h := pulp.Href(collection, id)
	return &h
}

// hrefs names objects of a collection; it is never nil.
func hrefs(collection string, ids []string) []string {
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = pulp.Href(collection, id)
	}
	return all
}

// labelsOf is never nil.
func labelsOf(l pulp.Labels) pulp.Labels {
	if l == nil {
		return pulp.Labels{}
	}
	return l
}
