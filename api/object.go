package api

import (
	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/pulp"
)

// object holds the fields of every object (compatibility.md#identifiers).
type object struct {
	Href    string         `json:"pulp_href"`
	PRN     string         `json:"prn"`
	Created timestamp.Time `json:"pulp_created"`
	Updated timestamp.Time `json:"pulp_last_updated"`
}

// objectOf returns the common fields of an object of a collection.
func objectOf(collection, id string, s pulp.Stamps) object {
	return object{pulp.Href(collection, id), pulp.PRN(collection, id), timestamp.Time(s.Created), timestamp.Time(s.Updated)}
}

// hrefOrNil returns the href of an object; nil when the id is empty.
func hrefOrNil(collection, id string) *string {
	if id == "" {
		return nil
	}
	h := pulp.Href(collection, id)
	return &h
}

// hrefs returns the hrefs of objects of a collection, never nil.
func hrefs(collection string, ids []string) []string {
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = pulp.Href(collection, id)
	}
	return all
}

// labelsOf returns labels that encode to an object, never to null.
func labelsOf(l pulp.Labels) pulp.Labels {
	if l == nil {
		return pulp.Labels{}
	}
	return l
}
