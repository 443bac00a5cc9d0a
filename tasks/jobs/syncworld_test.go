package jobs_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/storage/embedded"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/jobs"
	"github.com/countersign/countersign/tasks/memqueue"
)

// remoteRegistry is a remote that records requests and can misbehave.
type remoteRegistry struct {
	*testing.T
	server *httptest.Server

	mu    sync.Mutex
	asked []string // as "GET /v2/..."
	// base64, by manifest; nil: the remote has no signature extension
	signatures map[digest.Digest][]string
	before     func(w http.ResponseWriter, r *http.Request) bool // reports whether it has answered the request
}

func newRemote(t *testing.T) *remoteRegistry {
	t.Helper()
	g := &remoteRegistry{T: t}
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	g.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.asked = append(g.asked, r.Method+" "+r.URL.Path)
		before, signatures := g.before, g.signatures
		g.mu.Unlock()
		if before != nil && before(w, r) {
			return
		}
		if signatures != nil {
			w.Header().Set("X-Registry-Supports-Signatures", "1")
			if _, d, ok := strings.Cut(r.URL.Path, "/signatures/"); ok {
				type entry struct {
					SchemaVersion int    `json:"schemaVersion"`
					Type          string `json:"type"`
					Name          string `json:"name"`
					Content       string `json:"content"`
				}
				list := []entry{}
				for i, s := range signatures[digest.Digest(d)] {
					list = append(list, entry{2, "atomic", d + "@" + fmt.Sprintf("%032x", i), s})
				}
				_ = json.NewEncoder(w).Encode(map[string]any{"signatures": list})
				return
			}
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(g.server.Close)
	return g
}

func (g *remoteRegistry) set(before func(w http.ResponseWriter, r *http.Request) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.before = before
}

// count returns the numbers of requests since the last call, by method and the path after /v2/src/app.
func (g *remoteRegistry) count() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := map[string]int{}
	for _, a := range g.asked {
		method, path, _ := strings.Cut(a, " ")
		parts := strings.Split(strings.TrimPrefix(path, "/v2/src/app/"), "/")
		n[method+" "+parts[0]]++
	}
	g.asked = nil
	return n
}

func (g *remoteRegistry) put(path, contentType string, body []byte) {
	g.Helper()
	q, err := http.NewRequestWithContext(g.Context(), http.MethodPut, g.server.URL+path, bytes.NewReader(body))
	if err != nil {
		g.Fatal(err)
	}
	q.Header.Set("Content-Type", contentType)
	res, err := http.DefaultClient.Do(q)
	if err != nil || res.StatusCode != http.StatusCreated {
		g.Fatalf("PUT %s: %v %v", path, res, err)
	}
	_ = res.Body.Close()
}

func (g *remoteRegistry) blob(b []byte) pulp.Descriptor {
	g.Helper()
	d := digest.FromBytes(b)
	res, err := http.Post(g.server.URL+"/v2/src/app/blobs/uploads/?digest="+string(d), "application/octet-stream", bytes.NewReader(b))
	if err != nil || res.StatusCode != http.StatusCreated {
		g.Fatalf("blob: %v %v", res, err)
	}
	_ = res.Body.Close()
	return pulp.Descriptor{Digest: d, Size: int64(len(b))}
}

// image stores an image with a config and layers of these sizes under tags or, without tags, by digest.
func (g *remoteRegistry) image(name string, layers []int, tags ...string) digest.Digest {
	g.Helper()
	config := g.blob([]byte(`{"architecture":"amd64","os":"linux","config":{"Labels":{"name":"` + name + `"}}}`))
	text := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[`,
		pulp.OCIManifest, config.Digest, config.Size)
	for i, size := range layers {
		if i > 0 {
			text += ","
		}
		l := g.blob(bytes.Repeat([]byte(name+fmt.Sprint(i)), size/len(name+"0")+1))
		text += fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}`, l.Digest, l.Size)
	}
	text += "]}"
	return g.manifest(pulp.OCIManifest, text, tags...)
}

func (g *remoteRegistry) manifest(mediaType, text string, tags ...string) digest.Digest {
	g.Helper()
	d := digest.FromString(text)
	for _, reference := range append(tags, string(d)) {
		g.put("/v2/src/app/manifests/"+reference, mediaType, []byte(text))
	}
	return d
}

func (g *remoteRegistry) index(children []digest.Digest, tags ...string) digest.Digest {
	g.Helper()
	list := make([]map[string]any, len(children))
	for i, c := range children {
		list[i] = map[string]any{"mediaType": pulp.OCIManifest, "digest": c, "size": 100}
	}
	text, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": pulp.OCIIndex, "manifests": list})
	if err != nil {
		g.Fatal(err)
	}
	return g.manifest(pulp.OCIIndex, string(text), tags...)
}

// mirrorWorld is a worker for sync jobs with real stores.
type mirrorWorld struct {
	*testing.T
	store      *store.Store
	blobs      ingest.Blobs
	dispatcher *tasks.Dispatcher
	repo       pulp.Repository
	remote     pulp.Remote
	fetcher    *ingest.BlobFetcher
	network    *mirror.Network
}

// serve starts a worker. A function may change its options.
func (w *mirrorWorld) serve(change func(*jobs.Options)) {
	w.Helper()
	quiet, queue := slog.New(slog.DiscardHandler), &memqueue.Queue{}
	o := jobs.Options{
		Store: w.store, Log: quiet, Host: "registry.example", Parallel: 2, Mirror: w.network, Blobs: w.blobs, Validator: ingest.SignatureValidator{Store: w.store},
	}
	if change != nil {
		change(&o)
	}
	worker := tasks.NewWorker(tasks.WorkerOptions{Store: w.store, Queue: queue, Log: quiet, Jobs: jobs.All(o)})
	w.dispatcher = tasks.NewDispatcher(w.store, queue, worker, quiet)
}

func newMirror(t *testing.T, g *remoteRegistry, change func(*pulp.Remote)) *mirrorWorld {
	t.Helper()
	s := storetest.Open(t)
	files, err := embedded.New(t.Context(), embedded.Options{Driver: "filesystem", Parameters: map[string]any{"rootdirectory": t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	w := &mirrorWorld{T: t, store: s, blobs: ingest.Blobs{Storage: files, Inline: 1000}}
	network := mirror.New(mirror.Options{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Log: quiet})
	w.fetcher = &ingest.BlobFetcher{Store: s, Blobs: w.blobs, Mirror: network, Log: quiet, Idle: time.Second}
	w.network = network
	w.serve(nil)
	few := int64(0)
	r := pulp.Remote{Name: "src", URL: g.server.URL, UpstreamName: "src/app", Policy: pulp.Immediate, Connection: pulp.Connection{TLSValidation: true, MaxRetries: &few}}
	if change != nil {
		change(&r)
	}
	if w.remote, err = s.Catalog.CreateRemote(t.Context(), r, 0); err != nil {
		t.Fatal(err)
	}
	if w.repo, err = s.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: "dst/app", RemoteID: w.remote.ID}, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Catalog.CreateDistribution(t.Context(), nil, pulp.Distribution{Name: "dst/app", BasePath: "dst/app", RepositoryID: w.repo.ID}, 0); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *mirrorWorld) sync(want taskstore.TaskState, change func(*tasks.SyncArgs)) taskstore.Task {
	w.Helper()
	args := tasks.SyncArgs{RepositoryID: w.repo.ID, RemoteID: w.remote.ID}
	if change != nil {
		change(&args)
	}
	k, err := w.dispatcher.Dispatch(w.Context(), tasks.BySystem(), tasks.Spec{Name: tasks.Sync, Args: args, Immediate: true})
	if err != nil || k.State != want {
		w.Fatalf("the task is %s %+v, %v, want %s", k.State, k.Error, err, want)
	}
	return k
}

func (w *mirrorWorld) latest() pulp.Version {
	w.Helper()
	r, err := w.store.Catalog.Repository(w.Context(), pulp.Container, w.repo.ID)
	if err != nil {
		w.Fatal(err)
	}
	v, err := w.store.Content.Version(w.Context(), r.ID, r.LatestVersion)
	if err != nil {
		w.Fatal(err)
	}
	return v
}

// held is a summary of a version: its number and the numbers of its units.
type held struct {
	version, blobs, manifests, tags, signatures int64
}

// wantHeld compares the summary of the latest version.
func (w *mirrorWorld) wantHeld(want held) {
	w.Helper()
	v := w.latest()
	got := held{
		version: v.Number, blobs: v.Counts[pulp.KindBlob].Present, manifests: v.Counts[pulp.KindManifest].Present,
		tags: v.Counts[pulp.KindTag].Present, signatures: v.Counts[pulp.KindSignature].Present,
	}
	if got != want {
		w.Errorf("the latest version has %+v, want %+v", got, want)
	}
}

func (w *mirrorWorld) target() record.Target {
	w.Helper()
	t, err := w.store.Serving.Resolve(w.Context(), "dst/app")
	if err != nil {
		w.Fatal(err)
	}
	return t
}

// fillRemote stores two tags: an image, and an index of two images that share a layer with it.
func fillRemote(g *remoteRegistry) (one, index digest.Digest) {
	one = g.image("one", []int{50_000, 10}, "latest")
	return one, g.index([]digest.Digest{g.image("amd", []int{40_000}), g.image("arm", []int{40_000})}, "multi")
}
