package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// A repository that signs on push shows no tag without its signatures, whatever would make the tag visible (architecture 6). So the check is where
// every change of content ends, and where a distribution begins to serve a repository: the transaction either finds the signatures, in the
// version or waiting, or fails with what is missing. Who runs it then has that signed, keeps it (KeepSignatures), and tries again.

// Sealing says which repositories sign on push beside those that say so themselves, and what their signatures claim.
type Sealing struct {
	Host  string // of docker references (D5)
	Lists bool   // lists and indexes are signed too (D2)
	// Service returns the name of the signing service with which a repository of this name signs on push by configuration; empty: it does not. nil: none does.
	Service func(repository string) string
	// Use decides which repositories may use which signing services.
	Use pulp.SigningUse
}

// Seal makes every later change of content keep to the rules of signing on push. It is called before the store is used, by every process that changes content.
func (s *Store) Seal(x Sealing) { s.sealing = &x }

// Unsealed is a signature that a tag lacks.
type Unsealed struct {
	Digest    digest.Digest `json:"digest"`    // of the manifest
	Reference string        `json:"reference"` // docker reference
}

// SealTask is the name of tasks that sign for a change that waits in another process. They are nobody's, and no list shows them.
const SealTask = "countersign.tasks.seal"

// Unsigned says that a change would show tags that lack signatures. Nothing was changed.
type Unsigned struct {
	RepositoryID string
	Namespace    string // of the repository
	Service      pulp.SigningService
	Missing      []Unsealed
}

// Error says how many signatures are missing.
func (e *Unsigned) Error() string {
	return fmt.Sprintf("%d signatures are missing, of %s for %s and others", len(e.Missing), e.Missing[0].Digest, e.Missing[0].Reference)
}

// mayBeUnsigned marks a context in which tags may become visible unsigned.
type mayBeUnsigned struct{}

// WithoutSeal returns a context whose changes may show tags that are not signed: those who asked for it will have them signed.
func WithoutSeal(ctx context.Context) context.Context {
	return context.WithValue(ctx, mayBeUnsigned{}, true)
}

// sealedWith returns the service with which a repository signs on push; nil when it does not.
func (t *tx) sealedWith(r pulp.Repository) (*pulp.SigningService, error) {
	if t.sealing == nil {
		return nil, nil
	}
	condition, arg := "name", ""
	switch {
	case r.SignOnPush && r.SigningServiceID != "":
		condition, arg = "id", r.SigningServiceID
	case r.SignOnPush:
		if names := t.sealing.Use.Configured(r); len(names) > 0 {
			arg = names[0]
		}
	case t.sealing.Service != nil:
		if arg = t.sealing.Service(r.PolicyName()); arg == "" {
			return nil, nil
		}
	default:
		return nil, nil
	}
	v, err := scanService(t.row(`SELECT `+serviceColumns+` FROM signing_service WHERE `+condition+` = $1`, arg))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.New(fault.Unavailable, "The repository %s signs on push, and its signing service does not exist. "+
			"An administrator can assign one (manifest_signing_service), or sign_on_push can be turned off.", r.Name)
	}
	if err == nil && condition == "id" && !t.sealing.Use.Allows(r, v) {
		return nil, fault.New(fault.Unavailable, "The repository %s signs on push, and no administrator has assigned its signing service to it. "+
			"An administrator can assign it, or sign_on_push can be turned off.", r.Name)
	}
	return &v, err
}

// seal sees that the tags which the change makes visible, or whose lists it completes, are signed under every path that serves the repository. Signatures that wait
// enter the version.
func (c *change) seal() error {
	v, err := c.tx.sealedWith(c.repo)
	if err != nil || v == nil {
		return err
	}
	tagged, err := collect(c.tx.ctx, c.tx, scanTagged, `
		WITH RECURSIVE shown (digest) AS (
			SELECT c.key FROM repository_content c
			 WHERE c.repository_id = $1 AND c.version_added = $2 AND c.kind = $3 AND c.version_removed IS NULL
			UNION
			SELECT m.digest FROM shown s JOIN manifest_child e ON e.digest = s.digest JOIN manifest m ON m.id = e.manifest_id
			  JOIN repository_content c ON c.repository_id = $1 AND c.kind = $3 AND c.key = m.digest AND c.version_removed IS NULL)
		SELECT c.key, m.id, m.digest, m.media_type FROM repository_content c JOIN tag t ON t.id = c.content_id JOIN manifest m ON m.id = t.manifest_id
		 WHERE c.repository_id = $1 AND c.kind = $4 AND c.version_removed IS NULL AND (c.version_added = $2 OR m.digest IN (SELECT digest FROM shown))
		 ORDER BY c.key`, c.repo.ID, c.number, pulp.KindManifest, pulp.KindTag)
	if err != nil || len(tagged) == 0 {
		return err
	}
	paths, err := collect(c.tx.ctx, c.tx, scanString, `SELECT base_path FROM distribution WHERE repository_id = $1 ORDER BY base_path`, c.repo.ID)
	if err != nil {
		return err
	}
	return c.sealTags(*v, tagged, paths)
}

// sealTags adds what waits of the signatures that tags want under paths. Unsigned when some are neither there nor waiting.
func (c *change) sealTags(v pulp.SigningService, tagged []taggedManifest, paths []string) error {
	type wanted struct {
		Manifest  string `json:"m"`
		Reference string `json:"r"`
		digest    digest.Digest
	}
	var all []wanted
	walk := walk{repositoryID: c.repo.ID, number: latest, lists: c.tx.sealing.Lists}
	for _, tag := range tagged {
		if pulp.IsCompanionTag(tag.tag) {
			continue
		}
		targets, err := walk.expand(c.tx.ctx, c.tx, tag)
		if err != nil {
			return err
		}
		for _, target := range targets {
			for _, path := range paths {
				all = append(all, wanted{target.ManifestID, c.tx.sealing.Host + "/" + path + ":" + tag.tag, target.Digest})
			}
		}
	}
	missing := &Unsigned{RepositoryID: c.repo.ID, Namespace: pulp.NamespaceOf(c.repo.Name), Service: v}
	for some := range slices.Chunk(all, sealChunk) {
		// For each wanted signature: the one that is there, or else one that waits.
		rows, err := collect(c.tx.ctx, c.tx, scanFound, `
			SELECT j.key, g.digest, g.id, CASE WHEN c.content_id IS NULL THEN 0 ELSE 1 END FROM json_each($1) j
			  JOIN signature g ON g.manifest_id = json_extract(j.value, '$.m') AND g.reference = json_extract(j.value, '$.r') AND g.verified_by = $2
			  LEFT JOIN repository_content c ON c.repository_id = $3 AND c.kind = $4 AND c.key = g.digest AND c.version_removed IS NULL
			  LEFT JOIN pending_content p ON p.repository_id = $3 AND p.kind = $4 AND p.key = g.digest
			 WHERE c.content_id IS NOT NULL OR p.content_id IS NOT NULL ORDER BY g.id`, toJSON(some), v.Fingerprint, c.repo.ID, pulp.KindSignature)
		if err != nil {
			return err
		}
		best := map[int]foundSignature{}
		for _, f := range rows {
			if held, ok := best[f.wanted]; !ok || f.present && !held.present {
				best[f.wanted] = f
			}
		}
		for i, w := range some {
			f, ok := best[i]
			switch {
			case !ok:
				missing.Missing = append(missing.Missing, Unsealed{w.digest, w.Reference})
			case !f.present:
				if err := c.add(pulp.KindSignature, f.digest, f.id); err != nil {
					return err
				}
			}
		}
	}
	if len(missing.Missing) > 0 && !c.tx.mayBeUnsigned {
		return missing
	}
	return nil
}

// sealChunk is how many wanted signatures one query looks for.
const sealChunk = 500

type foundSignature struct {
	wanted     int // its place among those that were looked for
	digest, id string
	present    bool
}

func scanFound(row scanner) (foundSignature, error) {
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

// sealDistribution sees that everything a distribution shows is signed for its path when what it serves signs on push. Invalid when it is pinned to a
// version that holds tags which are not: a version does not change.
func (t *tx) sealDistribution(d pulp.Distribution) error {
	id, number := d.RepositoryID, int64(latest)
	if d.Pinned != nil {
		id, number = d.Pinned.RepositoryID, d.Pinned.Number
	}
	if t.sealing == nil || id == "" {
		return nil
	}
	r, err := scanRepository(t.row(`SELECT `+repositoryColumns+` FROM repository r WHERE r.id = $1`, id))
	if err != nil {
		return err
	}
	v, err := t.sealedWith(r)
	if err != nil || v == nil {
		return err
	}
	if d.Pinned != nil {
		return t.sealPinned(*v, id, number, d.BasePath)
	}
	return t.sealShown(*v, id, []string{d.BasePath})
}

// sealLatest sees that everything a repository's latest version shows is signed under every path that serves it, when the repository signs on push.
func (t *tx) sealLatest(repositoryID string) error {
	r, err := scanRepository(t.row(`SELECT `+repositoryColumns+` FROM repository r WHERE r.id = $1`, repositoryID))
	if err != nil {
		return err
	}
	v, err := t.sealedWith(r)
	if err != nil || v == nil {
		return err
	}
	paths, err := collect(t.ctx, t, scanString, `SELECT base_path FROM distribution WHERE repository_id = $1 ORDER BY base_path`, repositoryID)
	if err != nil {
		return err
	}
	return t.sealShown(*v, repositoryID, paths)
}

// sealShown sees that all tags of a repository's latest version are signed for paths. Signatures that wait make a version more.
func (t *tx) sealShown(v pulp.SigningService, id string, paths []string) error {
	c, err := t.begin(id)
	if err != nil {
		return err
	}
	tagged, err := collect(t.ctx, t, scanTagged, `
		SELECT c.key, m.id, m.digest, m.media_type FROM repository_content c JOIN tag t ON t.id = c.content_id JOIN manifest m ON m.id = t.manifest_id
		 WHERE c.repository_id = $1 AND c.kind = $2 AND c.version_removed IS NULL ORDER BY c.key`, id, pulp.KindTag)
	if err != nil {
		return err
	}
	if err := c.sealTags(v, tagged, paths); err != nil {
		return err
	}
	_, err = c.end()
	return err
}

// sealPinned sees that a version holds a signature of each of its tags' manifests for a path.
func (t *tx) sealPinned(v pulp.SigningService, repositoryID string, number int64, path string) error {
	const held = ` AND c.version_added <= $2 AND (c.version_removed IS NULL OR c.version_removed > $2)`
	tagged, err := collect(t.ctx, t, scanTagged, `
		SELECT c.key, m.id, m.digest, m.media_type FROM repository_content c JOIN tag t ON t.id = c.content_id JOIN manifest m ON m.id = t.manifest_id
		 WHERE c.repository_id = $1 AND c.kind = $3`+held+` ORDER BY c.key`, repositoryID, number, pulp.KindTag)
	if err != nil {
		return err
	}
	walk := walk{repositoryID: repositoryID, number: number, lists: t.sealing.Lists}
	for _, tag := range tagged {
		if pulp.IsCompanionTag(tag.tag) {
			continue
		}
		targets, err := walk.expand(t.ctx, t, tag)
		if err != nil {
			return err
		}
		for _, target := range targets {
			var signed bool
			err := t.row(`SELECT EXISTS (SELECT 1 FROM signature g JOIN repository_content c ON c.repository_id = $1 AND c.kind = $3 AND c.key = g.digest`+held+`
				WHERE g.manifest_id = $4 AND g.reference = $5 AND g.verified_by = $6)`,
				repositoryID, number, pulp.KindSignature, target.ManifestID, t.sealing.Host+"/"+path+":"+tag.tag, v.Fingerprint).Scan(&signed)
			if err != nil {
				return err
			}
			if !signed && !t.mayBeUnsigned {
				return fault.Field("repository_version", "The version holds the tag '%s', which is not signed for this base path, and versions do not change.", tag.tag)
			}
		}
	}
	return nil
}

// KeepSignatures keeps signatures of manifests that a repository holds, or that wait in it, until a change asks for them.
func (s *Store) KeepSignatures(ctx context.Context, repositoryID string, signatures []pulp.Signature) error {
	return s.inTx(ctx, func(t *tx) error {
		c, err := t.begin(repositoryID)
		if err != nil {
			return err
		}
		for _, g := range signatures {
			if err := c.checkRoom(g.ManifestID, len(g.Content)); err != nil {
				return err
			}
			id, err := t.putSignature(g)
			if err != nil {
				return err
			}
			if err := t.putPending(repositoryID, pulp.KindSignature, string(g.Digest), id); err != nil {
				return err
			}
		}
		return nil
	})
}

// DropSignatures forgets signatures that were kept for a change which was refused after all. What versions hold of them stays.
func (s *Store) DropSignatures(ctx context.Context, u *Unsigned) error {
	return s.inTx(ctx, func(t *tx) error {
		for _, m := range u.Missing {
			if _, err := t.exec(`
				DELETE FROM pending_content WHERE repository_id = $1 AND kind = $2 AND key IN (
					SELECT g.digest FROM signature g JOIN manifest m ON m.id = g.manifest_id WHERE m.digest = $3 AND g.reference = $4 AND g.verified_by = $5)`,
				u.RepositoryID, pulp.KindSignature, m.Digest, m.Reference, u.Service.Fingerprint); err != nil {
				return err
			}
		}
		return nil
	})
}
