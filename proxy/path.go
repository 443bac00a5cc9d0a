package proxy

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
)

// routeKind is what a path asks for.
type routeKind int

const (
	routeBase routeKind = iota
	routeRedirect
	routeToken
	routeCatalog
	routeTags
	routeUploads
	routeUpload
	routeBlob
	routeManifest
	routeReferrers
	routeSignatures
)

// route is a path taken apart.
type route struct {
	kind routeKind
	name string
	ref  string
}

var errNoRoute = newError(http.StatusNotFound, "NOT_FOUND", "The requested resource was not found on this server.", nil)

// separators stand between a repository's name and what is asked of it. Names may hold these words too (`a/blobs/b` is one), so that the
// rightmost counts; of two that begin at the same place the first in this list.
var separators = []struct {
	text string
	kind routeKind
}{
	{"/blobs/uploads/", routeUpload},
	{"/blobs/", routeBlob},
	{"/manifests/", routeManifest},
	{"/referrers/", routeReferrers},
}

// parsePath takes a request's path apart. The name in it is well-formed, or the answer is NAME_INVALID.
func parsePath(u *url.URL) (route, error) {
	switch path := u.Path; {
	case path == "/v2" || path == "/token":
		return route{kind: routeRedirect}, nil
	case path == "/v2/":
		return route{kind: routeBase}, nil
	case path == "/token/":
		return route{kind: routeToken}, nil
	case path == "/v2/_catalog":
		return route{kind: routeCatalog}, nil
	case strings.Contains(strings.ToLower(u.EscapedPath()), "%2f"):
		return route{}, newError(http.StatusBadRequest, "NAME_INVALID", "An encoded slash is no part of a name.", nil)
	}
	r, ok := splitExtension(u.Path)
	if !ok {
		r, ok = splitRegistry(u.Path)
	}
	switch {
	case !ok:
		return route{}, errNoRoute
	case !pulp.ValidName(r.name):
		return route{}, newError(http.StatusBadRequest, "NAME_INVALID", "The repository's name is not well-formed.", map[string]string{"name": r.name})
	}
	return r, nil
}

func splitRegistry(path string) (route, bool) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return route{}, false
	}
	if name, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		return route{kind: routeTags, name: name}, true
	}
	for _, end := range []string{"/blobs/uploads/", "/blobs/uploads"} {
		if name, ok := strings.CutSuffix(rest, end); ok {
			return route{kind: routeUploads, name: name}, true
		}
	}
	best := -1
	var r route
	for _, s := range separators {
		if i := strings.LastIndex(rest, s.text); i > best {
			best, r = i, route{s.kind, rest[:i], rest[i+len(s.text):]}
		}
	}
	if best < 0 || r.ref == "" || strings.Contains(r.ref, "/") {
		return route{}, false
	}
	return r, true
}

// splitExtension takes /extensions/v2/<name>/signatures/sha256:<64 hex> apart; other digests are no route (contract 4).
func splitExtension(path string) (route, bool) {
	rest, ok := strings.CutPrefix(path, "/extensions/v2/")
	if !ok {
		return route{}, false
	}
	const separator = "/signatures/"
	i := strings.LastIndex(rest, separator)
	if i < 0 {
		return route{}, false
	}
	name, dgst := rest[:i], strings.TrimSuffix(rest[i+len(separator):], "/")
	return route{routeSignatures, name, dgst}, sha256Form.MatchString(dgst)
}
