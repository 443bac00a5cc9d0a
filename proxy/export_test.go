package proxy

import "net/http"

// kindNames are the names of kinds of routes in tests.
var kindNames = map[routeKind]string{
	routeBase: "base", routeToken: "token", routeCatalog: "catalog", routeTags: "tags", routeUploads: "uploads", routeUpload: "upload",
	routeBlob: "blob", routeManifest: "manifest", routeReferrers: "referrers", routeSignatures: "signatures",
}

// MutatingRoutes returns the methods and kinds of the routes that can change something.
func MutatingRoutes() (all []string) {
	for kind, methods := range handlers {
		for method := range methods {
			if method != http.MethodGet && kind != routeToken {
				all = append(all, method+" "+kindNames[kind])
			}
		}
	}
	return all
}
