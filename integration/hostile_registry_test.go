package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// pushIndex pushes an index of manifests under a tag, or by digest if the tag is empty, and returns its descriptor.
func (s *server) pushIndex(t *testing.T, repository, tag string, children ...descriptor) descriptor {
	t.Helper()
	const ociIndex = "application/vnd.oci.image.index.v1+json"
	content, err := json.Marshal(object{"schemaVersion": 2, "mediaType": ociIndex, "manifests": children})
	if err != nil {
		t.Fatal(err)
	}
	d := describe(ociIndex, content)
	if tag == "" {
		tag = d.Digest
	}
	if err := s.created(t, http.MethodPut, "/v2/"+repository+"/manifests/"+tag, ociIndex, content); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestSigningWideAndDeepIndexes signs three kinds of indexes: nested 1,000 deep; with two indexes per level that share
// their children, so that 2^100 paths lead to one image; and with thousands of absent manifests. Each image is signed
// once for each tag.
//
// See hostile-inputs.md#deep-index.
func TestSigningWideAndDeepIndexes(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	s := startServer(t)
	service := s.addService(t, "indexes", trusted, "")
	const name = "acme/deep"
	image, err := s.pushTiny(t, name, "image", "at the bottom")
	if err != nil {
		t.Fatal(err)
	}
	bottom := descriptor{MediaType: ociManifest, Digest: image.name, Size: 1}
	deep := bottom
	for range 999 {
		deep = s.pushIndex(t, name, "", deep)
	}
	s.pushIndex(t, name, "deep", deep)
	left, right := bottom, bottom
	for range 100 { // each index lists both indexes of the level below
		children := []descriptor{left, right}
		left = s.pushIndex(t, name, "", children...)
		right = s.pushIndex(t, name, "", append(children, bottom)...)
	}
	s.pushIndex(t, name, "ways", left, right)
	absent := make([]descriptor, 10_000)
	for i := range absent {
		absent[i] = describe(ociManifest, fmt.Append(nil, i))
	}
	absent[5_000] = bottom
	s.pushIndex(t, name, "wide", absent...)

	repository := text(s.repository(t, name)["pulp_href"])
	version := s.signed(t, repository, object{"manifest_signing_service": service})
	if got := count(version, "added", "container.signature"); got != 4 {
		t.Errorf("%d signatures were made, want one for each of four tags", got)
	}
	if served := s.signatures(t, name, image.name); len(served) != 4 {
		t.Errorf("the image has %d signatures, want 4", len(served))
	}
	// With lists: each list is signed once for each tag that leads to it.
	version = s.signed(t, repository, object{"manifest_signing_service": service, "sign_lists": true, "tags_list": []any{"ways", "wide"}})
	if got, want := count(version, "added", "container.signature"), 201+1; got != want {
		t.Errorf("%d signatures were made of lists, want %d", got, want)
	}
}

// TestHostilePaths sends request targets that clients would normalise to the whole server, which has other handlers
// beside the registry: none reaches another resource.
//
// See hostile-inputs.md#hostile-names.
func TestHostilePaths(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	image, err := s.pushTiny(t, "acme/app", "1.0", "hidden")
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{
		"/v2/acme/../acme/app/manifests/1.0", "/v2/../v2/acme/app/manifests/1.0", "/v2/x/../../v2/acme/app/manifests/1.0", "//v2/acme/app/manifests/1.0", "/v2//acme/app/manifests/1.0", "/v2/acme//app/manifests/1.0",
		"/v2/./acme/app/manifests/1.0", "/./v2/acme/app/manifests/1.0", "/v2/%2e%2e/v2/acme/app/manifests/1.0", "/v2/acme%2fapp/manifests/1.0", "/v2/acme%2Fapp%2Fmanifests%2F1.0", "/%76%32/../v2/acme/app/manifests/1.0",
		"/V2/acme/app/manifests/1.0", "/v2/acme/app/manifests/../manifests/1.0", "/v2/acme/app/manifests/1.0/", "/v2/acme/app/manifests/1.0/..", "/v2/acme/app/manifests/%2e%2e/manifests/1.0", "/v2/acme/app/blobs/../manifests/1.0",
		"/v2/acme/app/manifests//1.0", "/v2\\acme\\app\\manifests\\1.0", "/v2/acme/app/blobs/" + strings.Replace(image.name, ":", "%3a/../", 1), "/extensions/../v2/acme/app/manifests/1.0", "/token/../v2/acme/app/manifests/1.0",
		"/v2/acme/app/manifests/1.0%00", "/v2/acme/app%00/manifests/1.0", "/v2/acme/app/manifests/1.0%0d%0aX-Evil:%20yes", "/pulp/api/v3/../../../v2/acme/app/manifests/1.0", "/v2/_catalog/../acme/app/manifests/1.0",
		"/v2/acme/%zz/manifests/1.0", "/v2/acme/app/manifests/1.0%", "v2/acme/app/manifests/1.0", "/v2/" + strings.Repeat("../", 500) + "etc/passwd",
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete} {
			status, header, body := s.raw(t, method, target)
			if status != http.StatusBadRequest && status != http.StatusNotFound || header.Get("X-Evil") != "" || header.Get("Location") != "" || header.Get("Docker-Content-Digest") != "" || strings.Contains(body, image.blobs[0]) {
				t.Errorf("%s %.100q is answered %d %v %.200s", method, target, status, header, body)
			}
		}
	}
	s.isServed(t, "acme/app", image)
}

// raw sends a request as admin with exactly this target.
func (s *server) raw(t *testing.T, method, target string) (status int, header http.Header, body string) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.base.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r, err := http.NewRequestWithContext(t.Context(), method, s.base.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth(s.user, s.password)
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", method, target, s.host, r.Header.Get("Authorization")); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		t.Fatalf("%s %.100q: %v", method, target, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header, string(text)
}
