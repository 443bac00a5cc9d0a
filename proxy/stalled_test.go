package proxy_test

import (
	"bytes"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/registryclient"
	"github.com/countersign/countersign/internal/store/list"
)

// timeout is the time limit of eventually.True.
const timeout = 30 * time.Second

// stallingRemote is a remote that begins its responses but never ends them. It counts the open ones.
type stallingRemote struct {
	open  atomic.Int64
	piece []byte // sent at once, before the stall
	drip  time.Duration
}

func (s *stallingRemote) serve(w http.ResponseWriter, r *http.Request) {
	s.open.Add(1)
	defer s.open.Add(-1)
	_, _ = w.Write(s.piece)
	_ = http.NewResponseController(w).Flush()
	if s.drip == 0 {
		<-r.Context().Done()
		return
	}
	for r.Context().Err() == nil {
		_, _ = w.Write([]byte{'x'})
		_ = http.NewResponseController(w).Flush()
		time.Sleep(s.drip)
	}
}

// fetchGoroutines counts the goroutines of fetches in the process.
func fetchGoroutines() int {
	var all bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&all, 2)
	n := 0
	for _, stack := range strings.Split(all.String(), "\n\n") {
		if strings.Contains(stack, "ingest.(*transfer)") || strings.Contains(stack, "ingest.(*BlobFetcher)") {
			n++
		}
	}
	return n
}

// getBlob requests a blob and returns the status and the error that ends the body. user is empty for an anonymous
// request.
func (w *world) getBlob(caller string, name string, d digest.Digest) (int, error) {
	r, err := http.NewRequestWithContext(
		w.t.Context(),
		http.MethodGet,
		w.server.URL+"/v2/"+name+"/blobs/"+string(d),
		nil,
	)
	if err != nil {
		return 0, err
	}
	if caller != "" {
		r.Header.Set("Authorization", caller)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

// layersOf returns n different layers.
func layersOf(n int) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = append(random(20_000, 90), byte(i>>8), byte(i))
	}
	return all
}

// TestStalledFetchesLeaveRoomForOthers checks that clients that request many blobs of a stalled remote do not prevent
// fetches from other remotes, and that one user cannot occupy all fetches.
func TestStalledFetchesLeaveRoomForOthers(t *testing.T) {
	w := newFetchingWorld(t, func(f *ingest.BlobFetcher) { f.Limits.Patience = 20 * time.Millisecond })
	slow := &stallingRemote{}
	layers := layersOf(151)
	w.addMirror("slow", pulp.OnDemand, slow.serve, layers...)
	good := random(50_000, 31)
	w.addMirror("good", pulp.OnDemand, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(good) }, good)
	var callers []string
	for _, caller := range []string{"admin", "acme", "carol"} {
		header, _ := w.token(caller, "repository:mirror/slow:pull")
		callers = append(callers, header)
	}
	callers = append(callers, "")
	var all sync.WaitGroup
	var refused atomic.Int64
	for i, layer := range layers[1:] {
		all.Go(func() {
			if status, _ := w.getBlob(callers[i%len(callers)], "mirror/slow", digest.FromBytes(layer)); status == http.StatusTooManyRequests {
				refused.Add(1)
			}
		})
	}
	eventually.True(t, timeout, func() bool {
		return slow.open.Load() > 10 && slow.open.Load()+refused.Load() == int64(len(layers)-1)
	}, "all but one of the requests stall or are rejected")
	a := w.expectError(
		request{as: callers[2], path: "/v2/mirror/slow/blobs/" + string(digest.FromBytes(layers[0]))},
		http.StatusTooManyRequests,
		"TOOMANYREQUESTS",
	)
	if a.status == http.StatusTooManyRequests && a.header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	w.wantBlob("mirror/good", digest.FromBytes(good), good)
	w.removeRemote("slow")
	all.Wait()
	eventually.True(t, timeout, func() bool { return slow.open.Load() == 0 }, "the responses of the remote end")
}

// removeRemote deletes the remote with a name.
func (w *world) removeRemote(name string) {
	w.t.Helper()
	if err := w.store.Catalog.DeleteRemote(w.t.Context(), nil, w.remote(name).ID); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) remote(name string) pulp.Remote {
	w.t.Helper()
	all, _, err := w.store.Lists.Remotes(w.t.Context(), list.Query{Limit: 100})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range all {
		if r.Name == name {
			return r
		}
	}
	w.t.Fatalf("no remote %s", name)
	return pulp.Remote{}
}

// TestFetchesEnd checks that a fetch ends when its remote is deleted, when the URL or credentials of the remote
// change, and when it is too slow, for stored and streamed blobs. The client that reads the stream gets a broken
// response, other clients get an error response, no files or goroutines remain, and a later fetch succeeds.
func TestFetchesEnd(t *testing.T) { // not parallel: it counts goroutines
	layer := random(300_000, 41)
	for name, c := range map[string]struct {
		drip   time.Duration
		pace   time.Duration // the window in which bytes must come
		silent bool          // the remote sends no response
		alone  bool          // no second client, which would start another fetch that stalls
		strike func(w *world)
	}{
		"remote removed": {strike: func(w *world) { w.removeRemote("app") }},
		"password changed": {alone: true, strike: func(w *world) {
			w.editRemote(func(r *pulp.Remote) { word := "new"; r.Secrets.Username, r.Secrets.Password = &word, &word })
		}},
		"url changed": {strike: func(w *world) { w.editRemote(func(r *pulp.Remote) { r.URL = "http://127.0.0.1:1" }) }},
		"stall":       {pace: 300 * time.Millisecond},
		"trickle":     {drip: 5 * time.Millisecond, pace: 300 * time.Millisecond},
		"no answer":   {pace: 300 * time.Millisecond, silent: true},
	} {
		for _, policy := range []pulp.Policy{pulp.OnDemand, pulp.Streamed} {
			t.Run(name+" "+string(policy), func(t *testing.T) {
				slow := &stallingRemote{piece: layer[:100_000], drip: c.drip}
				serve := slow.serve
				if c.silent {
					serve = func(_ http.ResponseWriter, r *http.Request) {
						slow.open.Add(1)
						defer slow.open.Add(-1)
						<-r.Context().Done()
					}
				}
				w, _, d, _ := newMirroredWorld(t, layer, policy, serve, func(f *ingest.BlobFetcher) {
					f.Limits.Watch = 20 * time.Millisecond
					if c.pace > 0 {
						f.Mirror.Pace = registryclient.Pace{BytesPerSecond: 1 << 20, Window: c.pace}
					}
				})
				var all sync.WaitGroup
				clients := 5
				if c.alone {
					clients = 1
				}
				for range clients {
					all.Go(func() {
						if status, err := w.getBlob("", "mirror/app", d); status == http.StatusOK && err == nil {
							t.Errorf("a complete response with status %d", status)
						}
					})
				}
				if c.strike != nil {
					eventually.True(t, timeout, func() bool { return slow.open.Load() > 0 }, "the fetch stalls")
					c.strike(w)
				}
				all.Wait()
				eventually.True(t, timeout, func() bool { return slow.open.Load() == 0 }, "the responses of the remote end")
				eventually.True(t, timeout, func() bool { return fetchGoroutines() == 0 }, "the goroutines end")
				if left := w.files(); len(left) != 0 {
					t.Errorf("files remain: %q", left)
				}
			})
		}
	}
}

// files returns the files of the storage.
func (w *world) files() (found []string) {
	w.t.Helper()
	err := filepath.WalkDir(w.root, func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			found = append(found, name)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return found
}

func (w *world) editRemote(edit func(*pulp.Remote)) {
	w.t.Helper()
	if _, err := w.store.Catalog.EditRemote(w.t.Context(), nil, w.remote("app").ID, edit); err != nil {
		w.t.Error(err)
	}
}

// TestHarmlessChangesOfARemoteEndNoFetch checks that changes of a remote's name or patterns do not end fetches.
func TestHarmlessChangesOfARemoteEndNoFetch(t *testing.T) {
	t.Parallel()
	layer := random(200_000, 42)
	gate, begun := make(chan struct{}), make(chan struct{})
	w, _, d, _ := newMirroredWorld(t, layer, pulp.OnDemand, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(layer[:100_000])
		close(begun)
		<-gate
		_, _ = w.Write(layer[100_000:])
	}, func(f *ingest.BlobFetcher) { f.Limits.Watch = 10 * time.Millisecond })
	var all sync.WaitGroup
	all.Go(func() { w.wantBlob("mirror/app", d, layer) })
	<-begun
	w.editRemote(
		func(r *pulp.Remote) { r.Name, r.Excludes, r.Labels = "renamed", []string{"x"}, pulp.Labels{"a": nil} },
	)
	time.Sleep(100 * time.Millisecond) // several checks of the remote
	close(gate)
	all.Wait()
}

// TestAStreamEndsWithItsClient checks that the disconnection of its client ends the fetch of a streamed blob from a
// stalled remote.
func TestAStreamEndsWithItsClient(t *testing.T) {
	t.Parallel()
	layer := random(300_000, 43)
	slow := &stallingRemote{piece: layer[:100_000]}
	w, _, d, _ := newMirroredWorld(t, layer, pulp.Streamed, slow.serve)
	res, err := http.Get(w.server.URL + "/v2/mirror/app/blobs/" + string(d))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(res.Body, make([]byte, 50_000)); err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	eventually.True(t, timeout, func() bool { return slow.open.Load() == 0 }, "the response of the remote ends")
}

// TestManyStreamsAtOnce checks that many concurrent clients of a streamed blob each get it.
func TestManyStreamsAtOnce(t *testing.T) {
	t.Parallel()
	layer := random(100_000, 44)
	w, _, d, _ := newMirroredWorld(t, layer, pulp.Streamed, func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(10 * time.Millisecond)
		_, _ = w.Write(layer)
	})
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() { w.wantBlob("mirror/app", d, layer) })
	}
	all.Wait()
}
