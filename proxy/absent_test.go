package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/proxy"
)

// newMirroredWorld creates the repository mirror/app with an image whose layer is absent. It returns the digests of
// the image and the layer, and the number of requests for the layer that the remote received.
func newMirroredWorld(
	t *testing.T,
	layer []byte,
	policy pulp.Policy,
	serve http.HandlerFunc,
	edits ...func(*ingest.BlobFetcher),
) (*world, digest.Digest, digest.Digest, *atomic.Int64) {
	t.Helper()
	w := newFetchingWorld(t, edits...)
	m, asked := w.addMirror("app", policy, serve, layer)
	return w, m, digest.FromBytes(layer), asked
}

// newFetchingWorld returns a world that fetches absent blobs.
func newFetchingWorld(t *testing.T, edits ...func(*ingest.BlobFetcher)) *world {
	t.Helper()
	return newWorld(t, func(o *proxy.Options) {
		quiet := slog.New(slog.DiscardHandler)
		fetcher := &ingest.BlobFetcher{
			Store: o.Store, Blobs: ingest.Blobs{Storage: o.Storage, Inline: o.InlineLimit}, Log: quiet, Idle: time.Second,
			Mirror: mirror.New(
				mirror.Options{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Log: quiet},
			),
		}
		for _, edit := range edits {
			edit(fetcher)
		}
		o.Fetcher = fetcher
	})
}

// addMirror creates the remote NAME, served by a function, and the repository mirror/NAME with an image whose layers
// are absent. It returns the digest of the image and the number of requests that the remote received.
func (w *world) addMirror(
	name string,
	policy pulp.Policy,
	serve http.HandlerFunc,
	layers ...[]byte,
) (digest.Digest, *atomic.Int64) {
	w.t.Helper()
	asked := &atomic.Int64{}
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		serve(w, r)
	}))
	w.t.Cleanup(source.Close)
	ctx, none := w.t.Context(), int64(0)
	remote, err := w.store.Catalog.CreateRemote(
		ctx,
		pulp.Remote{Name: name, URL: source.URL, UpstreamName: "src/app", Policy: policy,
			Connection: pulp.Connection{TLSValidation: true, MaxRetries: &none}}, 0,
	)
	if err != nil {
		w.t.Fatal(err)
	}
	repo, err := w.store.Catalog.CreateRepository(
		ctx,
		pulp.Repository{Type: pulp.Container, Name: "mirror/" + name, RemoteID: remote.ID}, 0,
	)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.store.Catalog.CreateDistribution(ctx, nil, pulp.Distribution{Name: name, BasePath: "mirror/" + name, RepositoryID: repo.ID}, 0); err != nil {
		w.t.Fatal(err)
	}
	return w.addSyncedImage(repo, remote, layers...), asked
}

// addSyncedImage stores an image as a sync with the policy on_demand or streamed does: its layers are absent. It
// returns the digest of the image.
func (w *world) addSyncedImage(repo pulp.Repository, remote pulp.Remote, layers ...[]byte) digest.Digest {
	w.t.Helper()
	ctx, config := w.t.Context(), []byte("{}")
	blobs := []pulp.Blob{{Digest: digest.FromBytes(config), Size: 2, Data: config, Inline: true}}
	var listed []string
	for _, layer := range layers {
		d := digest.FromBytes(layer)
		blobs = append(blobs, pulp.Blob{Digest: d, Size: int64(len(layer)), Absent: true})
		listed = append(listed, fmt.Sprintf(`{"mediaType":"a/b","digest":%q,"size":%d}`, d, len(layer)))
	}
	m := []byte(
		fmt.Sprintf(
			`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[%s]}`,
			pulp.OCIManifest,
			digest.FromBytes(config),
			strings.Join(listed, ","),
		),
	)
	parsed, err := pulp.ParseManifest(m, pulp.OCIManifest)
	if err != nil {
		w.t.Fatal(err)
	}
	parsed.Digest = digest.FromBytes(m)
	for _, b := range blobs {
		if err := w.store.Content.FetchedBlob(ctx, repo.ID, remote.ID, b); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.store.Content.FetchedManifest(ctx, repo.ID, parsed); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.store.Content.CommitSync(ctx, nil, content.Synced{RepositoryID: repo.ID, Tags: map[string]digest.Digest{"latest": parsed.Digest}}); err != nil {
		w.t.Fatal(err)
	}
	return parsed.Digest
}

func TestAbsentBlobs(t *testing.T) {
	t.Parallel()
	layer := random(300_000, 21)
	gate := make(chan struct{})
	w, _, d, asked := newMirroredWorld(t, layer, pulp.OnDemand, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(layer[:100_000])
		<-gate
		_, _ = w.Write(layer[100_000:])
	})
	path := "/v2/mirror/app/blobs/" + string(d)
	if a := w.expect(request{method: http.MethodHead, path: path}, http.StatusOK); a.header.Get(
		"Content-Length",
	) != fmt.Sprint(
		len(layer),
	) ||
		asked.Load() != 0 {
		t.Errorf("HEAD %v, the remote was asked %d times", a.header, asked.Load())
	}
	var all sync.WaitGroup
	for i := range 5 {
		all.Go(func() {
			if i == 0 {
				a := w.expect(request{path: path, headers: []string{"Range", "bytes=10-19"}}, http.StatusPartialContent)
				if a.body != string(layer[10:20]) {
					t.Error("a range has other bytes")
				}
				return
			}
			w.wantBlob("mirror/app", d, layer)
		})
	}
	close(gate)
	all.Wait()
	w.wantBlob("mirror/app", d, layer)
	if asked.Load() != 1 {
		t.Errorf("the remote was asked %d times, want once", asked.Load())
	}
}

// TestFetchContinuesWithoutItsClient checks that the client that starts a fetch receives the bytes as they arrive,
// and that its disconnection does not end the fetch.
func TestFetchContinuesWithoutItsClient(t *testing.T) {
	t.Parallel()
	layer := random(3_000_000, 22)
	left := make(chan struct{})
	w, _, d, _ := newMirroredWorld(t, layer, pulp.OnDemand, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(layer[:1_000_000])
		<-left
		_, _ = w.Write(layer[1_000_000:])
	})
	res, err := http.Get(w.server.URL + "/v2/mirror/app/blobs/" + string(d))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(res.Body, make([]byte, 500_000)); err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	close(left)
	w.wantBlob("mirror/app", d, layer)
}

// TestSlowClientDoesNotDelayOthers checks that a client that reads slowly delays the fetch only for a short time, and
// that it receives the whole blob in the end.
func TestSlowClientDoesNotDelayOthers(t *testing.T) {
	t.Parallel()
	layer := random(48<<20, 25)
	w, _, d, _ := newMirroredWorld(
		t,
		layer,
		pulp.OnDemand,
		func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(layer) },
		func(f *ingest.BlobFetcher) { f.Idle = time.Second },
	)
	small := &http.Client{
		Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if c, ok := conn.(*net.TCPConn); ok && err == nil {
				err = c.SetReadBuffer(64 << 10)
			}
			return conn, err
		}},
	}
	r, err := http.NewRequestWithContext(
		t.Context(),
		http.MethodGet,
		w.server.URL+"/v2/mirror/app/blobs/"+string(d),
		nil,
	)
	if err != nil {
		t.Fatal(err)
	}
	res, err := small.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	others := make(chan struct{})
	go func() {
		defer close(others)
		w.wantBlob("mirror/app", d, layer)
	}()
	var got bytes.Buffer
	for waiting := true; waiting; { // each piece arrives within the idle timeout
		if _, err := io.CopyN(&got, res.Body, 64<<10); err != nil || got.Len() > len(layer)/2 {
			t.Fatalf("the slow client has %d bytes before the other has the blob: %v", got.Len(), err)
		}
		select {
		case <-others:
			waiting = false
		case <-time.After(20 * time.Millisecond):
		}
	}
	if _, err := io.Copy(&got, res.Body); err != nil || !bytes.Equal(got.Bytes(), layer) {
		t.Errorf("the slow client has %d of %d bytes: %v", got.Len(), len(layer), err)
	}
}

func TestStreamedBlob(t *testing.T) {
	t.Parallel()
	layer := random(100_000, 23)
	w, _, d, asked := newMirroredWorld(
		t,
		layer,
		pulp.Streamed,
		func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(layer) },
	)
	for range 2 {
		w.wantBlob("mirror/app", d, layer)
	}
	if asked.Load() != 2 {
		t.Errorf("the remote was asked %d times, want twice", asked.Load())
	}
}

func TestRemoteWithWrongContent(t *testing.T) {
	t.Parallel()
	layer := random(100_000, 24)
	status := http.StatusOK
	w, _, d, _ := newMirroredWorld(t, layer, pulp.OnDemand, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write(bytes.Repeat([]byte("x"), len(layer)))
	})
	path := "/v2/mirror/app/blobs/" + string(d)
	res, err := http.Get(w.server.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err == nil || len(got) == len(layer) {
		t.Errorf("%d wrong bytes end with %v", len(got), err)
	}
	w.expect(request{method: http.MethodHead, path: path}, http.StatusOK) // the remote may send the right content later
	status = http.StatusNotFound
	w.expectError(request{path: path}, http.StatusNotFound, "BLOB_UNKNOWN")
	w.expect(request{method: http.MethodHead, path: path}, http.StatusNotFound)
	remotes, _, err := w.store.Lists.Remotes(t.Context(), list.Query{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.Catalog.DeleteRemote(t.Context(), nil, remotes[0].ID); err != nil {
		t.Fatal(err)
	}
	w.expectError(request{path: path}, http.StatusNotFound, "BLOB_UNKNOWN")
}

// TestMirrorsAreReadOnly checks that a mirrored repository rejects pushes unless the configuration permits them, and
// accepts them once it has no remote.
func TestMirrorsAreReadOnly(t *testing.T) {
	t.Parallel()
	layer := random(100_000, 25)
	w, m, d, _ := newMirroredWorld(
		t,
		layer,
		pulp.OnDemand,
		func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(layer) },
	)
	refused := func() {
		t.Helper()
		w.expectError(
			request{as: "admin", method: http.MethodPost, path: "/v2/mirror/app/blobs/uploads/"},
			http.StatusBadRequest,
			"NAME_INVALID",
		)
		w.expectError(
			request{
				as:      "admin",
				method:  http.MethodPut,
				path:    "/v2/mirror/app/manifests/x",
				body:    `{"schemaVersion":2,"manifests":[]}`,
				headers: []string{"Content-Type", pulp.OCIIndex},
			},
			http.StatusBadRequest,
			"NAME_INVALID",
		)
		w.expectError(
			request{as: "admin", method: http.MethodDelete, path: "/v2/mirror/app/manifests/" + string(m)},
			http.StatusBadRequest,
			"NAME_INVALID",
		)
	}
	refused()
	if a := w.send(request{as: "admin", method: http.MethodPut, path: "/extensions/v2/mirror/app/signatures/" + string(m), body: "{"}); a.code() != "SIGNATURE_INVALID" {
		t.Errorf("a signature: status %d %s", a.status, a.body)
	}
	// An absent blob can be mounted after it was fetched.
	mount := "/v2/acme/app/blobs/uploads/?mount=" + string(d) + "&from=mirror/app"
	w.expect(request{as: "acme", method: http.MethodPost, path: mount}, http.StatusAccepted)
	w.wantBlob("mirror/app", d, layer)
	w.wantBlob("mirror/app", d, layer) // the fetch has stored the blob
	w.expect(request{as: "acme", method: http.MethodPost, path: mount}, http.StatusCreated)
	w.wantBlob("acme/app", d, layer)
	w.options.PushToMirrors = true
	w.restart()
	w.expect(request{as: "admin", method: http.MethodPost, path: "/v2/mirror/app/blobs/uploads/"}, http.StatusAccepted)
	w.options.PushToMirrors = false
	w.restart()
	remotes, _, err := w.store.Lists.Remotes(t.Context(), list.Query{Limit: 1})
	if err != nil || len(remotes) != 1 || strings.Contains(fmt.Sprint(remotes), "secret") {
		t.Fatal(remotes, err)
	}
	if err := w.store.Catalog.DeleteRemote(t.Context(), nil, remotes[0].ID); err != nil {
		t.Fatal(err)
	}
	w.expect(request{as: "admin", method: http.MethodPost, path: "/v2/mirror/app/blobs/uploads/"}, http.StatusAccepted)
}
