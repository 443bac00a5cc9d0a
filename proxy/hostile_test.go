package proxy_test

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/proxy"
)

// sendRaw sends a request with exactly this path as its target and exactly these headers. The body must be a string
// and may be shorter than the Content-Length.
func (w *world) sendRaw(r request) response {
	w.t.Helper()
	conn, err := (&net.Dialer{}).DialContext(w.t.Context(), "tcp", w.server.Listener.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	method := cmp.Or(r.method, http.MethodGet)
	text := method + " " + r.path + " HTTP/1.1\r\nHost: " + publicHost + "\r\nConnection: close\r\n"
	if r.as != "" {
		text += "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(r.as+":secret")) + "\r\n"
	}
	for i := 0; i+1 < len(r.headers); i += 2 {
		text += r.headers[i] + ": " + r.headers[i+1] + "\r\n"
	}
	body, _ := r.body.(string)
	if _, err := io.WriteString(conn, text+"\r\n"+body); err != nil {
		w.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		w.t.Fatalf("%s %.120s: %v", method, r.path, err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return response{res.StatusCode, res.Header, string(b)}
}

// unchanged demands that a repository has this many versions behind it and these tags.
func (w *world) unchanged(name string, version int64, tags string) {
	w.t.Helper()
	target, err := w.store.Serving.Resolve(w.t.Context(), name)
	if err != nil || target.Repository.LatestVersion != version {
		w.t.Errorf("%s is at version %d, %v, want %d", name, target.Repository.LatestVersion, err, version)
	}
	if a := w.send(request{as: "admin", path: "/v2/" + name + "/tags/list"}); a.body != `{"name":"`+name+`","tags":[`+tags+`]}` {
		w.t.Errorf("something was stored: %.300s", a.body)
	}
}

// counted counts what is read of it.
type counted struct {
	r    io.Reader
	mu   sync.Mutex
	read int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.mu.Lock()
	c.read += int64(n)
	c.mu.Unlock()
	return n, err
}

// TestHugeManifestsAreRefusedEarly sends manifests at the bound, above it, and of 4 GB.
//
// See hostile-inputs.md#oversized-manifest.
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
		// One that says its length is refused before any of it has come.
		if a := w.sendRaw(request{as: "admin", method: http.MethodPut, path: path, headers: []string{"Content-Type", pulp.OCIIndex, "Content-Length", "4294967296"}}); a.status != http.StatusRequestEntityTooLarge ||
			a.code() != "MANIFEST_INVALID" {
			t.Errorf("4 GB are answered %d %s", a.status, a.body)
		}
		// Who may not push is not read at all.
		if a := w.sendRaw(request{as: "carol", method: http.MethodPut, path: path, headers: []string{"Content-Type", pulp.OCIIndex, "Content-Length", "4294967296"}}); a.status != http.StatusUnauthorized {
			t.Errorf("4 GB of a stranger are answered %d %s", a.status, a.body)
		}
		// One that does not say it is read to the bound, and what the connection holds.
		stream := &counted{r: io.LimitReader(endless{}, 4<<30)}
		if a := w.send(request{as: "admin", method: http.MethodPut, path: path, body: stream}); a.status != http.StatusRequestEntityTooLarge ||
			a.code() != "MANIFEST_INVALID" {
			t.Errorf("a stream of 4 GB is answered %d %s", a.status, a.body)
		}
		stream.mu.Lock()
		if stream.read > 64<<20 {
			t.Errorf("%d bytes of the stream were taken", stream.read)
		}
		stream.mu.Unlock()
	}
	w.unchanged("acme/app", 0, "")
	w.expectError(request{as: "admin", path: "/v2/acme/new/tags/list"}, http.StatusNotFound, "NAME_UNKNOWN")

	w.expect(manifestPut(put+"v1", full, pulp.OCIManifest), http.StatusCreated)
	if a := w.expect(request{path: put + "v1"}, http.StatusOK); a.body != full ||
		a.header.Get("Docker-Content-Digest") != string(d) {
		t.Errorf("a manifest of 4 MiB comes back as %d bytes, %v", len(a.body), a.header)
	}
}

// TestHostileManifests puts what parsers read in several ways, by tag and by the digest of exactly these bytes.
//
// See hostile-inputs.md#ambiguous-json and hostile-inputs.md#ambiguous-manifest.
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
		"a huge number that nobody reads":     {more(index, `"x":-1e400`), pulp.OCIIndex},
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
			w.unchanged("acme/app", 0, "")
		})
	}
}

// TestDigestsAreOfRawBytes puts one image in several spellings: each is a manifest of its own, and comes back as it
// was sent.
//
// See hostile-inputs.md#ambiguous-json and hostile-inputs.md#ambiguous-manifest.
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
					t.Errorf("%s comes back as %v\n%s", reference, a.header, a.body)
				}
			}
		})
	}
}

// indexOf names manifests.
func indexOf(children ...digest.Digest) string {
	list := make([]string, len(children))
	for i, d := range children {
		list[i] = fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":1}`, pulp.OCIManifest, d)
	}
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, pulp.OCIIndex, strings.Join(list, ","))
}

// TestIndexesOfAbsentChildren puts indexes that name what is not there, or not here: naming it gives nobody what
// another repository holds.
//
// See hostile-inputs.md#absent-children. That the API lists no absent child is TestManifestPartsNameWhatIsThere' in internal/store.
func TestIndexesOfAbsentChildren(t *testing.T) {
	t.Parallel()
	for _, required := range []bool{false, true} {
		w := newWorld(t, func(o *proxy.Options) { o.RequireIndexChildren = required })
		here, foreign := w.pushImage("acme/app", "here", ""), w.pushImage("acme/secret", "foreign", "v1")
		w.private("acme/secret")
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
					t.Errorf("a sparse index comes back as %s", a.body)
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

// TestHostileIndexes puts indexes that name themselves, that are too wide, and that are as wide as is taken. What a
// sign task makes of wide and deep ones is TestSigningWideAndDeepIndexes' in integration.
//
// See hostile-inputs.md#deep-index.
func TestHostileIndexes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	child := w.pushImage("acme/app", "one", "v1")
	const path = "/v2/acme/app/manifests/"
	self := digest.FromString("itself")
	for _, list := range []string{indexOf(self), indexOf(child, self), indexOf(self, self)} {
		// Nobody can make an index that holds its own digest; one that claims to is not what it claims.
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
	w.unchanged("acme/app", 1, `"v1"`)
	w.expect(manifestPut(path+"wide", wide(10_000), pulp.OCIIndex), http.StatusCreated)
}

// TestBlobsUnderOtherDigests ends uploads, of bytes in the row and in the storage, under digests that are not theirs
// or are none.
//
// See hostile-inputs.md#bad-digest.
func TestBlobsUnderOtherDigests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, size := range []int{100, 50_000} {
		b := random(size, 11)
		right, long := digest.FromBytes(b), digest.SHA512.FromBytes(b)
		for name, d := range map[string]string{
			"another":              string(digest.FromString("other")),
			"another sha512":       string(digest.SHA512.FromString("other")),
			"sha256 called sha512": "sha512:" + right.Encoded(),
			"sha512 called sha256": "sha256:" + long.Encoded(),
			"a sha384":             string(digest.SHA384.FromBytes(b)),
			"an md5":               "md5:d41d8cd98f00b204e9800998ecf8427e",
			"an unknown algorithm": "crc32:" + right.Encoded(),
			"63 digits":            "sha256:" + right.Encoded()[1:],
			"65 digits":            string(right) + "0",
			"upper case":           "sha256:" + strings.ToUpper(right.Encoded()),
			"an upper algorithm":   "SHA256:" + right.Encoded(),
			"no algorithm":         right.Encoded(),
			"no digits":            "sha256:",
			"nothing":              "",
			"a path":               "sha256:../../../../etc/passwd",
			"a path as long":       "sha256:" + strings.Repeat("../", 21) + "a",
			"a path before":        "../sha256:" + right.Encoded(),
			"a line break":         string(right) + "\n",
			"a NUL":                string(right) + "\x00",
			"two":                  string(right) + "," + string(right),
		} {
			t.Run(fmt.Sprintf("%d bytes, %s", size, name), func(t *testing.T) {
				query := "?digest=" + url.QueryEscape(d)
				if d != "" { // with none it opens an upload
					w.expectError(
						request{
							as:     "admin",
							method: http.MethodPost,
							path:   "/v2/acme/app/blobs/uploads/" + query,
							body:   b,
						},
						http.StatusBadRequest,
						"DIGEST_INVALID",
					)
				}
				whole, chunked := w.start("acme/app"), w.start("acme/app")
				w.expect(request{as: "admin", method: http.MethodPatch, path: chunked, body: b}, http.StatusAccepted)
				w.expectError(
					request{as: "admin", method: http.MethodPut, path: whole + query, body: b},
					http.StatusBadRequest,
					"DIGEST_INVALID",
				)
				w.expectError(
					request{as: "admin", method: http.MethodPut, path: chunked + query},
					http.StatusBadRequest,
					"DIGEST_INVALID",
				)
				for _, at := range []string{whole, chunked} {
					w.expectError(request{as: "admin", path: at}, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
					w.expectError(
						request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(right), body: b},
						http.StatusNotFound,
						"BLOB_UPLOAD_UNKNOWN",
					)
				}
				if parsed := digest.Digest(d); parsed.Validate() == nil && parsed.Algorithm() != digest.SHA384 {
					w.expectError(
						request{as: "admin", path: "/v2/acme/app/blobs/" + d},
						http.StatusNotFound,
						"BLOB_UNKNOWN",
					)
				}
			})
		}
		for _, d := range []digest.Digest{right, long} {
			w.expectError(
				request{as: "admin", path: "/v2/acme/app/blobs/" + string(d)},
				http.StatusNotFound,
				"BLOB_UNKNOWN",
			)
		}
	}
}

// TestHostileChunks sends chunks that do not belong where they say, in the middle of an upload and as its end. They
// leave what was acknowledged, and it can be ended.
//
// See hostile-inputs.md#bad-chunks.
func TestHostileChunks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, size := range []int{900, 60_000} {
		b := random(size, 12)
		third := size / 3
		d := digest.FromBytes(b)
		at := w.start("acme/app")
		first, second, last := b[:third], b[third:2*third], b[2*third:]
		of := func(from, to int) string { return fmt.Sprintf("%d-%d", from, to-1) }
		refused := func(status int, code, method, path string, body []byte, place string, has int) {
			t.Helper()
			w.expectError(
				request{as: "admin", method: method, path: path, body: body, headers: []string{"Content-Range", place}},
				status,
				code,
			)
			a := w.expect(request{as: "admin", path: at}, http.StatusNoContent)
			if want := fmt.Sprintf("0-%d", max(0, has-1)); a.header.Get("Range") != want {
				t.Errorf("after %s %s the upload has %s, want %s", method, place, a.header.Get("Range"), want)
			}
		}
		for _, method := range []string{http.MethodPatch, http.MethodPut} {
			path := at
			if method == http.MethodPut {
				path += "?digest=" + string(d)
			}
			wrong := func(body []byte, place string, has int) {
				t.Helper()
				refused(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", method, path, body, place, has)
			}
			wrong(second, of(third, 2*third), 0) // the second before the first
			wrong(last, of(2*third, size), 0)    // the last
			wrong(first, of(1, third+1), 0)      // a gap of one byte
			wrong(first, of(0, third+1), 0)      // longer than it is
			wrong(first, of(0, third-1), 0)      // shorter
			wrong(first, "0-999999999999999", 0) // far longer
			wrong(nil, "0-0", 0)                 // nothing, said to be a byte
		}
		w.expect(
			request{
				as:      "admin",
				method:  http.MethodPatch,
				path:    at,
				body:    first,
				headers: []string{"Content-Range", of(0, third)},
			},
			http.StatusAccepted,
		)
		for _, method := range []string{http.MethodPatch, http.MethodPut} {
			path := at
			if method == http.MethodPut {
				path += "?digest=" + string(d)
			}
			wrong := func(body []byte, place string) {
				t.Helper()
				refused(
					http.StatusRequestedRangeNotSatisfiable,
					"BLOB_UPLOAD_INVALID",
					method,
					path,
					body,
					place,
					third,
				)
			}
			wrong(first, of(0, third))                      // the first again
			wrong(b[third-1:2*third], of(third-1, 2*third)) // overlapping by a byte
			wrong(b[third+1:2*third], of(third+1, 2*third)) // a gap of a byte
			wrong(last, of(2*third, size))                  // the last before the second
			for _, place := range []string{"-", "x", "1", "1-", "-1", "bytes 300-599/900", "599-300", "0x12c-0x257", "+300-599", " ", "300-599,600-899", "99999999999999999999-1", "١-٢"} {
				if strings.TrimSpace(place) != "" {
					refused(http.StatusBadRequest, "INVALID_REQUEST", method, path, second, place, third)
				}
			}
		}
		w.expect(
			request{
				as:      "admin",
				method:  http.MethodPatch,
				path:    at,
				body:    second,
				headers: []string{"Content-Range", of(third, 2*third)},
			},
			http.StatusAccepted,
		)
		w.expect(
			request{
				as:      "admin",
				method:  http.MethodPut,
				path:    at + "?digest=" + string(d),
				body:    last,
				headers: []string{"Content-Range", of(2*third, size)},
			},
			http.StatusCreated,
		)
		w.wantBlob("acme/app", d, b)
	}
}

// TestTwoEndsOfOneUpload has several requests end one upload at once, with the right bytes and with others, while
// others go on sending: whatever wins, the bytes are those of the digest, or the upload is gone.
//
// See hostile-inputs.md#bad-chunks.
func TestTwoEndsOfOneUpload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for round := range 20 {
		b, others := random(40_000, byte(20+round)), random(40_000, byte(60+round))
		if round%2 == 0 { // in the row
			b, others = b[:4_000], others[:4_000]
		}
		name := fmt.Sprintf("acme/app-%d", round)
		d, half := digest.FromBytes(b), len(b)/2
		at := w.start(name)
		w.expect(request{as: "admin", method: http.MethodPatch, path: at, body: b[:half]}, http.StatusAccepted)
		var made sync.Map
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				method, path, body := http.MethodPut, at+"?digest="+string(d), b[half:]
				switch i {
				case 0:
					body = others[half:]
				case 1:
					method, path = http.MethodPatch, at
				case 2:
					method, path, body = http.MethodPatch, at, others[half:]
				}
				a := w.send(
					request{
						as:      "admin",
						method:  method,
						path:    path,
						body:    body,
						headers: []string{"Content-Range", fmt.Sprintf("%d-%d", half, len(b)-1)},
					},
				)
				made.Store(i, a.status)
				switch a.status {
				case http.StatusCreated,
					http.StatusAccepted,
					http.StatusConflict,
					http.StatusRequestedRangeNotSatisfiable,
					http.StatusNotFound:
				case http.StatusBadRequest:
					if a.code() != "DIGEST_INVALID" {
						t.Errorf("round %d: %s is answered %s", round, method, a.body)
					}
				default:
					t.Errorf("round %d: %s is answered %d %s", round, method, a.status, a.body)
				}
			})
		}
		wg.Wait()
		created := 0
		for i := range 6 {
			if status, _ := made.Load(i); status == http.StatusCreated {
				created++
			}
		}
		if status, _ := made.Load(0); status == http.StatusCreated || created > 1 {
			t.Errorf("round %d: %d ends were taken, the wrong one with %v", round, created, status)
		}
		if created == 0 && w.send(request{as: "admin", path: at}).status == http.StatusNoContent {
			w.send(
				request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d)},
			) // with whatever was let in
		}
		if a := w.send(request{path: "/v2/" + name + "/blobs/" + string(d)}); a.status == http.StatusOK &&
			!bytes.Equal([]byte(a.body), b) ||
			created == 1 && a.status != http.StatusOK {
			t.Errorf("round %d: %d bytes of other content, %d", round, len(a.body), a.status)
		}
		w.expectError(request{as: "admin", path: at}, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
	}
}

// hostileNames are names as they may stand in a request's target, none of them well-formed once it is decoded.
var hostileNames = []string{
	"", ".", "..", "../..", "../../etc", "%2e%2e", "%2e%2e/acme/secret", "carol/../acme/secret", "carol/%2e%2e/acme/secret", "carol/..%2facme/secret", "carol/./x", "./acme/secret", "acme/secret/.",
	"acme%2fsecret", "acme%2Fsecret", "carol%2f..%2f..%2facme%2fsecret", "acme//secret", "/acme/secret", "acme/secret/", "acme%5csecret", "carol/..%5c..%5cacme/secret",
	"%252e%252e", "acme%252fsecret", "%c0%ae%c0%ae/acme/secret", "acme%c0%afsecret", "acme%00/secret", "acme/secret%00", "acme/secret%0a", "acme/secret%0d%0aX-Evil:%20yes", "acme%20/secret", "acme/secret%20", "acme%09/secret",
	"ACME/secret", "Acme/Secret", "%D0%B0cme/secret", "\u0430cme/secret", "%EF%BD%81cme/secret", "acme\u2215secret", "acme%E2%88%95secret", "acme/s%E2%80%8Becret", "acme/\u017fecret", "acme/secre%CC%81t",
	"_catalog", "acme/_catalog", "_", "-acme", "acme-", "acme/-", ".acme/secret", "acme./secret", "acme._/secret", "acme___/x", "a..b", "a___b", "~acme", "acme;v=1/secret", "acme:443/secret", "acme@x/secret", "acme+x", "acme,x",
	"acme&x", "acme%3fx", "acme%23x", "$acme", "*", "acme/*", "{acme}", "acme'--", "acme%22x", "acme%27%20OR%201=1", "%25s%25n",
}

// TestHostileNames asks for names that are none, in every kind of request: nothing is served, nothing is made, and
// what another repository holds stays there.
//
// See hostile-inputs.md#hostile-names.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	image := w.imageOf("acme/secret", "hidden")
	d := string(w.pushImage("acme/secret", "hidden", "v1"))
	layer := string(digest.FromString("layer hidden"))
	w.private("acme/secret")
	w.pushImage("carol/x", "own", "v1")
	before := w.expect(request{as: "admin", path: "/v2/_catalog"}, http.StatusOK).body
	names := append(
		hostileNames[:len(hostileNames):len(hostileNames)],
		strings.Repeat("a", 256),
		strings.Repeat("a/", 127)+"aa",
		strings.Repeat("a", 60_000),
		strings.Repeat("../", 1000)+"etc/passwd",
	)
	for _, name := range names {
		for _, who := range []string{"", "carol", "admin"} {
			for _, r := range []struct{ method, path, body string }{
				{method: http.MethodGet, path: "/v2/" + name + "/manifests/v1"}, {method: http.MethodHead, path: "/v2/" + name + "/manifests/" + d}, {method: http.MethodGet, path: "/v2/" + name + "/blobs/" + layer},
				{method: http.MethodGet, path: "/v2/" + name + "/tags/list"}, {method: http.MethodGet, path: "/v2/" + name + "/referrers/" + d}, {method: http.MethodGet, path: "/extensions/v2/" + name + "/signatures/" + d},
				{method: http.MethodPost, path: "/v2/" + name + "/blobs/uploads/"}, {method: http.MethodPost, path: "/v2/" + name + "/blobs/uploads/?mount=" + layer + "&from=acme/secret"},
				{method: http.MethodPut, path: "/v2/" + name + "/manifests/v2", body: image}, {method: http.MethodPut, path: "/extensions/v2/" + name + "/signatures/" + d, body: "{}"},
				{method: http.MethodDelete, path: "/v2/" + name + "/manifests/v1"}, {method: http.MethodDelete, path: "/v2/" + name + "/blobs/" + layer},
			} {
				a := w.sendRaw(
					request{
						as:      who,
						method:  r.method,
						path:    r.path,
						body:    r.body,
						headers: []string{"Content-Type", pulp.OCIManifest, "Content-Length", fmt.Sprint(len(r.body))},
					},
				)
				if a.status != http.StatusBadRequest && a.status != http.StatusNotFound ||
					a.header.Get("X-Evil") != "" ||
					len(a.body) > 100_000 {
					t.Errorf("%s %.150q as %q is answered %d %.200s", r.method, r.path, who, a.status, a.body)
				}
				if strings.Contains(a.body, "hidden") || a.header.Get("Docker-Content-Digest") != "" {
					t.Errorf("%s %.150q as %q gives %.300s", r.method, r.path, who, a.body)
				}
			}
		}
		for _, from := range []string{name, url.QueryEscape(name)} {
			if a := w.sendRaw(request{as: "carol", method: http.MethodPost, path: "/v2/carol/x/blobs/uploads/?mount=" + layer + "&from=" + from, headers: []string{"Content-Length", "0"}}); a.status == http.StatusCreated {
				t.Errorf("a blob is mounted from %.150q", from)
			}
		}
	}
	if after := w.expect(request{as: "admin", path: "/v2/_catalog"}, http.StatusOK).body; after != before {
		t.Errorf("the catalog is %s, was %s", after, before)
	}
	w.expectError(request{as: "carol", path: "/v2/carol/x/blobs/" + layer}, http.StatusNotFound, "BLOB_UNKNOWN")
	w.unchanged("acme/secret", 1, `"v1"`)
}

// TestTextsThatNotEveryDatabaseKeeps sends null characters, and what is no UTF-8, where a database would look for
// them or keep them: the answers are the same on every engine.
//
// See hostile-inputs.md#ambiguous-json and hostile-inputs.md#hostile-names.
func TestTextsThatNotEveryDatabaseKeeps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := string(w.pushImage("acme/app", "one", "v1"))
	for _, text := range []string{"%00", "a%00", "%ff", "a%ffb"} {
		for _, query := range []string{"acme/app/tags/list?last=", "_catalog?last=", "acme/app/referrers/" + d + "?artifactType=", "acme/app/referrers/" + d + "?last="} {
			w.expectError(request{as: "admin", path: "/v2/" + query + text}, http.StatusBadRequest, "INVALID_REQUEST")
		}
		w.expect(
			request{
				as:     "admin",
				method: http.MethodPost,
				path:   "/v2/acme/app/blobs/uploads/?mount=" + d + "&from=" + text,
			},
			http.StatusAccepted,
		)
		w.expectError(
			request{as: "admin", method: http.MethodPost, path: "/v2/acme/app/blobs/uploads/?digest=" + text},
			http.StatusBadRequest,
			"DIGEST_INVALID",
		)
		w.expect(
			request{
				path:    "/token/?service=x&account=" + text,
				headers: []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("a\x00:b"))},
			},
			http.StatusUnauthorized,
		)
	}
	config := `{"architecture":"amd64\u0000","os":"\u0000","config":{"Labels":{"a\u0000":"\u0000"}}}`
	image := fmt.Sprintf(
		`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`,
		w.pushBlob("acme/app", config),
		len(config),
	)
	w.expect(manifestPut("/v2/acme/app/manifests/null", image, pulp.OCIManifest), http.StatusCreated)
	m, err := w.store.Serving.ManifestByDigest(t.Context(), digest.FromString(image))
	if err != nil || m.Architecture == nil || *m.Architecture != "amd64\ufffd" || m.OS == nil || *m.OS != "\ufffd" {
		t.Errorf("the image is %v, %v, %v", m.Architecture, m.OS, err)
	}
	listed, _, err := w.store.Lists.Manifests(
		t.Context(),
		list.Query{Where: []list.Filter{list.Where("digest", list.Equal, string(m.Digest))}, Limit: 1},
	)
	if err != nil || len(listed) != 1 || string(listed[0].RawLabels) != "{\"a\ufffd\":\"\ufffd\"}" {
		t.Errorf("the labels are %+v, %v", listed, err)
	}
	w.wantBlob("acme/app", digest.FromString(config), []byte(config))
}

// TestOddNamesAreServed pushes to names that hold the words of the protocol, and finds in each what was pushed there
// and nothing of the others.
//
// See hostile-inputs.md#hostile-names.
func TestOddNamesAreServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	names := []string{
		"a", "blobs", "manifests", "tags", "list", "v2", "token", "uploads", "referrers", "signatures", "extensions/v2", "a/blobs", "a/blobs/uploads", "a/blobs/uploads/b", "a/manifests", "a/manifests/v1", "a/tags/list", "a/tags",
		"a/referrers/b", "a/signatures/b", "blobs/uploads", "blobs/uploads/blobs/uploads", "manifests/manifests/manifests", "tags/list/tags/list", "catalog", "0", "a.b_c__d---e/0", strings.Repeat("a", 255), strings.Repeat("b/", 127) + "b",
	}
	for i, name := range names {
		text := fmt.Sprintf("odd %d.", i)
		d := w.pushImage(name, text, "v1")
		layer := digest.FromString("layer " + text)
		w.wantBlob(name, layer, []byte("layer "+text))
		for _, reference := range []string{"v1", string(d)} {
			if a := w.expect(request{path: "/v2/" + name + "/manifests/" + reference}, http.StatusOK); digest.FromString(
				a.body,
			) != d {
				t.Errorf("%s:%s is %s", name, reference, a.body)
			}
		}
		if a := w.expect(request{path: "/v2/" + name + "/tags/list"}, http.StatusOK); a.body != `{"name":"`+name+`","tags":["v1"]}` {
			t.Errorf("the tags of %s: %s", name, a.body)
		}
		w.expect(request{path: "/v2/" + name + "/referrers/" + string(d)}, http.StatusOK)
		w.expect(request{path: "/extensions/v2/" + name + "/signatures/" + string(d)}, http.StatusOK)
		at := w.start(name)
		w.expect(request{as: "admin", method: http.MethodPatch, path: at, body: "chunk"}, http.StatusAccepted)
		w.expect(
			request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(digest.FromString("chunk"))},
			http.StatusCreated,
		)
		for j := range i {
			w.expectError(
				request{path: "/v2/" + names[j] + "/blobs/" + string(layer)},
				http.StatusNotFound,
				"BLOB_UNKNOWN",
			)
			w.expectError(
				request{path: "/v2/" + names[j] + "/manifests/" + string(d)},
				http.StatusNotFound,
				"MANIFEST_UNKNOWN",
			)
		}
	}
}

// TestHostileTags puts, reads and deletes tags that are none, in the path and as a parameter.
//
// See hostile-inputs.md#hostile-tags.
func TestHostileTags(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	image := w.imageOf("acme/app", "one")
	d := w.pushImage("acme/app", "one", "v1")
	hex := d.Encoded()
	length := []string{"Content-Type", pulp.OCIManifest, "Content-Length", fmt.Sprint(len(image))}
	for _, tag := range []string{
		"..", "../x", "../../other/manifests/v1", "a/b", "/", ".v1", ".", "-v1", "v1 ", " v1", "v1\n", "\nv1", "a\nb", "a\r\nX-Evil: yes", "v1\x00", "\x00", "a:b", "a@b", "a+b", "a~b", "a%b", "a?b", "a#b", "a*", "a\\b", "é", "v\u0661", "v1\u200b",
		"ｖ1", "\xff", strings.Repeat("x", 129), strings.Repeat("x", 20_000), "sha256:" + hex[1:], "latest,v1", `"v1"`,
		// What cosign would take for a companion if it were written well.
		"sha256-" + hex[1:] + ".sig", "sha256-" + hex + "0.att", "sha256-" + strings.ToUpper(hex) + ".sbom", "sha256-.sig", "sha256-" + hex + ".x.sig", "sha256-" + hex + "-.att", "sha256-../x.sig",
	} {
		a := w.sendRaw(
			request{
				as:      "admin",
				method:  http.MethodPut,
				path:    "/v2/acme/app/manifests/" + url.PathEscape(tag),
				body:    image,
				headers: length,
			},
		)
		if dots := tag == "." || tag == ".."; a.status != http.StatusBadRequest && !dots ||
			a.header.Get("X-Evil") != "" {
			t.Errorf("PUT %.150q is answered %d %.300s", tag, a.status, a.body)
		}
		named := w.expectError(
			manifestPut(
				"/v2/acme/app/manifests/"+string(d)+"?tag=good&tag="+url.QueryEscape(tag),
				image,
				pulp.OCIManifest,
			),
			http.StatusBadRequest,
			"TAG_INVALID",
		)
		if strings.Contains(named.body, hex+`"`) && !strings.Contains(tag, hex) {
			t.Errorf("the tag that is refused is told to be the digest: %s", named.body)
		}
		for method, statuses := range map[string]string{http.MethodGet: "400 404", http.MethodHead: "400 404", http.MethodDelete: "400 404"} {
			if a := w.sendRaw(request{as: "admin", method: method, path: "/v2/acme/app/manifests/" + url.PathEscape(tag)}); !strings.Contains(
				statuses,
				fmt.Sprint(a.status),
			) {
				t.Errorf("%s %.150q is answered %d %.300s", method, tag, a.status, a.body)
			}
		}
	}
	// With its slashes as they are, it is a path that there is not.
	for _, target := range []string{"../x", "..", "../../app/manifests/v2", "a/../v2", "v2/", "./v2"} {
		if a := w.sendRaw(request{as: "admin", method: http.MethodPut, path: "/v2/acme/app/manifests/" + target, body: image, headers: length}); a.status != http.StatusNotFound &&
			a.status != http.StatusBadRequest {
			t.Errorf("PUT %s is answered %d %s", target, a.status, a.body)
		}
	}
	w.expectError(
		manifestPut("/v2/acme/app/manifests/"+string(d)+"?tag=", image, pulp.OCIManifest),
		http.StatusBadRequest,
		"TAG_INVALID",
	)
	many := "?tag=again"
	for i := range 100 {
		many += fmt.Sprintf("&tag=again&tag=t%d", i)
	}
	if a := w.expectError(manifestPut("/v2/acme/app/manifests/"+string(d)+many, image, pulp.OCIManifest), http.StatusBadRequest, "TAG_INVALID"); !strings.Contains(
		a.body,
		"A request can set at most 100 tags.",
	) {
		t.Errorf("101 tags: %s", a.body)
	}
	w.unchanged("acme/app", 1, `"v1"`)

	for _, tag := range []string{"0", "_", "v1.2-3_4", "sha256-" + hex, "sha256-" + hex + ".sig", "sha256-short", "mine.sig", strings.Repeat("x", 128)} {
		w.expect(manifestPut("/v2/acme/app/manifests/"+tag, image, pulp.OCIManifest), http.StatusCreated)
		w.expect(request{path: "/v2/acme/app/manifests/" + tag}, http.StatusOK)
	}
}

// told is all that an answer tells, without what differs from one request to the next: times, uploads' ids, and the
// words given.
func told(a response, words ...string) string {
	id := a.header.Get("Docker-Upload-Uuid")
	h := a.header.Clone()
	h.Del("Date")
	h.Del("Content-Length")
	text := fmt.Sprint(a.status, h, a.body)
	for _, word := range append([]string{id}, words...) {
		if word != "" {
			text = strings.ReplaceAll(text, word, "X")
		}
	}
	return text
}

// TestNoOracleOfForeignBlobs asks, in every way that takes a digest, for what a repository holds that the caller may
// not read, and for what no repository holds: the answers are the same, and the caller's repository has neither
// afterwards.
//
// See hostile-inputs.md#foreign-blobs.
func TestNoOracleOfForeignBlobs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pushImage("carol/x", "own", "v1")
	w.pushImage("acme/secret", "hidden", "v1")
	large := w.pushBlob("acme/secret", string(random(50_000, 90)))
	w.private("acme/secret")
	manifest := digest.FromString(
		w.expect(request{as: "acme", path: "/v2/acme/secret/manifests/v1"}, http.StatusOK).body,
	)
	config := digest.FromString(
		w.expect(request{as: "carol", path: "/v2/carol/x/manifests/v1"}, http.StatusOK).body,
	) // any that is there
	token, _ := w.token("carol", "repository:carol/x:pull,push")
	wide, _ := w.token("carol", "repository:carol/x:pull,push", "repository:acme/secret:pull")
	none := digest.FromString("no repository has this")
	image := func(d digest.Digest) string {
		return fmt.Sprintf(
			`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/b","digest":%q,"size":1},"layers":[]}`,
			pulp.OCIManifest,
			d,
		)
	}
	for _, hidden := range []digest.Digest{digest.FromString("layer hidden"), large, manifest} {
		for _, who := range []string{"carol", token, wide, ""} {
			for _, from := range []string{"&from=acme/secret", "", "&from=", "&from=carol/x", "&from=acme/none", "&from=acme%2Fsecret", "&from=../acme/secret", "&from=ACME/secret", "&from=acme/secret&from=carol/x"} {
				try := func(d digest.Digest) response {
					return w.send(
						request{
							as:     who,
							method: http.MethodPost,
							path:   "/v2/carol/x/blobs/uploads/?mount=" + string(d) + from,
						},
					)
				}
				there, not := try(hidden), try(none)
				if told(there, string(hidden)) != told(not, string(none)) ||
					who != "" && there.status != http.StatusAccepted {
					t.Errorf("mount%s as %.10q: %s\nand of nothing %s", from, who, told(there), told(not))
				}
			}
			for _, r := range []struct {
				method, path string
				body         func(digest.Digest) any
			}{
				{method: http.MethodHead, path: "/v2/carol/x/blobs/%s"}, {method: http.MethodGet, path: "/v2/carol/x/blobs/%s"}, {method: http.MethodDelete, path: "/v2/carol/x/blobs/%s"},
				{method: http.MethodHead, path: "/v2/carol/x/manifests/%s"}, {method: http.MethodGet, path: "/v2/carol/x/manifests/%s"}, {method: http.MethodDelete, path: "/v2/carol/x/manifests/%s"},
				{method: http.MethodGet, path: "/v2/carol/x/referrers/%s"}, {method: http.MethodGet, path: "/extensions/v2/carol/x/signatures/%s"},
				{method: http.MethodPost, path: "/v2/carol/x/blobs/uploads/?digest=%s", body: func(digest.Digest) any { return "" }},
				{method: http.MethodPut, path: "/v2/carol/x/manifests/v2", body: func(d digest.Digest) any { return image(d) }},
				// The repository itself: as if it were not there.
				{method: http.MethodHead, path: "/v2/acme/secret/blobs/%s"}, {method: http.MethodGet, path: "/v2/acme/secret/blobs/%s"}, {method: http.MethodDelete, path: "/v2/acme/secret/blobs/%s"},
				{method: http.MethodHead, path: "/v2/acme/secret/manifests/%s"}, {method: http.MethodPost, path: "/v2/acme/secret/blobs/uploads/?mount=%s&from=carol/x"},
			} {
				try := func(d digest.Digest, name string) response {
					path := strings.Replace(r.path, "acme/secret", name, 1)
					if strings.Contains(path, "%s") {
						path = fmt.Sprintf(path, d)
					}
					var body any
					if r.body != nil {
						body = r.body(d)
					}
					return w.send(
						request{
							as:      who,
							method:  r.method,
							path:    path,
							body:    body,
							headers: []string{"Content-Type", pulp.OCIManifest, "Range", "bytes=0-0"},
						},
					)
				}
				there := try(hidden, "acme/secret")
				for _, not := range []response{try(none, "acme/secret"), try(hidden, "acme/nowhere")} {
					if told(
						there,
						string(hidden),
						"acme/secret",
					) != told(
						not,
						string(none),
						string(hidden),
						"acme/nowhere",
						"acme/secret",
					) {
						t.Errorf("%s %s as %.10q: %s\nand of nothing %s", r.method, r.path, who, told(there), told(not))
					}
				}
				if there.status < http.StatusBadRequest && !strings.Contains(r.path, "referrers") {
					t.Errorf("%s %s as %.10q is answered %d", r.method, r.path, who, there.status)
				}
			}
		}
		w.expect(request{as: "acme", path: "/v2/acme/secret/manifests/" + string(manifest)}, http.StatusOK)
	}
	w.expect(
		request{as: "acme", method: http.MethodHead, path: "/v2/acme/secret/blobs/" + string(large)},
		http.StatusOK,
	)
	w.expect(request{as: "carol", path: "/v2/carol/x/manifests/" + string(config)}, http.StatusOK)
	w.unchanged("carol/x", 1, `"v1"`)
}
