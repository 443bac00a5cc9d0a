package store

import (
	"context"
	"database/sql"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

const signatureColumns = `g.id, g.digest, g.name, g.manifest_id, g.content, g.key_id, g.fingerprint, g.verified_by, g.reference,
	g.creator, g.signed_at, g.created, g.updated`

func scanSignature(row scanner) (pulp.Signature, error) {
	var g pulp.Signature
	var fingerprint sql.NullString
	var created, updated int64
	err := row.Scan(&g.ID, &g.Digest, &g.Name, &g.ManifestID, &g.Content, &g.KeyID, &fingerprint, &g.VerifiedBy, &g.Reference,
		&g.Creator, &g.SignedAt, &created, &updated)
	if err != nil {
		return pulp.Signature{}, err
	}
	g.Fingerprint, g.Stamps = pointer(fingerprint), stamps(created, updated)
	return g, nil
}

// Signature returns the signature with this id. NotFound when there is none.
func (s *Store) Signature(ctx context.Context, id string) (pulp.Signature, error) {
	g, err := scanSignature(s.read.QueryRowContext(ctx, `SELECT `+signatureColumns+` FROM signature g WHERE g.id = $1`, id))
	return g, notFound(err, "No ManifestSignature matches the given query.")
}

// putSignature stores a signature's row unless it is there and returns its id.
func (t *tx) putSignature(g pulp.Signature) (string, error) {
	id := pulp.NewID()
	n, err := t.exec(`
		INSERT INTO signature (id, digest, name, manifest_id, content, key_id, fingerprint, verified_by, reference, creator, signed_at, created, updated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12) ON CONFLICT (digest) DO NOTHING`,
		id, g.Digest, g.Name, g.ManifestID, g.Content, g.KeyID, nullText(g.Fingerprint), g.VerifiedBy, g.Reference, g.Creator, g.SignedAt, t.now)
	if err == nil && n == 0 {
		return scanString(t.row(`SELECT id FROM signature WHERE digest = $1`, g.Digest))
	}
	return id, err
}

// signatureOverhead is at least what one signature takes in the answer of the extension endpoint beside its base64 content, in bytes.
const signatureOverhead = 200

// checkRoom sees that the signatures of a manifest, with one more of this size, fit into what clients read (4 MB, contract 4).
func (c *change) checkRoom(manifestID string, size int) error {
	var held int64
	err := c.tx.row(`
		SELECT COALESCE(SUM((length(g.content) + 2) / 3 * 4 + $4), 0) FROM signature g
		 WHERE g.manifest_id = $1 AND (EXISTS (
			SELECT 1 FROM repository_content c WHERE c.repository_id = $2 AND c.kind = $3 AND c.key = g.digest AND c.version_removed IS NULL) OR EXISTS (
			SELECT 1 FROM pending_content p WHERE p.repository_id = $2 AND p.kind = $3 AND p.key = g.digest))`,
		manifestID, c.repo.ID, pulp.KindSignature, signatureOverhead).Scan(&held)
	if err != nil {
		return err
	}
	if held+int64((size+2)/3*4+signatureOverhead) > pulp.MaxSignatureBody {
		return errNoRoom()
	}
	return nil
}

func errNoRoom() error {
	return fault.New(fault.TooLarge, "The manifest has as many signatures as clients can read (%d bytes); remove some first.", pulp.MaxSignatureBody)
}

// PutSignature adds a signature to a manifest of a repository: in a new version, or, while the manifest is pending, waiting with it
// (D6). What is there already makes no version. NotFound when the repository has no such manifest, TooLarge when it has too many signatures.
func (s *Store) PutSignature(ctx context.Context, repositoryID string, manifest digest.Digest, g pulp.Signature) (*pulp.Version, error) {
	return s.change(ctx, repositoryID, func(c *change) error {
		id, present, ok, err := c.anywhere(pulp.KindManifest, string(manifest))
		if err != nil {
			return err
		}
		if !ok {
			return fault.New(fault.NotFound, "Manifest not found.")
		}
		g.ManifestID = id
		if _, _, held, err := c.anywhere(pulp.KindSignature, string(g.Digest)); err != nil || held {
			return err
		}
		if err := c.checkRoom(id, len(g.Content)); err != nil {
			return err
		}
		unit, err := c.tx.putSignature(g)
		if err != nil {
			return err
		}
		if !present {
			return c.tx.putPending(repositoryID, pulp.KindSignature, string(g.Digest), unit)
		}
		return c.add(pulp.KindSignature, string(g.Digest), unit)
	})
}

// SignTarget is one signature that a sign task is to make: this manifest under this tag.
type SignTarget struct {
	ManifestID string
	Digest     digest.Digest
	Tag        string
}

// SignTargets returns what there is to sign under the tags of a repository's latest version, or under the named ones: each tag's image
// and, for a list, every image that it lists and the repository holds (contract 5.4, D2), with sign lists too when asked. Companion tags of cosign
// are left out. A named tag that is not there is a field error on tags_list (D4). Invalid when that is too much for one task.
func (s *Store) SignTargets(ctx context.Context, repositoryID string, names []string, lists bool) ([]SignTarget, error) {
	tagged, err := collect(ctx, s.read, scanTagged, `
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
		if _, named := wanted[t.tag]; named {
			wanted[t.tag] = true
		}
	}
	for _, name := range names {
		if !wanted[name] {
			return nil, fault.Field("tags_list", "The tag '%s' does not exist in the latest repository version.", name)
		}
	}
	var targets []SignTarget
	walk := walk{repositoryID: repositoryID, number: latest, lists: lists}
	for _, t := range tagged {
		if len(names) > 0 && !wanted[t.tag] || pulp.IsCompanionTag(t.tag) {
			continue
		}
		more, err := walk.expand(ctx, s.read, t)
		if err != nil {
			return nil, err
		}
		targets = append(targets, more...)
	}
	return targets, nil
}

type taggedManifest struct{ tag, id, digest, mediaType string }

func scanTagged(row scanner) (taggedManifest, error) {
	var t taggedManifest
	err := row.Scan(&t.tag, &t.id, &t.digest, &t.mediaType)
	return t, err
}

// maxWalk is how many manifests a walk looks at. Lists hold lists and many tags show the same ones: what a few pushes bring may be walked for ever.
const maxWalk = 1_000_000

// walk goes through the manifests under tags of a version of a repository.
type walk struct {
	repositoryID string
	number       int64
	lists        bool // lists are to be signed too
	looked       int  // at so many manifests
}

// expand lists what one tag asks to be signed, walking nested lists once each.
func (w *walk) expand(ctx context.Context, q querier, root taggedManifest) ([]SignTarget, error) {
	var targets []SignTarget
	queue, seen := []taggedManifest{root}, map[string]bool{root.id: true}
	for len(queue) > 0 {
		m := queue[0]
		queue = queue[1:]
		if w.looked++; w.looked > maxWalk {
			return nil, fault.New(fault.Invalid, "There are more than %d manifests under these tags. Fewer can be signed at once.", maxWalk)
		}
		list := pulp.IsList(m.mediaType)
		if !list || w.lists {
			targets = append(targets, SignTarget{m.id, digest.Digest(m.digest), root.tag})
		}
		if !list {
			continue
		}
		children, err := collect(ctx, q, scanTagged, `
			SELECT '', m.id, m.digest, m.media_type
			  FROM manifest_child mc JOIN manifest m ON m.digest = mc.digest
			  JOIN repository_content c ON c.repository_id = $2 AND c.kind = $3 AND c.key = mc.digest AND `+in(w.number, `$4`)+`
			 WHERE mc.manifest_id = $1 ORDER BY mc.position`, m.id, w.repositoryID, pulp.KindManifest, w.number)
		if err != nil {
			return nil, err
		}
		for _, child := range children {
			if !seen[child.id] {
				seen[child.id] = true
				queue = append(queue, child)
			}
		}
	}
	return targets, nil
}

// SignedKey names what D10 counts as the same signature by one key.
type SignedKey struct{ ManifestID, Reference string }

func scanSignedKey(row scanner) (SignedKey, error) {
	var k SignedKey
	err := row.Scan(&k.ManifestID, &k.Reference)
	return k, err
}

// SignedBy returns what a repository's latest version holds that was signed, verifiably, by the key with this fingerprint.
func (s *Store) SignedBy(ctx context.Context, repositoryID, fingerprint string) ([]SignedKey, error) {
	return collect(ctx, s.read, scanSignedKey, `
		SELECT g.manifest_id, g.reference FROM repository_content c JOIN signature g ON g.id = c.content_id
		 WHERE c.repository_id = $1 AND c.kind = $2 AND c.version_removed IS NULL AND g.verified_by = $3`,
		repositoryID, pulp.KindSignature, fingerprint)
}

// Staged returns what earlier attempts of a task have signed with the key already.
func (s *Store) Staged(ctx context.Context, taskID, fingerprint string) ([]SignedKey, error) {
	return collect(ctx, s.read, scanSignedKey,
		`SELECT manifest_id, reference FROM staged_signature WHERE task_id = $1 AND fingerprint = $2`, taskID, fingerprint)
}

// StageSignatures keeps signatures that a task has made until the task commits them. ErrFenced when the task is another attempt's.
func (s *Store) StageSignatures(ctx context.Context, c *Claim, made []pulp.Signature) error {
	return s.inTx(ctx, func(t *tx) error {
		var mine bool
		err := t.row(`SELECT EXISTS (SELECT 1 FROM task WHERE id = $1 AND attempt = $2 AND state = 'running')`, c.TaskID, c.Attempt).Scan(&mine)
		if err != nil {
			return err
		}
		if !mine {
			return ErrFenced
		}
		if err := t.refers(); err != nil {
			return err
		}
		for _, g := range made {
			id, err := t.putSignature(g)
			if err != nil {
				return err
			}
			if _, err := t.exec(`
				INSERT INTO staged_signature (task_id, manifest_id, reference, fingerprint, signature_id) VALUES ($1, $2, $3, $4, $5)
				ON CONFLICT DO NOTHING`, c.TaskID, g.ManifestID, g.Reference, g.VerifiedBy, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// CommitStaged adds everything that a task has staged to the latest version of a repository, leaving out manifests that have left it,
// and completes the task, all in one transaction (architecture 3 and 5). It returns the version made, nil when none was.
func (s *Store) CommitStaged(ctx context.Context, claim *Claim, repositoryID string) (*pulp.Version, error) {
	var v *pulp.Version
	err := s.inTx(ctx, func(t *tx) error {
		c, err := t.begin(repositoryID)
		if err != nil {
			return err
		}
		if err := c.addStaged(claim.TaskID); err != nil {
			return err
		}
		if v, err = c.end(); err != nil {
			return err
		}
		var made Outcome
		if v != nil {
			made.Created = []Created{{pulp.VersionHref(v.Type, v.RepositoryID, v.Number), pulp.VersionPRN(v.ID)}}
		}
		return t.complete(claim, made)
	})
	return v, err
}

// checkStagedRoom sees that the signatures of each manifest, with those that a task has staged, fit into what clients read. It looks first at the signatures of all
// repositories together, which is quicker and mostly enough.
func (c *change) checkStagedRoom(taskID string) error {
	const size = `SUM((length(g.content) + 2) / 3 * 4 + $2)`
	const staged = `
		SELECT EXISTS (SELECT 1 FROM (
			SELECT s.manifest_id AS manifest_id, ` + size + ` AS size
			  FROM staged_signature s JOIN signature g ON g.id = s.signature_id WHERE s.task_id = $1 GROUP BY s.manifest_id) n
		 WHERE n.size + COALESCE((SELECT ` + size + ` FROM signature g WHERE g.manifest_id = n.manifest_id`
	var full bool
	err := c.tx.row(staged+`), 0) > $3)`, taskID, signatureOverhead, pulp.MaxSignatureBody).Scan(&full)
	if err != nil || !full {
		return err
	}
	err = c.tx.row(staged+` AND (EXISTS (
				SELECT 1 FROM repository_content c WHERE c.repository_id = $4 AND c.kind = $5 AND c.key = g.digest AND c.version_removed IS NULL) OR EXISTS (
				SELECT 1 FROM pending_content p WHERE p.repository_id = $4 AND p.kind = $5 AND p.key = g.digest))), 0) > $3)`,
		taskID, signatureOverhead, pulp.MaxSignatureBody, c.repo.ID, pulp.KindSignature).Scan(&full)
	if err == nil && full {
		return errNoRoom()
	}
	return err
}

// addStaged adds what a task has staged, all at once, however much it is: pushes wait for it.
func (c *change) addStaged(taskID string) error {
	if err := c.checkStagedRoom(taskID); err != nil {
		return err
	}
	const staged = `FROM staged_signature s JOIN signature g ON g.id = s.signature_id JOIN manifest m ON m.id = s.manifest_id WHERE s.task_id = $2`
	if _, err := c.tx.exec(`DELETE FROM pending_content WHERE repository_id = $1 AND kind = $3 AND key IN (SELECT g.digest `+staged+`)`,
		c.repo.ID, taskID, pulp.KindSignature); err != nil {
		return err
	}
	n, err := c.tx.exec(`
		INSERT INTO repository_content (repository_id, kind, key, content_id, version_added)
		SELECT $1, $3, g.digest, g.id, $4 `+staged+` AND EXISTS (
			SELECT 1 FROM repository_content c WHERE c.repository_id = $1 AND c.kind = $5 AND c.key = m.digest AND c.version_removed IS NULL) AND NOT EXISTS (
			SELECT 1 FROM repository_content c WHERE c.repository_id = $1 AND c.kind = $3 AND c.key = g.digest AND c.version_removed IS NULL)`,
		c.repo.ID, taskID, pulp.KindSignature, c.number, pulp.KindManifest)
	if err != nil {
		return err
	}
	c.count(pulp.KindSignature, n, n, 0)
	_, err = c.tx.exec(`DELETE FROM staged_signature WHERE task_id = $1`, taskID)
	return err
}
