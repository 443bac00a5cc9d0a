package content

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/eventlog"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// Change is a change of the content of one repository inside a transaction. Content enters and leaves repositories
// only through it. It holds a lock on the repository's row, sees the latest version with its own changes, counts the
// added and removed units, and End makes the next version.
type Change struct {
	Tx     *Tx
	Repo   pulp.Repository
	Number int64 // of the new version
	counts map[pulp.Kind]pulp.Count

	listening bool    // whether webhooks may receive the events of the change
	pushed    *pushed // the manifest that a client has pushed; nil: the change is no push
}

// Begin locks a repository's row and reads its latest version. The error is NotFound if there is no such repository.
func (t *Tx) Begin(repositoryID string) (*Change, error) {
	c := &Change{Tx: t, counts: map[pulp.Kind]pulp.Count{}}
	if err := t.LockContentShared(); err != nil {
		return nil, err
	}
	var err error
	c.Repo, err = record.ScanRepository(t.Row(`SELECT `+record.RepositoryColumns+` FROM repository r WHERE r.id = $1`+t.Dialect.ForUpdate, repositoryID))
	if err != nil {
		return nil, sqldb.NotFound(err, "Repository not found.")
	}
	if err := t.Row(`SELECT next_version, `+eventlog.Listening+` FROM repository WHERE id = $1`, repositoryID).Scan(&c.Number, &c.listening); err != nil {
		return nil, err
	}
	latest, err := record.FindVersion(t.Ctx, t, repositoryID, c.Repo.LatestVersion)
	if err != nil {
		return nil, err
	}
	for kind, n := range latest.Counts {
		c.counts[kind] = pulp.Count{Present: n.Present}
	}
	return c, nil
}

// Held returns the id of the unit that the repository now holds under a key; ok is false when there is none.
func (c *Change) Held(kind pulp.Kind, key string) (id string, ok bool, err error) {
	err = c.Tx.Row(`
		SELECT content_id FROM repository_content
		 WHERE repository_id = $1 AND kind = $2 AND key = $3 AND version_removed IS NULL`, c.Repo.ID, kind, key).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	return id, err == nil, err
}

// pending returns the id of the unit that is pending under a key; ok is false if there is none.
func (c *Change) pending(kind pulp.Kind, key string) (id string, ok bool, err error) {
	err = c.Tx.Row(`SELECT p.content_id FROM unversioned_content p WHERE `+record.Pending("$1")+` AND p.kind = $2 AND p.key = $3`,
		c.Repo.ID, kind, key).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	return id, err == nil, err
}

// dropPending deletes the record of the unit that is pending under a key, if there is one.
func (c *Change) dropPending(kind pulp.Kind, key string) error {
	_, err := c.Tx.Exec(`DELETE FROM unversioned_content AS p WHERE `+record.Pending("$1")+` AND p.kind = $2 AND p.key = $3`, c.Repo.ID, kind, key)
	return err
}

// Anywhere returns the id of the unit under a key, in the latest version (present) or else pending. ok is false if
// there is none.
func (c *Change) Anywhere(kind pulp.Kind, key string) (id string, present, ok bool, err error) {
	if id, present, err = c.Held(kind, key); err != nil || present {
		return id, present, present, err
	}
	id, ok, err = c.pending(kind, key)
	return id, false, ok, err
}

// Add puts a unit under a key and replaces another unit there. It changes nothing if the unit is there already. The
// unit is no longer pending.
func (c *Change) Add(kind pulp.Kind, key, id string) error {
	if kind != pulp.KindTag { // tags are never pending
		if err := c.dropPending(kind, key); err != nil {
			return err
		}
	}
	held, ok, err := c.Held(kind, key)
	if err != nil || ok && held == id {
		return err
	}
	if ok {
		if err := c.Remove(kind, key); err != nil {
			return err
		}
	}
	// A unit that this change removed before is restored, as if it had not been removed.
	back, err := c.Tx.Exec(`
		UPDATE repository_content SET version_removed = NULL
		 WHERE repository_id = $1 AND kind = $2 AND key = $3 AND content_id = $4 AND version_removed = $5`,
		c.Repo.ID, kind, key, id, c.Number)
	if err != nil {
		return err
	}
	if back > 0 {
		c.Count(kind, 1, 0, -1)
		return nil
	}
	_, err = c.Tx.Exec(`
		INSERT INTO repository_content (repository_id, kind, key, content_id, version_added) VALUES ($1, $2, $3, $4, $5)`,
		c.Repo.ID, kind, key, id, c.Number)
	if err != nil {
		return err
	}
	c.Count(kind, 1, 1, 0)
	return nil
}

// Remove removes the unit under a key from the latest version, if there is one.
func (c *Change) Remove(kind pulp.Kind, key string) error {
	undone, err := c.Tx.Exec(`
		DELETE FROM repository_content
		 WHERE repository_id = $1 AND kind = $2 AND key = $3 AND version_removed IS NULL AND version_added = $4`,
		c.Repo.ID, kind, key, c.Number)
	if err != nil {
		return err
	}
	if undone > 0 {
		c.Count(kind, -1, -1, 0)
		return nil
	}
	removed, err := c.Tx.Exec(`
		UPDATE repository_content SET version_removed = $4
		 WHERE repository_id = $1 AND kind = $2 AND key = $3 AND version_removed IS NULL`, c.Repo.ID, kind, key, c.Number)
	if removed > 0 {
		c.Count(kind, -1, 0, 1)
	}
	return err
}

// Count adds to the counts of a kind, for callers that change repository_content themselves.
func (c *Change) Count(kind pulp.Kind, present, added, removed int64) {
	n := c.counts[kind]
	c.counts[kind] = pulp.Count{Present: n.Present + present, Added: n.Added + added, Removed: n.Removed + removed}
}

// End makes the next version and returns it, nil if nothing changed. The error is MissingSignatures if the version
// would show tags without required signatures.
func (c *Change) End() (*pulp.Version, error) {
	if c.counts[pulp.KindTag].Added > 0 || c.counts[pulp.KindManifest].Added > 0 {
		if err := c.checkSignatures(); err != nil {
			return nil, err
		}
	}
	changed := false
	for _, n := range c.counts {
		changed = changed || n.Added != 0 || n.Removed != 0
	}
	if !changed {
		return nil, nil
	}
	by := actor.From(c.Tx.Ctx)
	v := pulp.Version{
		ID: pulp.NewID(), RepositoryID: c.Repo.ID, Type: c.Repo.Type, Number: c.Number, Counts: c.counts, Actor: by.Name, ActorID: by.ID,
		Stamps: record.Stamps(c.Tx.Now, c.Tx.Now),
	}
	if err := c.Tx.InsertVersion(v); err != nil {
		return nil, err
	}
	_, err := c.Tx.Exec(`UPDATE repository SET latest_version = $2, next_version = $3, updated = $4 WHERE id = $1`,
		c.Repo.ID, v.Number, v.Number+1, c.Tx.Now)
	if err == nil {
		err = c.announce(v) // before older versions are dropped
	}
	if err == nil {
		err = c.Tx.Retain(c.Repo)
	}
	return &v, err
}

// InsertVersion stores a version of a repository with its counts. The actor of the transaction's context is its author.
func (t *Tx) InsertVersion(v pulp.Version) error {
	by := actor.From(t.Ctx)
	b, m, g, n := v.Counts[pulp.KindBlob], v.Counts[pulp.KindManifest], v.Counts[pulp.KindSignature], v.Counts[pulp.KindTag]
	_, err := t.Exec(`
		INSERT INTO repository_version (id, repository_id, number,
			blobs_present, blobs_added, blobs_removed, manifests_present, manifests_added, manifests_removed,
			signatures_present, signatures_added, signatures_removed, tags_present, tags_added, tags_removed, created, updated,
			actor, actor_id)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16, $17, $18)`,
		v.ID, v.RepositoryID, v.Number, b.Present, b.Added, b.Removed, m.Present, m.Added, m.Removed,
		g.Present, g.Added, g.Removed, n.Present, n.Added, n.Removed, t.Now,
		by.Name, sql.NullInt64{Int64: by.ID, Valid: by.ID != 0})
	return err
}

// changeFor runs f on a repository's content and completes the task of claim. The task's created resources are the new version, if
// there is one, and those that f returns. A nil claim is a change outside a task. It returns the new version, nil if nothing
// changed.
func (s *Store) changeFor(ctx context.Context, claim *taskstore.Claim, repositoryID string,
	f func(*Change) ([]taskstore.Created, error),
) (*pulp.Version, error) {
	return InTx(ctx, s, func(t *Tx) (*pulp.Version, error) {
		c, err := t.Begin(repositoryID)
		if err != nil {
			return nil, err
		}
		created, err := f(c)
		if err != nil {
			return nil, err
		}
		v, err := c.End()
		if err != nil {
			return nil, err
		}
		if v != nil {
			created = append([]taskstore.Created{CreatedVersion(*v)}, created...)
		}
		return v, taskstore.Complete(t.Tx, claim, taskstore.Outcome{Created: created})
	})
}

// CreatedVersion returns a version as a resource that a task created.
func CreatedVersion(v pulp.Version) taskstore.Created {
	return taskstore.Created{Href: pulp.VersionHref(v.Type, v.RepositoryID, v.Number), PRN: pulp.VersionPRN(v.ID)}
}

// Change runs f on a repository's content and returns the new version, nil if nothing changed.
func (s *Store) Change(ctx context.Context, repositoryID string, f func(*Change) error) (*pulp.Version, error) {
	return s.changeFor(ctx, nil, repositoryID, func(c *Change) ([]taskstore.Created, error) { return nil, f(c) })
}

// changed returns the numbers of units that the change has added and removed.
func (c *Change) changed() (added, removed int64) {
	for _, n := range c.counts {
		added, removed = added+n.Added, removed+n.Removed
	}
	return added, removed
}

// name returns the name of the repository's latest version in the form of Pulp's error messages.
func (c *Change) name() string {
	return fmt.Sprintf("<Repository: %s; Version: %d>", c.Repo.Name, c.Repo.LatestVersion)
}
