package proxy

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
)

// routeKind is the kind of resource that a path identifies.
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

// patterns are the routes in metrics and traces.
var patterns = map[routeKind]string{
	routeBase:       "/v2/",
	routeToken:      "/token/",
	routeCatalog:    "/v2/_catalog",
	routeTags:       "/v2/{name}/tags/list",
	routeUploads:    "/v2/{name}/blobs/uploads/",
	routeUpload:     "/v2/{name}/blobs/uploads/{uuid}",
	routeBlob:       "/v2/{name}/blobs/{digest}",
	routeManifest:   "/v2/{name}/manifests/{reference}",
	routeReferrers:  "/v2/{name}/referrers/{digest}",
	routeSignatures: "/extensions/v2/{name}/signatures/{digest}",
}

// route is a parsed path.
type route struct {
	kind routeKind
	name string
	ref  string
}

var errNoRoute = newError(http.StatusNotFound, "NOT_FOUND", "The requested resource was not found on this server.", nil)

// separators are the parts of a path between a repository's name and the reference. Names may contain them too, such as
// `a/blobs/b`. So the rightmost one counts, and of two at the same position the first in this list.
var separators = []struct {
	text string
	kind routeKind
}{
	{"/blobs/uploads/", routeUpload},
	{"/blobs/", routeBlob},
	{"/manifests/", routeManifest},
	{"/referrers/", routeReferrers},
}

// parsePath parses the path of a request. The failure is NAME_INVALID if the repository name is not valid, and
// NOT_FOUND if the path has no route.
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
		return route{}, newError(http.StatusBadRequest, "NAME_INVALID", "A name cannot contain an encoded slash.", nil)
	}
	r, ok := parseExtensionPath(u.Path)
	if !ok {
		r, ok = parseRegistryPath(u.Path)
	}
	switch {
	case !ok:
		return route{}, errNoRoute
	case !pulp.ValidName(r.name):
		return route{}, newError(
			http.StatusBadRequest,
			"NAME_INVALID",
			"The name of the repository is malformed.",
			map[string]string{"name": r.name},
		)
	}
	return r, nil
}

func parseRegistryPath(path string) (route, bool) {
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

// parseExtensionPath parses /extensions/v2/<name>/signatures/sha256:<64 hex digits>. Other digests have no route.
func parseExtensionPath(path string) (route, bool) {
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
