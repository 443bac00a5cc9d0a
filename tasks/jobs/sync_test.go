package jobs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
	"github.com/countersign/countersign/tasks"
)

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
