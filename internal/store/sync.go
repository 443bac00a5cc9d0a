package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// A sync writes down what it fetches as it goes: the units, and that a repository fetched them, in fetched_content. Nobody is served from there. At its end one
// transaction makes a version of what was wanted; a sync that ends otherwise leaves the repository as it was and the next one goes on from there.

// FetchedBlob writes down that a repository has fetched a blob from a remote: its bytes are safe, or, when b.Absent, it is a claim. ErrDeleting as CommitBlob.
func (s *Store) FetchedBlob(ctx context.Context, repositoryID, remoteID string, b pulp.Blob) error {
	return s.inTx(ctx, func(t *tx) error {
		id, err := t.putBlob(b)
		if err != nil {
			return err
		}
		if b.Absent {
			err = t.putClaim(repositoryID, id, remoteID, b.Size)
		} else {
			err = t.proven(repositoryID, id, remoteID)
		}
		if err != nil {
			return err
		}
		if err := t.putSource(id, remoteID); err != nil {
			return err
		}
		return t.putFetched(repositoryID, pulp.KindBlob, string(b.Digest), id)
	})
}

// FilledBlob writes down that the bytes of a blob that a repository has claimed have come from its remote and are safe. ErrDeleting as CommitBlob.
func (s *Store) FilledBlob(ctx context.Context, repositoryID, remoteID string, b pulp.Blob) error {
	return s.inTx(ctx, func(t *tx) error {
		id, err := t.putBlob(b)
		if err != nil {
			return err
		}
		return t.proven(repositoryID, id, remoteID)
	})
}

func (t *tx) putSource(blobID, remoteID string) error {
	if remoteID == "" {
		return nil
	}
	_, err := t.exec(`INSERT INTO blob_source (blob_id, remote_id) SELECT $1, m.id FROM remote m WHERE m.id = $2 ON CONFLICT DO NOTHING`, blobID, remoteID)
	return err
}

func (t *tx) putFetched(repositoryID string, kind pulp.Kind, key, id string) error {
	_, err := t.exec(`
		INSERT INTO fetched_content (repository_id, kind, key, content_id, touched) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (repository_id, kind, key) DO UPDATE SET content_id = excluded.content_id, touched = excluded.touched`,
		repositoryID, kind, key, id, t.now)
	return err
}

// FetchedManifest writes down that a repository has fetched a manifest.
func (s *Store) FetchedManifest(ctx context.Context, repositoryID string, m pulp.Manifest) error {
	return s.inTx(ctx, func(t *tx) error {
		if err := t.refers(); err != nil {
			return err
		}
		id, err := t.putManifest(m)
		if err != nil {
			return err
		}
		return t.putFetched(repositoryID, pulp.KindManifest, string(m.Digest), id)
	})
}

// FetchedSignature writes down that a repository has fetched a signature of a manifest, which it holds or has fetched before.
func (s *Store) FetchedSignature(ctx context.Context, repositoryID string, manifest digest.Digest, g pulp.Signature) error {
	return s.inTx(ctx, func(t *tx) error {
		if err := t.refers(); err != nil {
			return err
		}
		if err := t.row(`SELECT id FROM manifest WHERE digest = $1`, manifest).Scan(&g.ManifestID); err != nil {
			return notFound(err, "Manifest not found.")
		}
		id, err := t.putSignature(g)
		if err != nil {
			return err
		}
		return t.putFetched(repositoryID, pulp.KindSignature, string(g.Digest), id)
	})
}

// TakeBlob writes down, as if a repository had fetched it, a blob that the server has already. It is the caller's to know that whoever wants it may read it. false when the
// server has no such blob, or not its bytes.
func (s *Store) TakeBlob(ctx context.Context, repositoryID, remoteID string, d digest.Digest) (bool, error) {
	taken := false
	err := s.inTx(ctx, func(t *tx) error {
		if err := t.refers(); err != nil {
			return err
		}
		var id string
		err := t.row(`SELECT id FROM blob WHERE digest = $1 AND NOT deleting AND NOT absent`, d).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		} else if err != nil {
			return err
		}
		taken = true
		if err := t.putSource(id, remoteID); err != nil {
			return err
		}
		if err := t.proven(repositoryID, id, ""); err != nil {
			return err
		}
		return t.putFetched(repositoryID, pulp.KindBlob, string(d), id)
	})
	return taken, err
}

// VersionBlobs returns the digests of the blobs that a repository's version holds. NotFound when there is no such version.
func (s *Store) VersionBlobs(ctx context.Context, repositoryID string, number int64) ([]digest.Digest, error) {
	if _, err := s.Version(ctx, repositoryID, number); err != nil {
		return nil, err
	}
	return collect(ctx, s.read, scanDigest, `SELECT c.key FROM repository_content c WHERE c.repository_id = $1 AND c.kind = $2 AND `+heldIn("$3"),
		repositoryID, pulp.KindBlob, number)
}

func scanDigest(row scanner) (digest.Digest, error) {
	var d digest.Digest
	err := row.Scan(&d)
	return d, err
}

// AbsentBlobs returns the blobs that a repository's latest version holds and whose bytes it has not.
func (s *Store) AbsentBlobs(ctx context.Context, repositoryID string) ([]pulp.Blob, error) {
	return collect(ctx, s.read, scanBlob, `
		SELECT `+blobColumns+` FROM repository_content c JOIN blob b ON b.id = c.content_id
		 WHERE c.repository_id = $1 AND c.kind = $2 AND c.version_removed IS NULL
		   AND (b.absent OR EXISTS (SELECT 1 FROM blob_claim k WHERE k.repository_id = $1 AND k.blob_id = b.id))`, repositoryID, pulp.KindBlob)
}

// HeldTree returns the digests of a manifest and of all that it lists, as far as a repository's latest version holds them.
func (s *Store) HeldTree(ctx context.Context, repositoryID string, root digest.Digest) ([]digest.Digest, error) {
	return collect(ctx, s.read, scanDigest, `
		WITH RECURSIVE tree (digest, id) AS (
			SELECT m.digest, m.id FROM manifest m WHERE m.digest = $1
			UNION SELECT m.digest, m.id FROM tree t JOIN manifest_child mc ON mc.manifest_id = t.id JOIN manifest m ON m.digest = mc.digest)
		SELECT t.digest FROM tree t JOIN repository_content c ON c.content_id = t.id
		 WHERE c.repository_id = $2 AND c.kind = $3 AND c.version_removed IS NULL`, root, repositoryID, pulp.KindManifest)
}

// HeldTags returns what the tags of a repository's latest version stand for.
func (s *Store) HeldTags(ctx context.Context, repositoryID string) (map[string]digest.Digest, error) {
	return s.heldTags(ctx, repositoryID, "")
}

func (s *Store) heldTags(ctx context.Context, repositoryID, condition string, args ...any) (map[string]digest.Digest, error) {
	tags, err := collect(ctx, s.read, scanTagged, `
		SELECT c.key, m.id, m.digest, m.media_type FROM repository_content c JOIN tag t ON t.id = c.content_id JOIN manifest m ON m.id = t.manifest_id
		 WHERE c.repository_id = $1 AND c.kind = $2 AND c.version_removed IS NULL`+condition, append([]any{repositoryID, pulp.KindTag}, args...)...)
	if err != nil {
		return nil, err
	}
	held := make(map[string]digest.Digest, len(tags))
	for _, t := range tags {
		held[t.tag] = digest.Digest(t.digest)
	}
	return held, nil
}

// WholeTags returns the tags of HeldTags without those of lists of which the latest version lacks a listed manifest.
func (s *Store) WholeTags(ctx context.Context, repositoryID string) (map[string]digest.Digest, error) {
	return s.heldTags(ctx, repositoryID, ` AND NOT EXISTS (
			SELECT 1 FROM manifest_child mc WHERE mc.manifest_id = m.id AND NOT EXISTS (
				SELECT 1 FROM repository_content l WHERE l.repository_id = $1 AND l.kind = $3 AND l.key = mc.digest AND l.version_removed IS NULL))`, pulp.KindManifest)
}

// HoldsSignature reports whether a repository's latest version holds a signature of a manifest.
func (s *Store) HoldsSignature(ctx context.Context, repositoryID string, manifest digest.Digest) (bool, error) {
	var holds bool
	err := s.read.QueryRowContext(ctx, `
		SELECT EXISTS (SELECT 1 FROM manifest m JOIN signature g ON g.manifest_id = m.id JOIN repository_content c ON c.content_id = g.id
		 WHERE m.digest = $1 AND c.repository_id = $2 AND c.kind = $3 AND c.version_removed IS NULL)`, manifest, repositoryID, pulp.KindSignature).Scan(&holds)
	return holds, err
}

// Listing is how many tags a remote repository lists, before filters.
type Listing struct {
	URL  string // of the registry
	Name string // of the repository there
	Tags int64
}

// ListedTags returns how many tags a remote repository listed when a sync of it into this repository last succeeded. known is false when none did.
func (s *Store) ListedTags(ctx context.Context, repositoryID, url, name string) (tags int64, known bool, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT tags FROM listed_tags WHERE repository_id = $1 AND url = $2 AND upstream_name = $3`, repositoryID, url, name).Scan(&tags)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	return tags, err == nil, err
}

func (t *tx) putListing(repositoryID string, l *Listing) error {
	if l == nil {
		return nil
	}
	_, err := t.exec(`
		INSERT INTO listed_tags (repository_id, url, upstream_name, tags, updated) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (repository_id, url, upstream_name) DO UPDATE SET tags = excluded.tags, updated = excluded.updated`,
		repositoryID, l.URL, l.Name, l.Tags, t.now)
	return err
}

// Synced is what a sync found at the remote and wants in the repository. All of it is in the repository or was fetched.
type Synced struct {
	RepositoryID string
	RemoteID     string // of which the repository claims the absent blobs of Tags and Manifests from now on; empty: claims stay as they are
	Tags         map[string]digest.Digest
	Kept         []string        // tags that stay as they are here, with their images, whatever the remote says
	Manifests    []digest.Digest // wanted by digest, without a tag
	Signatures   []digest.Digest
	Mirror       bool     // content that is not wanted leaves, except for signatures of manifests that stay
	Listed       *Listing // the remote's tag list, to compare later ones with; nil: the recorded one stays
	// Report returns the task's last progress reports, when so many units were added and removed.
	Report func(added, removed int64) []Progress
}

// CommitSync makes a version of what a sync wants, and completes the task whose result that is: the version, or null when nothing changed
// (contract 6).
func (s *Store) CommitSync(ctx context.Context, claim *Claim, w Synced) (*pulp.Version, error) {
	var v *pulp.Version
	err := s.inTx(ctx, func(t *tx) error {
		c, err := t.begin(w.RepositoryID)
		if err != nil {
			return err
		}
		keep := func() error { return nil }
		if w.Mirror {
			keep = func() error { return steps(c.gatherOwnSignatures, c.keepGathered) }
		}
		if err := steps(c.gather, func() error { return c.gatherSynced(w) }, keep, c.addGathered); err != nil { // fetched blobs keep their claims
			return err
		}
		if err := c.attach(w.RemoteID); err != nil {
			return err
		}
		if _, err := t.exec(`DELETE FROM fetched_content WHERE repository_id = $1`, w.RepositoryID); err != nil {
			return err
		}
		if err := t.putListing(w.RepositoryID, w.Listed); err != nil {
			return err
		}
		if v, err = c.end(); err != nil {
			return err
		}
		var made Outcome
		if v != nil {
			made = Outcome{Created: []Created{CreatedVersion(*v)}, Result: *v}
		}
		if w.Report != nil {
			made.Progress = w.Report(c.changed())
		}
		return t.complete(claim, made)
	})
	return v, err
}

// changed says how many units the change has added and removed.
func (c *change) changed() (added, removed int64) {
	for _, n := range c.counts {
		added, removed = added+n.Added, removed+n.Removed
	}
	return added, removed
}

func (c *change) gatherSynced(w Synced) error {
	where := heldOrFetched(c.repo.ID)
	held, err := collect(c.tx.ctx, c.tx, scanTagged, `
		SELECT c.key, c.content_id, m.digest, '' FROM repository_content c JOIN tag t ON t.id = c.content_id JOIN manifest m ON m.id = t.manifest_id
		 WHERE c.repository_id = $1 AND c.kind = $2 AND c.version_removed IS NULL`, c.repo.ID, pulp.KindTag)
	if err != nil {
		return err
	}
	same, kept := map[string]bool{}, make(map[string]bool, len(w.Kept))
	for _, name := range w.Kept {
		kept[name] = true
	}
	for _, t := range held {
		if same[t.tag] = kept[t.tag] || w.Tags[t.tag] == digest.Digest(t.digest); !same[t.tag] || !w.Mirror && (kept[t.tag] || w.RemoteID == "") {
			continue
		}
		if _, err := c.tx.exec(`INSERT INTO change_unit (kind, key, content_id) VALUES ($1, $2, $3)`, pulp.KindTag, t.tag, t.id); err != nil {
			return err
		}
	}
	for name, d := range w.Tags {
		if same[name] {
			continue
		}
		var id string
		err := c.tx.row(`SELECT u.id FROM manifest u WHERE u.digest = $1 AND $2 <> '' AND `+where.condition, append([]any{d, name}, where.args...)...).Scan(&id)
		if err != nil {
			return notFound(err, "The manifest of the tag %s was removed while the sync ran; sync again.", name)
		}
		if err := c.gatherTag(name, id); err != nil {
			return err
		}
	}
	for _, want := range []struct {
		kind    pulp.Kind
		table   string
		digests []digest.Digest
	}{{pulp.KindManifest, "manifest", w.Manifests}, {pulp.KindSignature, "signature", w.Signatures}} {
		for _, d := range want.digests {
			if _, err := c.tx.exec(`INSERT INTO change_unit (kind, key, content_id) SELECT CAST($1 AS BIGINT), u.digest, u.id FROM `+want.table+
				` u WHERE u.digest = $2 AND `+where.condition+` ON CONFLICT DO NOTHING`, append([]any{want.kind, d}, where.args...)...); err != nil {
				return err
			}
		}
	}
	if err := c.gatherTree(where); err != nil {
		return err
	}
	if err := c.checkGathered(); err != nil {
		return err
	}
	// A signature goes where its manifest is.
	_, err = c.tx.exec(`
		DELETE FROM change_unit WHERE kind = $1 AND NOT EXISTS (
			SELECT 1 FROM signature g WHERE g.id = change_unit.content_id AND (
				EXISTS (SELECT 1 FROM change_unit d WHERE d.kind = $2 AND d.content_id = g.manifest_id) OR EXISTS (
				SELECT 1 FROM repository_content c WHERE c.repository_id = $3 AND c.content_id = g.manifest_id AND c.version_removed IS NULL)))`,
		pulp.KindSignature, pulp.KindManifest, c.repo.ID)
	return err
}

// checkGathered repeats the check that every gathered manifest which the repository does not hold yet has its blobs: some may have been removed while the sync ran.
func (c *change) checkGathered() error {
	var manifest, missing string
	err := c.tx.row(`
		SELECT g.key, mb.digest FROM change_unit g JOIN manifest_blob mb ON mb.manifest_id = g.content_id
		 WHERE g.kind = $1 AND NOT mb.optional
		   AND NOT EXISTS (SELECT 1 FROM change_unit d WHERE d.kind = $2 AND d.key = mb.digest)
		   AND NOT EXISTS (SELECT 1 FROM repository_content c WHERE c.repository_id = $3 AND c.kind = $1 AND c.key = g.key AND c.version_removed IS NULL)
		 LIMIT 1`, pulp.KindManifest, pulp.KindBlob, c.repo.ID).Scan(&manifest, &missing)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return fault.New(fault.Unavailable, "The blob %s of the image %s was removed while the sync ran; sync again.", missing, manifest)
}
