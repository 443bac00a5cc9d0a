package catalog

import (
	"context"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// cachedVersions is the number of versions that the repository of a pull-through cache keeps (compatibility.md#pull-through).
const cachedVersions int64 = 1

// CacheTarget returns the target of a path below a pull-through distribution. If no distribution has the path it creates the
// repository, its remote for a repository of the pull-through remote, and the distribution; Made of the result is set then.
// They are named like the path, with a suffix if another object has the name. The error is NotFound if the pull-through
// distribution or its remote was deleted.
func (s *Store) CacheTarget(ctx context.Context, pullThroughID, path, upstreamName string) (record.Target, error) {
	return inTxUnlessTaken(ctx, s, func(t *content.Tx) (record.Target, error) {
		if err := t.LockNamed("push " + path); err != nil { // of concurrent first pulls and pushes only one creates the objects
			return record.Target{}, err
		}
		target, err := record.Resolve(t.Ctx, t, path)
		if !fault.Is(err, fault.NotFound) {
			return target, err
		}
		s.accounts.Changed(t.Tx) // grants that were read before are those of an absent object
		if target, err = makeCacheTarget(t, pullThroughID, path, upstreamName); err != nil {
			return target, err
		}
		return target, t.CheckDistribution(target.Distribution)
	})
}

// makeCacheTarget creates the objects of CacheTarget.
func makeCacheTarget(t *content.Tx, pullThroughID, path, upstreamName string) (none record.Target, err error) {
	if _, err := t.Exec(`SELECT 1 FROM pull_through_distribution WHERE id = $1`+t.Dialect.ForShare, pullThroughID); err != nil {
		return none, err
	}
	cache, err := record.FindPullThrough(t.Ctx, t, pullThroughID)
	if err != nil {
		return none, err
	}
	remote, err := makeCacheRemote(t, cache, path, upstreamName)
	if err != nil {
		return none, err
	}
	retain := cachedVersions
	r := pulp.Repository{Type: pulp.Container, RetainRepoVersions: &retain, RemoteID: remote, MadeByPush: true}
	if r.Name, err = freeName(t, "repository", path); err != nil {
		return none, err
	}
	if r.Name != path {
		r.PushedAs = path
	}
	if r, err = makeRepository(t, r); err != nil {
		return none, err
	}
	namespace, _, err := putNamespace(t, pulp.NamespaceOf(path))
	if err != nil {
		return none, err
	}
	d := pulp.Distribution{
		ID: pulp.NewID(), BasePath: path, RepositoryID: r.ID, Repository: r.Type, NamespaceID: namespace, Private: cache.Private,
		Hidden: cache.Hidden, RemoteID: remote, CacheID: cache.ID, Labels: pulp.Labels{}, Stamps: record.Stamps(t.Now, t.Now),
	}
	if d.Name, err = freeName(t, "distribution", path); err != nil {
		return none, err
	}
	_, err = t.Exec(`
		INSERT INTO distribution (id, name, base_path, repository_id, namespace_id, private, hidden, pull_through_id, created, updated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)`,
		d.ID, d.Name, path, r.ID, namespace, d.Private, d.Hidden, cache.ID, t.Now)
	return record.Target{Distribution: d, Repository: r, Made: true}, err
}

// makeCacheRemote creates the remote of a cached repository and returns its id. The row has no secrets: they are read from the
// pull-through remote.
func makeCacheRemote(t *content.Tx, cache pulp.Distribution, path, upstreamName string) (string, error) {
	from, err := record.FindPullThroughRemote(t.Ctx, t, cache.RemoteID)
	if err != nil {
		return "", err
	}
	name, err := freeName(t, "remote", path)
	if err != nil {
		return "", err
	}
	id := pulp.NewID()
	_, err = t.Exec(`
		INSERT INTO remote (id, name, url, upstream_name, policy, pull_through_id, created, updated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $7)`, id, name, from.URL, upstreamName, pulp.OnDemand, sqldb.NullIfEmpty(from.ID), t.Now)
	return id, err
}
