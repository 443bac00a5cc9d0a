package proxy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/storetest"
)

func TestReferrers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	subject := w.pushImage("acme/app", "one", "v1")
	empty := w.pushBlob("acme/app", "{}")
	var want []string
	for i, kind := range []string{"a/sbom", "a/sbom", "b/signature"} {
		m := fmt.Sprintf(
			`{"schemaVersion":2,"mediaType":%q,"artifactType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],`+
				`"subject":{"mediaType":%q,"digest":%q,"size":1},"annotations":{"n":"%d"}}`,
			pulp.OCIManifest,
			kind,
			empty,
			pulp.OCIManifest,
			subject,
			i,
		)
		a := w.expect(
			manifestPut("/v2/acme/app/manifests/"+string(digest.FromString(m)), m, pulp.OCIManifest),
			http.StatusCreated,
		)
		if a.header.Get("OCI-Subject") != string(subject) {
			t.Errorf("PUT: response %v", a.header)
		}
		want = append(want, string(digest.FromString(m)))
	}
	list := func(query string) (found []string, a response) {
		a = w.expect(request{path: "/v2/acme/app/referrers/" + query}, http.StatusOK)
		var body struct {
			MediaType string
			Manifests []struct {
				Digest, ArtifactType string
				Annotations          map[string]string
			}
		}
		if err := json.Unmarshal([]byte(a.body), &body); err != nil || body.MediaType != pulp.OCIIndex ||
			a.header.Get("Content-Type") != pulp.OCIIndex ||
			body.Manifests == nil {
			t.Errorf("referrers: %s, %v", a.body, err)
		}
		for _, m := range body.Manifests {
			if m.ArtifactType == "" || m.Annotations["n"] == "" {
				t.Errorf("referrer %+v", m)
			}
			found = append(found, m.Digest)
		}
		slices.Sort(found)
		return found, a
	}
	all := slices.Sorted(slices.Values(want))
	if got, a := list(string(subject)); !slices.Equal(got, all) || a.header.Get("OCI-Filters-Applied") != "" {
		t.Errorf("referrers %v, want %v", got, all)
	}
	if got, a := list(string(subject) + "?artifactType=" + url.QueryEscape("b/signature")); !slices.Equal(
		got,
		want[2:],
	) ||
		a.header.Get("OCI-Filters-Applied") != "artifactType" {
		t.Errorf("filtered %v, want %v", got, want[2:])
	}
	if got, _ := list(string(digest.FromString("unreferenced"))); len(got) != 0 {
		t.Errorf("referrers of nothing: %v", got)
	}
	w.expectError(request{path: "/v2/acme/app/referrers/latest"}, http.StatusBadRequest, "DIGEST_INVALID")
}

// TestReferrersInPages checks that referrers with large annotations are returned in pages.
func TestReferrersInPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	subject := w.pushImage("acme/app", "one", "v1")
	empty := w.pushBlob("acme/app", "{}")
	var want, got []string
	for i := range 5 {
		m := fmt.Sprintf(
			`{"schemaVersion":2,"mediaType":%q,"artifactType":"a/sbom+x","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],`+
				`"subject":{"mediaType":%q,"digest":%q,"size":1},"annotations":{"n":"%d%s"}}`,
			pulp.OCIManifest,
			empty,
			pulp.OCIManifest,
			subject,
			i,
			strings.Repeat("x", 400_000),
		)
		w.expect(
			manifestPut("/v2/acme/app/manifests/"+string(digest.FromString(m)), m, pulp.OCIManifest),
			http.StatusCreated,
		)
		want = append(want, fmt.Sprintf("%s %d", digest.FromString(m), len(m)))
	}
	pages := 0
	for path := "/v2/acme/app/referrers/" + string(subject) + "?artifactType=a%2Fsbom%2Bx"; path != ""; pages++ {
		a := w.expect(request{path: path}, http.StatusOK)
		var body struct {
			Manifests []struct {
				Digest string
				Size   int
			}
		}
		if err := json.Unmarshal([]byte(a.body), &body); err != nil || len(a.body) > 2<<20 || pages > 5 {
			t.Fatalf("page %d has %d bytes, %v", pages, len(a.body), err)
		}
		for _, m := range body.Manifests {
			got = append(got, fmt.Sprintf("%s %d", m.Digest, m.Size))
		}
		path = strings.TrimSuffix(strings.TrimPrefix(a.header.Get("Link"), "<https://"+publicHost), `>; rel="next"`)
	}
	if !slices.Equal(got, want) || pages != 3 {
		t.Errorf("%d pages: %v, want %v", pages, got, want)
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, tag := range []string{"c", "a", "b", "latest", "1.0"} {
		w.pushImage("acme/app", "one", tag)
	}
	w.pushImage("acme/secret", "two", "v1")
	w.setPrivate("acme/secret")
	w.pushImage("bob/app", "three", "v1")
	w.pushImage("carol", "four", "v1")
	w.setPrivate("carol")
	storetest.Own(t, w.store, "acme")
	storetest.Own(t, w.store, "carol")
	const link = "<https://registry.example:8443"
	tests := map[string]struct{ caller, path, body, link string }{
		"all tags": {
			path: "/v2/acme/app/tags/list",
			body: `{"name":"acme/app","tags":["1.0","a","b","c","latest"]}`,
		},
		"two tags": {
			path: "/v2/acme/app/tags/list?n=2",
			body: `{"name":"acme/app","tags":["1.0","a"]}`,
			link: link + `/v2/acme/app/tags/list?n=2&last=a>; rel="next"`,
		},
		"the next two": {
			path: "/v2/acme/app/tags/list?n=2&last=a",
			body: `{"name":"acme/app","tags":["b","c"]}`,
			link: link + `/v2/acme/app/tags/list?n=2&last=c>; rel="next"`,
		},
		"the last": {
			path: "/v2/acme/app/tags/list?n=2&last=c",
			body: `{"name":"acme/app","tags":["latest"]}`,
		},
		"behind the last": {path: "/v2/acme/app/tags/list?last=zzz", body: `{"name":"acme/app","tags":[]}`},
		"none":            {path: "/v2/acme/app/tags/list?n=0", body: `{"name":"acme/app","tags":[]}`},
		"less than none":  {path: "/v2/acme/app/tags/list?n=-5", body: `{"name":"acme/app","tags":[]}`},
		"no number": {
			path: "/v2/acme/app/tags/list?n=abc",
			body: `{"name":"acme/app","tags":["1.0","a","b","c","latest"]}`,
		},
		"the catalog": {
			caller: "admin",
			path:   "/v2/_catalog",
			body:   `{"repositories":["acme/app","acme/secret","bob/app","carol"]}`,
		},
		"a page of it": {
			caller: "admin",
			path:   "/v2/_catalog?n=1",
			body:   `{"repositories":["acme/app"]}`,
			link:   link + `/v2/_catalog?n=1&last=acme%2Fapp>; rel="next"`,
		},
		"the list for another user": {
			caller: "carol",
			path:   "/v2/_catalog",
			body:   `{"repositories":["acme/app","bob/app","carol"]}`,
		},
		"the list for the owner": {
			caller: "acme",
			path:   "/v2/_catalog",
			body:   `{"repositories":["acme/app","acme/secret","bob/app"]}`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if a := w.expect(request{as: tt.caller, path: tt.path}, http.StatusOK); a.body != tt.body ||
				a.header.Get("Link") != tt.link {
				t.Errorf("%s\n%s\nwant %s\n%s", a.body, a.header.Get("Link"), tt.body, tt.link)
			}
		})
	}
}
