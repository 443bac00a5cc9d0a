package content

import (
	"context"
	"database/sql"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// Synced is the result of a sync: the content that the repository shall hold. All of it is in the repository or
// recorded as fetched.
type Synced struct {
	RepositoryID string
	// RemoteID is the remote of which the repository claims the absent blobs of Tags and Manifests from now on. Empty: claims do
	// not change.
	RemoteID   string
	Tags       map[string]digest.Digest
	Kept       []string        // tags that stay unchanged with their images, even if the remote has changed them
	Manifests  []digest.Digest // without a tag
	Signatures []digest.Digest
	Mirror     bool        // remove all other content, except signatures of manifests that stay
	Listed     *TagListing // the size of the remote's tag list, for later syncs; nil: the recorded one stays
	// Report returns the task's last progress reports, given the numbers of added and removed units. It runs in the transaction.
	Report func(added, removed int64) []taskstore.Progress
}

// CommitSync makes a version with the result of a sync and completes the task, whose result is the version, or null if nothing
// changed (compatibility.md#sync). It returns the version, nil if nothing changed.
func (s *Store) CommitSync(ctx context.Context, claim *taskstore.Claim, w Synced) (*pulp.Version, error) {
	return InTx(ctx, s, func(t *Tx) (*pulp.Version, error) {
		c, err := t.Begin(w.RepositoryID)
		if err != nil {
			return nil, err
		}
		keep := func() error { return nil }
		if w.Mirror {
			keep = func() error { return sqldb.Steps(c.gatherOwnSignatures, c.keepGathered) }
		}
		if err := sqldb.Steps(
			c.Gather,
			func() error { return c.GatherSynced(w) },
			keep,
			c.AddGathered, // fetched blobs keep their claims
			func() error { return c.attach(w.RemoteID) },
			func() error { return t.dropFetched(w.RepositoryID) },
			func() error { return t.putListing(w.RepositoryID, w.Listed) },
		); err != nil {
			return nil, err
		}
		v, err := c.End()
		if err != nil {
			return nil, err
		}
		return v, taskstore.Complete(t.Tx, claim, c.syncOutcome(v, w.Report))
	})
}

// CommitPulled makes a version with content that a pull of a pull-through cache has fetched. Other content stays, also what
// other pulls have fetched meanwhile. It returns the version, nil if nothing changed. The error is MissingSignatures if the
// content must be signed before it is visible.
func (s *Store) CommitPulled(ctx context.Context, w Synced) (*pulp.Version, error) {
	return InTx(ctx, s, func(t *Tx) (*pulp.Version, error) {
		c, err := t.Begin(w.RepositoryID)
		if err != nil {
			return nil, err
		}
		if err := sqldb.Steps(c.Gather, func() error { return c.GatherSynced(w) }, c.AddGathered); err != nil {
			return nil, err
		}
		return c.End()
	})
}

// syncOutcome returns the result of a sync's task.
func (c *Change) syncOutcome(v *pulp.Version, report func(added, removed int64) []taskstore.Progress) taskstore.Outcome {
	var made taskstore.Outcome
	if v != nil {
		made = taskstore.Outcome{Created: []taskstore.Created{CreatedVersion(*v)}, Result: *v}
	}
	if report != nil {
		made.Progress = report(c.changed())
	}
	return made
}

// GatherSynced gathers the content of a sync.
func (c *Change) GatherSynced(w Synced) error {
	where := HeldOrFetched(c.Repo.ID)
	held, err := sqldb.Collect(c.Tx.Ctx, c.Tx, record.ScanTagged, `
		SELECT c.key, c.content_id, m.digest, '' FROM repository_content c JOIN tag t ON t.id = c.content_id JOIN manifest m ON m.id = t.manifest_id
		 WHERE c.repository_id = $1 AND c.kind = $2 AND c.version_removed IS NULL`, c.Repo.ID, pulp.KindTag)
	if err != nil {
		return err
	}
	same, kept := map[string]bool{}, make(map[string]bool, len(w.Kept))
	for _, name := range w.Kept {
		kept[name] = true
	}
	for _, t := range held {
		if same[t.Tag] = kept[t.Tag] || w.Tags[t.Tag] == digest.Digest(t.Digest); !same[t.Tag] || !w.Mirror && (kept[t.Tag] || w.RemoteID == "") {
			continue
		}
		if _, err := c.Tx.Exec(`INSERT INTO change_unit (kind, key, content_id) VALUES ($1, $2, $3)`, pulp.KindTag, t.Tag, t.ID); err != nil {
			return err
		}
	}
	for name, d := range w.Tags {
		if same[name] {
			continue
		}
		var id string
		err := c.Tx.Row(`SELECT u.id FROM manifest u WHERE u.digest = $1 AND $2 <> '' AND `+where.Condition, append([]any{d, name}, where.Args...)...).Scan(&id)
		if err != nil {
			return sqldb.NotFound(err, "The manifest of the tag %s was removed while the sync ran; sync again.", name)
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
			if _, err := c.Tx.Exec(`INSERT INTO change_unit (kind, key, content_id) SELECT CAST($1 AS BIGINT), u.digest, u.id FROM `+want.table+
				` u WHERE u.digest = $2 AND `+where.Condition+` ON CONFLICT DO NOTHING`, append([]any{want.kind, d}, where.Args...)...); err != nil {
				return err
			}
		}
	}
	if err := c.GatherTree(where); err != nil {
		return err
	}
	if err := c.CheckGathered(); err != nil {
		return err
	}
	// Signatures without their manifest are dropped.
	_, err = c.Tx.Exec(`
		DELETE FROM change_unit WHERE kind = $1 AND NOT EXISTS (
			SELECT 1 FROM signature g WHERE g.id = change_unit.content_id AND (
				EXISTS (SELECT 1 FROM change_unit d WHERE d.kind = $2 AND d.content_id = g.manifest_id) OR EXISTS (
				SELECT 1 FROM repository_content c WHERE c.repository_id = $3 AND c.content_id = g.manifest_id AND c.version_removed IS NULL)))`,
		pulp.KindSignature, pulp.KindManifest, c.Repo.ID)
	return err
}

// CheckGathered checks again that every gathered manifest which the repository does not hold yet has its blobs. The
// error is Unavailable if a blob was removed while the sync ran.
func (c *Change) CheckGathered() error {
	var manifest, missing string
	err := c.Tx.Row(`
		SELECT g.key, mb.digest FROM change_unit g JOIN manifest_blob mb ON mb.manifest_id = g.content_id
		 WHERE g.kind = $1 AND NOT mb.optional
		   AND NOT EXISTS (SELECT 1 FROM change_unit d WHERE d.kind = $2 AND d.key = mb.digest)
		   AND NOT EXISTS (SELECT 1 FROM repository_content c WHERE c.repository_id = $3 AND c.kind = $1 AND c.key = g.key AND c.version_removed IS NULL)
		 LIMIT 1`, pulp.KindManifest, pulp.KindBlob, c.Repo.ID).Scan(&manifest, &missing)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return fault.New(fault.Unavailable, "The blob %s of the image %s was removed while the sync ran; sync again.", missing, manifest)
}
