package proxy

import (
	"net/url"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

// TestParsePath covers hostile-inputs.md#hostile-names.
func TestParsePath(t *testing.T) {
	t.Parallel()
	const hex64 = "7fbe918c3928bd80381de7c89b41da7ba4811e89a1f877aec1f49f0aaac8cbc2"
	tests := map[string]struct {
		path string
		want route
		code string // error code
	}{
		"the base":                 {path: "/v2/", want: route{}},
		"the base without a slash": {path: "/v2", want: route{kind: routeRedirect}},
		"tokens":                   {path: "/token/", want: route{kind: routeToken}},
		"tokens without a slash":   {path: "/token", want: route{kind: routeRedirect}},
		"the catalog":              {path: "/v2/_catalog", want: route{kind: routeCatalog}},
		"a manifest": {
			path: "/v2/acme/app/manifests/v1",
			want: route{kind: routeManifest, name: "acme/app", ref: "v1"},
		},
		"a manifest of a name of one part": {
			path: "/v2/app/manifests/v1",
			want: route{kind: routeManifest, name: "app", ref: "v1"},
		},
		"a blob": {
			path: "/v2/a/b/c/blobs/sha256:" + hex64,
			want: route{kind: routeBlob, name: "a/b/c", ref: "sha256:" + hex64},
		},
		"uploads": {
			path: "/v2/acme/app/blobs/uploads/",
			want: route{kind: routeUploads, name: "acme/app"},
		},
		"uploads without a slash": {
			path: "/v2/acme/app/blobs/uploads",
			want: route{kind: routeUploads, name: "acme/app"},
		},
		"an upload": {
			path: "/v2/acme/app/blobs/uploads/1",
			want: route{kind: routeUpload, name: "acme/app", ref: "1"},
		},
		"tags": {
			path: "/v2/acme/app/tags/list",
			want: route{kind: routeTags, name: "acme/app"},
		},
		"referrers": {
			path: "/v2/acme/app/referrers/sha256:1",
			want: route{kind: routeReferrers, name: "acme/app", ref: "sha256:1"},
		},
		"a name with blobs in it": {
			path: "/v2/a/blobs/b/manifests/v1",
			want: route{kind: routeManifest, name: "a/blobs/b", ref: "v1"},
		},
		"a name with manifests in it": {
			path: "/v2/a/manifests/manifests/v1",
			want: route{kind: routeManifest, name: "a/manifests", ref: "v1"},
		},
		"a name with uploads in it": {
			path: "/v2/a/blobs/uploads/manifests/v1",
			want: route{kind: routeManifest, name: "a/blobs/uploads", ref: "v1"},
		},
		"a name that ends in tags": {
			path: "/v2/a/tags/tags/list",
			want: route{kind: routeTags, name: "a/tags"},
		},
		"a tag called list": {
			path: "/v2/a/manifests/list",
			want: route{kind: routeManifest, name: "a", ref: "list"},
		},
		"signatures": {
			path: "/extensions/v2/acme/app/signatures/sha256:" + hex64,
			want: route{kind: routeSignatures, name: "acme/app", ref: "sha256:" + hex64},
		},
		"signatures of a tag": {
			path: "/extensions/v2/acme/app/signatures/latest",
			want: route{},
			code: "NOT_FOUND",
		},
		"signatures of a sha512": {
			path: "/extensions/v2/acme/app/signatures/sha512:" + hex64 + hex64,
			want: route{},
			code: "NOT_FOUND",
		},
		"signatures of an upper-case digest": {
			path: "/extensions/v2/acme/app/signatures/sha256:" + strings.ToUpper(hex64),
			want: route{},
			code: "NOT_FOUND",
		},
		"nothing":                        {path: "/v2/acme", want: route{}, code: "NOT_FOUND"},
		"a manifest without a reference": {path: "/v2/acme/app/manifests/", want: route{}, code: "NOT_FOUND"},
		"a reference with a slash":       {path: "/v2/acme/app/manifests/a/b", want: route{}, code: "NOT_FOUND"},
		"no name":                        {path: "/v2/manifests/v1", want: route{}, code: "NOT_FOUND"},
		"an empty name":                  {path: "/v2//manifests/v1", want: route{}, code: "NAME_INVALID"},
		"upper case":                     {path: "/v2/Acme/app/manifests/v1", want: route{}, code: "NAME_INVALID"},
		"dots":                           {path: "/v2/../app/manifests/v1", want: route{}, code: "NAME_INVALID"},
		"encoded dots": {
			path: "/v2/%2e%2e/app/manifests/v1",
			want: route{},
			code: "NAME_INVALID",
		},
		"an encoded slash": {
			path: "/v2/acme%2fapp/manifests/v1",
			want: route{},
			code: "NAME_INVALID",
		},
		"two slashes":  {path: "/v2/acme//app/manifests/v1", want: route{}, code: "NAME_INVALID"},
		"a look-alike": {path: "/v2/аcme/app/manifests/v1", want: route{}, code: "NAME_INVALID"},
		"a name of 255 bytes": {
			path: "/v2/" + strings.Repeat("a", 255) + "/manifests/v1",
			want: route{kind: routeManifest, name: strings.Repeat("a", 255), ref: "v1"},
		},
		"a name of 256 bytes": {
			path: "/v2/" + strings.Repeat("a", 256) + "/manifests/v1",
			want: route{},
			code: "NAME_INVALID",
		},
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

// FuzzParsePath checks that names in parsed paths are valid and that references contain no slash. It covers
// hostile-inputs.md#hostile-names.
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
			t.Errorf("%q: name %q", path, r.name)
		}
		if strings.Contains(r.ref, "/") {
			t.Errorf("%q: reference %q", path, r.ref)
		}
	})
}

// FuzzParseRange checks that a parsed chunk does not end before it begins. It covers hostile-inputs.md#bad-chunks.
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
