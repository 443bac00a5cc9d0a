package signatures

import (
	"database/sql"
	"errors"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// PushPolicy defines which repositories sign on push by configuration, in addition to those with the setting sign_on_push, and
// the docker references of their signatures.
type PushPolicy struct {
	Host  string // of docker references
	Lists bool   // image indexes and manifest lists are signed too
	// Service returns the name of the signing service with which a repository of this name signs on push by configuration;
	// empty if it does not. nil: none does.
	Service func(repository string) string
	// Use decides which repositories may use which signing services.
	Use pulp.SigningUse
}

// SetPushPolicy makes every later change of content satisfy a policy. Every process that changes content calls it before the
// store is used.
func (s *Store) SetPushPolicy(p PushPolicy) { s.content.SetPolicy(policy{p}) }

// policy implements content.Policy.
type policy struct{ PushPolicy }

// Requires implements content.Policy.
func (p policy) Requires(t *content.Tx, r pulp.Repository) (bool, error) {
	v, err := p.serviceOf(t, r)
	return v != nil, err
}

// serviceOf returns the service with which a repository signs on push; nil if it does not sign on push. The error is Unavailable
// if the repository must sign on push and may not use its service, or the service does not exist.
func (p policy) serviceOf(t *content.Tx, r pulp.Repository) (*pulp.SigningService, error) {
	condition, arg := "name", ""
	switch {
	case r.SignOnPush && r.SigningServiceID != "":
		condition, arg = "id", r.SigningServiceID
	case r.SignOnPush:
		if names := p.Use.Configured(r); len(names) > 0 {
			arg = names[0]
		}
	case p.Service != nil:
		if arg = p.Service(r.PolicyName()); arg == "" {
			return nil, nil
		}
	default:
		return nil, nil
	}
	v, err := record.ScanService(t.Row(`SELECT `+record.ServiceColumns+` FROM signing_service WHERE `+condition+` = $1`, arg))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.New(fault.Unavailable, "The repository %s signs on push, and its signing service does not exist. "+
			"An administrator can assign one (manifest_signing_service), or sign_on_push can be turned off.", r.Name)
	}
	if err == nil && condition == "id" && !p.Use.Allows(r, v) {
		return nil, fault.New(fault.Unavailable, "The repository %s signs on push, and no administrator has assigned its signing service to it. "+
			"An administrator can assign it, or sign_on_push can be turned off.", r.Name)
	}
	return &v, err
}

// CheckChange implements content.Policy. It checks the tags that the change adds, and the tags of image indexes that the change
// completes, under every path that serves the repository.
func (p policy) CheckChange(c *content.Change) error {
	v, err := p.serviceOf(c.Tx, c.Repo)
	if err != nil || v == nil {
		return err
	}
	tagged, err := sqldb.Collect(c.Tx.Ctx, c.Tx, record.ScanTagged, `
		WITH RECURSIVE shown (digest) AS (
			SELECT c.key FROM repository_content c
			 WHERE c.repository_id = $1 AND c.version_added = $2 AND c.kind = $3 AND c.version_removed IS NULL
			UNION
			SELECT m.digest FROM shown s JOIN manifest_child e ON e.digest = s.digest JOIN manifest m ON m.id = e.manifest_id
			  JOIN repository_content c ON c.repository_id = $1 AND c.kind = $3 AND c.key = m.digest AND c.version_removed IS NULL)
		SELECT c.key, m.id, m.digest, m.media_type FROM repository_content c JOIN tag t ON t.id = c.content_id JOIN manifest m ON m.id = t.manifest_id
		 WHERE c.repository_id = $1 AND c.kind = $4 AND c.version_removed IS NULL AND (c.version_added = $2 OR m.digest IN (SELECT digest FROM shown))
		 ORDER BY c.key`, c.Repo.ID, c.Number, pulp.KindManifest, pulp.KindTag)
	if err != nil || len(tagged) == 0 {
		return err
	}
	paths, err := sqldb.Collect(c.Tx.Ctx, c.Tx, sqldb.ScanString, `SELECT base_path FROM distribution WHERE repository_id = $1 ORDER BY base_path`, c.Repo.ID)
	if err != nil {
		return err
	}
	return p.checkTags(c, *v, tagged, paths)
}

// wantedSignature is a signature that a tag must have.
type wantedSignature struct {
	Manifest  string `json:"m"` // id
	Reference string `json:"r"`
	digest    digest.Digest
}

// wanted returns the signatures that tags must have under paths.
func (p policy) wanted(c *content.Change, tagged []record.TaggedManifest, paths []string) ([]wantedSignature, error) {
	var all []wantedSignature
	w := walk{repositoryID: c.Repo.ID, number: record.Latest, lists: p.Lists}
	for _, tag := range tagged {
		if pulp.IsCompanionTag(tag.Tag) {
			continue
		}
		targets, err := w.expand(c.Tx.Ctx, c.Tx, tag)
		if err != nil {
			return nil, err
		}
		for _, target := range targets {
			for _, path := range paths {
				all = append(all, wantedSignature{target.ManifestID, p.Host + "/" + path + ":" + tag.Tag, target.Digest})
			}
		}
	}
	return all, nil
}

// checkTags adds the pending signatures that tags must have under paths. The error is MissingSignatures if some are neither in
// the repository nor pending.
func (p policy) checkTags(c *content.Change, v pulp.SigningService, tagged []record.TaggedManifest, paths []string) error {
	all, err := p.wanted(c, tagged, paths)
	if err != nil {
		return err
	}
	missing := &content.MissingSignatures{RepositoryID: c.Repo.ID, Namespace: pulp.NamespaceOf(c.Repo.Name), Service: v}
	for some := range slices.Chunk(all, chunk) {
		found, err := find(c, v, some)
		if err != nil {
			return err
		}
		for i, w := range some {
			f, ok := found[i]
			switch {
			case !ok:
				missing.Missing = append(missing.Missing, content.MissingSignature{Digest: w.digest, Reference: w.Reference})
			case !f.present:
				if err := c.Add(pulp.KindSignature, f.digest, f.id); err != nil {
					return err
				}
			}
		}
	}
	if len(missing.Missing) > 0 && !c.Tx.MayBeUnsigned() {
		return missing
	}
	return nil
}

// find returns for each wanted signature, by its index, one that the repository holds or else one that is pending.
func find(c *content.Change, v pulp.SigningService, some []wantedSignature) (map[int]foundSignature, error) {
	rows, err := sqldb.Collect(c.Tx.Ctx, c.Tx, scanFound, `
		SELECT j.key, g.digest, g.id, CASE WHEN c.content_id IS NULL THEN 0 ELSE 1 END FROM json_each($1) j
		  JOIN signature g ON g.manifest_id = json_extract(j.value, '$.m') AND g.reference = json_extract(j.value, '$.r') AND g.verified_by = $2
		  LEFT JOIN repository_content c ON c.repository_id = $3 AND c.kind = $4 AND c.key = g.digest AND c.version_removed IS NULL
		  LEFT JOIN unversioned_content p ON `+record.Pending("$3")+` AND p.kind = $4 AND p.key = g.digest
		 WHERE c.content_id IS NOT NULL OR p.content_id IS NOT NULL ORDER BY g.id`, sqldb.ToJSON(some), v.Fingerprint, c.Repo.ID, pulp.KindSignature)
	if err != nil {
		return nil, err
	}
	best := map[int]foundSignature{}
	for _, f := range rows {
		if held, ok := best[f.wanted]; !ok || f.present && !held.present {
			best[f.wanted] = f
		}
	}
	return best, nil
}

// chunk is the number of wanted signatures that one query looks for.
const chunk = 500

type foundSignature struct {
	wanted     int // index
	digest, id string
	present    bool // in the latest version; else pending
}

func scanFound(row sqldb.Scanner) (foundSignature, error) {
	var f foundSignature
	var place string
	var present int
	if err := row.Scan(&place, &f.digest, &f.id, &present); err != nil {
		return f, err
	}
	n, err := strconv.Atoi(place)
	f.wanted, f.present = n, present == 1
	return f, err
}

// CheckDistribution implements content.Policy. The error is Invalid if the distribution is pinned to a version with a tag that is
// not signed for its path: versions do not change.
func (p policy) CheckDistribution(t *content.Tx, d pulp.Distribution) error {
	id, number := d.RepositoryID, int64(record.Latest)
	if d.Pinned != nil {
		id, number = d.Pinned.RepositoryID, d.Pinned.Number
	}
	if id == "" {
		return nil
	}
	r, err := record.ScanRepository(t.Row(`SELECT `+record.RepositoryColumns+` FROM repository r WHERE r.id = $1`, id))
	if err != nil {
		return err
	}
	v, err := p.serviceOf(t, r)
	if err != nil || v == nil {
		return err
	}
	if d.Pinned != nil {
		return p.checkPinned(t, *v, id, number, d.BasePath)
	}
	return p.checkShown(t, *v, id, []string{d.BasePath})
}

// CheckLatest implements content.Policy.
func (p policy) CheckLatest(t *content.Tx, repositoryID string) error {
	r, err := record.ScanRepository(t.Row(`SELECT `+record.RepositoryColumns+` FROM repository r WHERE r.id = $1`, repositoryID))
	if err != nil {
		return err
	}
	v, err := p.serviceOf(t, r)
	if err != nil || v == nil {
		return err
	}
	paths, err := sqldb.Collect(t.Ctx, t, sqldb.ScanString, `SELECT base_path FROM distribution WHERE repository_id = $1 ORDER BY base_path`, repositoryID)
	if err != nil {
		return err
	}
	return p.checkShown(t, *v, repositoryID, paths)
}

// checkShown checks all tags of a repository's latest version under paths. Pending signatures of them make a new version.
func (p policy) checkShown(t *content.Tx, v pulp.SigningService, id string, paths []string) error {
	c, err := t.Begin(id)
	if err != nil {
		return err
	}
	tagged, err := sqldb.Collect(t.Ctx, t, record.ScanTagged, `
		SELECT c.key, m.id, m.digest, m.media_type FROM repository_content c JOIN tag t ON t.id = c.content_id JOIN manifest m ON m.id = t.manifest_id
		 WHERE c.repository_id = $1 AND c.kind = $2 AND c.version_removed IS NULL ORDER BY c.key`, id, pulp.KindTag)
	if err != nil {
		return err
	}
	if err := p.checkTags(c, v, tagged, paths); err != nil {
		return err
	}
	_, err = c.End()
	return err
}

// checkPinned checks that a version holds a signature for a path of each manifest under its tags.
func (p policy) checkPinned(t *content.Tx, v pulp.SigningService, repositoryID string, number int64, path string) error {
	const held = ` AND c.version_added <= $2 AND (c.version_removed IS NULL OR c.version_removed > $2)`
	tagged, err := sqldb.Collect(t.Ctx, t, record.ScanTagged, `
		SELECT c.key, m.id, m.digest, m.media_type FROM repository_content c JOIN tag t ON t.id = c.content_id JOIN manifest m ON m.id = t.manifest_id
		 WHERE c.repository_id = $1 AND c.kind = $3`+held+` ORDER BY c.key`, repositoryID, number, pulp.KindTag)
	if err != nil {
		return err
	}
	w := walk{repositoryID: repositoryID, number: number, lists: p.Lists}
	for _, tag := range tagged {
		if pulp.IsCompanionTag(tag.Tag) {
			continue
		}
		targets, err := w.expand(t.Ctx, t, tag)
		if err != nil {
			return err
		}
		for _, target := range targets {
			var signed bool
			err := t.Row(`SELECT EXISTS (SELECT 1 FROM signature g JOIN repository_content c ON c.repository_id = $1 AND c.kind = $3 AND c.key = g.digest`+held+`
				WHERE g.manifest_id = $4 AND g.reference = $5 AND g.verified_by = $6)`,
				repositoryID, number, pulp.KindSignature, target.ManifestID, p.Host+"/"+path+":"+tag.Tag, v.Fingerprint).Scan(&signed)
			if err != nil {
				return err
			}
			if !signed && !t.MayBeUnsigned() {
				return fault.Field("repository_version", "The version holds the tag '%s', which is not signed for this base path, and versions do not change.", tag.Tag)
			}
		}
	}
	return nil
}
