package content

import (
	"context"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// AddContent adds units to a repository and completes the task: tags with their manifests, manifests with their
// children, configs and layers (compatibility.md#container-repositories). Only units that the viewer sees are added; a nil
// viewer sees all. Signatures are left out, as in Pulp.
func (s *Store) AddContent(
	ctx context.Context, claim *taskstore.Claim, repositoryID string, units []record.Unit, viewer *access.Viewer,
) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *Change) ([]taskstore.Created, error) {
		where := seenBy(viewer)
		wanted := make([]record.Unit, 0, len(units))
		for _, u := range units {
			if u.Kind != pulp.KindSignature {
				wanted = append(wanted, u)
			}
		}
		return nil, sqldb.Steps(c.Gather, func() error { return c.gatherUnits(wanted, where) }, func() error { return c.GatherTree(where) },
			func() error { return c.inheritClaims(seenRepositories(viewer)) }, c.AddGathered)
	})
}

// Copy selects content of a version of another repository.
type Copy struct {
	RepositoryID string   `json:"repository"`
	Number       int64    `json:"number"`
	Tags         bool     `json:"tags"`        // copy tags; else manifests
	Names        []string `json:"names"`       // of tags; nil: all
	Digests      []string `json:"digests"`     // of manifests; nil: all
	MediaTypes   []string `json:"media_types"` // of manifests; nil: all
}

// CopyContent adds tags or manifests of another repository's version to a repository, with everything that they refer
// to there except signatures, and completes the task (compatibility.md#container-repositories). It writes rows only,
// whatever the size of the content.
func (s *Store) CopyContent(ctx context.Context, claim *taskstore.Claim, repositoryID string, from Copy) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *Change) ([]taskstore.Created, error) {
		if _, err := record.FindVersion(c.Tx.Ctx, c.Tx, from.RepositoryID, from.Number); err != nil {
			return nil, err
		}
		return nil, sqldb.Steps(c.Gather, func() error { return c.gatherCopy(from) },
			func() error { return c.GatherTree(heldBy(from.RepositoryID, from.Number)) },
			func() error { return c.inheritClaims(origin{`c.repository_id = $3`, []any{from.RepositoryID}}) }, c.AddGathered)
	})
}

// gatherCopy gathers the tags or manifests that a Copy selects.
func (c *Change) gatherCopy(from Copy) error {
	kind, condition := pulp.KindManifest, ""
	args := []any{pulp.KindManifest, from.RepositoryID, from.Number}
	only := func(text string, values []string) {
		if values != nil {
			args = append(args, sqldb.ToJSON(values))
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
	_, err := c.Tx.Exec(`
		INSERT INTO change_unit (kind, key, content_id)
		SELECT c.kind, c.key, c.content_id FROM repository_content c
		 WHERE c.repository_id = $2 AND c.kind = $1 AND `+record.InVersion("$3")+condition, args...)
	return err
}
