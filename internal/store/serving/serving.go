package serving

import (
	"context"
	"database/sql"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Resolve returns the target of a base path. The error is NotFound if no distribution has that path.
func (s *Store) Resolve(ctx context.Context, basePath string) (record.Target, error) {
	return s.cachedTarget(ctx, basePath, false)
}

// ResolvePublic is Resolve for distributions that are not private. A private distribution costs the same queries as a
// missing one, so timing does not reveal it.
func (s *Store) ResolvePublic(ctx context.Context, basePath string) (record.Target, error) {
	return s.cachedTarget(ctx, basePath, true)
}

// cachedTarget returns a target from the cache, or reads it and caches it.
func (s *Store) cachedTarget(ctx context.Context, basePath string, public bool) (record.Target, error) {
	condition := ""
	if public {
		condition = " AND NOT d.private"
	}
	if t, ok := s.cache.target(basePath); ok && !(public && t.Distribution.Private) {
		return t, nil
	}
	asOf := s.cache.before()
	t, err := record.ResolveWhere(ctx, s.db.Read(), basePath, condition)
	if err == nil {
		s.cache.keep(asOf, basePath, t)
	}
	return t, err
}

// held returns the id of the unit that a target serves under a key: in its version or, unless the target is pinned,
// pending.
func (s *Store) held(ctx context.Context, t record.Target, kind pulp.Kind, key string) (string, error) {
	var id string
	err := s.db.Read().QueryRowContext(ctx, `
		SELECT c.content_id FROM repository_content c WHERE c.repository_id = $1 AND c.kind = $2 AND c.key = $3 AND `+record.InServedVersion(t.Version(), `$4`),
		t.Repository.ID, kind, key, t.Version()).Scan(&id)
	if !errors.Is(err, sql.ErrNoRows) || t.Distribution.Pinned != nil {
		return id, err
	}
	err = s.db.Read().QueryRowContext(ctx, `SELECT p.content_id FROM unversioned_content p WHERE `+record.Pending("$1")+` AND p.kind = $2 AND p.key = $3`,
		t.Repository.ID, kind, key).Scan(&id)
	return id, err
}

// ServedManifest returns the manifest that a target serves under a tag or a digest. The error is NotFound if there is
// none.
func (s *Store) ServedManifest(ctx context.Context, t record.Target, reference string) (pulp.Manifest, error) {
	key := manifestKey{t.Repository.ID, t.Version(), reference}
	if m, ok := s.cache.manifest(key); ok {
		return m, nil
	}
	asOf := s.cache.before()
	m, err := s.servedManifest(ctx, t, reference)
	if err == nil {
		s.cache.keep(asOf, key, m)
	}
	return m, err
}

// servedManifest is ServedManifest without the cache.
func (s *Store) servedManifest(ctx context.Context, t record.Target, reference string) (pulp.Manifest, error) {
	if digest.Digest(reference).Validate() != nil {
		m, err := record.ScanManifest(s.db.Read().QueryRowContext(ctx, `
			SELECT `+record.ManifestColumns+`
			  FROM repository_content c JOIN tag t ON t.id = c.content_id JOIN manifest m ON m.id = t.manifest_id
			 WHERE c.repository_id = $1 AND c.kind = $2 AND c.key = $3 AND `+record.InServedVersion(t.Version(), `$4`),
			t.Repository.ID, pulp.KindTag, reference, t.Version()))
		return m, sqldb.NotFound(err, "Manifest not found.")
	}
	id, err := s.held(ctx, t, pulp.KindManifest, reference)
	if err != nil {
		return pulp.Manifest{}, sqldb.NotFound(err, "Manifest not found.")
	}
	return record.ScanManifest(s.db.Read().QueryRowContext(ctx, `SELECT `+record.ManifestColumns+` FROM manifest m WHERE m.id = $1`, id))
}

// ServedBlob returns a blob that a target serves or, unless it is pinned, that is pending in its repository, with the
// bytes of a small one. The error is NotFound if there is none.
func (s *Store) ServedBlob(ctx context.Context, t record.Target, dgst digest.Digest) (pulp.Blob, error) {
	b, err := s.BlobIn(ctx, t.Repository.ID, `COALESCE(
		(SELECT c.content_id FROM repository_content c WHERE c.repository_id = $1 AND c.kind = $2 AND c.key = $3 AND `+record.InServedVersion(t.Version(), `$4`)+`),
		(SELECT p.content_id FROM unversioned_content p WHERE `+record.Pending("$1")+` AND p.kind = $2 AND p.key = $3 AND $4 = -1))`, pulp.KindBlob, dgst, t.Version())
	return b, sqldb.NotFound(err, "Blob not found.")
}

// ServedTags returns the names of the tags that a target serves, in byte order, after the name after, at most limit.
func (s *Store) ServedTags(ctx context.Context, t record.Target, after string, limit int) ([]string, error) {
	return sqldb.Collect(ctx, s.db.Read(), sqldb.ScanString, `
		SELECT c.key FROM repository_content c
		 WHERE c.repository_id = $1 AND c.kind = $2 AND c.key > $3 AND `+record.InServedVersion(t.Version(), `$4`)+` ORDER BY c.key LIMIT $5`,
		t.Repository.ID, pulp.KindTag, after, t.Version(), limit)
}

// ServedSignatures returns the signatures of a manifest that a target serves, oldest first, with their content: those
// of its version and, unless it is pinned, pending ones.
func (s *Store) ServedSignatures(ctx context.Context, t record.Target, manifestID string) ([]pulp.Signature, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanSignature, `
		SELECT `+record.SignatureColumns+` FROM signature g
		 WHERE g.manifest_id = $1 AND (EXISTS (
			SELECT 1 FROM repository_content c
			 WHERE c.repository_id = $2 AND c.kind = $3 AND c.key = g.digest AND `+record.InServedVersion(t.Version(), `$4`)+`)
			OR ($4 = -1 AND `+record.IsPending("$2", "$3", "g.digest")+`))
		 ORDER BY g.id`, manifestID, t.Repository.ID, pulp.KindSignature, t.Version())
}

// Catalog returns the base paths of distributions that serve a repository and are not hidden, in byte order, after
// the path after, at most limit. It omits private ones from which the viewer may not pull.
func (s *Store) Catalog(ctx context.Context, viewer *access.Viewer, after string, limit int) ([]string, error) {
	args := &record.Args{Values: []any{after, limit}}
	return sqldb.Collect(ctx, s.db.ReadComposed(), sqldb.ScanString, `
		SELECT d.base_path FROM distribution d
		 WHERE d.base_path > $1 AND NOT d.hidden AND COALESCE(d.repository_id, d.repository_version_id) IS NOT NULL`+readable(viewer, args)+`
		 ORDER BY d.base_path LIMIT $2`, args.Values...)
}

// readable returns the condition that a viewer may pull from a distribution d. It begins with AND.
func readable(viewer *access.Viewer, args *record.Args) string {
	if viewer == nil {
		return ""
	}
	permitted := record.Permitted{Viewer: viewer, Arg: args.Add}.IDs(access.Distribution, access.Pull)
	return ` AND (NOT d.private OR d.id IN (` + permitted + `))`
}

// BlobHolders returns distributions of repositories that hold a blob in their latest version or as pending, public
// ones first, at most limit. It omits private ones from which the viewer may not pull. If basePath is not empty, only the
// distribution with that base path is returned.
func (s *Store) BlobHolders(
	ctx context.Context, viewer *access.Viewer, dgst digest.Digest, basePath string, limit int,
) ([]pulp.Distribution, error) {
	args := &record.Args{Values: []any{pulp.KindBlob, dgst, basePath, limit}}
	return sqldb.Collect(ctx, s.db.ReadComposed(), record.ScanDistribution, `
		SELECT `+record.DistributionColumns+record.DistributionSource+`
		 WHERE d.repository_id IN (
			SELECT c.repository_id FROM blob b JOIN repository_content c ON c.content_id = b.id AND c.kind = $1 AND c.version_removed IS NULL
			 WHERE b.digest = $2
			UNION SELECT p.repository_id FROM blob b JOIN unversioned_content p ON p.content_id = b.id AND p.kind = $1 AND p.reason = 'pending' WHERE b.digest = $2)
		   AND ($3 = '' OR d.base_path = $3)`+readable(viewer, args)+`
		 ORDER BY d.private, d.base_path LIMIT $4`, args.Values...)
}
