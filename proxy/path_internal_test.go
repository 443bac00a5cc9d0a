package proxy

import (
	"net/url"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

// TestParsePath takes paths apart. Hostile input 25.
func TestParsePath(t *testing.T) {
	t.Parallel()
	const hex64 = "7fbe918c3928bd80381de7c89b41da7ba4811e89a1f877aec1f49f0aaac8cbc2"
	tests := map[string]struct {
		path string
		want route
		code string // of the error
	}{
		"the base":                           {"/v2/", route{}, ""},
		"the base without a slash":           {"/v2", route{kind: routeRedirect}, ""},
		"tokens":                             {"/token/", route{kind: routeToken}, ""},
		"tokens without a slash":             {"/token", route{kind: routeRedirect}, ""},
		"the catalog":                        {"/v2/_catalog", route{kind: routeCatalog}, ""},
		"a manifest":                         {"/v2/acme/app/manifests/v1", route{routeManifest, "acme/app", "v1"}, ""},
		"a manifest of a name of one part":   {"/v2/app/manifests/v1", route{routeManifest, "app", "v1"}, ""},
		"a blob":                             {"/v2/a/b/c/blobs/sha256:" + hex64, route{routeBlob, "a/b/c", "sha256:" + hex64}, ""},
		"uploads":                            {"/v2/acme/app/blobs/uploads/", route{kind: routeUploads, name: "acme/app"}, ""},
		"uploads without a slash":            {"/v2/acme/app/blobs/uploads", route{kind: routeUploads, name: "acme/app"}, ""},
		"an upload":                          {"/v2/acme/app/blobs/uploads/1", route{routeUpload, "acme/app", "1"}, ""},
		"tags":                               {"/v2/acme/app/tags/list", route{kind: routeTags, name: "acme/app"}, ""},
		"referrers":                          {"/v2/acme/app/referrers/sha256:1", route{routeReferrers, "acme/app", "sha256:1"}, ""},
		"a name with blobs in it":            {"/v2/a/blobs/b/manifests/v1", route{routeManifest, "a/blobs/b", "v1"}, ""},
		"a name with manifests in it":        {"/v2/a/manifests/manifests/v1", route{routeManifest, "a/manifests", "v1"}, ""},
		"a name with uploads in it":          {"/v2/a/blobs/uploads/manifests/v1", route{routeManifest, "a/blobs/uploads", "v1"}, ""},
		"a name that ends in tags":           {"/v2/a/tags/tags/list", route{kind: routeTags, name: "a/tags"}, ""},
		"a tag called list":                  {"/v2/a/manifests/list", route{routeManifest, "a", "list"}, ""},
		"signatures":                         {"/extensions/v2/acme/app/signatures/sha256:" + hex64, route{routeSignatures, "acme/app", "sha256:" + hex64}, ""},
		"signatures of a tag":                {"/extensions/v2/acme/app/signatures/latest", route{}, "NOT_FOUND"},
		"signatures of a sha512":             {"/extensions/v2/acme/app/signatures/sha512:" + hex64 + hex64, route{}, "NOT_FOUND"},
		"signatures of an upper-case digest": {"/extensions/v2/acme/app/signatures/sha256:" + strings.ToUpper(hex64), route{}, "NOT_FOUND"},
		"nothing":                            {"/v2/acme", route{}, "NOT_FOUND"},
		"a manifest without a reference":     {"/v2/acme/app/manifests/", route{}, "NOT_FOUND"},
		"a reference with a slash":           {"/v2/acme/app/manifests/a/b", route{}, "NOT_FOUND"},
		"no name":                            {"/v2/manifests/v1", route{}, "NOT_FOUND"},
		"an empty name":                      {"/v2//manifests/v1", route{}, "NAME_INVALID"},
		"upper case":                         {"/v2/Acme/app/manifests/v1", route{}, "NAME_INVALID"},
		"dots":                               {"/v2/../app/manifests/v1", route{}, "NAME_INVALID"},
		"encoded dots":                       {"/v2/%2e%2e/app/manifests/v1", route{}, "NAME_INVALID"},
		"an encoded slash":                   {"/v2/acme%2fapp/manifests/v1", route{}, "NAME_INVALID"},
		"two slashes":                        {"/v2/acme//app/manifests/v1", route{}, "NAME_INVALID"},
		"a look-alike":                       {"/v2/аcme/app/manifests/v1", route{}, "NAME_INVALID"},
		"a name of 255 bytes":                {"/v2/" + strings.Repeat("a", 255) + "/manifests/v1", route{routeManifest, strings.Repeat("a", 255), "v1"}, ""},
		"a name of 256 bytes":                {"/v2/" + strings.Repeat("a", 256) + "/manifests/v1", route{}, "NAME_INVALID"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, err := url.Parse(tt.path)
			if err != nil {
				t.Fatal(err)
			}
			got, err := parsePath(u)
			code := ""
			if err != nil {
				code = toFailure(err).code
			}
			if got != tt.want || code != tt.code {
				t.Errorf("parsePath(%s) = %+v, %v, want %+v %s", tt.path, got, err, tt.want, tt.code)
			}
		})
	}
}

// FuzzParsePath: names that a path gives are well-formed, and references hold no slash. Hostile input 25.
func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"/v2/a/b/manifests/v1", "/v2/a/blobs/uploads/", "/v2/_catalog", "/extensions/v2/a/signatures/sha256:00", "/v2/%2e%2e/x", "/v2/a/tags/list"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		u, err := url.Parse(path)
		if err != nil {
			return
		}
		r, err := parsePath(u)
		if err != nil {
			return
		}
		if r.name != "" && !pulp.ValidName(r.name) {
			t.Errorf("%q gives the name %q", path, r.name)
		}
		if strings.Contains(r.ref, "/") {
			t.Errorf("%q gives the reference %q", path, r.ref)
		}
	})
}

// FuzzParseRange: a chunk does not end before it begins. Hostile input 24.
func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"0-9", "10-9", "bytes 0-1/2", "-1", "99999999999999999999-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if first, last, ok := parseRange(s); ok && (first < 0 || last < first) {
			t.Errorf("parseRange(%q) = %d, %d", s, first, last)
		}
	})
}
