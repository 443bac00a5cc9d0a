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

	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/registryclient"
	"github.com/countersign/countersign/internal/store/list"
)

// stalls is a remote that begins every answer and never ends one. It counts the answers that are under way.
type stalls struct {
	open  atomic.Int64
	piece []byte // sent at once, before the stall
	drip  time.Duration
}

func (s *stalls) serve(w http.ResponseWriter, r *http.Request) {
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

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("timed out: " + what)
		}
	}
}

// fetching counts the goroutines of fetches, in the whole process.
func fetching() int {
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

// get asks for a blob, with an Authorization header unless who is empty, and returns the status and how its body ends.
func (w *world) get(who string, name string, d digest.Digest) (int, error) {
	r, err := http.NewRequestWithContext(
		w.t.Context(),
		http.MethodGet,
		w.server.URL+"/v2/"+name+"/blobs/"+string(d),
		nil,
	)
	if err != nil {
		return 0, err
	}
	if who != "" {
		r.Header.Set("Authorization", who)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

// layersOf returns different layers.
func layersOf(n int) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = append(random(20_000, 90), byte(i>>8), byte(i))
	}
	return all
}

// A remote that stalls, asked for more blobs than may be fetched at a time by many clients, keeps nobody from blobs
// of another remote; nor does one user who asks for everything. Before, 64 such fetches made every other one fail
// with 429 until a restart.
func TestStalledFetchesLeaveRoomForOthers(t *testing.T) {
	w := newFetchingWorld(t, func(f *ingest.BlobFetcher) { f.Limits.Patience = 20 * time.Millisecond })
	slow := &stalls{}
	layers := layersOf(151)
	w.addMirror("slow", pulp.OnDemand, slow.serve, layers...)
	good := random(50_000, 31)
	w.addMirror("good", pulp.OnDemand, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(good) }, good)
	var callers []string
	for _, who := range []string{"admin", "acme", "carol"} {
		header, _ := w.token(who, "repository:mirror/slow:pull")
		callers = append(callers, header)
	}
	callers = append(callers, "")
	var all sync.WaitGroup
	var refused atomic.Int64
	for i, layer := range layers[1:] {
		all.Go(func() {
			if status, _ := w.get(callers[i%len(callers)], "mirror/slow", digest.FromBytes(layer)); status == http.StatusTooManyRequests {
				refused.Add(1)
			}
		})
	}
	eventually(
		t,
		"fetches stall",
		func() bool { return slow.open.Load() > 10 && slow.open.Load()+refused.Load() == int64(len(layers)-1) },
	)
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
	eventually(t, "the remote's answers end", func() bool { return slow.open.Load() == 0 })
}

// removeRemote removes the remote with a name.
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

// A fetch ends when its remote is removed, when its address or credentials change, when it stalls and when it
// trickles, whether the blob is kept or streamed. The client that takes the bytes sees a broken response, never a
// short one; those that wait get an answer; nothing stays behind; and the blob can be had again where a remote has
// it.
func TestFetchesEnd(t *testing.T) { // not parallel: it counts goroutines
	layer := random(300_000, 41)
	for name, c := range map[string]struct {
		drip   time.Duration
		pace   time.Duration // the window in which bytes must come
		silent bool          // it does not even begin to answer
		alone  bool          // one client; those that wait ask again, of a remote that stalls again
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
				slow := &stalls{piece: layer[:100_000], drip: c.drip}
				serve := slow.serve
				if c.silent {
					serve = func(_ http.ResponseWriter, r *http.Request) {
						slow.open.Add(1)
						defer slow.open.Add(-1)
						<-r.Context().Done()
					}
				}
				w, _, d, _ := mirrored(t, layer, policy, serve, func(f *ingest.BlobFetcher) {
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
						if status, err := w.get("", "mirror/app", d); status == http.StatusOK && err == nil {
							t.Errorf("a whole answer of %d", status)
						}
					})
				}
				if c.strike != nil {
					eventually(t, "the fetch stalls", func() bool { return slow.open.Load() > 0 })
					c.strike(w)
				}
				all.Wait()
				eventually(t, "the remote's answers end", func() bool { return slow.open.Load() == 0 })
				eventually(t, "the goroutines end", func() bool { return fetching() == 0 })
				if left := w.files(); len(left) != 0 {
					t.Errorf("files stay behind: %q", left)
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

// Renaming a remote, or changing what it takes, ends no fetch.
func TestHarmlessChangesOfARemoteEndNoFetch(t *testing.T) {
	t.Parallel()
	layer := random(200_000, 42)
	gate, begun := make(chan struct{}), make(chan struct{})
	w, _, d, _ := mirrored(t, layer, pulp.OnDemand, func(w http.ResponseWriter, _ *http.Request) {
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
	time.Sleep(100 * time.Millisecond) // several looks
	close(gate)
	all.Wait()
}

// A client that leaves ends the fetch of a blob that is streamed, though the remote stalls.
func TestAStreamEndsWithItsClient(t *testing.T) {
	t.Parallel()
	layer := random(300_000, 43)
	slow := &stalls{piece: layer[:100_000]}
	w, _, d, _ := mirrored(t, layer, pulp.Streamed, slow.serve)
	res, err := http.Get(w.server.URL + "/v2/mirror/app/blobs/" + string(d))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(res.Body, make([]byte, 50_000)); err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	eventually(t, "the remote's answer ends", func() bool { return slow.open.Load() == 0 })
}

// However many clients ask for a streamed blob at once, each gets it.
func TestManyStreamsAtOnce(t *testing.T) {
	t.Parallel()
	layer := random(100_000, 44)
	w, _, d, _ := mirrored(t, layer, pulp.Streamed, func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(10 * time.Millisecond)
		_, _ = w.Write(layer)
	})
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() { w.wantBlob("mirror/app", d, layer) })
	}
	all.Wait()
}
