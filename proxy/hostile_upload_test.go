package proxy_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestBlobsUnderOtherDigests ends small and large uploads with wrong or malformed digests. It covers
// hostile-inputs.md#bad-digest.
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
				if d != "" { // without a digest it starts an upload
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
				whole, chunked := w.startUpload("acme/app"), w.startUpload("acme/app")
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

// TestHostileChunks sends chunks with wrong positions in the middle and at the end of an upload, and checks that the
// acknowledged bytes remain and the upload can be completed. It covers hostile-inputs.md#bad-chunks.
func TestHostileChunks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, size := range []int{900, 60_000} {
		b := random(size, 12)
		third := size / 3
		d := digest.FromBytes(b)
		at := w.startUpload("acme/app")
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
			wrong(first, of(0, third+1), 0)      // longer than the body
			wrong(first, of(0, third-1), 0)      // shorter
			wrong(first, "0-999999999999999", 0) // far longer
			wrong(nil, "0-0", 0)                 // an empty chunk
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

// TestTwoEndsOfOneUpload ends one upload by concurrent requests, with correct and other bytes, while others send
// chunks. Either the blob has the bytes of the digest, or the upload is gone. It covers hostile-inputs.md#bad-chunks.
func TestTwoEndsOfOneUpload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for round := range 20 {
		b, others := random(40_000, byte(20+round)), random(40_000, byte(60+round))
		if round%2 == 0 { // few bytes, in the row
			b, others = b[:4_000], others[:4_000]
		}
		name := fmt.Sprintf("acme/app-%d", round)
		d, half := digest.FromBytes(b), len(b)/2
		at := w.startUpload(name)
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
						t.Errorf("round %d: %s status %s", round, method, a.body)
					}
				default:
					t.Errorf("round %d: %s status %d %s", round, method, a.status, a.body)
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
			) // any of the chunks may be in it
		}
		if a := w.send(request{path: "/v2/" + name + "/blobs/" + string(d)}); a.status == http.StatusOK &&
			!bytes.Equal([]byte(a.body), b) ||
			created == 1 && a.status != http.StatusOK {
			t.Errorf("round %d: %d bytes of other content, %d", round, len(a.body), a.status)
		}
		w.expectError(request{as: "admin", path: at}, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
	}
}
