package store

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// Unit is a content unit by its kind and id.
type Unit struct {
	Kind pulp.Kind `json:"kind"`
	ID   string    `json:"id"`
}

// changeFor runs f on a repository's content and completes the task whose result that is, naming the version that it made and what f made
// besides. A nil claim is work outside a task.
func (s *Store) changeFor(ctx context.Context, claim *Claim, repositoryID string, f func(*change) ([]Created, error)) (*pulp.Version, error) {
	var v *pulp.Version
	err := s.inTx(ctx, func(t *tx) error {
		c, err := t.begin(repositoryID)
		if err != nil {
			return err
		}
		created, err := f(c)
		if err != nil {
			return err
		}
		if v, err = c.end(); err != nil {
			return err
		}
		if v != nil {
			created = append([]Created{CreatedVersion(*v)}, created...)
		}
		return t.complete(claim, Outcome{Created: created})
	})
	return v, err
}

// CreatedVersion names a version as what a task has made.
func CreatedVersion(v pulp.Version) Created {
	return Created{pulp.VersionHref(v.Type, v.RepositoryID, v.Number), pulp.VersionPRN(v.ID)}
}

// TagManifest makes a name stand for a manifest of a repository's latest version and completes the task whose result that is (contract 2.5.1). Invalid when the version holds
// no such manifest.
func (s *Store) TagManifest(ctx context.Context, claim *Claim, repositoryID, name string, d digest.Digest) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *change) ([]Created, error) {
		id, ok, err := c.content(pulp.KindManifest, string(d))
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fault.New(fault.Invalid, "A manifest with the digest '%s' does not exist in the latest repository version '%s'", d, c.name())
		}
		var known bool
		if err := c.tx.row(`SELECT EXISTS (SELECT 1 FROM tag WHERE name = $1 AND manifest_id = $2)`, name, id).Scan(&known); err != nil {
			return nil, err
		}
		if err := c.tag(name, id); err != nil || known {
			return nil, err
		}
		tag, err := c.tx.putTag(name, id)
		return []Created{{pulp.Href(pulp.TagCollection, tag), pulp.PRN(pulp.TagCollection, tag)}}, err
	})
}

// Untag takes a name out of a repository's latest version, and nothing else, and completes the task whose result that is. Invalid when the version has no such tag.
func (s *Store) Untag(ctx context.Context, claim *Claim, repositoryID, name string) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *change) ([]Created, error) {
		_, ok, err := c.content(pulp.KindTag, name)
		if err == nil && !ok {
			err = fault.New(fault.Invalid, "The tag '%s' does not exist in the latest repository version '%s'", name, c.name())
		}
		if err != nil {
			return nil, err
		}
		return nil, errors.Join(c.remove(pulp.KindTag, name), c.noteTag(name))
	})
}

// unitColumns are where units of a kind are kept and what repositories know them by. Signatures are not added by hand (contract 2.5.2).
var unitColumns = map[pulp.Kind]string{
	pulp.KindBlob: "u.digest AS key, u.id FROM blob u", pulp.KindManifest: "u.digest AS key, u.id FROM manifest u",
	pulp.KindTag: "u.name AS key, u.id FROM tag u", pulp.KindSignature: "u.digest AS key, u.id FROM signature u",
}

// gatherUnits gathers units that are where they may be taken from.
func (c *change) gatherUnits(units []Unit, where origin) error {
	for _, u := range units {
		_, err := c.tx.exec(`INSERT INTO change_unit (kind, key, content_id) SELECT CAST($1 AS BIGINT), `+unitColumns[u.Kind]+
			` WHERE u.id = $2 AND `+where.condition+` ON CONFLICT DO NOTHING`, append([]any{u.Kind, u.ID}, where.args...)...)
		if err != nil {
			return err
		}
	}
	return nil
}

// AddContent adds units to a repository with all that they name, and completes the task whose result that is: tags with their manifests, manifests with
// what they list, their configs and layers (contract 2.5.2). Only what the named user sees is taken; an empty name sees everything. Signatures
// are left out, as the reference does.
func (s *Store) AddContent(ctx context.Context, claim *Claim, repositoryID string, units []Unit, username string) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *change) ([]Created, error) {
		where := seenBy(username)
		wanted := make([]Unit, 0, len(units))
		for _, u := range units {
			if u.Kind != pulp.KindSignature {
				wanted = append(wanted, u)
			}
		}
		return nil, steps(c.gather, func() error { return c.gatherUnits(wanted, where) }, func() error { return c.gatherTree(where) },
			func() error { return c.inheritClaims(seenRepositories(username)) }, c.addGathered)
	})
}

// steps runs functions until one fails.
func steps(all ...func() error) error {
	for _, f := range all {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// Copy says what to copy from a version of another repository.
type Copy struct {
	RepositoryID string   `json:"repository"`
	Number       int64    `json:"number"`
	Tags         bool     `json:"tags"`        // tags; else manifests
	Names        []string `json:"names"`       // of tags; nil: all
	Digests      []string `json:"digests"`     // of manifests; nil: all
	MediaTypes   []string `json:"media_types"` // of manifests; nil: all
}

// CopyContent adds tags or manifests of another repository's version to a repository, with all that they name there but without signatures, and completes the task
// whose result that is (contract 2.5.2). Only rows are written, however large the content is.
func (s *Store) CopyContent(ctx context.Context, claim *Claim, repositoryID string, from Copy) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *change) ([]Created, error) {
		if _, err := version(c.tx.ctx, c.tx, from.RepositoryID, from.Number); err != nil {
			return nil, err
		}
		return nil, steps(c.gather, func() error { return c.gatherCopy(from) },
			func() error { return c.gatherTree(heldBy(from.RepositoryID, from.Number)) },
			func() error { return c.inheritClaims(origin{`c.repository_id = $3`, []any{from.RepositoryID}}) }, c.addGathered)
	})
}

func (c *change) gatherCopy(from Copy) error {
	kind, condition := pulp.KindManifest, ""
	args := []any{pulp.KindManifest, from.RepositoryID, from.Number}
	only := func(text string, values []string) {
		if values != nil {
			args = append(args, toJSON(values))
			condition += text
		}
	}
	if from.Tags {
		kind = pulp.KindTag
		only(` AND c.key IN (SELECT j.value FROM json_each($4) j)`, from.Names)
	} else {
		only(` AND c.key IN (SELECT j.value FROM json_each($4) j)`, from.Digests)
		placeholder := "$4"
		if from.Digests != nil {
			placeholder = "$5"
		}
		only(` AND EXISTS (SELECT 1 FROM manifest m WHERE m.id = c.content_id AND m.media_type IN (SELECT j.value FROM json_each(`+placeholder+`) j))`, from.MediaTypes)
	}
	args[0] = kind
	_, err := c.tx.exec(`
		INSERT INTO change_unit (kind, key, content_id)
		SELECT c.kind, c.key, c.content_id FROM repository_content c
		 WHERE c.repository_id = $2 AND c.kind = $1 AND `+heldIn("$3")+condition, args...)
	return err
}

// RemoveContent takes units out of a repository with what they name and nothing else there does, and completes the task whose result that is (contract 2.5.2). What a remaining tag or
// list refers to stays.
func (s *Store) RemoveContent(ctx context.Context, claim *Claim, repositoryID string, units []Unit) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *change) ([]Created, error) {
		return nil, steps(c.gather, func() error { return c.gatherUnits(units, heldNow(repositoryID)) }, c.removeTrees)
	})
}

// RemoveAll takes everything out of a repository and completes the task whose result that is.
func (s *Store) RemoveAll(ctx context.Context, claim *Claim, repositoryID string) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *change) ([]Created, error) {
		return nil, steps(c.gather, c.keepGathered)
	})
}

// RemoveImage takes a manifest out of a repository with its tags, its signatures and what it names and nothing else there does, and completes the
// task whose result that is (contract 2.5.1). Invalid when the latest version holds no such manifest.
func (s *Store) RemoveImage(ctx context.Context, claim *Claim, repositoryID string, d digest.Digest) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *change) ([]Created, error) {
		id, ok, err := c.content(pulp.KindManifest, string(d))
		if err == nil && !ok {
			err = fault.New(fault.Invalid, "A manifest with the digest '%s' does not exist in the latest repository version '%s'", d, c.name())
		}
		if err != nil {
			return nil, err
		}
		return nil, c.removeImage(id)
	})
}

// removeTrees takes the gathered units out of the repository with all that hangs on them there, but for what something that stays refers to.
func (c *change) removeTrees() error {
	if err := c.gatherTree(heldNow(c.repo.ID)); err != nil {
		return err
	}
	if err := c.keepNamed(); err != nil {
		return err
	}
	if _, err := c.tx.exec(`
		DELETE FROM change_unit WHERE kind = $3 AND (key IN (
			SELECT mb.digest FROM repository_content c JOIN manifest_blob mb ON mb.manifest_id = c.content_id
			 WHERE c.repository_id = $1 AND c.kind = $2 AND c.version_removed IS NULL
			   AND NOT EXISTS (SELECT 1 FROM change_unit g WHERE g.kind = $2 AND g.key = c.key)) OR key IN (
			SELECT mb.digest FROM pending_content p JOIN manifest_blob mb ON mb.manifest_id = p.content_id WHERE p.repository_id = $1 AND p.kind = $2))`,
		c.repo.ID, pulp.KindManifest, pulp.KindBlob); err != nil {
		return err
	}
	if err := c.gatherOwnSignatures(); err != nil {
		return err
	}
	if _, err := c.tx.exec(`
		DELETE FROM pending_content WHERE repository_id = $1 AND kind = $2 AND content_id IN (
			SELECT s.id FROM signature s JOIN change_unit g ON g.content_id = s.manifest_id WHERE g.kind = $3)`,
		c.repo.ID, pulp.KindSignature, pulp.KindManifest); err != nil {
		return err
	}
	return c.removeGathered()
}

// keepNamed removes manifests from the gathered units that a remaining tag or a remaining or pending list refers to, and then the manifests that those list.
func (c *change) keepNamed() error {
	if _, err := c.tx.exec(`
		DELETE FROM change_unit WHERE kind = $2 AND content_id IN (
			SELECT t.manifest_id FROM repository_content c JOIN tag t ON t.id = c.content_id
			 WHERE c.repository_id = $1 AND c.kind = $3 AND c.version_removed IS NULL
			   AND NOT EXISTS (SELECT 1 FROM change_unit g WHERE g.kind = $3 AND g.key = c.key))`,
		c.repo.ID, pulp.KindManifest, pulp.KindTag); err != nil {
		return err
	}
	for {
		n, err := c.tx.exec(`
			DELETE FROM change_unit WHERE kind = $2 AND key IN (
				SELECT mc.digest FROM repository_content c JOIN manifest_child mc ON mc.manifest_id = c.content_id
				 WHERE c.repository_id = $1 AND c.kind = $2 AND c.version_removed IS NULL
				   AND NOT EXISTS (SELECT 1 FROM change_unit g WHERE g.kind = $2 AND g.key = c.key)
				UNION SELECT mc.digest FROM pending_content p JOIN manifest_child mc ON mc.manifest_id = p.content_id
				 WHERE p.repository_id = $1 AND p.kind = $2)`, c.repo.ID, pulp.KindManifest)
		if err != nil || n == 0 {
			return err
		}
	}
}

// RemoveSignatures takes all signatures by a key out of a repository and completes the task whose result that is (contract 2.5.1). Invalid when the latest version
// holds none.
func (s *Store) RemoveSignatures(ctx context.Context, claim *Claim, repositoryID, keyID string) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *change) ([]Created, error) {
		if err := c.gather(); err != nil {
			return nil, err
		}
		n, err := c.tx.exec(`
			INSERT INTO change_unit (kind, key, content_id)
			SELECT c.kind, c.key, c.content_id FROM repository_content c JOIN signature g ON g.id = c.content_id
			 WHERE c.repository_id = $1 AND c.kind = $2 AND c.version_removed IS NULL AND g.key_id = $3`, repositoryID, pulp.KindSignature, keyID)
		if err == nil && n == 0 {
			err = fault.New(fault.Invalid, "There are no signatures in the latest repository version '%s' produced with the specified key_id '%s'", c.name(), keyID)
		}
		if err != nil {
			return nil, err
		}
		return nil, c.removeGathered()
	})
}

// Restore makes a new version of a repository that holds what an older one held, and completes the task whose result that is. Signatures that manifests
// of the older version have gained since stay with them.
func (s *Store) Restore(ctx context.Context, claim *Claim, repositoryID string, number int64) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *change) ([]Created, error) {
		if _, err := version(c.tx.ctx, c.tx, repositoryID, number); err != nil {
			return nil, err
		}
		return nil, steps(c.gather, func() error {
			_, err := c.tx.exec(`
				INSERT INTO change_unit (kind, key, content_id)
				SELECT c.kind, c.key, c.content_id FROM repository_content c WHERE c.repository_id = $1 AND `+heldIn("$2"), repositoryID, number)
			return err
		}, c.gatherOwnSignatures, c.keepGathered, c.addGathered)
	})
}

// gatherOwnSignatures gathers the signatures that the repository holds of the gathered manifests.
func (c *change) gatherOwnSignatures() error {
	here := heldNow(c.repo.ID)
	_, err := c.tx.exec(`
		INSERT INTO change_unit (kind, key, content_id)
		SELECT CAST($1 AS BIGINT), u.digest, u.id FROM change_unit g JOIN signature u ON u.manifest_id = g.content_id WHERE g.kind = $2 AND `+here.condition+`
		ON CONFLICT DO NOTHING`, append([]any{pulp.KindSignature, pulp.KindManifest}, here.args...)...)
	return err
}
