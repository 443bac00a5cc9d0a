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

// TagManifest sets a tag to a manifest of a repository's latest version and completes the task
// (compatibility.md#push-repositories). The error is Invalid if the version holds no such manifest.
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

// Untag removes a tag from a repository's latest version, without its manifest, and completes the task. The error is
// Invalid if the version has no such tag.
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

// TagMoved is the error of a change with a precondition on a tag that does not hold.
type TagMoved struct {
	Name    string
	Current digest.Digest // empty when there is no such tag
}

// Error returns the tag and its current digest.
func (e *TagMoved) Error() string { return fmt.Sprintf("the tag %s stands for %q", e.Name, e.Current) }

// checkPrecondition returns TagMoved unless when accepts the current digest of a tag, empty if there is no such tag.
// A nil when accepts all. The repository is locked, so of several changes with the same precondition only one
// succeeds.
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

// SetTag sets a tag of the repository to a manifest.
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

// putTag stores the row of a tag unless it exists, and returns its id.
func (t *Tx) putTag(name, manifestID string) (string, error) {
	if _, err := t.Exec(`
		INSERT INTO tag (id, name, manifest_id, created, updated) VALUES ($1, $2, $3, $4, $4) ON CONFLICT (name, manifest_id) DO NOTHING`,
		pulp.NewID(), name, manifestID, t.Now); err != nil {
		return "", err
	}
	return sqldb.ScanString(t.Row(`SELECT id FROM tag WHERE name = $1 AND manifest_id = $2`, name, manifestID))
}

// DeleteTag removes a tag from a repository's latest version; its manifest stays. The error is NotFound if there is
// no such tag, and TagMoved if when does not accept the tag's digest. A nil when accepts all.
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

// gatherTag gathers a tag of a manifest and stores its row unless it exists.
func (c *Change) gatherTag(name, manifestID string) error {
	id, err := c.Tx.putTag(name, manifestID)
	if err != nil {
		return err
	}
	_, err = c.Tx.Exec(`INSERT INTO change_unit (kind, key, content_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, pulp.KindTag, name, id)
	return err
}
