package proxy

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/serving"
)

// Bounds of lists (contract 3.4).
const (
	pageDefault = 100
	pageMost    = 1000
)

// page returns how many entries the request asks for, and behind which.
func (c *call) page() (n int, last string, err error) {
	n = pageDefault
	if v, err := strconv.Atoi(c.r.URL.Query().Get("n")); err == nil {
		n = min(max(v, 0), pageMost)
	}
	last, err = c.text("last")
	return n, last, err
}

// text returns a parameter of the query that is looked for in the database. What not every database can look for is refused.
func (c *call) text(parameter string) (string, error) {
	text := c.r.URL.Query().Get(parameter)
	if !pulp.ValidText(text) {
		return "", newError(http.StatusBadRequest, "INVALID_REQUEST", "The parameter is not well-formed.", map[string]string{"parameter": parameter})
	}
	return text, nil
}

// paged cuts a list that was read one entry further than asked for, and links to the next page where there is one.
func (c *call) paged(found []string, n int) []string {
	if len(found) <= n {
		return found
	}
	found = found[:n]
	if n > 0 {
		c.linkNext("n=" + strconv.Itoa(n) + "&last=" + url.QueryEscape(found[n-1]))
	}
	return found
}

// linkNext links to the next page of a list: the same path with another query.
func (c *call) linkNext(query string) {
	next := *c.PublicURL
	next.Path, next.RawQuery = c.r.URL.Path, query
	c.w.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
}

// referrersSize is about how many bytes one page of referrers has: they carry annotations, and clients read 4 MiB of an index.
const referrersSize = 1 << 20

// getTags answers with the names of a repository's tags.
func (c *call) getTags() error {
	t, err := c.readable()
	if err != nil {
		return err
	}
	n, last, err := c.page()
	if err != nil {
		return err
	}
	tags, err := c.Store.Serving.ServedTags(c.r.Context(), t, last, n+1)
	if err != nil {
		return err
	}
	return c.answerJSON(http.StatusOK, map[string]any{"name": c.name, "tags": c.paged(tags, n)})
}

// getCatalog answers with the names of the repositories that the caller may see.
func (c *call) getCatalog() error {
	user := c.who.user
	if user == nil || !c.who.covers("registry", "catalog", "*") {
		return c.refuse()
	}
	n, last, err := c.page()
	if err != nil {
		return err
	}
	names, err := c.Store.Serving.Catalog(c.r.Context(), user.Staff, user.Username+"/", last, n+1)
	if err != nil {
		return err
	}
	return c.answerJSON(http.StatusOK, map[string]any{"repositories": c.paged(names, n)})
}

// getReferrers answers with the manifests that refer to a digest (OCI distribution specification 1.1, "Listing Referrers"): an empty
// index when there are none.
func (c *call) getReferrers() error {
	subject := digest.Digest(c.ref)
	if !validDigest(subject) {
		return digestInvalid(c.ref)
	}
	artifactType, err := c.text("artifactType")
	last, lastErr := c.text("last")
	if err := cmp.Or(err, lastErr); err != nil {
		return err
	}
	t, err := c.readable()
	var found []serving.Referrer
	var more bool
	switch {
	case err == nil:
		if found, more, err = c.Store.Serving.ServedReferrers(c.r.Context(), t, subject, artifactType, last, referrersSize); err != nil {
			return err
		}
	case asFailure(err).status != http.StatusNotFound: // to a name that is not there nothing refers either
		return err
	}
	type descriptor struct {
		MediaType    string          `json:"mediaType"`
		Digest       digest.Digest   `json:"digest"`
		Size         int64           `json:"size"`
		ArtifactType string          `json:"artifactType,omitempty"`
		Annotations  json.RawMessage `json:"annotations,omitempty"`
	}
	list := make([]descriptor, len(found))
	for i, m := range found {
		list[i] = descriptor{m.MediaType, m.Digest, m.Size, m.ArtifactType, m.Annotations}
	}
	body, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": pulp.OCIIndex, "manifests": list})
	if err != nil {
		return err
	}
	if artifactType != "" {
		c.w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	if more {
		next := url.Values{"last": {found[len(found)-1].ID}}
		if artifactType != "" {
			next.Set("artifactType", artifactType)
		}
		c.linkNext(next.Encode())
	}
	c.write(http.StatusOK, pulp.OCIIndex, body)
	return nil
}
