package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
)

// Target is what a base path serves: a distribution, its repository, and the version that it is pinned to, if it is.
type Target struct {
	Distribution pulp.Distribution
	Repository   pulp.Repository // zero when the distribution has none
	Made         bool            // by this very PushTarget, of several at once
}

// Served says whether the distribution serves anything.
func (t Target) Served() bool { return t.Repository.ID != "" }

// latest is the version number that stands for "the latest" in membership queries.
const latest = -1

// version returns the number of the version that the target serves, or latest.
func (t Target) version() int64 {
	if t.Distribution.Pinned != nil {
		return t.Distribution.Pinned.Number
	}
	return latest
}

const distributionColumns = `d.id, d.name, d.base_path, COALESCE(d.repository_id, ''), COALESCE(r.type, ''),
	COALESCE(pv.id, ''), COALESCE(pv.repository_id, ''), COALESCE(pv.number, 0),
	d.namespace_id, d.private, d.hidden, d.description, d.labels, d.created, d.updated`

const distributionSource = ` FROM distribution d
	LEFT JOIN repository_version pv ON pv.id = d.repository_version_id
	LEFT JOIN repository r ON r.id = COALESCE(d.repository_id, pv.repository_id)`

// distributionRow is a row of distributionColumns on its way in.
type distributionRow struct {
	value            pulp.Distribution
	pinned           pulp.PinnedVersion
	description      sql.NullString
	labels           string
	created, updated int64
}

func (x *distributionRow) dests() []any {
	d, p := &x.value, &x.pinned
	return []any{
		&d.ID, &d.Name, &d.BasePath, &d.RepositoryID, &d.Repository, &p.VersionID, &p.RepositoryID, &p.Number,
		&d.NamespaceID, &d.Private, &d.Hidden, &x.description, &x.labels, &x.created, &x.updated,
	}
}

func (x *distributionRow) distribution() (pulp.Distribution, error) {
	d := x.value
	if x.pinned.VersionID != "" {
		d.Pinned = &x.pinned
	}
	d.Description, d.Stamps = pointer(x.description), stamps(x.created, x.updated)
	return d, fromJSON("distribution.labels", x.labels, &d.Labels)
}

func scanDistribution(row scanner) (pulp.Distribution, error) {
	var x distributionRow
	if err := row.Scan(x.dests()...); err != nil {
		return pulp.Distribution{}, err
	}
	return x.distribution()
}

// servedColumns are repositoryColumns of a repository that a distribution need not have.
const servedColumns = `COALESCE(r.id, ''), COALESCE(r.type, ''), COALESCE(r.name, ''), r.description, COALESCE(r.labels, '{}'), r.retain_repo_versions,
	r.signing_service_id, COALESCE(r.signing_assigned, ''), COALESCE(r.sign_on_push, FALSE), r.remote_id, COALESCE(r.allow_shrink, FALSE),
	COALESCE(r.made_by_push, FALSE), COALESCE(r.pushed_as, ''), COALESCE(r.latest_version, 0), COALESCE(r.created, 0), COALESCE(r.updated, 0)`

// Resolve returns the target of a base path. NotFound when no distribution has that path.
func (s *Store) Resolve(ctx context.Context, basePath string) (Target, error) {
	return s.cachedTarget(ctx, basePath, false)
}

// ResolvePublic returns the target of a base path whose distribution is not private. NotFound when there is none. A private distribution costs the same
// queries as an absent one, whatever is remembered of it.
func (s *Store) ResolvePublic(ctx context.Context, basePath string) (Target, error) {
	return s.cachedTarget(ctx, basePath, true)
}

// cachedTarget returns a target from memory, or reads and remembers it.
func (s *Store) cachedTarget(ctx context.Context, basePath string, public bool) (Target, error) {
	condition := ""
	if public {
		condition = " AND NOT d.private"
	}
	if t, ok := s.memory.target(basePath); ok && !(public && t.Distribution.Private) {
		return t, nil
	}
	asOf := s.memory.before()
	t, err := resolveWhere(ctx, s.read, basePath, condition)
	if err == nil {
		s.memory.keepTarget(asOf, basePath, t)
	}
	return t, err
}

func resolve(ctx context.Context, q querier, basePath string) (Target, error) {
	return resolveWhere(ctx, q, basePath, "")
}

// resolveWhere is resolve for distributions that meet a further condition.
func resolveWhere(ctx context.Context, q querier, basePath, condition string) (Target, error) {
	var d distributionRow
	var r repositoryRow
	err := q.QueryRowContext(ctx, `SELECT `+distributionColumns+`, `+servedColumns+distributionSource+` WHERE d.base_path = $1`+condition, basePath).
		Scan(append(d.dests(), r.dests()...)...)
	if err != nil {
		return Target{}, notFound(err, "Repository not found.")
	}
	t := Target{}
	if t.Distribution, err = d.distribution(); err != nil || r.value.ID == "" {
		return t, err
	}
	t.Repository, err = r.repository()
	return t, err
}

// Distribution returns the distribution with this id. NotFound when there is none.
func (s *Store) Distribution(ctx context.Context, id string) (pulp.Distribution, error) {
	return distribution(ctx, s.read, id)
}

func distribution(ctx context.Context, q querier, id string) (pulp.Distribution, error) {
	d, err := scanDistribution(q.QueryRowContext(ctx, `SELECT `+distributionColumns+distributionSource+` WHERE d.id = $1`, id))
	return d, notFound(err, "No ContainerDistribution matches the given query.")
}

// RepositoryDistributions returns the distributions that serve a repository's latest version, by base path. Pinned ones do not
// count (contract 2.7).
func (s *Store) RepositoryDistributions(ctx context.Context, repositoryID string) ([]pulp.Distribution, error) {
	return collect(ctx, s.read, scanDistribution,
		`SELECT `+distributionColumns+distributionSource+` WHERE d.repository_id = $1 ORDER BY d.base_path`, repositoryID)
}

// in returns the condition that a row c of repository_content is in version number $n of its repository; number may be latest.
func in(number int64, placeholder string) string {
	if number == latest {
		return `c.version_removed IS NULL AND ` + placeholder + ` = -1`
	}
	return fmt.Sprintf(`c.version_added <= %[1]s AND (c.version_removed IS NULL OR c.version_removed > %[1]s)`, placeholder)
}

// held returns the id of the unit that a target serves under a key, in its version or, unless it is pinned, pending.
func (s *Store) held(ctx context.Context, t Target, kind pulp.Kind, key string) (string, error) {
	var id string
	err := s.read.QueryRowContext(ctx, `
		SELECT c.content_id FROM repository_content c WHERE c.repository_id = $1 AND c.kind = $2 AND c.key = $3 AND `+in(t.version(), `$4`),
		t.Repository.ID, kind, key, t.version()).Scan(&id)
	if !errors.Is(err, sql.ErrNoRows) || t.Distribution.Pinned != nil {
		return id, err
	}
	err = s.read.QueryRowContext(ctx, `SELECT content_id FROM pending_content WHERE repository_id = $1 AND kind = $2 AND key = $3`,
		t.Repository.ID, kind, key).Scan(&id)
	return id, err
}

// ServedManifest returns the manifest that a target serves under a tag or a digest. NotFound when there is none.
func (s *Store) ServedManifest(ctx context.Context, t Target, reference string) (pulp.Manifest, error) {
	key := remembered{t.Repository.ID, t.version(), reference}
	if m, ok := s.memory.manifest(key); ok {
		return m, nil
	}
	asOf := s.memory.before()
	m, err := s.servedManifest(ctx, t, reference)
	if err == nil {
		s.memory.keepManifest(asOf, key, m)
	}
	return m, err
}

func (s *Store) servedManifest(ctx context.Context, t Target, reference string) (pulp.Manifest, error) {
	if digest.Digest(reference).Validate() != nil {
		m, err := scanManifest(s.read.QueryRowContext(ctx, `
			SELECT `+manifestColumns+`
			  FROM repository_content c JOIN tag t ON t.id = c.content_id JOIN manifest m ON m.id = t.manifest_id
			 WHERE c.repository_id = $1 AND c.kind = $2 AND c.key = $3 AND `+in(t.version(), `$4`),
			t.Repository.ID, pulp.KindTag, reference, t.version()))
		return m, notFound(err, "Manifest not found.")
	}
	id, err := s.held(ctx, t, pulp.KindManifest, reference)
	if err != nil {
		return pulp.Manifest{}, notFound(err, "Manifest not found.")
	}
	return scanManifest(s.read.QueryRowContext(ctx, `SELECT `+manifestColumns+` FROM manifest m WHERE m.id = $1`, id))
}

// ServedBlob returns a blob that a target serves or that waits in its repository, with the bytes of a small one. NotFound when there is
// none.
func (s *Store) ServedBlob(ctx context.Context, t Target, dgst digest.Digest) (pulp.Blob, error) {
	b, err := s.blobIn(ctx, t.Repository.ID, `COALESCE(
		(SELECT c.content_id FROM repository_content c WHERE c.repository_id = $1 AND c.kind = $2 AND c.key = $3 AND `+in(t.version(), `$4`)+`),
		(SELECT p.content_id FROM pending_content p WHERE p.repository_id = $1 AND p.kind = $2 AND p.key = $3 AND $4 = -1))`, pulp.KindBlob, dgst, t.version())
	return b, notFound(err, "Blob not found.")
}

// ServedTags returns the names of the tags that a target serves, in byte order, behind after, at most limit.
func (s *Store) ServedTags(ctx context.Context, t Target, after string, limit int) ([]string, error) {
	return collect(ctx, s.read, scanString, `
		SELECT c.key FROM repository_content c
		 WHERE c.repository_id = $1 AND c.kind = $2 AND c.key > $3 AND `+in(t.version(), `$4`)+` ORDER BY c.key LIMIT $5`,
		t.Repository.ID, pulp.KindTag, after, t.version(), limit)
}

// ServedSignatures returns the signatures that a target serves of one manifest, oldest first, with their content: those of its version
// and, unless it is pinned, those that were sent ahead of a pending manifest.
func (s *Store) ServedSignatures(ctx context.Context, t Target, manifestID string) ([]pulp.Signature, error) {
	return collect(ctx, s.read, scanSignature, `
		SELECT `+signatureColumns+` FROM signature g
		 WHERE g.manifest_id = $1 AND (EXISTS (
			SELECT 1 FROM repository_content c
			 WHERE c.repository_id = $2 AND c.kind = $3 AND c.key = g.digest AND `+in(t.version(), `$4`)+`) OR ($4 = -1 AND EXISTS (
			SELECT 1 FROM pending_content p WHERE p.repository_id = $2 AND p.kind = $3 AND p.key = g.digest)))
		 ORDER BY g.id`, manifestID, t.Repository.ID, pulp.KindSignature, t.version())
}

// Catalog returns the base paths of distributions that serve something and are not hidden, in byte order, behind after, at
// most limit; private ones only under the prefix own, or all of them.
func (s *Store) Catalog(ctx context.Context, all bool, own, after string, limit int) ([]string, error) {
	return collect(ctx, s.read, scanString, `
		SELECT d.base_path FROM distribution d
		 WHERE d.base_path > $1 AND NOT d.hidden AND (NOT d.private OR $2 OR substr(d.base_path || '/', 1, length($3)) = $3)
		   AND COALESCE(d.repository_id, d.repository_version_id) IS NOT NULL
		 ORDER BY d.base_path LIMIT $4`, after, all, own, limit)
}

// BlobHolders returns distributions whose repository holds a blob, in its latest version or pending, public ones first, at most limit; only the one with this base path
// when it is not empty.
func (s *Store) BlobHolders(ctx context.Context, dgst digest.Digest, basePath string, limit int) ([]pulp.Distribution, error) {
	return collect(ctx, s.read, scanDistribution, `
		SELECT `+distributionColumns+distributionSource+`
		 WHERE d.repository_id IN (
			SELECT c.repository_id FROM blob b JOIN repository_content c ON c.content_id = b.id AND c.kind = $1 AND c.version_removed IS NULL
			 WHERE b.digest = $2
			UNION SELECT p.repository_id FROM blob b JOIN pending_content p ON p.content_id = b.id AND p.kind = $1 WHERE b.digest = $2)
		   AND ($3 = '' OR d.base_path = $3)
		 ORDER BY d.private, d.base_path LIMIT $4`, pulp.KindBlob, dgst, basePath, limit)
}
