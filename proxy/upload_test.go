package proxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// random returns n pseudo-random bytes for a seed.
func random(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// startUpload starts an upload and returns its location.
func (w *world) startUpload(name string) string {
	w.t.Helper()
	a := w.expect(
		request{as: "admin", method: http.MethodPost, path: "/v2/" + name + "/blobs/uploads/"},
		http.StatusAccepted,
	)
	at := a.header.Get("Location")
	if !strings.HasPrefix(at, "/v2/"+name+"/blobs/uploads/") || a.header.Get("Docker-Upload-Uuid") == "" ||
		a.header.Get("Range") != "0-0" {
		w.t.Errorf("upload opened with %v", a.header)
	}
	return at
}

func (w *world) wantBlob(name string, d digest.Digest, want []byte) {
	w.t.Helper()
	a := w.expect(request{path: "/v2/" + name + "/blobs/" + string(d)}, http.StatusOK)
	if a.body != string(want) || a.header.Get("Docker-Content-Digest") != string(d) ||
		a.header.Get("Content-Type") != "application/octet-stream" {
		w.t.Errorf("blob %s: %d bytes, want %d; %v", d, len(a.body), len(want), a.header)
	}
}

func TestUploads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, size := range []int{0, 1, 16 << 10, 16<<10 + 1, 100_000} {
		b := random(size, 1)
		for _, d := range []digest.Digest{digest.FromBytes(b), digest.SHA512.FromBytes(b)} {
			name := fmt.Sprintf("acme/%s-%d", d.Algorithm(), size)
			post := w.expect(
				request{
					as:     "admin",
					method: http.MethodPost,
					path:   "/v2/" + name + "/blobs/uploads/?digest=" + string(d),
					body:   b,
				},
				http.StatusCreated,
			)
			if post.header.Get("Location") != "/v2/"+name+"/blobs/"+string(d) ||
				post.header.Get("Docker-Content-Digest") != string(d) {
				t.Errorf("POST: response %v", post.header)
			}
			w.wantBlob(name, d, b)

			at := w.startUpload(name + "/put")
			w.expect(
				request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d), body: b},
				http.StatusCreated,
			)
			w.wantBlob(name+"/put", d, b)
			w.expectError(request{as: "admin", path: at}, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")

			at = w.startUpload(name + "/chunks")
			for first := 0; first < size; first += 40_000 {
				last := min(first+40_000, size)
				a := w.expect(
					request{
						as:      "admin",
						method:  http.MethodPatch,
						path:    at,
						body:    b[first:last],
						headers: []string{"Content-Range", fmt.Sprintf("%d-%d", first, last-1)},
					},
					http.StatusAccepted,
				)
				if a.header.Get("Range") != fmt.Sprintf("0-%d", last-1) || a.header.Get("Location") != at {
					t.Errorf("PATCH: response %v", a.header)
				}
				w.restart()
				if a := w.expect(request{as: "admin", path: at}, http.StatusNoContent); a.header.Get(
					"Range",
				) != fmt.Sprintf(
					"0-%d",
					last-1,
				) {
					t.Errorf("after a restart the upload has %s, want 0-%d", a.header.Get("Range"), last-1)
				}
			}
			w.expect(
				request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d)},
				http.StatusCreated,
			)
			w.wantBlob(name+"/chunks", d, b)
		}
	}
}

func TestUploadGrowsIntoStorage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := random(60_000, 2)
	at := w.startUpload("acme/app")
	for first := 0; first < len(b); first += 10_000 { // grows from the row into the storage
		w.expect(
			request{as: "admin", method: http.MethodPatch, path: at, body: b[first : first+10_000]},
			http.StatusAccepted,
		)
	}
	d := digest.FromBytes(b)
	w.expect(request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d)}, http.StatusCreated)
	w.wantBlob("acme/app", d, b)
}

// TestBadUploads uploads blobs with wrong digests and chunks with wrong positions. It covers
// hostile-inputs.md#bad-digest and #bad-chunks.
func TestBadUploads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, size := range []int{100, 50_000} {
		b := random(size, 3)
		other := digest.FromString("other")
		w.expectError(
			request{
				as:     "admin",
				method: http.MethodPost,
				path:   "/v2/acme/app/blobs/uploads/?digest=" + string(other),
				body:   b,
			},
			http.StatusBadRequest,
			"DIGEST_INVALID",
		)
		at := w.startUpload("acme/app")
		w.expectError(
			request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(other), body: b},
			http.StatusBadRequest,
			"DIGEST_INVALID",
		)
		w.expectError(request{as: "admin", path: at}, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN") // the upload has ended
		for _, d := range []digest.Digest{other, digest.FromBytes(b)} {
			w.expectError(request{path: "/v2/acme/app/blobs/" + string(d)}, http.StatusNotFound, "BLOB_UNKNOWN")
		}

		at = w.startUpload("acme/app")
		w.expect(request{as: "admin", method: http.MethodPatch, path: at, body: b}, http.StatusAccepted)
		for _, bad := range []string{fmt.Sprintf("%d-%d", size+1, 2*size), "0-99", fmt.Sprintf("%d-%d", size-1, 2*size-2), fmt.Sprintf("%d-%d", size, size+5)} {
			a := w.expectError(
				request{
					as:      "admin",
					method:  http.MethodPatch,
					path:    at,
					body:    b,
					headers: []string{"Content-Range", bad},
				},
				http.StatusRequestedRangeNotSatisfiable,
				"BLOB_UPLOAD_INVALID",
			)
			if a.header.Get("Range") != fmt.Sprintf("0-%d", size-1) || a.header.Get("Location") != at {
				t.Errorf("416: headers %v", a.header)
			}
		}
		for _, bad := range []string{"bytes 20-30", "5-3", "x", "-", "99999999999999999999-1"} {
			w.expectError(
				request{
					as:      "admin",
					method:  http.MethodPatch,
					path:    at,
					body:    b,
					headers: []string{"Content-Range", bad},
				},
				http.StatusBadRequest,
				"INVALID_REQUEST",
			)
		}
		w.expectError(
			request{as: "admin", path: strings.Replace(at, "acme/app", "acme/none", 1)},
			http.StatusNotFound,
			"NAME_UNKNOWN",
		)
		w.startUpload("acme/two")
		w.expectError(
			request{
				as:     "admin",
				method: http.MethodPatch,
				path:   strings.Replace(at, "acme/app", "acme/two", 1),
				body:   b,
			},
			http.StatusNotFound,
			"BLOB_UPLOAD_UNKNOWN",
		)
		w.expect(request{as: "admin", method: http.MethodDelete, path: at}, http.StatusNoContent)
		w.expectError(
			request{as: "admin", method: http.MethodDelete, path: at},
			http.StatusNotFound,
			"BLOB_UPLOAD_UNKNOWN",
		)
		w.expectError(
			request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(digest.FromBytes(b))},
			http.StatusNotFound,
			"BLOB_UPLOAD_UNKNOWN",
		)
	}
	for _, bad := range []string{"", "sha256:", "sha256:" + strings.Repeat("0", 63), "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:../../etc/passwd", "sha256:" + strings.Repeat("A", 64)} {
		at := w.startUpload("acme/app")
		w.expectError(
			request{as: "admin", method: http.MethodPut, path: at + "?digest=" + bad, body: "x"},
			http.StatusBadRequest,
			"DIGEST_INVALID",
		)
	}
}

// cutReader returns some bytes and then an error, like the body of a client that disconnects.
type cutReader struct{ r io.Reader }

func (c cutReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if errors.Is(err, io.EOF) {
		err = errors.New("gone")
	}
	return n, err
}

func TestInterruptedUploadResumes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, size := range []int{8_000, 200_000} {
		b := random(size, 4)
		at := w.startUpload("acme/app")
		w.expect(request{as: "admin", method: http.MethodPatch, path: at, body: b[:size/4]}, http.StatusAccepted)
		r, err := http.NewRequestWithContext(
			t.Context(),
			http.MethodPatch,
			w.server.URL+at,
			cutReader{bytes.NewReader(b[size/4 : size/2])},
		)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth("admin", "secret")
		if res, err := http.DefaultClient.Do(r); err == nil {
			_ = res.Body.Close()
			t.Fatalf("a PATCH that was cut short status %s", res.Status)
		}
		d := digest.FromBytes(b)
		for { // the server may still process the interrupted request
			a := w.expect(request{as: "admin", path: at}, http.StatusNoContent)
			var last int
			if n, err := fmt.Sscanf(a.header.Get("Range"), "0-%d", &last); n != 1 || err != nil || last+1 < size/4 ||
				last >= size/2 {
				t.Fatalf("the upload has %q, %v, want %d to %d bytes", a.header.Get("Range"), err, size/4, size/2)
			}
			a = w.send(
				request{
					as:      "admin",
					method:  http.MethodPut,
					path:    at + "?digest=" + string(d),
					body:    b[last+1:],
					headers: []string{"Content-Range", fmt.Sprintf("%d-%d", last+1, size-1)},
				},
			)
			if a.status == http.StatusCreated {
				break
			}
			if a.status != http.StatusConflict && a.status != http.StatusRequestedRangeNotSatisfiable {
				t.Fatalf("the rest: status %d %s", a.status, a.body)
			}
		}
		w.wantBlob("acme/app", d, b)
	}
}

// TestTwoWritersNeverMix sends one chunk by eight concurrent requests. It covers hostile-inputs.md#bad-chunks.
func TestTwoWritersNeverMix(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := random(300_000, 5)
	at := w.startUpload("acme/app")
	var wg sync.WaitGroup
	taken := make(chan int, 8)
	for range 8 {
		wg.Go(func() {
			if a := w.send(request{as: "admin", method: http.MethodPatch, path: at, body: b, headers: []string{"Content-Range", fmt.Sprintf("0-%d", len(b)-1)}}); a.status == http.StatusAccepted {
				taken <- 1
			} else if a.status != http.StatusConflict && a.status != http.StatusRequestedRangeNotSatisfiable {
				t.Errorf("a second writer: status %d %s", a.status, a.body)
			}
		})
	}
	wg.Wait()
	if len(taken) != 1 {
		t.Errorf("%d writers were accepted, want 1", len(taken))
	}
	d := digest.FromBytes(b)
	w.expect(request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d)}, http.StatusCreated)
	w.wantBlob("acme/app", d, b)
}

// TestMounts mounts blobs with and without permission to read them. It covers hostile-inputs.md#foreign-blobs.
func TestMounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, size := range []int{10, 40_000} {
		b := random(size, 6)
		d := string(w.pushBlob("acme/one", string(b)))
		hidden := string(w.pushBlob("acme/secret", string(random(size, 7))))
		w.setPrivate("acme/secret")
		query := func(d, from string) string {
			return "?mount=" + d + "&from=" + from
		}
		a := w.expect(
			request{
				as:     "carol",
				method: http.MethodPost,
				path:   fmt.Sprintf("/v2/carol/%d/blobs/uploads/%s", size, query(d, "acme/one")),
			},
			http.StatusCreated,
		)
		if a.header.Get("Docker-Content-Digest") != d {
			t.Errorf("mount: response %v", a.header)
		}
		w.wantBlob(fmt.Sprintf("carol/%d", size), digest.Digest(d), b)
		w.expect(
			request{
				as:     "carol",
				method: http.MethodPost,
				path:   fmt.Sprintf("/v2/carol/%d-b/blobs/uploads/?mount=%s", size, d),
			},
			http.StatusCreated,
		)
		for _, q := range []string{query(hidden, "acme/secret"), query(hidden, "acme/one"), "?mount=" + hidden, query(hidden, "../x"), query("sha256:x", "acme/one"), query(d, "acme/none")} {
			w.expect(
				request{as: "carol", method: http.MethodPost, path: "/v2/carol/x/blobs/uploads/" + q},
				http.StatusAccepted,
			) // it starts an upload and discloses nothing
		}
		w.expectError(request{as: "carol", path: "/v2/carol/x/blobs/" + hidden}, http.StatusNotFound, "BLOB_UNKNOWN")
		w.expect(
			request{
				as:     "acme",
				method: http.MethodPost,
				path:   "/v2/acme/x/blobs/uploads/" + query(hidden, "acme/secret"),
			},
			http.StatusCreated,
		)
	}
}

func TestBlobs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, size := range []int{1_000, 50_000} {
		b := random(size, 8)
		path := "/v2/acme/app/blobs/" + string(w.pushBlob("acme/app", string(b)))
		for _, headers := range [][]string{nil, {"Range", "bytes=0-1"}} { // ignored by HEAD
			head := w.expect(request{method: http.MethodHead, path: path, headers: headers}, http.StatusOK)
			if head.header.Get("Content-Length") != fmt.Sprint(size) || head.body != "" ||
				head.header.Get("Accept-Ranges") != "bytes" {
				t.Errorf("HEAD: response %v", head.header)
			}
		}
		part := w.expect(request{path: path, headers: []string{"Range", "bytes=10-19"}}, http.StatusPartialContent)
		if part.body != string(b[10:20]) || part.header.Get("Content-Range") != fmt.Sprintf("bytes 10-19/%d", size) {
			t.Errorf("a range is %d bytes, %v", len(part.body), part.header)
		}
		w.expect(
			request{path: path, headers: []string{"Range", "bytes=9999999-"}},
			http.StatusRequestedRangeNotSatisfiable,
		)
		w.expect(request{as: "admin", method: http.MethodDelete, path: path}, http.StatusAccepted)
		w.expectError(request{as: "admin", method: http.MethodDelete, path: path}, http.StatusNotFound, "BLOB_UNKNOWN")
		w.expectError(request{path: path}, http.StatusNotFound, "BLOB_UNKNOWN")
	}
	w.expectError(
		request{as: "admin", method: http.MethodDelete, path: "/v2/acme/app/blobs/foo"},
		http.StatusBadRequest,
		"INVALID_REQUEST",
	)
	w.expectError(request{path: "/v2/acme/app/blobs/foo"}, http.StatusBadRequest, "DIGEST_INVALID")
	w.pushImage("acme/app", "one", "v1")
	w.expectError(
		request{
			as:     "admin",
			method: http.MethodDelete,
			path:   "/v2/acme/app/blobs/" + string(digest.FromString("layer one")),
		},
		http.StatusConflict,
		"DENIED",
	)
	w.expectError(
		request{as: "admin", method: http.MethodPost, path: "/v2/acme/app/manifests/v1"},
		http.StatusMethodNotAllowed,
		"UNSUPPORTED",
	)
}
