package proxy_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pullthrough"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/proxy"
)

// cachingWorld is a registry with the pull-through cache acme/hub of another registry, the origin.
type cachingWorld struct {
	*world
	origin *world
	cache  pulp.Distribution
	// manifests counts the requests for manifests with GET that reach the origin; lookups counts those with HEAD, too.
	manifests, lookups atomic.Int64
	status             atomic.Int64                  // of the origin's responses; 0: those of the origin
	refuseGET          atomic.Bool                   // the origin answers requests for manifests with GET with 403
	stallGET           atomic.Pointer[chan struct{}] // those requests wait until it is closed
}

func newCaching(t *testing.T, edits ...func(*pullthrough.Options)) *cachingWorld {
	t.Helper()
	c := &cachingWorld{origin: newWorld(t)}
	to, err := url.Parse(c.origin.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	through := httputil.NewSingleHostReverseProxy(to)
	gate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") && !strings.HasSuffix(r.URL.Path, ".sig") {
			c.lookups.Add(1)
			if r.Method == http.MethodGet {
				c.manifests.Add(1)
				if until := c.stallGET.Load(); until != nil {
					<-*until
				}
				if c.refuseGET.Load() {
					w.WriteHeader(http.StatusForbidden)
					return
				}
			}
		}
		if status := c.status.Load(); status != 0 {
			w.WriteHeader(int(status))
			return
		}
		if strings.Contains(r.URL.Path, "/absent") { // as other registries say that a name does not exist
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		through.ServeHTTP(w, r)
	}))
	t.Cleanup(gate.Close)
	c.world = newWorld(t, func(o *proxy.Options) {
		quiet := slog.New(slog.DiscardHandler)
		network := mirror.New(mirror.Options{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Log: quiet})
		blobs := ingest.Blobs{Storage: o.Storage, Inline: o.InlineLimit}
		o.Fetcher = &ingest.BlobFetcher{Store: o.Store, Blobs: blobs, Log: quiet, Idle: time.Second, Mirror: network}
		o.Access = o.Store.Accounts.NewDecider(nil)
		options := pullthrough.Options{
			Store: o.Store, Network: network, Blobs: blobs, Validator: ingest.SignatureValidator{Store: o.Store}, Access: o.Access,
			Log: quiet, Audit: audit.Or(nil, quiet), NewPerMinute: 1000,
		}
		for _, edit := range edits {
			edit(&options)
		}
		o.PullThrough = pullthrough.New(options)
	})
	none := int64(0)
	remote, err := c.store.Catalog.CreatePullThroughRemote(t.Context(), pulp.Remote{
		Name: "origin", URL: gate.URL, Excludes: []string{"*/evil"}, Connection: pulp.Connection{TLSValidation: true, MaxRetries: &none},
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	c.cache, err = c.store.Catalog.CreatePullThrough(t.Context(), nil, pulp.Distribution{Name: "hub", BasePath: "acme/hub", RemoteID: remote.ID}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pull requests a manifest of the cache as a user and checks the status and the error code.
func (c *cachingWorld) pull(as, name, reference string, status int, code string) response {
	c.t.Helper()
	return c.expectError(request{as: as, path: "/v2/acme/hub/" + name + "/manifests/" + reference, headers: []string{
		"Accept", pulp.OCIManifest + "," + pulp.OCIIndex,
	}}, status, code)
}

// TestPullThrough proves that the first pull of an account creates the repository, that anonymous callers read what it has and
// create nothing, and that layers and images of an index come on demand.
func TestPullThrough(t *testing.T) {
	t.Parallel()
	c := newCaching(t)
	first := c.origin.pushImage("acme/app", "one", "v1")
	second := c.origin.pushImage("acme/app", "two", "")
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":1},{"mediaType":%q,"digest":%q,"size":1}]}`,
		pulp.OCIIndex, pulp.OCIManifest, first, pulp.OCIManifest, second)
	c.origin.expect(manifestPut("/v2/acme/app/manifests/multi", index, pulp.OCIIndex), http.StatusCreated)

	c.pull("", "acme/app", "v1", http.StatusUnauthorized, "UNAUTHORIZED")
	got := c.pull("carol", "acme/app", "v1", http.StatusOK, "")
	if got.header.Get("Docker-Content-Digest") != string(first) {
		t.Errorf("digest %s, want %s", got.header.Get("Docker-Content-Digest"), first)
	}
	c.pull("", "acme/app", "v1", http.StatusOK, "")
	c.pull("", "acme/app", "multi", http.StatusNotFound, "MANIFEST_UNKNOWN")
	c.pull("carol", "acme/app", "multi", http.StatusOK, "")
	c.pull("", "acme/app", string(second), http.StatusNotFound, "MANIFEST_UNKNOWN")
	c.pull("carol", "acme/app", string(second), http.StatusOK, "")
	for _, layer := range []string{"layer one", "layer two"} {
		at := "/v2/acme/hub/acme/app/blobs/" + string(digest.FromString(layer))
		if got := c.expect(request{path: at}, http.StatusOK); got.body != layer {
			t.Errorf("blob %q, want %q", got.body, layer)
		}
	}
	target, err := c.store.Serving.Resolve(t.Context(), "acme/hub/acme/app")
	if err != nil || target.Distribution.CacheID != c.cache.ID || target.Repository.RemoteID == "" {
		t.Errorf("target %+v, %v", target, err)
	}
	if tags := c.expect(request{path: "/v2/acme/hub/acme/app/tags/list"}, http.StatusOK).body; !strings.Contains(tags, `["multi","v1"]`) {
		t.Errorf("tags %s", tags)
	}
	c.pull("carol", "acme/app", "absent", http.StatusNotFound, "MANIFEST_UNKNOWN")
	c.pull("carol", "acme/absent", "v1", http.StatusNotFound, "MANIFEST_UNKNOWN")
	c.origin.pushImage("acme/evil", "three", "v1")
	c.pull("carol", "acme/evil", "v1", http.StatusNotFound, "MANIFEST_UNKNOWN")
	for _, name := range []string{"acme/hub", "acme/hub/acme/mine"} {
		c.expectError(request{as: "admin", method: http.MethodPost, path: "/v2/" + name + "/blobs/uploads/"}, http.StatusBadRequest, "NAME_INVALID")
	}
	if _, err := c.store.Serving.Resolve(t.Context(), "acme/hub/acme/absent"); !fault.Is(err, fault.NotFound) {
		t.Errorf("an absent name has a repository: %v", err)
	}
}

// TestPullThroughFollowsTags proves that a moved tag is followed, that an outage and a limit of requests leave what is present,
// and that removed tags stay unless the setting says otherwise.
func TestPullThroughFollowsTags(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]bool{"keep": false, "remove": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCaching(t, func(o *pullthrough.Options) { o.RemoveMissing = remove })
			c.origin.pushImage("acme/app", "one", "v1")
			c.pull("carol", "acme/app", "v1", http.StatusOK, "")
			moved := c.origin.pushImage("acme/app", "two", "v1")
			if got := c.pull("carol", "acme/app", "v1", http.StatusOK, "").header.Get("Docker-Content-Digest"); got != string(moved) {
				t.Errorf("the moved tag has the digest %s, want %s", got, moved)
			}
			c.origin.expect(request{as: "admin", method: http.MethodDelete, path: "/v2/acme/app/manifests/v1"}, http.StatusAccepted)
			if remove {
				c.pull("carol", "acme/app", "v1", http.StatusNotFound, "MANIFEST_UNKNOWN")
				return
			}
			c.pull("carol", "acme/app", "v1", http.StatusOK, "")
			c.status.Store(http.StatusTooManyRequests)
			c.pull("carol", "acme/app", "v1", http.StatusOK, "")
			c.status.Store(http.StatusBadGateway)
			c.pull("carol", "acme/app", "v1", http.StatusOK, "")
			c.pull("carol", "acme/app", "new", http.StatusServiceUnavailable, "UNAVAILABLE")
		})
	}
}

// TestPullThroughFreshness proves that a fresh tag causes no request, and that concurrent first pulls make one repository with
// one request for the manifest.
func TestPullThroughFreshness(t *testing.T) {
	t.Parallel()
	c := newCaching(t, func(o *pullthrough.Options) { o.Freshness = time.Hour })
	c.origin.pushImage("acme/app", "one", "v1")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { c.pull("carol", "acme/app", "v1", http.StatusOK, "") })
	}
	all.Wait()
	if n := c.manifests.Load(); n != 1 {
		t.Errorf("%d requests for the manifest, want 1", n)
	}
	before := c.lookups.Load()
	c.pull("carol", "acme/app", "v1", http.StatusOK, "")
	if n := c.lookups.Load() - before; n != 0 {
		t.Errorf("a fresh tag caused %d requests", n)
	}
	for range 3 {
		c.pull("carol", "acme/app", "absent", http.StatusNotFound, "MANIFEST_UNKNOWN")
	}
	if n := c.lookups.Load() - before; n != 1 {
		t.Errorf("three pulls of an absent tag caused %d requests, want 1", n)
	}
}

// TestPrivatePullThrough proves that a private cache fetches for accounts with the permission only, and that its repositories
// are private.
func TestPrivatePullThrough(t *testing.T) {
	t.Parallel()
	c := newCaching(t)
	if _, err := c.store.Catalog.EditPullThrough(t.Context(), nil, c.cache.ID, 0, func(d *pulp.Distribution) { d.Private = true }); err != nil {
		t.Fatal(err)
	}
	c.origin.pushImage("acme/app", "one", "v1")
	c.pull("carol", "acme/app", "v1", http.StatusUnauthorized, "UNAUTHORIZED")
	assign(t, c.store, c.account("carol").ID, "container.containerpullthroughdistribution_consumer", access.Key(access.PullThrough, c.cache.ID))
	c.pull("carol", "acme/app", "v1", http.StatusOK, "")
	c.pull("carol", "acme/app", "v1", http.StatusOK, "")
	c.pull("", "acme/app", "v1", http.StatusUnauthorized, "UNAUTHORIZED")
	header, _ := c.token("carol", "repository:acme/hub/acme/app:pull")
	c.pull(header, "acme/app", "v1", http.StatusOK, "")
}

// TestPullThroughServesPresent proves that a present tag is served when the upstream registry says that it has moved and then
// refuses the manifest, and that this does not stop the checks of other repositories.
func TestPullThroughServesPresent(t *testing.T) {
	t.Parallel()
	c := newCaching(t)
	first := c.origin.pushImage("acme/app", "one", "v1")
	c.origin.pushImage("acme/other", "one", "v1")
	c.pull("carol", "acme/app", "v1", http.StatusOK, "")
	c.pull("carol", "acme/other", "v1", http.StatusOK, "")
	c.origin.pushImage("acme/app", "two", "v1")
	moved := c.origin.pushImage("acme/other", "two", "v1")
	c.refuseGET.Store(true)
	if got := c.pull("carol", "acme/app", "v1", http.StatusOK, "").header.Get("Docker-Content-Digest"); got != string(first) {
		t.Errorf("digest %s, want the present %s", got, first)
	}
	c.refuseGET.Store(false)
	if got := c.pull("carol", "acme/other", "v1", http.StatusOK, "").header.Get("Docker-Content-Digest"); got != string(moved) {
		t.Errorf("digest %s of another repository, want %s", got, moved)
	}
}

// TestPullThroughStall proves that a client does not wait for an upstream registry that says that a tag has moved and then stalls,
// and that the check goes on.
func TestPullThroughStall(t *testing.T) {
	t.Parallel()
	c := newCaching(t)
	first := c.origin.pushImage("acme/app", "one", "v1")
	c.pull("carol", "acme/app", "v1", http.StatusOK, "")
	moved := c.origin.pushImage("acme/app", "two", "v1")
	until := make(chan struct{})
	release := sync.OnceFunc(func() { close(until) })
	t.Cleanup(release)
	c.stallGET.Store(&until)
	for range 2 { // the second does not wait at all
		if got := c.pull("carol", "acme/app", "v1", http.StatusOK, "").header.Get("Docker-Content-Digest"); got != string(first) {
			t.Errorf("digest %s, want the present %s", got, first)
		}
	}
	release()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if c.pull("carol", "acme/app", "v1", http.StatusOK, "").header.Get("Docker-Content-Digest") == string(moved) {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the check did not go on")
		}
	}
}

// TestPullThroughOutage proves that one failed request to a registry that does not answer is enough for all its repositories.
func TestPullThroughOutage(t *testing.T) {
	t.Parallel()
	c := newCaching(t)
	for _, name := range []string{"acme/app", "acme/other"} {
		c.origin.pushImage(name, "one", "v1")
		c.pull("carol", name, "v1", http.StatusOK, "")
	}
	c.status.Store(http.StatusBadGateway)
	c.pull("carol", "acme/app", "v1", http.StatusOK, "")
	before := c.lookups.Load()
	c.pull("carol", "acme/other", "v1", http.StatusOK, "")
	if n := c.lookups.Load() - before; n != 0 {
		t.Errorf("the check of another repository sent %d requests during an outage", n)
	}
}

// TestPullThroughHidden proves that an outsider cannot make a private repository of a public cache store anything.
func TestPullThroughHidden(t *testing.T) {
	t.Parallel()
	c := newCaching(t)
	c.origin.pushImage("acme/app", "one", "v1")
	c.origin.pushImage("acme/app", "two", "v2")
	c.pull("carol", "acme/app", "v1", http.StatusOK, "")
	target, err := c.store.Serving.Resolve(t.Context(), "acme/hub/acme/app")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.store.Catalog.EditDistribution(t.Context(), nil, target.Distribution.ID, 0, func(d *pulp.Distribution) { d.Private = true }); err != nil {
		t.Fatal(err)
	}
	c.pull("carol", "acme/app", "v2", http.StatusNotFound, "MANIFEST_UNKNOWN")
	if target, err = c.store.Serving.Resolve(t.Context(), "acme/hub/acme/app"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.store.Serving.ServedManifest(t.Context(), target, "v2"); !fault.Is(err, fault.NotFound) {
		t.Errorf("the pull of an outsider stored v2: %v", err)
	}
	c.pull("admin", "acme/app", "v2", http.StatusOK, "")
}

// TestPullThroughLimits proves that an account cannot flood the upstream registry with new names.
func TestPullThroughLimits(t *testing.T) {
	t.Parallel()
	c := newCaching(t, func(o *pullthrough.Options) { o.NewPerMinute = 8 })
	for i := range 4 {
		c.pull("carol", fmt.Sprint("acme/absent", i), "v1", http.StatusNotFound, "MANIFEST_UNKNOWN")
	}
	got := c.pull("carol", "acme/absent-too", "v1", http.StatusTooManyRequests, "TOOMANYREQUESTS")
	if got.header.Get("Retry-After") == "" {
		t.Error("429 lacks Retry-After")
	}
	c.pull("acme", "acme/absent-too", "v1", http.StatusNotFound, "MANIFEST_UNKNOWN")
}
