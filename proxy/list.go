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

// Page sizes of lists. See compatibility.md#blobs-and-lists.
const (
	defaultPageSize = 100
	maxPageSize     = 1000
)

// pageParameters returns the requested number of entries and the entry after which the page begins.
func (c *call) pageParameters() (n int, last string, err error) {
	n = defaultPageSize
	if v, err := strconv.Atoi(c.r.URL.Query().Get("n")); err == nil {
		n = min(max(v, 0), maxPageSize)
	}
	last, err = c.textParameter("last")
	return n, last, err
}

// textParameter returns a query parameter for a database query. It rejects text that a database cannot compare.
func (c *call) textParameter(parameter string) (string, error) {
	text := c.r.URL.Query().Get(parameter)
	if !pulp.ValidText(text) {
		return "", newError(
			http.StatusBadRequest,
			"INVALID_REQUEST",
			"The parameter is not well-formed.",
			map[string]string{"parameter": parameter},
		)
	}
	return text, nil
}

// trimPage limits a list to n entries. If it has more it adds a link to the next page. The caller reads n+1 entries.
func (c *call) trimPage(found []string, n int) []string {
	if len(found) <= n {
		return found
	}
	found = found[:n]
	if n > 0 {
		c.linkNext("n=" + strconv.Itoa(n) + "&last=" + url.QueryEscape(found[n-1]))
	}
	return found
}

// linkNext adds a link to the next page of a list: the same path with another query.
func (c *call) linkNext(query string) {
	next := *c.PublicURL
	next.Path, next.RawQuery = c.r.URL.Path, query
	c.w.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
}

// referrersSize is the approximate size limit in bytes of a page of referrers. Clients read at most 4 MiB of an
// index, and annotations may be large.
const referrersSize = 1 << 20

// getTags handles GET of the list of tags.
func (c *call) getTags() error {
	t, err := c.readableTarget()
	if err != nil {
		return err
	}
	n, last, err := c.pageParameters()
	if err != nil {
		return err
	}
	tags, err := c.Store.Serving.ServedTags(c.r.Context(), t, last, n+1)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, map[string]any{"name": c.name, "tags": c.trimPage(tags, n)})
}

// getCatalog handles GET of the catalog: the names of repositories that the caller may list.
func (c *call) getCatalog() error {
	if c.caller.Caller == nil || !c.caller.covers("registry", "catalog", "*") {
		return c.unauthorized()
	}
	n, last, err := c.pageParameters()
	if err != nil {
		return err
	}
	viewer, err := c.Access.Viewer(c.r.Context(), c.caller.Caller)
	if err != nil {
		return err
	}
	names, err := c.Store.Serving.Catalog(c.r.Context(), viewer, last, n+1)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, map[string]any{"repositories": c.trimPage(names, n)})
}

// getReferrers handles GET of the referrers of a digest (OCI distribution specification 1.1, "Listing Referrers"). The
// response is an index, which is empty if there are no referrers or the repository does not exist.
func (c *call) getReferrers() error {
	subject := digest.Digest(c.ref)
	if !validDigest(subject) {
		return digestInvalid(c.ref)
	}
	artifactType, err := c.textParameter("artifactType")
	last, lastErr := c.textParameter("last")
	if err := cmp.Or(err, lastErr); err != nil {
		return err
	}
	t, err := c.readableTarget()
	var found []serving.Referrer
	var more bool
	switch {
	case err == nil:
		if found, more, err = c.Store.Serving.ServedReferrers(c.r.Context(), t, subject, artifactType, last, referrersSize); err != nil {
			return err
		}
	case toFailure(err).status != http.StatusNotFound:
		return err
	}
	body, err := referrersIndex(found)
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
	c.writeBody(http.StatusOK, pulp.OCIIndex, body)
	return nil
}

// referrersIndex returns the JSON of an index of referrers.
func referrersIndex(found []serving.Referrer) ([]byte, error) {
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
	return json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": pulp.OCIIndex, "manifests": list})
}
