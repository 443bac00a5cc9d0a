package observed_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/storage/embedded"
	"github.com/countersign/countersign/storage/observed"
	"github.com/countersign/countersign/storage/storagetest"
	"github.com/countersign/countersign/storage/upstream"
)

// reports collects the reports of a storage.
type reports struct {
	mu     sync.Mutex
	counts map[string]int           // by operation and result
	took   map[string]time.Duration // of the last operation
}

func (r *reports) report(operation string, result observed.Result, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts == nil {
		r.counts, r.took = map[string]int{}, map[string]time.Duration{}
	}
	r.counts[operation+" "+string(result)]++
	r.took[operation] = took
}

func (r *reports) count(operation string, result observed.Result) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[operation+" "+string(result)]
}

func openEmbedded(t *testing.T) storage.Storage {
	t.Helper()
	s, err := embedded.New(t.Context(), embedded.Options{Driver: "filesystem", Parameters: map[string]any{"rootdirectory": t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openUpstream(t *testing.T) storage.Storage {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true)))
	t.Cleanup(server.Close)
	s, err := upstream.New(upstream.Options{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestStorage runs the suite of all storages on wrapped ones.
func TestStorage(t *testing.T) {
	t.Parallel()
	all := &reports{}
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		in := func(t *testing.T) storage.Storage { return observed.New(openEmbedded(t), all.report) }
		storagetest.Run(t, in)
		storagetest.RunPrivate(t, in)
	})
	t.Cleanup(func() {
		for _, operation := range []string{"stat", "open", "create", "resume", "write", "commit", "cancel", "mount", "delete"} {
			if all.count(operation, observed.OK) == 0 {
				t.Errorf("no operation %s was reported", operation)
			}
		}
		if all.count("commit", observed.Refused) == 0 {
			t.Error("no commit with a wrong digest was reported")
		}
	})
}

// TestOptionalInterfaces verifies that a wrapper implements what its storage does.
func TestOptionalInterfaces(t *testing.T) {
	t.Parallel()
	type sweeper interface {
		SweepUploads(ctx context.Context, before time.Time) error
	}
	type parts interface {
		OpenPart(ctx context.Context, name string, dgst digest.Digest, part storage.Part) (io.ReadSeekCloser, error)
		Locate(ctx context.Context, name string, dgst digest.Digest, part storage.Part) (string, io.ReadSeekCloser, error)
	}
	for name, own := range map[string]storage.Storage{"embedded": openEmbedded(t), "upstream": openUpstream(t)} {
		wrapped := observed.New(own, (&reports{}).report)
		for kind, has := range map[string]func(any) bool{
			"storage.Manifests": func(v any) bool { _, ok := v.(storage.Manifests); return ok },
			"parts":             func(v any) bool { _, ok := v.(parts); return ok },
			"SweepUploads":      func(v any) bool { _, ok := v.(sweeper); return ok },
		} {
			if has(own) != has(wrapped) {
				t.Errorf("%s: the storage has %s: %v, its wrapper: %v", name, kind, has(own), has(wrapped))
			}
		}
		ownUpload, err := own.Create(t.Context(), "a/b")
		if err != nil {
			t.Fatal(err)
		}
		upload, err := wrapped.Create(t.Context(), "a/b")
		if err != nil {
			t.Fatal(err)
		}
		_, want := ownUpload.(storage.Finisher)
		if _, got := upload.(storage.Finisher); got != want {
			t.Errorf("%s: an upload implements storage.Finisher: %v, that of the wrapper: %v", name, want, got)
		}
	}
}

// TestUpstream verifies that each operation of an upstream is reported.
func TestUpstream(t *testing.T) {
	t.Parallel()
	r := &reports{}
	s := observed.New(openUpstream(t), r.report)
	ctx, blob := t.Context(), []byte("blob")
	dgst := digest.FromBytes(blob)
	u, err := s.Create(ctx, "a/b")
	if err != nil {
		t.Fatal(err)
	}
	if err := u.(storage.Finisher).Finish(ctx, bytes.NewReader(blob), dgst); err != nil {
		t.Fatal(err)
	}
	registry := s.(storage.Manifests)
	manifest := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":` +
		`"application/vnd.oci.image.config.v1+json","digest":"` + string(dgst) + `","size":4},"layers":[]}`)
	part := storage.Part{Size: 4, Last: 3}
	// First, because the registry of the test has no repository and no referrers before.
	if err := registry.PutManifest(ctx, "a/b", "v1", "application/vnd.oci.image.manifest.v1+json", manifest); err != nil || r.count("put_manifest", observed.OK) != 1 {
		t.Fatalf("PutManifest: %v, %v", err, r.counts)
	}
	for operation, call := range map[string]func() error{
		"open": func() error {
			content, err := s.(interface {
				OpenPart(context.Context, string, digest.Digest, storage.Part) (io.ReadSeekCloser, error)
			}).OpenPart(ctx, "a/b", dgst, part)
			if err == nil {
				err = content.Close()
			}
			return err
		},
		"get_manifest":      func() error { _, _, err := registry.GetManifest(ctx, "a/b", "absent"); return err },
		"resolve":           func() error { _, err := registry.Resolve(ctx, "a/b", "absent"); return err },
		"list_tags":         func() error { _, err := registry.Tags(ctx, "absent"); return err },
		"list_referrers":    func() error { _, err := registry.Referrers(ctx, "a/b", dgst); return err },
		"list_repositories": func() error { _, err := registry.Catalog(ctx); return err },
		"delete_manifest":   func() error { return registry.DeleteManifest(ctx, "a/b", "absent") },
		"ping":              func() error { return s.Ping(ctx) },
	} {
		if err := call(); err != nil && !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s: %v", operation, err)
		}
		if n := r.count(operation, observed.OK); n != 1 {
			t.Errorf("%s: %d reports, want 1: %v", operation, n, r.counts)
		}
	}
	if r.count("write", observed.OK) != 1 {
		t.Errorf("reports %v, want one write", r.counts)
	}
}

// slowReader is a client that sends slowly.
type slowReader struct{ io.Reader }

func (s slowReader) Read(p []byte) (int, error) {
	time.Sleep(50 * time.Millisecond)
	return s.Reader.Read(p)
}

// TestWrite verifies that a write is reported without the time of the client, and that one which the client breaks off is
// not reported.
func TestWrite(t *testing.T) {
	t.Parallel()
	r := &reports{}
	s := observed.New(openEmbedded(t), r.report)
	u, err := s.Create(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := u.ReadFrom(slowReader{iotest.OneByteReader(strings.NewReader("0123456789"))}); err != nil {
		t.Fatal(err)
	}
	if all := time.Since(began); r.took["write"] >= all/2 {
		t.Errorf("the write took %v of %v, want only the time of the storage", r.took["write"], all)
	}
	if _, err := u.ReadFrom(iotest.ErrReader(io.ErrUnexpectedEOF)); err == nil {
		t.Error("a failed read is no error")
	}
	if r.count("write", observed.OK) != 1 || r.count("write", observed.Failed) != 0 {
		t.Errorf("reports %v, want only the complete write", r.counts)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Stat(ended, "a", digest.FromString("x")); errors.Is(err, context.Canceled) && len(r.counts) != 2 {
		t.Errorf("reports %v, want none of a canceled operation", r.counts)
	}
}
