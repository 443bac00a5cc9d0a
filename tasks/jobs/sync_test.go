package jobs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
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
	s, err := store.Open(t.Context(), pgtest.Or(t, filepath.Join(t.TempDir(), "sync.db")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.DB.Close() })
	if err := s.DB.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
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
	if w.remote, err = s.Catalog.CreateRemote(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if w.repo, err = s.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: "dst/app", RemoteID: w.remote.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Catalog.CreateDistribution(t.Context(), nil, pulp.Distribution{Name: "dst/app", BasePath: "dst/app", RepositoryID: w.repo.ID}); err != nil {
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

func TestSync(t *testing.T) {
	t.Parallel()
	g := newRemote(t)
	fillRemote(g)
	w := newMirror(t, g, nil)
	g.count()
	k := w.sync(taskstore.TaskCompleted, nil)
	w.wantHeld(held{version: 1, blobs: 7, manifests: 4, tags: 2})
	if n := g.count(); n["GET manifests"] != 4 || n["GET blobs"] != 7 {
		t.Errorf("the first sync asked %v", n)
	}
	reports := map[string]taskstore.Progress{}
	for _, p := range k.Progress {
		reports[p.Code] = p
		if p.State != taskstore.TaskCompleted {
			t.Errorf("report %+v", p)
		}
	}
	if reports["sync.downloading.artifacts"].Done != 7 || reports["associating.content"].Done != 13 || *reports["sync.processing.manifest"].Total != 2 || len(k.Created) != 1 {
		t.Errorf("task %+v", k)
	}
	// A repeated sync only asks for digests and creates no version.
	if k := w.sync(taskstore.TaskCompleted, nil); len(k.Created) != 0 || k.Result != nil {
		t.Errorf("an unchanged sync made %v %s", k.Created, k.Result)
	}
	if n := g.count(); n["GET manifests"] != 0 || n["GET blobs"] != 0 || n["HEAD manifests"] != 2 {
		t.Errorf("the second sync asked %v", n)
	}
	w.wantHeld(held{version: 1, blobs: 7, manifests: 4, tags: 2})
	// One tag moves, one is deleted, one is new. The bytes must be exact.
	moved := g.image("two", []int{60_000}, "latest")
	w.sync(taskstore.TaskCompleted, nil)
	w.wantHeld(held{version: 2, blobs: 9, manifests: 5, tags: 2})
	m, err := w.store.Serving.ServedManifest(t.Context(), w.target(), "latest")
	if err != nil || m.Digest != moved || m.Architecture == nil || *m.Architecture != "amd64" {
		t.Errorf("latest = %+v, %v", m, err)
	}
	listed, _, err := w.store.Lists.Manifests(t.Context(), list.Query{Where: []list.Filter{list.Where("digest", list.Equal, string(moved))}, Limit: 1})
	if err != nil || len(listed) != 1 || string(listed[0].RawLabels) != `{"name":"two"}` {
		t.Errorf("the labels are %+v, %v", listed, err)
	}
	parsed, err := pulp.ParseManifest(m.Payload, m.MediaType)
	if err != nil {
		t.Fatal(err)
	}
	b, err := w.store.Serving.ServedBlob(t.Context(), w.target(), parsed.Layers[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	content, err := w.blobs.Open(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := digest.FromReader(content); err != nil || got != b.Digest {
		t.Errorf("layer %s has the bytes of %s, %v", b.Digest, got, err)
	}
	_ = content.Close()
	// A mirror removes content that the remote does not have any more.
	w.sync(taskstore.TaskCompleted, func(a *tasks.SyncArgs) { a.Mirror = true })
	w.wantHeld(held{version: 3, blobs: 6, manifests: 4, tags: 2})
}

func TestSyncFilters(t *testing.T) {
	t.Parallel()
	g := newRemote(t)
	a := g.image("a", []int{10}, "1.0")
	g.image("b", []int{10}, "1.1")
	g.image("c", []int{10}, "2.0")
	loose := g.image("d", []int{10})
	g.image("sig", []int{10}, "sha256-"+a.Encoded()+".sig")
	g.image("other", []int{10}, "sha256-"+strings.Repeat("0", 64)+".sig")
	w := newMirror(t, g, func(r *pulp.Remote) {
		r.Includes, r.Excludes = []string{"1.*", string(loose), "[", "x[!y]"}, []string{"?.1"}
	})
	w.sync(taskstore.TaskCompleted, nil)
	tags, err := w.store.Content.HeldTags(t.Context(), w.repo.ID)
	if err != nil || len(tags) != 2 || tags["1.0"] != a || tags["sha256-"+a.Encoded()+".sig"] == "" {
		t.Errorf("tags %v, %v", tags, err)
	}
	w.wantHeld(held{version: 1, blobs: 6, manifests: 3, tags: 2})
}

func TestSyncSignatures(t *testing.T) {
	t.Parallel()
	g := newRemote(t)
	one, _ := fillRemote(g)
	key := signtest.NewKey(t, time.Now().Add(-time.Hour), 0)
	sign := func(d digest.Digest) string {
		return b64(key.Sign(t, signing.Claim{ManifestDigest: d, DockerReference: "src.example/app:x"}, time.Now()))
	}
	g.signatures = map[digest.Digest][]string{one: {sign(one), "bm8=", sign(digest.FromString("another"))}}
	w := newMirror(t, g, nil)
	w.sync(taskstore.TaskCompleted, nil)
	w.wantHeld(held{version: 1, blobs: 7, manifests: 4, tags: 2, signatures: 1})
	m, err := w.store.Serving.ServedManifest(t.Context(), w.target(), string(one))
	if err != nil {
		t.Fatal(err)
	}
	if held, err := w.store.Serving.ServedSignatures(t.Context(), w.target(), m.ID); err != nil || len(held) != 1 || held[0].Name != string(one)+"@"+strings.Repeat("0", 32) {
		t.Errorf("signatures %+v, %v", held, err)
	}
	// A mirror keeps signatures that were made here, and adds new ones of the remote.
	own := signtest.NewKey(t, time.Now().Add(-time.Hour), 0)
	raw := own.Sign(t, signing.Claim{ManifestDigest: one, DockerReference: "registry.example/dst/app:latest"}, time.Now())
	g2, err := ingest.SignatureValidator{Store: w.store}.Validate(t.Context(), one, raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.Signatures.PutSignature(t.Context(), w.repo.ID, one, g2); err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	g.signatures[one] = append(g.signatures[one], sign(one))
	g.mu.Unlock()
	w.sync(taskstore.TaskCompleted, func(a *tasks.SyncArgs) { a.Mirror = true })
	w.wantHeld(held{version: 3, blobs: 7, manifests: 4, tags: 2, signatures: 3})
	// With signed_only a mirror removes the index, since none of its images is signed.
	w.sync(taskstore.TaskCompleted, func(a *tasks.SyncArgs) { a.Mirror, a.SignedOnly = true, true })
	w.wantHeld(held{version: 4, blobs: 3, manifests: 1, tags: 1, signatures: 3})
}

func b64(raw []byte) string {
	text, _ := json.Marshal(raw)
	return strings.Trim(string(text), `"`)
}

func TestSyncOnDemand(t *testing.T) {
	t.Parallel()
	g := newRemote(t)
	one, _ := fillRemote(g)
	w := newMirror(t, g, func(r *pulp.Remote) { r.Policy = pulp.OnDemand })
	g.count()
	w.sync(taskstore.TaskCompleted, nil)
	w.wantHeld(held{version: 1, blobs: 7, manifests: 4, tags: 2})
	if n := g.count(); n["GET blobs"] != 3 { // configs
		t.Errorf("the sync asked %v", n)
	}
	m, err := w.store.Serving.ServedManifest(t.Context(), w.target(), string(one))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := pulp.ParseManifest(m.Payload, m.MediaType)
	if err != nil {
		t.Fatal(err)
	}
	layer := parsed.Layers[0]
	read := func() ([]byte, error) {
		b, err := w.store.Serving.ServedBlob(t.Context(), w.target(), layer.Digest)
		if err != nil || !b.Absent {
			return nil, errors.Join(err, errors.New("it is here"))
		}
		r, err := w.fetcher.Fetch(t.Context(), "c", w.repo, b)
		if err != nil || r.ReadCloser == nil {
			return nil, err
		}
		defer func() { _ = r.Close() }()
		return io.ReadAll(r)
	}
	g.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, string(layer.Digest)) {
			return false
		}
		_, _ = w.Write(bytes.Repeat([]byte("x"), int(layer.Size))) // the same number of wrong bytes
		return true
	})
	if got, err := read(); err == nil {
		t.Errorf("wrong bytes end well: %d", len(got))
	}
	g.set(nil)
	got, err := read()
	if err != nil || digest.FromBytes(got) != layer.Digest {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if b, err := w.store.Serving.ServedBlob(t.Context(), w.target(), layer.Digest); err != nil || b.Absent {
		t.Fatalf("the blob is not kept: %v", err)
	}
	// A later sync with the immediate policy fetches the rest.
	if _, err := w.store.Catalog.EditRemote(t.Context(), nil, w.remote.ID, func(r *pulp.Remote) { r.Policy = pulp.Immediate }); err != nil {
		t.Fatal(err)
	}
	g.count()
	w.sync(taskstore.TaskCompleted, nil)
	if absent, err := w.store.Content.AbsentBlobs(t.Context(), w.repo.ID); err != nil || len(absent) != 0 {
		t.Errorf("absent %v, %v", absent, err)
	}
	if n := g.count(); n["GET blobs"] != 3 || n["GET manifests"] != 0 {
		t.Errorf("the last sync asked %v", n)
	}
	w.wantHeld(held{version: 1, blobs: 7, manifests: 4, tags: 2})
}

// TestSyncContinuesAFailedOne expects that a failed sync creates no version, and that the next one only fetches the rest.
func TestSyncContinuesAFailedOne(t *testing.T) {
	t.Parallel()
	g := newRemote(t)
	fillRemote(g)
	w := newMirror(t, g, func(r *pulp.Remote) { n := int64(1); r.Connection.DownloadConcurrency = &n })
	blobs := 0
	g.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			if blobs++; blobs > 4 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
		}
		return false
	})
	k := w.sync(taskstore.TaskFailed, nil)
	if k.Error == nil || !strings.HasPrefix(k.Error.Description, "503, message='Service Unavailable', url='"+g.server.URL) {
		t.Errorf("error %+v", k.Error)
	}
	w.wantHeld(held{})
	if _, err := w.store.Sweeps.SweepOrphans(t.Context(), time.Now().Add(time.Hour), 100); err != nil {
		t.Fatal(err)
	}
	g.set(nil)
	g.count()
	w.sync(taskstore.TaskCompleted, nil)
	if n := g.count(); n["GET blobs"] != 3 || n["GET manifests"] > 3 {
		t.Errorf("the next sync asked %v", n)
	}
	w.wantHeld(held{version: 1, blobs: 7, manifests: 4, tags: 2})
}

func TestSyncFromALyingRemote(t *testing.T) {
	t.Parallel()
	for name, lie := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"other bytes for a manifest": func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
				_, _ = io.WriteString(w, `{"schemaVersion":2}`)
				return true
			}
			return false
		},
		"other bytes for a blob": func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				_, _ = io.WriteString(w, "lies")
				return true
			}
			return false
		},
		"an endless blob": func(w http.ResponseWriter, r *http.Request) bool {
			for r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return true
				}
			}
			return false
		},
		"an endless manifest": func(w http.ResponseWriter, r *http.Request) bool {
			for r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 64<<10)); err != nil {
					return true
				}
			}
			return false
		},
		"endless pages": func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/tags/list") {
				w.Header().Set("Link", `</v2/src/app/tags/list?n=1&last=latest>; rel="next"`)
				_, _ = io.WriteString(w, `{"tags":["latest"]}`)
				return true
			}
			return false
		},
		"pages elsewhere": func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/tags/list") {
				w.Header().Set("Link", `<http://127.0.0.1:1/v2/other/tags/list>; rel="next"`)
				_, _ = io.WriteString(w, `{"tags":["latest"]}`)
				return true
			}
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newRemote(t)
			fillRemote(g)
			g.set(lie)
			w := newMirror(t, g, nil)
			if k := w.sync(taskstore.TaskFailed, nil); k.Error == nil || strings.HasPrefix(k.Error.Description, "Internal error") {
				t.Errorf("error %+v", k.Error)
			}
			w.wantHeld(held{})
		})
	}
}

// A user who may not read a blob must not get it by syncing from a remote that lists its digest.
func TestSyncGivesNoAccessToBlobsOfOthers(t *testing.T) {
	t.Parallel()
	for _, policy := range []pulp.Policy{pulp.Immediate, pulp.OnDemand} {
		g := newRemote(t)
		secret := bytes.Repeat([]byte("secret"), 1000)
		d := g.blob(secret)
		g.image("evil", []int{10})
		text := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[{"mediaType":"a/b","digest":%q,"size":%d}]}`,
			pulp.OCIManifest, g.blob([]byte("{}")).Digest, d.Digest, d.Size)
		g.manifest(pulp.OCIManifest, text, "latest")
		g.set(func(w http.ResponseWriter, r *http.Request) bool { // the remote knows the digest, not the bytes
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, string(d.Digest)) {
				w.WriteHeader(http.StatusNotFound)
				return true
			}
			return false
		})
		w := newMirror(t, g, func(r *pulp.Remote) { r.Policy = policy })
		victim, err := w.store.Catalog.PushTarget(t.Context(), "victim/app", pulp.ContainerPush)
		if err != nil {
			t.Fatal(err)
		}
		got, err := w.blobs.Receive(t.Context(), "victim/app", d.Digest, bytes.NewReader(secret))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.store.Content.CommitBlob(t.Context(), victim.Repository.ID, got, "", 0), w.store.Catalog.SetPrivate(t.Context(), "victim/app", true)); err != nil {
			t.Fatal(err)
		}
		mallory, err := w.store.Accounts.PutUser(t.Context(), "dst", "", false, true)
		if err != nil {
			t.Fatal(err)
		}
		k, err := w.dispatcher.Dispatch(context.WithoutCancel(t.Context()), tasks.ByUser(mallory.ID), tasks.Spec{
			Name: tasks.Sync, Args: tasks.SyncArgs{RepositoryID: w.repo.ID, RemoteID: w.remote.ID}, Immediate: true,
		})
		if policy == pulp.Immediate {
			if err != nil || k.State != taskstore.TaskFailed {
				t.Errorf("the task is %s, %v", k.State, err)
			}
			w.wantHeld(held{})
			continue
		}
		// On demand, the blob is absent and only fetched from that remote, which does not have it.
		if err != nil || k.State != taskstore.TaskCompleted {
			t.Errorf("the task is %s, %v", k.State, err)
		}
		b, err := w.store.Serving.ServedBlob(t.Context(), w.target(), d.Digest)
		if err != nil || !b.Absent || b.Data != nil {
			t.Errorf("the blob is %+v, %v", b, err)
		}
		if _, err := w.fetcher.Fetch(t.Context(), "c", w.repo, b); err == nil || strings.Contains(err.Error(), g.server.URL) && strings.HasPrefix(err.Error(), "4") {
			t.Errorf("fetched: %v", err)
		}
	}
}

// A remote that lists blobs of another tenant's on-demand mirror must not give access to that tenant's remote
// and credentials.
func TestAbsentBlobsComeFromTheirOwnRemote(t *testing.T) {
	t.Parallel()
	victims := newRemote(t)
	fillRemote(victims)
	w := newMirror(t, victims, func(r *pulp.Remote) { r.Policy = pulp.OnDemand })
	w.sync(taskstore.TaskCompleted, nil)
	absent, err := w.store.Content.AbsentBlobs(t.Context(), w.repo.ID)
	if err != nil || len(absent) == 0 {
		t.Fatal(absent, err)
	}
	mallory := newRemote(t)
	remote, err := w.store.Catalog.CreateRemote(t.Context(), pulp.Remote{Name: "mallory", URL: mallory.server.URL, UpstreamName: "src/app", Policy: pulp.OnDemand})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := w.store.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: "mallory/app"})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range absent { // with a wrong size
		if err := w.store.Content.FetchedBlob(t.Context(), repo.ID, remote.ID, pulp.Blob{Digest: b.Digest, Size: 1, Absent: true}); err != nil {
			t.Fatal(err)
		}
		if err := w.store.Content.FetchedBlob(t.Context(), repo.ID, remote.ID, pulp.Blob{Digest: b.Digest, Size: 1, Absent: true}); err != nil {
			t.Fatal(err)
		}
		claimed := pulp.Blob{ID: b.ID, Digest: b.Digest, Size: 1, Absent: true, RemoteID: remote.ID}
		victims.count()
		if _, err := w.fetcher.Fetch(t.Context(), "c", repo, claimed); err == nil {
			t.Error("fetched")
		}
		if n := victims.count(); len(n) != 0 {
			t.Errorf("the victim's remote was asked %v", n)
		}
		served, err := w.store.Serving.ServedBlob(t.Context(), w.target(), b.Digest)
		if err != nil || served.Size == 1 || served.RemoteID != w.remote.ID {
			t.Errorf("the victim's blob is %+v, %v", served, err)
		}
	}
}

// If content is deleted during a sync that was to use it, the sync fails, and the next one fetches it.
func TestContentDeletedDuringASync(t *testing.T) {
	t.Parallel()
	g := newRemote(t)
	g.image("one", []int{50_000}, "latest")
	w := newMirror(t, g, nil)
	w.sync(taskstore.TaskCompleted, nil)
	held, err := w.store.Content.HeldTags(t.Context(), w.repo.ID)
	if err != nil {
		t.Fatal(err)
	}
	// The other image has the same layer; the first image is deleted while the sync requests the other's
	// manifest.
	m, err := w.store.Serving.ServedManifest(t.Context(), w.target(), "latest")
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := pulp.ParseManifest(m.Payload, m.MediaType)
	if err != nil {
		t.Fatal(err)
	}
	config := g.blob([]byte(`{"architecture":"arm64","os":"linux"}`))
	text := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":"a/b","digest":%q,"size":%d}]}`,
		pulp.OCIManifest, config.Digest, config.Size, parsed.Layers[0].Digest, parsed.Layers[0].Size)
	g.manifest(pulp.OCIManifest, text, "latest")
	var once sync.Once
	g.set(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, string(config.Digest)) {
			once.Do(func() {
				if _, err := w.store.Content.DeleteManifest(t.Context(), w.repo.ID, held["latest"]); err != nil {
					t.Error(err)
				}
			})
		}
		return false
	})
	// In both orders the layer is there in the end.
	args := tasks.SyncArgs{RepositoryID: w.repo.ID, RemoteID: w.remote.ID}
	k, err := w.dispatcher.Dispatch(t.Context(), tasks.BySystem(), tasks.Spec{Name: tasks.Sync, Args: args, Immediate: true})
	if err != nil || k.State == taskstore.TaskFailed && !strings.Contains(k.Error.Description, "sync again") {
		t.Fatalf("%s %+v, %v", k.State, k.Error, err)
	}
	w.sync(taskstore.TaskCompleted, nil)
	if b, err := w.store.Serving.ServedBlob(t.Context(), w.target(), parsed.Layers[0].Digest); err != nil || b.Absent {
		t.Errorf("the layer: %+v, %v", b, err)
	}
}

func TestRepair(t *testing.T) {
	t.Parallel()
	g := newRemote(t)
	fillRemote(g)
	w := newMirror(t, g, nil)
	w.sync(taskstore.TaskCompleted, nil)
	held, err := w.store.Content.VersionBlobs(t.Context(), w.repo.ID, 1)
	if err != nil {
		t.Fatal(err)
	}
	var large []pulp.Blob
	for _, d := range held {
		b, err := w.store.Serving.Blob(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		if !b.Inline {
			large = append(large, b)
		}
	}
	if len(large) != 3 {
		t.Fatalf("%d large blobs", len(large))
	}
	// One blob is lost, one has other bytes.
	if err := w.blobs.Storage.Delete(t.Context(), "", large[0].Digest); err != nil {
		t.Fatal(err)
	}
	w.spoil(large[1].Digest)
	repair := func(read bool, corrupted, repaired int64) {
		t.Helper()
		k, err := w.dispatcher.Dispatch(t.Context(), tasks.BySystem(), tasks.Spec{Name: tasks.Repair, Immediate: true,
			Args: tasks.VersionArgs{RepositoryID: w.repo.ID, Number: 1, VerifyChecksums: read}})
		if err != nil || k.State != taskstore.TaskCompleted || k.Progress[0].Done != corrupted || k.Progress[1].Done != repaired {
			t.Errorf("repair: %s %+v %+v, %v", k.State, k.Error, k.Progress, err)
		}
	}
	repair(false, 1, 1)
	repair(true, 1, 1)
	repair(true, 0, 0)
	w.spoil(large[2].Digest)
	if err := w.store.Catalog.DeleteRemote(t.Context(), nil, w.remote.ID); err != nil {
		t.Fatal(err)
	}
	repair(true, 1, 0)
}

// spoil changes the bytes of a blob in the storage.
func (w *mirrorWorld) spoil(d digest.Digest) {
	w.Helper()
	content, size, err := w.blobs.Storage.Open(w.Context(), "", d)
	if err != nil {
		w.Fatal(err)
	}
	name := content.(*os.File).Name()
	_ = content.Close()
	if err := os.WriteFile(name, bytes.Repeat([]byte("!"), int(size)), 0o600); err != nil {
		w.Fatal(err)
	}
}
