package proxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pace"
	"github.com/countersign/countersign/proxy"
)

// TestStalledClientIsDisconnected checks that a client that stalls in the middle of a chunk is disconnected, and that
// the upload keeps the bytes it sent.
func TestStalledClientIsDisconnected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pace = pace.Options{BodyWindow: 500 * time.Millisecond}
	w.restart()
	for _, size := range []int{5_000, 50_000} {
		b := random(size, 9)
		at := w.startUpload("acme/app")
		body, end := stall(b)
		a := w.expectError(
			request{as: "admin", method: http.MethodPatch, path: at, body: body},
			http.StatusBadRequest,
			"BLOB_UPLOAD_INVALID",
		)
		end()
		if a.body == "" {
			t.Error("the client gets no response")
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

// stall returns a body that stalls after some bytes, and a function that ends it.
func stall(b []byte) (body io.Reader, end func()) {
	r, w := io.Pipe()
	go func() { _, _ = w.Write(b) }()
	// Without a response the client's transport waits for the end of the body.
	enough := time.AfterFunc(time.Minute, func() { _ = w.CloseWithError(errors.New("not disconnected")) })
	return r, func() {
		enough.Stop()
		_ = r.Close()
	}
}

// TestSlowClientsAreTold checks that slow clients get an error response with every kind of body, over HTTP/1.1 and
// HTTP/2.
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
			w.startUpload("acme/app"):                               "BLOB_UPLOAD_INVALID",
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
				t.Errorf("%s %s status %s %s, %v", res.Proto, path, res.Status, told, err)
			}
		}
	}
}

// TestRefusedBodyIsNotWaitedFor checks that an error response does not wait for a body that never arrives.
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

// TestChunkWithWrongLength checks that a chunk of unknown length whose Content-Range is wrong adds no unannounced
// bytes. It covers hostile-inputs.md#bad-chunks.
func TestChunkWithWrongLength(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, size := range []int{1_000, 50_000} {
		b := random(size, 10)
		for _, sent := range []int{size / 2, size + 1, 2 * size} {
			at := w.startUpload("acme/app")
			body := io.MultiReader(bytes.NewReader(b), bytes.NewReader(b)) // of unknown length
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
		at := w.startUpload("acme/app")
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
