package proxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pace"
	"github.com/countersign/countersign/proxy"
)

// random returns so many bytes, the same for the same seed.
func random(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// start opens an upload and returns its location.
func (w *world) start(name string) string {
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
				t.Errorf("POST answers %v", post.header)
			}
			w.wantBlob(name, d, b)

			at := w.start(name + "/put")
			w.expect(
				request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d), body: b},
				http.StatusCreated,
			)
			w.wantBlob(name+"/put", d, b)
			w.expectError(request{as: "admin", path: at}, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")

			at = w.start(name + "/chunks")
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
					t.Errorf("PATCH answers %v", a.header)
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

func TestUploadsThatGrow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := random(60_000, 2)
	at := w.start("acme/app")
	for first := 0; first < len(b); first += 10_000 { // from the database's row into the storage
		w.expect(
			request{as: "admin", method: http.MethodPatch, path: at, body: b[first : first+10_000]},
			http.StatusAccepted,
		)
	}
	d := digest.FromBytes(b)
	w.expect(request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d)}, http.StatusCreated)
	w.wantBlob("acme/app", d, b)
}

// TestBadUploads sends blobs that are not what they claim, and chunks that are not where. See hostile-inputs.md#bad-digest and hostile-inputs.md#bad-chunks.
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
		at := w.start("acme/app")
		w.expectError(
			request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(other), body: b},
			http.StatusBadRequest,
			"DIGEST_INVALID",
		)
		w.expectError(request{as: "admin", path: at}, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN") // compatibility.md#wrong-digests: it is gone
		for _, d := range []digest.Digest{other, digest.FromBytes(b)} {
			w.expectError(request{path: "/v2/acme/app/blobs/" + string(d)}, http.StatusNotFound, "BLOB_UNKNOWN")
		}

		at = w.start("acme/app")
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
				t.Errorf("416 says %v", a.header)
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
		w.start("acme/two")
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
		at := w.start("acme/app")
		w.expectError(
			request{as: "admin", method: http.MethodPut, path: at + "?digest=" + bad, body: "x"},
			http.StatusBadRequest,
			"DIGEST_INVALID",
		)
	}
}

// cutReader gives some bytes and then breaks, as a client does that goes away.
type cutReader struct{ r io.Reader }

func (c cutReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if errors.Is(err, io.EOF) {
		err = errors.New("gone")
	}
	return n, err
}

func TestClientThatGoesAwayResumes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, size := range []int{8_000, 200_000} {
		b := random(size, 4)
		at := w.start("acme/app")
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
			t.Fatalf("a PATCH that was cut short is answered %s", res.Status)
		}
		d := digest.FromBytes(b)
		for { // the server may still be at the request that broke
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
				t.Fatalf("the rest is answered %d %s", a.status, a.body)
			}
		}
		w.wantBlob("acme/app", d, b)
	}
}

// TestTwoWritersNeverMix has eight requests send one chunk at once. See hostile-inputs.md#bad-chunks.
func TestTwoWritersNeverMix(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := random(300_000, 5)
	at := w.start("acme/app")
	var wg sync.WaitGroup
	taken := make(chan int, 8)
	for range 8 {
		wg.Go(func() {
			if a := w.send(request{as: "admin", method: http.MethodPatch, path: at, body: b, headers: []string{"Content-Range", fmt.Sprintf("0-%d", len(b)-1)}}); a.status == http.StatusAccepted {
				taken <- 1
			} else if a.status != http.StatusConflict && a.status != http.StatusRequestedRangeNotSatisfiable {
				t.Errorf("a second writer is answered %d %s", a.status, a.body)
			}
		})
	}
	wg.Wait()
	if len(taken) != 1 {
		t.Errorf("%d writers were let in, want 1", len(taken))
	}
	d := digest.FromBytes(b)
	w.expect(request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d)}, http.StatusCreated)
	w.wantBlob("acme/app", d, b)
}

// TestMounts mounts what one may read, and what one may not. See hostile-inputs.md#foreign-blobs.
func TestMounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, size := range []int{10, 40_000} {
		b := random(size, 6)
		d := string(w.pushBlob("acme/one", string(b)))
		hidden := string(w.pushBlob("acme/secret", string(random(size, 7))))
		w.private("acme/secret")
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
			t.Errorf("mount answers %v", a.header)
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
			) // no oracle: it is an upload
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
		for _, headers := range [][]string{nil, {"Range", "bytes=0-1"}} { // which is for GET
			head := w.expect(request{method: http.MethodHead, path: path, headers: headers}, http.StatusOK)
			if head.header.Get("Content-Length") != fmt.Sprint(size) || head.body != "" ||
				head.header.Get("Accept-Ranges") != "bytes" {
				t.Errorf("HEAD answers %v", head.header)
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

// A client that sends nothing in the middle of a chunk is let go; what it sent stays.
func TestSlowClientIsLetGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pace = pace.Options{BodyWindow: 500 * time.Millisecond}
	w.restart()
	for _, size := range []int{5_000, 50_000} {
		b := random(size, 9)
		at := w.start("acme/app")
		body, end := stall(b)
		a := w.expectError(
			request{as: "admin", method: http.MethodPatch, path: at, body: body},
			http.StatusBadRequest,
			"BLOB_UPLOAD_INVALID",
		)
		end()
		if a.body == "" {
			t.Error("the client is not told")
		}
		if a := w.expect(request{as: "admin", path: at}, http.StatusNoContent); a.header.Get(
			"Range",
		) != fmt.Sprintf(
			"0-%d",
			size-1,
		) {
			t.Errorf("the upload has %s, want 0-%d", a.header.Get("Range"), size-1)
		}
		d := digest.FromBytes(b)
		w.expect(request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d)}, http.StatusCreated)
		w.wantBlob("acme/app", d, b)
	}
}

// stall returns a body that begins and does not end, and what ends it.
func stall(b []byte) (body io.Reader, end func()) {
	r, w := io.Pipe()
	go func() { _, _ = w.Write(b) }()
	// Without an answer the client's transport waits for the end of the body.
	enough := time.AfterFunc(time.Minute, func() { _ = w.CloseWithError(errors.New("not let go")) })
	return r, func() {
		enough.Stop()
		_ = r.Close()
	}
}

// Over HTTP/2 too, and with whatever it is slow.
func TestSlowClientsAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pace = pace.Options{BodyWindow: 500 * time.Millisecond}
	w.restart()
	subject := w.pushImage("acme/app", "one", "v1")
	second := httptest.NewUnstartedServer(pace.Handler(proxy.New(w.options), w.pace))
	second.EnableHTTP2 = true
	second.StartTLS()
	t.Cleanup(second.Close)
	for _, server := range []*httptest.Server{w.server, second} {
		for path, code := range map[string]string{
			"/v2/acme/app/manifests/v2":                             "MANIFEST_INVALID",
			"/extensions/v2/acme/app/signatures/" + string(subject): "SIGNATURE_INVALID",
			w.start("acme/app"):                                     "BLOB_UPLOAD_INVALID",
		} {
			method := http.MethodPut
			if code == "BLOB_UPLOAD_INVALID" {
				method = http.MethodPatch
			}
			body, end := stall([]byte(`{"schemaVersion":`))
			r, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, body)
			if err != nil {
				t.Fatal(err)
			}
			r.SetBasicAuth("admin", "secret")
			res, err := server.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			told, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			end()
			if err != nil || res.StatusCode != http.StatusBadRequest || !strings.Contains(string(told), code) {
				t.Errorf("%s %s is told %s %s, %v", res.Proto, path, res.Status, told, err)
			}
		}
	}
}

// A refusal does not wait for a body that never comes.
func TestRefusedBodyIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pace = pace.Options{Drain: 100 * time.Millisecond}
	w.restart()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", w.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "POST /v2/acme/app/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(conn) // ends when the server closes
	if err != nil || !strings.HasPrefix(string(said), "HTTP/1.1 401 ") {
		t.Errorf("%.100s, %v", said, err)
	}
}

// A chunk without a length of its own that is not as long as it says leaves nothing that it did not announce. Hostile
// input 24.
func TestChunkThatLiesAboutItsLength(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, size := range []int{1_000, 50_000} {
		b := random(size, 10)
		for _, sent := range []int{size / 2, size + 1, 2 * size} {
			at := w.start("acme/app")
			body := io.MultiReader(bytes.NewReader(b), bytes.NewReader(b)) // of no length that the client knows
			w.expectError(
				request{
					as:      "admin",
					method:  http.MethodPatch,
					path:    at,
					body:    io.LimitReader(body, int64(sent)),
					headers: []string{"Content-Range", fmt.Sprintf("0-%d", size-1)},
				},
				http.StatusBadRequest,
				"BLOB_UPLOAD_INVALID",
			)
			has := fmt.Sprintf("0-%d", min(sent, size)-1)
			if a := w.expect(request{as: "admin", path: at}, http.StatusNoContent); a.header.Get("Range") != has {
				t.Errorf("%d bytes sent as %d: the upload has %s, want %s", sent, size, a.header.Get("Range"), has)
			}
		}
		at := w.start("acme/app")
		w.expect(
			request{
				as:      "admin",
				method:  http.MethodPatch,
				path:    at,
				body:    io.MultiReader(bytes.NewReader(b)),
				headers: []string{"Content-Range", fmt.Sprintf("0-%d", size-1)},
			},
			http.StatusAccepted,
		)
		d := digest.FromBytes(b)
		w.expect(request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d)}, http.StatusCreated)
		w.wantBlob("acme/app", d, b)
	}
}
