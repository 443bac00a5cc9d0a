package signatures

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// SignTarget is a signature that a sign task has to make: of a manifest under a tag.
type SignTarget struct {
	ManifestID string
	Digest     digest.Digest
	Tag        string
}

// SignTargets returns the signatures to make for the tags of a repository's latest version, or for the named ones: of
// each tag's image and, for an index, of each child that the repository holds (compatibility.md#signing-lists). With
// lists, the indexes themselves are signed too. Companion tags of cosign are skipped. A named tag that does not exist
// is a field error on tags_list (compatibility.md#tags-list). The error is Invalid if there are more than maxWalk
// manifests.
func (s *Store) SignTargets(ctx context.Context, repositoryID string, names []string, lists bool) ([]SignTarget, error) {
	tagged, err := sqldb.Collect(ctx, s.db.Read(), record.ScanTagged, `
		SELECT c.key, m.id, m.digest, m.media_type FROM repository_content c JOIN tag t ON t.id = c.content_id JOIN manifest m ON m.id = t.manifest_id
		 WHERE c.repository_id = $1 AND c.kind = $2 AND c.version_removed IS NULL ORDER BY c.key`, repositoryID, pulp.KindTag)
	if err != nil {
		return nil, err
	}
	wanted := make(map[string]bool, len(names)) // and whether each is there
	for _, name := range names {
		wanted[name] = false
	}
	for _, t := range tagged {
		if _, named := wanted[t.Tag]; named {
			wanted[t.Tag] = true
		}
	}
	for _, name := range names {
		if !wanted[name] {
			return nil, fault.Field("tags_list", "The tag '%s' does not exist in the latest repository version.", name)
		}
	}
	var targets []SignTarget
	walk := walk{repositoryID: repositoryID, number: record.Latest, lists: lists}
	for _, t := range tagged {
		if len(names) > 0 && !wanted[t.Tag] || pulp.IsCompanionTag(t.Tag) {
			continue
		}
		more, err := walk.expand(ctx, s.db.Read(), t)
		if err != nil {
			return nil, err
		}
		targets = append(targets, more...)
	}
	return targets, nil
}

// maxWalk bounds the number of manifests that a walk visits. Indexes can be nested and shared by many tags, so a few
// pushes could otherwise make a walk that never ends.
const maxWalk = 1_000_000

// walk visits the manifests under tags of a version of a repository.
type walk struct {
	repositoryID string
	number       int64
	lists        bool // lists are to be signed too
	looked       int  // at so many manifests
}

// expand returns the signatures to make for one tag. It visits nested indexes once each.
func (w *walk) expand(ctx context.Context, q sqldb.Querier, root record.TaggedManifest) ([]SignTarget, error) {
	var targets []SignTarget
	queue, seen := []record.TaggedManifest{root}, map[string]bool{root.ID: true}
	for len(queue) > 0 {
		m := queue[0]
		queue = queue[1:]
		if w.looked++; w.looked > maxWalk {
			return nil, fault.New(fault.Invalid, "There are more than %d manifests under these tags. Fewer can be signed at once.", maxWalk)
		}
		list := pulp.IsList(m.MediaType)
		if !list || w.lists {
			targets = append(targets, SignTarget{m.ID, digest.Digest(m.Digest), root.Tag})
		}
		if !list {
			continue
		}
		children, err := sqldb.Collect(ctx, q, record.ScanTagged, `
			SELECT '', m.id, m.digest, m.media_type
			  FROM manifest_child mc JOIN manifest m ON m.digest = mc.digest
			  JOIN repository_content c ON c.repository_id = $2 AND c.kind = $3 AND c.key = mc.digest AND `+record.InServedVersion(w.number, `$4`)+`
			 WHERE mc.manifest_id = $1 ORDER BY mc.position`, m.ID, w.repositoryID, pulp.KindManifest, w.number)
		if err != nil {
			return nil, err
		}
		for _, child := range children {
			if !seen[child.ID] {
				seen[child.ID] = true
				queue = append(queue, child)
			}
		}
	}
	return targets, nil
}
