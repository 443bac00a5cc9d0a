package content

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// TagManifest makes a name stand for a manifest of a repository's latest version and completes the task whose result that is (compatibility.md#push-repositories). Invalid when the version holds
// no such manifest.
func (s *Store) TagManifest(ctx context.Context, claim *taskstore.Claim, repositoryID, name string, d digest.Digest) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *Change) ([]taskstore.Created, error) {
		id, ok, err := c.Held(pulp.KindManifest, string(d))
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fault.New(fault.Invalid, "A manifest with the digest '%s' does not exist in the latest repository version '%s'", d, c.name())
		}
		var known bool
		if err := c.Tx.Row(`SELECT EXISTS (SELECT 1 FROM tag WHERE name = $1 AND manifest_id = $2)`, name, id).Scan(&known); err != nil {
			return nil, err
		}
		if err := c.SetTag(name, id); err != nil || known {
			return nil, err
		}
		tag, err := c.Tx.putTag(name, id)
		return []taskstore.Created{{Href: pulp.Href(pulp.TagCollection, tag), PRN: pulp.PRN(pulp.TagCollection, tag)}}, err
	})
}

// Untag takes a name out of a repository's latest version, and nothing else, and completes the task whose result that is. Invalid when the version has no such tag.
func (s *Store) Untag(ctx context.Context, claim *taskstore.Claim, repositoryID, name string) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *Change) ([]taskstore.Created, error) {
		_, ok, err := c.Held(pulp.KindTag, name)
		if err == nil && !ok {
			err = fault.New(fault.Invalid, "The tag '%s' does not exist in the latest repository version '%s'", name, c.name())
		}
		if err != nil {
			return nil, err
		}
		return nil, errors.Join(c.Remove(pulp.KindTag, name), c.recordTag(name))
	})
}

// TagMoved says that a tag does not stand for what a change of it demands.
type TagMoved struct {
	Name    string
	Current digest.Digest // empty when there is no such tag
}

// Error says what the tag stands for.
func (e *TagMoved) Error() string { return fmt.Sprintf("the tag %s stands for %q", e.Name, e.Current) }

// demand sees that a tag stands for what is demanded. The repository is locked: of several who demand the same, one finds it.
func (c *Change) checkPrecondition(name string, when func(digest.Digest) bool) error {
	if when == nil {
		return nil
	}
	var current digest.Digest
	err := c.Tx.Row(`
		SELECT m.digest FROM repository_content c JOIN tag t ON t.id = c.content_id JOIN manifest m ON m.id = t.manifest_id
		 WHERE c.repository_id = $1 AND c.kind = $2 AND c.key = $3 AND c.version_removed IS NULL`, c.Repo.ID, pulp.KindTag, name).Scan(&current)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if !when(current) {
		return &TagMoved{name, current}
	}
	return nil
}

// SetTag makes a name stand for a manifest in the repository.
func (c *Change) SetTag(name, manifestID string) error {
	id, err := c.Tx.putTag(name, manifestID)
	if err != nil {
		return err
	}
	if err := c.Add(pulp.KindTag, name, id); err != nil {
		return err
	}
	return c.recordTag(name)
}

// putTag stores a tag's row unless it is there and returns its id.
func (t *Tx) putTag(name, manifestID string) (string, error) {
	if _, err := t.Exec(`
		INSERT INTO tag (id, name, manifest_id, created, updated) VALUES ($1, $2, $3, $4, $4) ON CONFLICT (name, manifest_id) DO NOTHING`,
		pulp.NewID(), name, manifestID, t.Now); err != nil {
		return "", err
	}
	return sqldb.ScanString(t.Row(`SELECT id FROM tag WHERE name = $1 AND manifest_id = $2`, name, manifestID))
}

// DeleteTag takes a tag out of a repository's latest version; its manifest stays. NotFound when there is no such tag, TagMoved when
// it does not stand for what is demanded (nil: anything).
func (s *Store) DeleteTag(ctx context.Context, repositoryID, name string, when func(digest.Digest) bool) (*pulp.Version, error) {
	return s.Change(ctx, repositoryID, func(c *Change) error {
		_, ok, err := c.Held(pulp.KindTag, name)
		if err != nil {
			return err
		}
		if !ok {
			return fault.New(fault.NotFound, "Manifest not found.")
		}
		if err := c.checkPrecondition(name, when); err != nil {
			return err
		}
		return errors.Join(c.Remove(pulp.KindTag, name), c.recordTag(name))
	})
}

// gatherTag gathers a name for a manifest, making the tag where it is not.
func (c *Change) gatherTag(name, manifestID string) error {
	id, err := c.Tx.putTag(name, manifestID)
	if err != nil {
		return err
	}
	_, err = c.Tx.Exec(`INSERT INTO change_unit (kind, key, content_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, pulp.KindTag, name, id)
	return err
}
