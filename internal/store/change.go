package store

import (
	"database/sql"
	"errors"

	"github.com/countersign/countersign/internal/pulp"
)

// change is one change of one repository's content inside a transaction: the only way in which content enters or leaves a
// repository (architecture 3, "one rule"). It holds the repository's row, sees the version that is the latest now and
// what was already changed, counts what it adds and removes, and ends by making the next version, or none when nothing changed.
type change struct {
	tx     *tx
	repo   pulp.Repository
	number int64 // of the version that it makes
	counts map[pulp.Kind]pulp.Count
}

// begin locks the repository's row and reads its latest version.
func (t *tx) begin(repositoryID string) (*change, error) {
	c := &change{tx: t, counts: map[pulp.Kind]pulp.Count{}}
	if err := t.refers(); err != nil {
		return nil, err
	}
	var err error
	c.repo, err = scanRepository(t.row(`SELECT `+repositoryColumns+` FROM repository r WHERE r.id = $1`+t.dialect.forUpdate, repositoryID))
	if err != nil {
		return nil, notFound(err, "Repository not found.")
	}
	if err := t.row(`SELECT next_version FROM repository WHERE id = $1`, repositoryID).Scan(&c.number); err != nil {
		return nil, err
	}
	latest, err := version(t.ctx, t, repositoryID, c.repo.LatestVersion)
	if err != nil {
		return nil, err
	}
	for kind, n := range latest.Counts {
		c.counts[kind] = pulp.Count{Present: n.Present}
	}
	return c, nil
}

// content returns the id of the unit that the repository now holds under a key; ok is false when there is none.
func (c *change) content(kind pulp.Kind, key string) (id string, ok bool, err error) {
	err = c.tx.row(`
		SELECT content_id FROM repository_content
		 WHERE repository_id = $1 AND kind = $2 AND key = $3 AND version_removed IS NULL`, c.repo.ID, kind, key).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	return id, err == nil, err
}

// pending returns the id of the unit that was uploaded under a key and is in no version yet.
func (c *change) pending(kind pulp.Kind, key string) (id string, ok bool, err error) {
	err = c.tx.row(`SELECT content_id FROM pending_content WHERE repository_id = $1 AND kind = $2 AND key = $3`,
		c.repo.ID, kind, key).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	return id, err == nil, err
}

// anywhere returns the id of the unit under a key, in the latest version (present) or else pending; ok is false when there is none.
func (c *change) anywhere(kind pulp.Kind, key string) (id string, present, ok bool, err error) {
	if id, present, err = c.content(kind, key); err != nil || present {
		return id, present, present, err
	}
	id, ok, err = c.pending(kind, key)
	return id, false, ok, err
}

// add puts a unit under a key, in the place of another one that is there. What is there already stays as it is.
func (c *change) add(kind pulp.Kind, key, id string) error {
	if kind != pulp.KindTag { // tags are never pending
		if _, err := c.tx.exec(`DELETE FROM pending_content WHERE repository_id = $1 AND kind = $2 AND key = $3`, c.repo.ID, kind, key); err != nil {
			return err
		}
	}
	held, ok, err := c.content(kind, key)
	if err != nil || ok && held == id {
		return err
	}
	if ok {
		if err := c.remove(kind, key); err != nil {
			return err
		}
	}
	// A unit that this very change took away comes back: as if nothing had been.
	back, err := c.tx.exec(`
		UPDATE repository_content SET version_removed = NULL
		 WHERE repository_id = $1 AND kind = $2 AND key = $3 AND content_id = $4 AND version_removed = $5`,
		c.repo.ID, kind, key, id, c.number)
	if err != nil {
		return err
	}
	if back > 0 {
		c.count(kind, 1, 0, -1)
		return nil
	}
	_, err = c.tx.exec(`
		INSERT INTO repository_content (repository_id, kind, key, content_id, version_added) VALUES ($1, $2, $3, $4, $5)`,
		c.repo.ID, kind, key, id, c.number)
	if err != nil {
		return err
	}
	c.count(kind, 1, 1, 0)
	return nil
}

// remove takes away what is under a key, if anything is.
func (c *change) remove(kind pulp.Kind, key string) error {
	undone, err := c.tx.exec(`
		DELETE FROM repository_content
		 WHERE repository_id = $1 AND kind = $2 AND key = $3 AND version_removed IS NULL AND version_added = $4`,
		c.repo.ID, kind, key, c.number)
	if err != nil {
		return err
	}
	if undone > 0 {
		c.count(kind, -1, -1, 0)
		return nil
	}
	removed, err := c.tx.exec(`
		UPDATE repository_content SET version_removed = $4
		 WHERE repository_id = $1 AND kind = $2 AND key = $3 AND version_removed IS NULL`, c.repo.ID, kind, key, c.number)
	if removed > 0 {
		c.count(kind, -1, 0, 1)
	}
	return err
}

func (c *change) count(kind pulp.Kind, present, added, removed int64) {
	n := c.counts[kind]
	c.counts[kind] = pulp.Count{Present: n.Present + present, Added: n.Added + added, Removed: n.Removed + removed}
}

// end makes the next version of what was changed and returns it; nil when nothing was. Unsigned when it would show tags that must be signed first.
func (c *change) end() (*pulp.Version, error) {
	if c.counts[pulp.KindTag].Added > 0 || c.counts[pulp.KindManifest].Added > 0 {
		if err := c.seal(); err != nil {
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
	v := pulp.Version{
		ID: pulp.NewID(), RepositoryID: c.repo.ID, Type: c.repo.Type, Number: c.number, Counts: c.counts,
		Stamps: stamps(c.tx.now, c.tx.now),
	}
	if err := c.tx.insertVersion(v); err != nil {
		return nil, err
	}
	_, err := c.tx.exec(`UPDATE repository SET latest_version = $2, next_version = $3, updated = $4 WHERE id = $1`,
		c.repo.ID, v.Number, v.Number+1, c.tx.now)
	if err == nil {
		err = c.tx.retain(c.repo)
	}
	return &v, err
}
