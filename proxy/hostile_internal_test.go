package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
)

// FuzzReference checks that only supported digests and valid tags are accepted as references, and only valid tags as
// tag parameters. It covers hostile-inputs.md#bad-digest and #hostile-tags.
func FuzzReference(f *testing.F) {
	const d = "sha256:7fbe918c3928bd80381de7c89b41da7ba4811e89a1f877aec1f49f0aaac8cbc2"
	for _, seed := range [][2]string{
		{"v1", ""}, {d, "tag=a&tag=b"}, {d, "tag=../x"}, {d, "tag="}, {d, strings.Repeat("tag=a&", 200)}, {"sha512:" + d[7:] + d[7:], ""}, {"sha512:" + d[7:], ""}, {"SHA256:" + d[7:], ""}, {d[:70], ""}, {"sha256:", ""}, {":", ""},
		{"../x", ""}, {"a/b", ""}, {".x", ""}, {"a\n", ""}, {"a\x00", ""}, {strings.Repeat("x", 129), ""}, {"sha256-" + d[7:] + ".sig", ""}, {"sha256-" + d[8:] + ".sig", "tag=x"}, {"sha256:../../etc/passwd", ""}, {"é", "%zz"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, reference, query string) {
		u := &url.URL{Path: "/v2/acme/app/manifests/" + reference, RawQuery: query}
		r, err := parsePath(u)
		if err != nil || r.kind != routeManifest {
			return
		}
		if again, err := parsePath(&url.URL{Path: "/v2/" + r.name + "/manifests/" + r.ref}); err != nil || again != r {
			t.Errorf("%q is %+v, and written again %+v, %v", u.Path, r, again, err)
		}
		c := &call{r: &http.Request{URL: u}, ref: r.ref}
		tags, dgst, err := c.parsePutReference()
		if err != nil {
			if toFailure(err).status != http.StatusBadRequest {
				t.Errorf("%q is refused with %v", reference, err)
			}
			return
		}
		if alg := dgst.Algorithm(); dgst.Validate() != nil || alg != digest.SHA256 && alg != digest.SHA512 ||
			!validReference(r.ref) ||
			len(tags) > maxTagParams {
			t.Errorf("%q is taken as %q under %d tags", reference, dgst, len(tags))
		}
		if byTag := !strings.Contains(r.ref, ":"); byTag && (len(tags) != 1 || tags[0] != r.ref) ||
			!byTag && string(dgst) != r.ref {
			t.Errorf("%q is taken as %q under %q", reference, dgst, tags)
		}
		for _, tag := range tags {
			if !pulp.ValidTag(tag) || strings.ContainsAny(tag, "/\\:\x00\n") || tag == ".." ||
				pulp.MalformedCompanionTag(tag) {
				t.Errorf("%q?%q is taken under %q", reference, query, tag)
			}
		}
	})
}

// FuzzRange checks that a response to a Range header contains exactly the bytes that its Content-Range states. It
// covers hostile-inputs.md#bad-chunks.
func FuzzRange(f *testing.F) {
	for _, s := range []string{
		"bytes=0-0", "bytes=10-19", "bytes=-5", "bytes=5-", "bytes=0-", "bytes=99-0", "bytes=100-", "bytes=-0", "bytes=0-99999999999999999999", "bytes=-99999999999999999999", "bytes=0-1,5-6", "bytes=0-0,-1",
		"bytes=" + strings.Repeat("0-99,", 200) + "0-99", "bytes=" + strings.Repeat("1-1,", 50) + "1-1", "bytes=,", "bytes=-", "bytes = 0-1", "Bytes=0-1", "items=0-1", "0-1", "bytes=+0-1", "bytes=0-1\r\n", "bytes=0x0-0x1",
	} {
		f.Add(s, false)
		f.Add(s, true)
	}
	content := make([]byte, 100)
	for i := range content {
		content[i] = byte(i)
	}
	b := pulp.Blob{Digest: digest.FromBytes(content), Size: int64(len(content)), Inline: true, Data: content}
	f.Fuzz(func(t *testing.T, header string, empty bool) {
		content, b := content, b
		if empty {
			content, b = nil, pulp.Blob{Digest: digest.FromString(""), Inline: true}
		}
		w := httptest.NewRecorder()
		c := &call{
			registry: &registry{},
			w:        w,
			r:        &http.Request{Method: http.MethodGet, Header: http.Header{"Range": {header}}},
		}
		if err := c.sendBlob(record.Target{}, b); err != nil {
			t.Fatalf("%q: %v", header, err)
		}
		part := func(place string, body []byte) {
			var first, last, size int
			if n, err := fmt.Sscanf(place, "bytes %d-%d/%d", &first, &last, &size); n != 3 || err != nil ||
				size != len(content) ||
				first < 0 ||
				last >= size ||
				first > last ||
				!bytes.Equal(body, content[first:last+1]) {
				t.Errorf("%q: Content-Range %q with %d bytes", header, place, len(body))
			}
		}
		switch mediaType, parameters, _ := mime.ParseMediaType(w.Header().Get("Content-Type")); {
		case w.Code == http.StatusOK:
			if !bytes.Equal(w.Body.Bytes(), content) {
				t.Errorf("%q: %d bytes of the whole blob", header, w.Body.Len())
			}
		case w.Code == http.StatusRequestedRangeNotSatisfiable:
		case w.Code == http.StatusPartialContent && mediaType == "multipart/byteranges":
			total := 0
			for parts := multipart.NewReader(w.Body, parameters["boundary"]); ; {
				p, err := parts.NextPart()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("%q: %v", header, err)
				}
				body, err := io.ReadAll(p)
				if err != nil {
					t.Fatalf("%q: %v", header, err)
				}
				part(p.Header.Get("Content-Range"), body)
				total += len(body)
			}
			if total > len(content) {
				t.Errorf("%q: %d bytes of %d", header, total, len(content))
			}
		case w.Code == http.StatusPartialContent:
			part(w.Header().Get("Content-Range"), w.Body.Bytes())
		default:
			t.Errorf("%q status %d", header, w.Code)
		}
	})
}
