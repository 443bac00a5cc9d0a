package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/eventually"
)

// fronted is a repository with one pushed image, on a server that reaches its upstream through a fault proxy.
type fronted struct {
	*server
	peer  *upstreamPeer
	proxy *faultProxy
	name  string
	href  string
	image pushed
}

func startFronted(t *testing.T, env ...string) *fronted {
	t.Helper()
	f := &fronted{peer: newPeer(t), name: "fault/app"}
	f.proxy = newFaultProxy(t, f.peer)
	f.server = f.proxy.inFront(t, env...)
	f.image = f.pushed(t, "v1", "one")
	f.href = text(f.repository(t, f.name)["pulp_href"])
	f.caughtUp(t)
	return f
}

// pushed pushes an image, which must be accepted.
func (f *fronted) pushed(t *testing.T, tag, content string) pushed {
	t.Helper()
	image, err := f.pushTiny(t, f.name, tag, content)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// caughtUp waits until the upstream has exactly the tags of the server, with the same digests.
func (f *fronted) caughtUp(t *testing.T) {
	t.Helper()
	// After several failures the outbox waits up to a minute in these tests.
	eventually.NoError(t, process.Patience, func() error { return f.compare(t) }, "the upstream has the tags of the server")
}

// compare returns an error if the upstream's tags differ from those of the server.
func (f *fronted) compare(t *testing.T) error {
	t.Helper()
	here, there := f.tags(t, f.name), tagsOf(t, "http://"+f.peer.address, f.name, "")
	if !slices.Equal(here, there) {
		return fmt.Errorf("tags %v here, %v upstream", here, there)
	}
	for _, tag := range here {
		if ours, theirs := f.digest(t, f.name, tag), f.peer.shows(t, f.name, tag); ours != theirs {
			return fmt.Errorf("%s is %s here, %s upstream", tag, ours, theirs)
		}
	}
	return nil
}

// state returns the values that a push may change: the tags and the latest version.
func (f *fronted) state(t *testing.T) string {
	t.Helper()
	return fmt.Sprint(f.tags(t, f.name), f.get(t, f.href)["latest_version_href"])
}

// refused checks for the answer of a registry with an unavailable upstream, without details of the upstream.
func refused(t *testing.T, what string, status int, header http.Header, body []byte) {
	t.Helper()
	var oci struct {
		Errors []struct{ Code, Message string }
	}
	err := json.Unmarshal(body, &oci)
	if status != http.StatusServiceUnavailable || err != nil || len(oci.Errors) != 1 || oci.Errors[0].Code != "UNAVAILABLE" || header.Get("Retry-After") == "" {
		t.Errorf("%s without the upstream: %d %v %s", what, status, header, body)
	}
	if strings.Contains(string(body), "127.0.0.1") || strings.Contains(string(body), "/srv") || strings.Contains(string(body), "dial") {
		t.Errorf("%s: the answer has too many details: %s", what, body)
	}
}

// knownIsServed checks that content of the database is served.
func (f *fronted) knownIsServed(t *testing.T) {
	t.Helper()
	for _, path := range []string{
		"/v2/" + f.name + "/manifests/v1", "/v2/" + f.name + "/manifests/" + f.image.name, "/v2/" + f.name + "/tags/list", "/v2/_catalog",
		"/v2/" + f.name + "/referrers/" + f.image.name, "/extensions/v2/" + f.name + "/signatures/" + f.image.name, apiRoot + "status/", apiRoot + "livez/",
	} {
		if status, _, said := f.do(t, http.MethodGet, path, nil, nil); status != http.StatusOK {
			t.Errorf("GET %s without the upstream: %d %s", path, status, said)
		}
	}
	if status, _, _ := f.do(t, http.MethodHead, "/v2/"+f.name+"/manifests/v1", nil, nil); status != http.StatusOK {
		t.Errorf("HEAD of a manifest without the upstream: %d", status)
	}
}

// manifestOf returns another manifest of existing blobs.
func (f *fronted) manifestOf(t *testing.T, note string) []byte {
	t.Helper()
	_, _, have := f.do(t, http.MethodGet, "/v2/"+f.name+"/manifests/"+f.image.name, nil, nil)
	var manifest object
	if err := json.Unmarshal(have, &manifest); err != nil {
		t.Fatal(err)
	}
	manifest["annotations"] = object{"note": note}
	made, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// needsUpstream sends all requests that need the upstream, concurrently: each must be answered, and none with success.
func (f *fronted) needsUpstream(t *testing.T) {
	t.Helper()
	blob := []byte("a blob that comes while the upstream is away")
	layer := f.image.blobs[1]
	var asking sync.WaitGroup
	for what, ask := range map[string]struct {
		method, path, contentType string
		body                      []byte
	}{
		"GET of a blob":        {http.MethodGet, "/v2/" + f.name + "/blobs/" + layer, "", nil},
		"a blob in one piece":  {http.MethodPost, "/v2/" + f.name + "/blobs/uploads/?digest=" + describe("", blob).Digest, "application/octet-stream", blob},
		"a large blob":         {http.MethodPost, "/v2/" + f.name + "/blobs/uploads/?digest=" + describe("", blob).Digest, "application/octet-stream", make([]byte, 8<<20)},
		"a manifest by tag":    {http.MethodPut, "/v2/" + f.name + "/manifests/new", ociManifest, f.manifestOf(t, "by tag")},
		"a tag that moves":     {http.MethodPut, "/v2/" + f.name + "/manifests/v1", ociManifest, f.manifestOf(t, "moving")},
		"a mount":              {http.MethodPost, "/v2/fault/other/blobs/uploads/?from=" + f.name + "&mount=" + layer, "", nil},
		"a new name's content": {http.MethodPost, "/v2/fault/new/blobs/uploads/?digest=" + describe("", blob).Digest, "application/octet-stream", blob},
	} {
		asking.Go(func() {
			status, header, body, err := f.try(t, ask.method, ask.path, http.Header{"Content-Type": {ask.contentType}}, ask.body)
			if err != nil {
				t.Errorf("%s without the upstream: %v", what, err)
				return
			}
			refused(t, what, status, header, body)
		})
	}
	for _, path := range []string{"/v2/" + f.name + "/blobs/" + layer, apiRoot + "readyz/"} {
		asking.Go(func() {
			method := http.MethodHead
			if strings.HasPrefix(path, apiRoot) {
				method = http.MethodGet
			}
			if status, _, _, err := f.try(t, method, path, nil, nil); err != nil || status != http.StatusServiceUnavailable {
				t.Errorf("%s %s without the upstream: %d, %v", method, path, status, err)
			}
		})
	}
	asking.Wait()
}

// TestUpstreamOutages makes the upstream unavailable in different ways.
func TestUpstreamOutages(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	for title, take := range map[string]func(f *faultProxy){
		"connections are refused": (*faultProxy).refuse,
		"429":                     func(f *faultProxy) { f.set(always(says(http.StatusTooManyRequests, "2"))) },
		"500":                     func(f *faultProxy) { f.set(always(says(http.StatusInternalServerError, ""))) },
		"503":                     func(f *faultProxy) { f.set(always(says(http.StatusServiceUnavailable, ""))) },
		"it hangs":                func(f *faultProxy) { f.set(always(f.hang)) },
		"it hangs up": func(f *faultProxy) {
			f.set(always(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
		},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			f := startFronted(t)
			service := f.addService(t, "away", trusted, "")
			f.pushed(t, "gone", "to be removed")
			f.caughtUp(t)
			before := f.state(t)
			take(f.proxy)

			f.knownIsServed(t)
			f.needsUpstream(t)
			if up := f.get(t, apiRoot+"status/")["upstream_connection"]; !reflect.DeepEqual(up, map[string]any{"connected": false}) {
				t.Errorf("upstream_connection while the upstream is unavailable: %v", up)
			}
			if after := f.state(t); after != before {
				t.Errorf("pushes that were refused have made %s of %s", after, before)
			}
			if found := f.list(t, pushRepos+"?name=fault/new"); found.Count != 0 && count(f.get(t, text(found.Results[0]["latest_version_href"])), "present", "container.blob") != 0 {
				t.Errorf("a push that was refused left content in %v", found.Results)
			}
			version := f.signed(t, f.href, object{"manifest_signing_service": service}) // signing needs no blobs
			if got := count(version, "added", "container.signature"); got != 2 {
				t.Errorf("%d signatures were made without the upstream, want 2", got)
			}
			if status, _, said := f.do(t, http.MethodDelete, "/v2/"+f.name+"/manifests/gone", nil, nil); status != http.StatusAccepted {
				t.Errorf("a tag's removal without the upstream: %d %s", status, said)
			}
			var adoption struct{ Task string }
			f.call(t, http.MethodPost, apiRoot+"upstream/adopt/", object{"pattern": f.name}, http.StatusAccepted, &adoption)
			f.knownIsServed(t)

			f.proxy.heal(t)
			f.isReady(t)
			f.caughtUp(t) // also with the removed tag
			again(t, "the same push", func() error { _, err := f.pushTiny(t, f.name, "v2", "two"); return err })
			if ended := f.finished(t, adoption.Task); ended["state"] != "completed" {
				t.Errorf("an adoption that waited for the upstream: %v", ended)
			}
			f.isServed(t, f.name, f.image)
			f.caughtUp(t)
			f.versionsAreComplete(t, f.href)
		})
	}
}

// isReady waits until the server reports that it is ready.
func (f *fronted) isReady(t *testing.T) {
	t.Helper()
	within(t, "the server is ready again", func() bool {
		status, _, _ := f.do(t, http.MethodGet, apiRoot+"readyz/", nil, nil)
		return status == http.StatusOK
	})
}

// TestUpstreamFailsPushes breaks a push at each of its requests to the upstream: no part of it is visible, and the same
// push works afterwards.
func TestUpstreamFailsPushes(t *testing.T) {
	t.Parallel()
	begin := func(r *http.Request) bool { return isUpload(r) && r.Method == http.MethodPost }
	chunk := func(r *http.Request) bool { return isUpload(r) && r.Method == http.MethodPatch }
	full := says(http.StatusInsufficientStorage, "")
	f := startFronted(t)
	large := bytes.Repeat([]byte("0123456789abcdef"), 3<<16)
	for n, c := range []struct {
		title string
		rule  rule
	}{
		{"full at the beginning", when(begin, full)},
		{"full at a chunk", when(chunk, full)},
		{"full at a blob's end", when(isBlobCommit, full)},
		{"full at a manifest", when(isManifestPut, full)},
		{"a chunk cut in the middle", when(chunk, f.proxy.cutRequest(1<<20))},
		{"429 at a chunk", when(chunk, says(http.StatusTooManyRequests, "1"))},
		{"503 at a blob's end", when(isBlobCommit, says(http.StatusServiceUnavailable, "1"))},
		{"the answer to a manifest cut off", when(isManifestPut, func(w http.ResponseWriter, r *http.Request) {
			f.proxy.pass.ServeHTTP(&deaf{header: http.Header{}}, r)
			panic(http.ErrAbortHandler)
		})},
		{"the answer to a blob's end cut off", when(isBlobCommit, func(w http.ResponseWriter, r *http.Request) {
			f.proxy.pass.ServeHTTP(&deaf{header: http.Header{}}, r)
			panic(http.ErrAbortHandler)
		})},
	} {
		t.Run(c.title, func(t *testing.T) {
			tag := fmt.Sprintf("t%d", n)
			content := append([]byte(tag), large...)
			before := f.state(t)
			f.proxy.set(c.rule)
			status, header, body := f.pushLarge(t, tag, content)
			refused(t, "the push", status, header, body)
			if after := f.state(t); after != before {
				t.Errorf("a push that was refused has made %s of %s", after, before)
			}
			f.proxy.heal(t)
			if status, _, body := f.pushLarge(t, tag, content); status != http.StatusCreated {
				t.Errorf("the same push afterwards: %d %s", status, body)
			}
			digest := describe("", content).Digest
			if status, _, got := f.do(t, http.MethodGet, "/v2/"+f.name+"/blobs/"+digest, nil, nil); status != http.StatusOK || describe("", got).Digest != digest {
				t.Errorf("the blob afterwards: %d, %d bytes", status, len(got))
			}
		})
	}
	f.caughtUp(t)
	f.versionsAreComplete(t, f.href)
}

// pushLarge pushes an image of one layer with separate requests for the start of the upload, its bytes and its end,
// like clients. It returns the first answer that is an error, or the answer to the manifest.
func (f *fronted) pushLarge(t *testing.T, tag string, layer []byte) (int, http.Header, []byte) {
	t.Helper()
	config := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)
	for _, blob := range [][]byte{config, layer} {
		digest := describe("", blob).Digest
		if status, _, _ := f.do(t, http.MethodHead, "/v2/"+f.name+"/blobs/"+digest, nil, nil); status == http.StatusOK {
			continue
		}
		status, header, body := f.do(t, http.MethodPost, "/v2/"+f.name+"/blobs/uploads/", nil, nil)
		for _, step := range []struct {
			method, query string
			body          []byte
		}{{http.MethodPatch, "", blob}, {http.MethodPut, "?digest=" + digest, nil}} {
			if status >= http.StatusMultipleChoices {
				return status, header, body
			}
			at := header.Get("Location") + step.query
			status, header, body = f.do(t, step.method, at, http.Header{"Content-Type": {"application/octet-stream"}}, step.body)
		}
		if status >= http.StatusMultipleChoices {
			return status, header, body
		}
	}
	manifest, err := json.Marshal(object{
		"schemaVersion": 2, "mediaType": ociManifest, "config": describe(ociConfig, config), "layers": []descriptor{describe(ociLayer, layer)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return f.do(t, http.MethodPut, "/v2/"+f.name+"/manifests/"+tag, http.Header{"Content-Type": {ociManifest}}, manifest)
}

// TestUpstreamBreaksPulls lets the upstream lose blobs, or end in the middle of one: the client gets an error, and
// content of the database is served.
func TestUpstreamBreaksPulls(t *testing.T) {
	t.Parallel()
	f := startFronted(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	if status, _, body := f.pushLarge(t, "large", content); status != http.StatusCreated {
		t.Fatalf("push: %d %s", status, body)
	}
	path := "/v2/" + f.name + "/blobs/" + describe("", content).Digest

	f.proxy.set(when(isBlob, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }))
	status, header, body := f.do(t, http.MethodGet, path, nil, nil)
	refused(t, "a blob that the upstream has lost", status, header, body)
	f.knownIsServed(t)

	f.proxy.set(when(func(r *http.Request) bool { return isBlob(r) && r.Method == http.MethodGet }, f.proxy.cutAnswer(1<<20)))
	if status, _, got, err := f.try(t, http.MethodGet, path, nil, nil); err == nil {
		t.Errorf("a blob that was cut: %d and %d bytes of %d, as if it were whole", status, len(got), len(content))
	}
	f.knownIsServed(t)

	f.proxy.set(always(f.proxy.slow(200 * time.Millisecond)))
	if status, _, got := f.do(t, http.MethodGet, path, nil, nil); status != http.StatusOK || !bytes.Equal(got, content) {
		t.Errorf("a blob from a slow upstream: %d, %d bytes", status, len(got))
	}
	if status, _, got := f.do(t, http.MethodGet, path, http.Header{"Range": {"bytes=1000000-1000009"}}, nil); status != http.StatusPartialContent || !bytes.Equal(got, content[1000000:1000010]) {
		t.Errorf("a range from a slow upstream: %d, %q", status, got)
	}
}

// TestUpstreamStalls lets the upstream stall while it reads a chunk, and in the middle of a blob: neither blocks a
// client forever.
func TestUpstreamStalls(t *testing.T) {
	t.Parallel()
	f := startFronted(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	if status, _, body := f.pushLarge(t, "large", content); status != http.StatusCreated {
		t.Fatalf("push: %d %s", status, body)
	}
	f.proxy.set(func(r *http.Request) http.HandlerFunc {
		switch {
		case isUpload(r) && r.Method == http.MethodPatch:
			return f.proxy.hang
		case isBlob(r) && r.Method == http.MethodGet:
			return f.proxy.stallAnswer(1 << 20)
		}
		return nil
	})
	var waiting sync.WaitGroup
	waiting.Go(func() {
		_, _, got, err := f.try(t, http.MethodGet, "/v2/"+f.name+"/blobs/"+describe("", content).Digest, nil, nil)
		if err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("GET of a blob that stops in the middle: %d bytes, %v; want the server to hang up", len(got), err)
		}
	})
	waiting.Go(func() {
		status, header, body := f.pushLarge(t, "stalled", append([]byte("x"), content...))
		refused(t, "a push that stops in the middle", status, header, body)
	})
	waiting.Wait()
}

// TestUpstreamLostBlob lets the upstream lose a blob permanently: pulls report that it is unavailable, and another push
// of the image restores it.
func TestUpstreamLostBlob(t *testing.T) {
	t.Parallel()
	f := startFronted(t)
	admin := asAdmin(t, f.server)
	content := image(t, "amd64", "lost and found")
	admin.push(t, ociLayout(t, content), f.name+":lost")
	f.caughtUp(t)
	layers, err := content.Layers()
	if err != nil {
		t.Fatal(err)
	}
	path := "/v2/" + f.name + "/blobs/" + digestOf(t, layers[0])
	if status, _, said := f.peer.do(t, http.MethodDelete, path, nil, nil); status != http.StatusAccepted {
		t.Fatalf("removal of the upstream's blob: %d %s", status, said)
	}
	status, header, body := f.do(t, http.MethodGet, path, nil, nil)
	refused(t, "a blob that is lost", status, header, body)
	admin.push(t, ociLayout(t, content), f.name+":lost")
	if said, err := admin.pull(t, admin.open, f.name+":lost"); err != nil {
		t.Errorf("a pull after the image was pushed again: %v\n%s", err, said)
	}
}
