// Package pullthrough fetches content of pull-through caches when clients pull it: the first pull of a name creates its
// repository, later pulls of a tag ask the upstream registry whether the tag has moved. See compatibility.md#pull-through.
//
// Upstream registries are not trusted. internal/mirror bounds and verifies their responses; this package bounds the number of
// requests, and of the repositories that pulls create.
package pullthrough

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/glob"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/storage"
)

// The bounds of the work for clients.
const (
	missTTL       = 15 * time.Second // how long the result of a lookup that found nothing is used
	outageTTL     = 15 * time.Second // how long a remote that did not answer is not asked about present tags
	checkTimeout  = 10 * time.Second // for the check of a tag that can be served anyway
	fetchTimeout  = 15 * time.Minute // for one fetch; clients may have gone before
	patience      = 30 * time.Second // for a place among the fetches
	maxFetches    = 32               // at a time
	maxRemembered = 50_000           // lookups and checks
)

// Options are the dependencies and settings of a Cache.
type Options struct {
	Store      *store.Store
	Network    *mirror.Network
	Blobs      ingest.Blobs
	Validator  ingest.SignatureValidator
	Upstream   storage.Manifests // nil if the storage is not a registry
	SignOnPush *signonpush.Runner
	Access     *access.Decider
	Log        *slog.Logger
	Audit      *audit.Log
	// Freshness is the time after which a pull of a tag asks the upstream registry again.
	Freshness time.Duration
	// RemoveMissing removes tags that the upstream registry does not have any more. Otherwise they are kept.
	RemoveMissing bool
	// NewPerMinute bounds the lookups of names without a repository, for each pull-through distribution. One client has at
	// most half of them.
	NewPerMinute int
}

// Cache fetches content for all pull-through distributions. It is safe for concurrent use.
type Cache struct {
	Options
	places  chan struct{}
	flights singleflight.Group
	misses  *lru.Cache[string, miss]
	checked *lru.Cache[string, time.Time] // tags, remotes and caches that need no check before a time
	limits  *limits
	sources sources
}

// New returns a cache.
func New(o Options) *Cache {
	c := &Cache{Options: o, places: make(chan struct{}, maxFetches), limits: newLimits(o.NewPerMinute)}
	c.misses, _ = lru.New[string, miss](maxRemembered) // the only error is a size below 1
	c.checked, _ = lru.New[string, time.Time](maxRemembered)
	return c
}

// Puller is the origin of a pull.
type Puller struct {
	Name   string // of the user, for signatures
	Client string // under which limits count
}

// miss is the result of a lookup that found nothing.
type miss struct {
	at  time.Time
	err error
}

// errUnknown is the error of a name or reference that the upstream registry does not have, or may not be fetched.
var errUnknown = fault.New(fault.NotFound, "The upstream registry of the cache does not have the manifest.")

// Create fetches the first manifest of a path below a pull-through distribution and creates its repository. The error is
// NotFound if the upstream registry does not have the manifest, or the patterns of the remote exclude the name.
func (c *Cache) Create(ctx context.Context, by Puller, d pulp.Distribution, path, reference string) error {
	return c.create(ctx, by, d, path, reference, false)
}

// Ask is Create for a path that a distribution has which the caller may not read. It sends the same request for the manifest, so
// that the caller does not learn of the distribution, but it stores nothing. The error is NotFound at best.
func (c *Cache) Ask(ctx context.Context, by Puller, d pulp.Distribution, path, reference string) error {
	return c.create(ctx, by, d, path, reference, true)
}

func (c *Cache) create(ctx context.Context, by Puller, d pulp.Distribution, path, reference string, hidden bool) error {
	name, ok := strings.CutPrefix(path, d.BasePath+"/")
	if !ok || d.RemoteID == "" {
		return errUnknown
	}
	get := func(ctx context.Context) error {
		remote, err := c.Store.Catalog.PullThroughRemote(ctx, d.RemoteID)
		if err != nil {
			return err
		}
		if !permits(remote, name) {
			return errUnknown
		}
		if err := c.limits.allow(d.ID, by.Client); err != nil {
			return err
		}
		remote.UpstreamName, remote.PullThrough, remote.Includes, remote.Excludes = name, false, nil, nil
		f := fetch{Cache: c, by: by, remote: remote, from: remote}
		if err := f.open(); err != nil {
			return err
		}
		defer f.registry.Close()
		m, err := f.manifest(ctx, reference)
		if err != nil {
			return err
		}
		if hidden {
			return errUnknown
		}
		target, err := c.Store.Catalog.CacheTarget(ctx, d.ID, path, name)
		if err != nil {
			return err
		}
		if target.Distribution.CacheID != d.ID { // the path is somebody's
			return errUnknown
		}
		if target.Made {
			c.Audit.Record(ctx, audit.Entry{Action: "cache repository", Object: path, Result: audit.Done})
		}
		if err := f.into(ctx, target); err != nil {
			return err
		}
		return f.take(ctx, reference, m)
	}
	if hidden { // its failure must not be that of pulls of others
		return c.once(ctx, "hidden "+d.ID+" "+path+" "+reference, get)
	}
	return c.fetchOnce(ctx, d.ID, path, reference, get)
}

// NeedsUpdate reports whether a pull of a reference from a cached repository asks the upstream registry. known is the manifest
// that is present; empty if there is none.
func (c *Cache) NeedsUpdate(t record.Target, reference string, known pulp.Manifest) bool {
	if t.Distribution.CacheID == "" || t.Repository.RemoteID == "" || t.Distribution.Pinned != nil {
		return false
	}
	if known.Digest == "" {
		return true
	}
	return pulp.ValidTag(reference) && !c.isFresh(tagKey(t, reference)) && !c.isFresh(t.Repository.RemoteID) &&
		!c.isFresh(cacheKey(t))
}

// Update asks the upstream registry for a reference of a cached repository and stores what is new. known is the manifest that is
// present; empty if there is none. Without one, the error is NotFound if the upstream registry does not have the reference. With
// one, failures of the upstream registry are logged, and the present manifest stays; Update waits for checkTimeout at most, and
// slower checks go on without the caller.
func (c *Cache) Update(ctx context.Context, by Puller, t record.Target, reference string, known pulp.Manifest) error {
	if known.Digest == "" {
		return c.fetchOnce(ctx, t.Distribution.CacheID, t.Distribution.BasePath, reference, func(ctx context.Context) error {
			return c.update(ctx, by, t, reference, known)
		})
	}
	key := tagKey(t, reference)
	done := c.flights.DoChan("check "+key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		err := c.placed(ctx, func() error { return c.update(ctx, by, t, reference, known) })
		if err == nil {
			c.checked.Add(key, time.Now().Add(c.Freshness))
			return nil, nil
		}
		c.Log.WarnContext(ctx, "a cached tag cannot be checked at the upstream registry; the present manifest is served",
			slog.String("repository", t.Repository.Name), slog.String("tag", reference), slog.Any("err", err))
		c.checked.Add(key, time.Now().Add(outageTTL))
		if !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.TooMany) {
			c.checked.Add(t.Repository.RemoteID, time.Now().Add(outageTTL))
		}
		return nil, nil
	})
	timer := time.NewTimer(checkTimeout)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		c.checked.Add(key, time.Now().Add(outageTTL)) // other clients need not wait, either
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Cache) update(ctx context.Context, by Puller, t record.Target, reference string, known pulp.Manifest) error {
	f := fetch{Cache: c, by: by}
	if err := f.into(ctx, t); err != nil {
		return err
	}
	if f.remote.CacheID == "" { // the repository has another remote by now
		return nil
	}
	var err error
	if f.from, err = c.Store.Catalog.PullThroughRemote(ctx, f.remote.CacheID); err != nil {
		return err
	}
	if !permits(f.from, f.remote.UpstreamName) {
		return errUnknownUnless(known)
	}
	if err := f.open(); err != nil {
		return err
	}
	defer f.registry.Close()
	if known.Digest == "" {
		m, err := f.manifest(ctx, reference)
		if err != nil {
			return err
		}
		return f.take(ctx, reference, m)
	}
	return f.check(ctx, reference, known)
}

// errUnknownUnless returns errUnknown unless a manifest is present.
func errUnknownUnless(known pulp.Manifest) error {
	if known.Digest != "" {
		return nil
	}
	return errUnknown
}

// fetchOnce is once for a reference of a path below a pull-through distribution. It does not call f if the manifest is there by
// then: a call may begin just after another has fetched it.
func (c *Cache) fetchOnce(ctx context.Context, cacheID, path, reference string, f func(context.Context) error) error {
	return c.once(ctx, cacheID+" "+path+" "+reference, func(ctx context.Context) error {
		if there, err := c.has(ctx, cacheID, path, reference); there || err != nil {
			return err
		}
		return f(ctx)
	})
}

// once calls f for one of several concurrent calls with a key. A failure is the result of further calls for missTTL.
func (c *Cache) once(ctx context.Context, key string, f func(context.Context) error) error {
	if m, ok := c.misses.Get(key); ok && time.Since(m.at) < missTTL {
		return m.err
	}
	done := c.flights.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		return nil, c.placed(ctx, func() error {
			err := f(ctx)
			if err != nil && !fault.Is(err, fault.TooMany) {
				c.misses.Add(key, miss{time.Now(), err})
			}
			return err
		})
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// has reports whether a path of a pull-through distribution serves a reference.
func (c *Cache) has(ctx context.Context, cacheID, path, reference string) (bool, error) {
	t, err := c.Store.Serving.Resolve(ctx, path)
	if err == nil && t.Distribution.CacheID == cacheID {
		_, err = c.Store.Serving.ServedManifest(ctx, t, reference)
		if err == nil {
			return true, nil
		}
	}
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	return false, err
}

// placed calls f in a place among the fetches.
func (c *Cache) placed(ctx context.Context, f func() error) error {
	release, err := c.place(ctx)
	if err != nil {
		return err
	}
	defer release()
	return f()
}

// place waits for a place among the fetches. The caller releases it.
func (c *Cache) place(ctx context.Context) (release func(), err error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case c.places <- struct{}{}:
		return func() { <-c.places }, nil
	case <-timer.C:
		return nil, &fault.Error{Kind: fault.TooMany, Msg: "Too many images are being fetched for the cache. Try again later.", RetryAfter: patience}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *Cache) isFresh(key string) bool {
	until, ok := c.checked.Get(key)
	return ok && time.Now().Before(until)
}

func tagKey(t record.Target, reference string) string {
	return fmt.Sprint(t.Repository.ID, " ", reference)
}

// cacheKey is the key of the outage of a cache's upstream registry.
func cacheKey(t record.Target) string { return "cache " + t.Distribution.CacheID }

// permits reports whether a pull-through remote's patterns permit the name of a repository. On Docker Hub, a name without a
// slash is that of the official image in library/, which patterns may name either way.
func permits(remote pulp.Remote, name string) bool {
	names := []string{name}
	if mirror.IsDockerHub(remote.URL) && !strings.Contains(name, "/") {
		names = append(names, "library/"+name)
	}
	matches := func(patterns []string) bool {
		for _, p := range patterns {
			for _, n := range names {
				if glob.MatchRepository(p, n) {
					return true
				}
			}
		}
		return false
	}
	return (len(remote.Includes) == 0 || matches(remote.Includes)) && !matches(remote.Excludes)
}

// sources remembers where the signatures of remotes are.
type sources struct {
	mu    sync.Mutex
	known map[string]source
}

type source struct {
	from  mirror.Source
	until time.Time
}

// sourceTTL is how long the place of a remote's signatures is remembered; maxSources bounds the remotes.
const (
	sourceTTL  = 10 * time.Minute
	maxSources = 10_000
)

// of returns the place of the signatures of the registry of a pull-through remote. What another remote says about the same URL
// does not count: its owner may have chosen a proxy that answers.
func (s *sources) of(ctx context.Context, remote pulp.Remote, g *mirror.Registry) (mirror.Source, error) {
	key := fmt.Sprint(remote.ID, " ", remote.Updated.UnixNano())
	s.mu.Lock()
	known, ok := s.known[key]
	s.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known.from, nil
	}
	from, err := g.SignatureSource(ctx)
	if err != nil {
		return from, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil || len(s.known) >= maxSources {
		s.known = map[string]source{}
	}
	s.known[key] = source{from, time.Now().Add(sourceTTL)}
	return from, nil
}
