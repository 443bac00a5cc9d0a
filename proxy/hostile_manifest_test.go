package proxy_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/proxy"
)

// countingReader counts the bytes that are read from a reader.
type countingReader struct {
	r    io.Reader
	mu   sync.Mutex
	read int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.mu.Lock()
	c.read += int64(n)
	c.mu.Unlock()
	return n, err
}

// TestHugeManifestsAreRefusedEarly sends manifests at the size limit, above it, and of 4 GB. It covers
// hostile-inputs.md#oversized-manifest.
func TestHugeManifestsAreRefusedEarly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.imageOf("acme/app", "one")
	full := m + strings.Repeat(" ", pulp.MaxManifestSize-len(m))
	d := digest.FromString(full)
	put := "/v2/acme/app/manifests/"
	w.expectError(
		manifestPut(put+"v1", full+" ", pulp.OCIManifest),
		http.StatusRequestEntityTooLarge,
		"MANIFEST_INVALID",
	)
	w.expectError(
		manifestPut(
			put+string(digest.FromString(full+" ")),
			io.MultiReader(strings.NewReader(full+" ")),
			pulp.OCIManifest,
		),
		http.StatusRequestEntityTooLarge,
		"MANIFEST_INVALID",
	)
	for _, path := range []string{put + "v1", "/v2/acme/new/manifests/v1"} {
		// A manifest with a Content-Length is rejected before the server reads it.
		if a := w.sendRaw(request{as: "admin", method: http.MethodPut, path: path, headers: []string{"Content-Type", pulp.OCIIndex, "Content-Length", "4294967296"}}); a.status != http.StatusRequestEntityTooLarge ||
			a.code() != "MANIFEST_INVALID" {
			t.Errorf("4 GB status %d %s", a.status, a.body)
		}
		// The body of a caller without permission is not read.
		if a := w.sendRaw(request{as: "carol", method: http.MethodPut, path: path, headers: []string{"Content-Type", pulp.OCIIndex, "Content-Length", "4294967296"}}); a.status != http.StatusUnauthorized {
			t.Errorf("4 GB without permission status %d %s", a.status, a.body)
		}
		// A manifest of unknown length is read to the limit, plus the buffers of the connection.
		stream := &countingReader{r: io.LimitReader(endless{}, 4<<30)}
		if a := w.send(request{as: "admin", method: http.MethodPut, path: path, body: stream}); a.status != http.StatusRequestEntityTooLarge ||
			a.code() != "MANIFEST_INVALID" {
			t.Errorf("a stream of 4 GB status %d %s", a.status, a.body)
		}
		stream.mu.Lock()
		if stream.read > 64<<20 {
			t.Errorf("%d bytes of the stream were taken", stream.read)
		}
		stream.mu.Unlock()
	}
	w.expectState("acme/app", 0, "")
	w.expectError(request{as: "admin", path: "/v2/acme/new/tags/list"}, http.StatusNotFound, "NAME_UNKNOWN")

	w.expect(manifestPut(put+"v1", full, pulp.OCIManifest), http.StatusCreated)
	if a := w.expect(request{path: put + "v1"}, http.StatusOK); a.body != full ||
		a.header.Get("Docker-Content-Digest") != string(d) {
		t.Errorf("a manifest of 4 MiB is returned as %d bytes, %v", len(a.body), a.header)
	}
}

// TestHostileManifests pushes manifests that parsers read differently, by tag and by digest. It covers
// hostile-inputs.md#ambiguous-json and #ambiguous-manifest.
func TestHostileManifests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	image := w.imageOf("acme/app", "one")
	other := w.pushBlob("acme/app", "other layer")
	index := `{"schemaVersion":2,"mediaType":"` + pulp.OCIIndex + `","manifests":[]}`
	more := func(m, members string) string { return strings.TrimSuffix(m, "}") + "," + members + "}" }
	layers := fmt.Sprintf(`[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":11}]`, other)
	untyped := strings.Replace(image, `"mediaType":"`+pulp.OCIManifest+`",`, "", 1)
	for name, tt := range map[string]struct{ manifest, contentType string }{
		"layers twice":                        {more(image, `"layers":`+layers), pulp.OCIManifest},
		"layers twice, one with an escape":    {more(image, `"layer\u0073":`+layers), pulp.OCIManifest},
		"layers twice, one in upper case":     {more(image, `"Layers":`+layers), pulp.OCIManifest},
		"layers twice, one with a long s":     {more(image, `"layerſ":`+layers), pulp.OCIManifest},
		"the config's digest twice":           {strings.Replace(image, `"config":{`, `"config":{"digest":"`+string(other)+`",`, 1), pulp.OCIManifest},
		"the config's digest in upper case":   {strings.Replace(image, `"config":{`, `"config":{"DIGEST":"`+string(other)+`",`, 1), pulp.OCIManifest},
		"an annotation twice":                 {more(image, `"annotations":{"a":"b","a":"c"}`), pulp.OCIManifest},
		"the media type twice":                {more(image, `"mediaType":"`+pulp.OCIManifest+`"`), pulp.OCIManifest},
		"nested 10,000 deep, lists":           {more(image, `"x":`+strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000)), pulp.OCIManifest},
		"nested 10,000 deep, objects":         {more(index, `"x":`+strings.Repeat(`{"a":`, 10_000)+"1"+strings.Repeat("}", 10_000)), pulp.OCIIndex},
		"nothing but brackets":                {strings.Repeat("[", pulp.MaxManifestSize), pulp.OCIManifest},
		"a size beyond all numbers":           {strings.Replace(image, `"size":`, `"size":1e999,"x":`, 1), pulp.OCIManifest},
		"a size beyond 64 bits":               {strings.Replace(image, `"size":`, `"size":9223372036854775808,"x":`, 1), pulp.OCIManifest},
		"a size of a million digits":          {strings.Replace(image, `"size":`, `"size":`+strings.Repeat("9", 1_000_000)+`,"x":`, 1), pulp.OCIManifest},
		"a huge number in an unread member":   {more(index, `"x":-1e400`), pulp.OCIIndex},
		"a byte order mark":                   {"\xef\xbb\xbf" + image, pulp.OCIManifest},
		"UTF-16":                              {"\xff\xfe" + strings.Join(strings.Split(image, ""), "\x00"), pulp.OCIManifest},
		"bytes that are no UTF-8":             {more(image, "\"x\":\"\xff\""), pulp.OCIManifest},
		"a NUL before it":                     {"\x00" + image, pulp.OCIManifest},
		"a NUL behind it":                     {image + "\x00", pulp.OCIManifest},
		"a NUL in a text":                     {more(image, `"annotations":{"a":"b`+"\x00"+`c"}`), pulp.OCIManifest},
		"a NUL in a text, as an escape":       {more(image, `"annotations":{"a":"b\u0000c"}`), pulp.OCIManifest},
		"a second value behind it":            {image + image, pulp.OCIManifest},
		"an image that is an index too":       {more(image, `"manifests":[]`), pulp.OCIManifest},
		"an index that is an image too":       {more(index, `"layers":[],"config":{}`), pulp.OCIIndex},
		"an index with layers":                {more(index, `"layers":[]`), pulp.OCIIndex},
		"an image that is an index to some":   {more(image, `"Manifests":[]`), pulp.OCIManifest},
		"both, and no type":                   {more(untyped, `"manifests":[]`), ""},
		"both, and the image's Content-Type":  {more(untyped, `"manifests":[]`), pulp.OCIManifest},
		"both, and the index's Content-Type":  {more(untyped, `"manifests":[]`), pulp.OCIIndex},
		"two types, in two spellings":         {more(image, `"MediaType":"`+pulp.OCIIndex+`"`), pulp.OCIManifest},
		"an image sent as an index":           {image, pulp.OCIIndex},
		"an image sent as one of docker's":    {image, pulp.DockerManifest},
		"an index sent as an image":           {index, pulp.OCIManifest},
		"an index sent as a list of docker's": {index, pulp.DockerList},
		"an image that says it is an index":   {strings.Replace(image, pulp.OCIManifest, pulp.OCIIndex, 1), pulp.OCIIndex},
		"an index that says it is an image":   {strings.Replace(index, pulp.OCIIndex, pulp.OCIManifest, 1), pulp.OCIManifest},
		"no type, sent as an index":           {untyped, pulp.OCIIndex},
		"a type in upper case":                {strings.Replace(image, pulp.OCIManifest, strings.ToUpper(pulp.OCIManifest), 1), pulp.OCIManifest},
		"a type with a parameter":             {strings.Replace(image, pulp.OCIManifest, pulp.OCIManifest+"; a=b", 1), pulp.OCIManifest},
		"a type of a web page":                {strings.Replace(image, pulp.OCIManifest, "text/html", 1), "text/html"},
	} {
		t.Run(name, func(t *testing.T) {
			d := digest.FromString(tt.manifest)
			for _, reference := range []string{"v1", string(d), string(d) + "?tag=v1"} {
				a := w.expectError(
					manifestPut("/v2/acme/app/manifests/"+reference, tt.manifest, tt.contentType),
					http.StatusBadRequest,
					"MANIFEST_INVALID",
				)
				if len(a.body) > 1000 {
					t.Errorf("the error has %d bytes", len(a.body))
				}
			}
			w.expectError(request{path: "/v2/acme/app/manifests/" + string(d)}, http.StatusNotFound, "MANIFEST_UNKNOWN")
			w.expectState("acme/app", 0, "")
		})
	}
}

// TestDigestsAreOfRawBytes pushes one image in several spellings and checks that each is a manifest of its own with
// its exact bytes. It covers hostile-inputs.md#ambiguous-json and #ambiguous-manifest.
func TestDigestsAreOfRawBytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	image := w.imageOf("acme/app", "one")
	spellings := map[string]string{
		"as it is": image, "with a line behind it": image + "\n", "with lines": strings.ReplaceAll(image, ",", ",\r\n\t"),
		"with escapes": strings.ReplaceAll(
			image,
			"/",
			`\/`,
		), "with other escapes": strings.Replace(image, `"layers"`, `"layer\u0073"`, 1),
		"with one more member": strings.TrimSuffix(
			image,
			"}",
		) + `,"org.example":{"z":1,"a":[1.0e3,null]}}`, "without its type": strings.Replace(image, `"mediaType":"`+pulp.OCIManifest+`",`, "", 1),
		"with annotations in two cases": strings.TrimSuffix(image, "}") + `,"annotations":{"layers":"a","Layers":"b"}}`,
	}
	for name, m := range spellings {
		t.Run(name, func(t *testing.T) {
			d := digest.FromString(m)
			tag := "t" + d.Encoded()[:8]
			for other := range maps.Values(spellings) {
				if other != m {
					w.expectError(
						manifestPut("/v2/acme/app/manifests/"+string(d), other, pulp.OCIManifest),
						http.StatusBadRequest,
						"DIGEST_INVALID",
					)
				}
			}
			if a := w.expect(manifestPut("/v2/acme/app/manifests/"+tag, m, pulp.OCIManifest), http.StatusCreated); a.header.Get(
				"Docker-Content-Digest",
			) != string(
				d,
			) {
				t.Errorf("it is taken for %s, want %s", a.header.Get("Docker-Content-Digest"), d)
			}
			for _, reference := range []string{tag, string(d)} {
				a := w.expect(request{path: "/v2/acme/app/manifests/" + reference}, http.StatusOK)
				if a.body != m || a.header.Get("Docker-Content-Digest") != string(d) ||
					a.header.Get("Content-Type") != pulp.OCIManifest {
					t.Errorf("%s is returned as %v\n%s", reference, a.header, a.body)
				}
			}
		})
	}
}

// indexOf returns an index of manifests.
func indexOf(children ...digest.Digest) string {
	list := make([]string, len(children))
	for i, d := range children {
		list[i] = fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":1}`, pulp.OCIManifest, d)
	}
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, pulp.OCIIndex, strings.Join(list, ","))
}

// TestIndexesOfAbsentChildren pushes indexes with children that do not exist, or only in another repository, and
// checks that they grant no access to those. It covers hostile-inputs.md#absent-children.
func TestIndexesOfAbsentChildren(t *testing.T) {
	t.Parallel()
	for _, required := range []bool{false, true} {
		w := newWorld(t, func(o *proxy.Options) { o.RequireIndexChildren = required })
		here, foreign := w.pushImage("acme/app", "here", ""), w.pushImage("acme/secret", "foreign", "v1")
		w.setPrivate("acme/secret")
		absent := digest.FromString("absent")
		const path = "/v2/acme/app/manifests/"
		for name, child := range map[string]digest.Digest{"absent": absent, "foreign": foreign} {
			list := indexOf(here, child)
			for _, reference := range []string{name, string(digest.FromString(list))} {
				if required {
					a := w.expectError(
						manifestPut(path+reference, list, pulp.OCIIndex),
						http.StatusBadRequest,
						"MANIFEST_BLOB_UNKNOWN",
					)
					if !strings.Contains(a.body, string(child)) || strings.Contains(a.body, string(here)) {
						t.Errorf("a sparse index is refused with %s", a.body)
					}
					w.expectError(request{path: path + reference}, http.StatusNotFound, "MANIFEST_UNKNOWN")
					continue
				}
				w.expect(manifestPut(path+reference, list, pulp.OCIIndex), http.StatusCreated)
				if a := w.expect(request{path: path + reference}, http.StatusOK); a.body != list {
					t.Errorf("a sparse index is returned as %s", a.body)
				}
			}
			w.expectError(request{path: path + string(child)}, http.StatusNotFound, "MANIFEST_UNKNOWN")
			w.expect(request{path: path + string(here)}, http.StatusOK)
		}
		w.expectError(
			request{path: "/v2/acme/app/blobs/" + string(digest.FromString("layer foreign"))},
			http.StatusNotFound,
			"BLOB_UNKNOWN",
		)
	}
}

// TestHostileIndexes pushes an index that references itself and indexes at and above the limit of children. It covers
// hostile-inputs.md#deep-index. TestSigningWideAndDeepIndexes in integration covers signing them.
func TestHostileIndexes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	child := w.pushImage("acme/app", "one", "v1")
	const path = "/v2/acme/app/manifests/"
	self := digest.FromString("itself")
	for _, list := range []string{indexOf(self), indexOf(child, self), indexOf(self, self)} {
		// No index can contain its own digest, so the digest in the path is wrong.
		w.expectError(manifestPut(path+string(self), list, pulp.OCIIndex), http.StatusBadRequest, "DIGEST_INVALID")
	}
	w.expectError(request{path: path + string(self)}, http.StatusNotFound, "MANIFEST_UNKNOWN")
	wide := func(n int) string {
		entry := fmt.Sprintf(`{"mediaType":"a/b","digest":%q,"size":1}`, child)
		return fmt.Sprintf(
			`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`,
			pulp.OCIIndex,
			strings.Repeat(entry+",", n-1)+entry,
		)
	}
	w.expectError(
		manifestPut(path+"wide", wide(100_000), pulp.OCIIndex),
		http.StatusRequestEntityTooLarge,
		"MANIFEST_INVALID",
	)
	for _, n := range []int{10_001, 35_000} {
		w.expectError(manifestPut(path+"wide", wide(n), pulp.OCIIndex), http.StatusBadRequest, "MANIFEST_INVALID")
	}
	w.expectState("acme/app", 1, `"v1"`)
	w.expect(manifestPut(path+"wide", wide(10_000), pulp.OCIIndex), http.StatusCreated)
}
