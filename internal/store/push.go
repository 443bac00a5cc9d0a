package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// MissingBlobs says that a manifest names blobs that its repository neither holds nor was sent (D14).
type MissingBlobs struct{ Digests []digest.Digest }

// Error names the first of them.
func (e *MissingBlobs) Error() string { return "blob unknown to repository: " + string(e.Digests[0]) }

// MissingChildren says that an index names manifests that its repository neither holds nor was sent. It is an error only where
// indexes must be complete (D11).
type MissingChildren struct{ Digests []digest.Digest }

// Error names the first of them.
func (e *MissingChildren) Error() string {
	return "manifest unknown to repository: " + string(e.Digests[0])
}

// PushTarget returns the target of a base path, making on a first push the namespace, the repository of this type and the distribution that it needs. Both have the
// path as their name, or, where an object that does not serve the path has that name, the path with a suffix. A repository of the path's name that no
// distribution serves is used. Conflict when the path serves a fixed version.
func (s *Store) PushTarget(ctx context.Context, basePath string, t pulp.RepositoryType) (Target, error) {
	target, err := s.Resolve(ctx, basePath)
	if err == nil && target.Served() || err != nil && !fault.Is(err, fault.NotFound) {
		return target, errors.Join(err, readOnly(target))
	}
	err = s.inTxUnlessTaken(ctx, func(x *tx) error {
		if err := x.lockNamed("push " + basePath); err != nil { // two first pushes at once make one repository
			return err
		}
		var err error
		target, err = resolve(x.ctx, x, basePath)
		switch {
		case fault.Is(err, fault.NotFound):
			target, err = x.makePushTarget(basePath, t)
		case err == nil && !target.Served():
			err = x.linkRepository(&target, t)
		default:
			return err
		}
		target.Made = err == nil
		return err
	})
	return target, errors.Join(err, readOnly(target))
}

func readOnly(t Target) error {
	if t.Distribution.Pinned != nil {
		return fault.New(fault.Conflict, "Repository is read-only.")
	}
	return nil
}

// namingTries is how often a transaction that chooses a free name is run when others take the name at the same moment.
const namingTries = 3

// inTxUnlessTaken runs a transaction that looks whether names and paths are free before it takes them, and runs it again when another transaction took one meanwhile.
func (s *Store) inTxUnlessTaken(ctx context.Context, f func(*tx) error) error {
	var err error
	for range namingTries {
		if err = s.inTx(ctx, f); !isUnique(err) {
			return err
		}
	}
	return err
}

// freeName returns a name in the namespace of a path for the row of a table that serves the path: the path itself or, where another row has that name, one that begins so.
func (t *tx) freeName(table, path string) (string, error) {
	var taken bool
	if err := t.row(`SELECT EXISTS (SELECT 1 FROM `+table+` WHERE name = $1)`, path).Scan(&taken); err != nil || !taken {
		return path, err
	}
	suffix := "-" + strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
	if !strings.Contains(path, "/") { // or the name would be in a namespace of its own
		return path + "/" + path + suffix, nil
	}
	return path + suffix, nil
}

func (t *tx) makePushTarget(basePath string, kind pulp.RepositoryType) (Target, error) {
	namespace, err := t.putNamespace(pulp.NamespaceOf(basePath))
	if err != nil {
		return Target{}, err
	}
	name, err := t.freeName("distribution", basePath)
	if err != nil {
		return Target{}, err
	}
	target := Target{Distribution: pulp.Distribution{
		ID: pulp.NewID(), Name: name, BasePath: basePath, NamespaceID: namespace, Stamps: stamps(t.now, t.now),
	}}
	_, err = t.exec(`INSERT INTO distribution (id, name, base_path, namespace_id, created, updated) VALUES ($1, $2, $3, $4, $5, $5)`,
		target.Distribution.ID, name, basePath, namespace, t.now)
	if err != nil {
		return Target{}, err
	}
	return target, t.linkRepository(&target, kind)
}

// linkRepository gives a distribution the repository that has its path as a name and that nothing serves yet. Where there is none, or it is a mirror, which is served
// only where somebody says so, it makes a repository.
func (t *tx) linkRepository(target *Target, kind pulp.RepositoryType) error {
	path := target.Distribution.BasePath
	r, err := scanRepository(t.row(`
		SELECT `+repositoryColumns+` FROM repository r WHERE r.name = $1 AND r.remote_id IS NULL AND NOT EXISTS (
			SELECT 1 FROM distribution d LEFT JOIN repository_version v ON v.id = d.repository_version_id WHERE r.id IN (d.repository_id, v.repository_id))`, path))
	if errors.Is(err, sql.ErrNoRows) {
		r, err = t.makePushRepository(path, kind)
	}
	if err != nil {
		return err
	}
	_, err = t.exec(`UPDATE distribution SET repository_id = $2, updated = $3 WHERE id = $1`, target.Distribution.ID, r.ID, t.now)
	target.Repository, target.Distribution.RepositoryID, target.Distribution.Repository = r, r.ID, r.Type
	if err != nil {
		return err
	}
	return t.sealDistribution(target.Distribution)
}

// makePushRepository stores the repository that a first push to a path makes.
func (t *tx) makePushRepository(path string, kind pulp.RepositoryType) (pulp.Repository, error) {
	name, err := t.freeName("repository", path)
	if err != nil {
		return pulp.Repository{}, err
	}
	r := pulp.Repository{Type: kind, Name: name, MadeByPush: true}
	if name != path {
		r.PushedAs = path
	}
	return t.makeRepository(r)
}

// makeRepository stores a repository and its empty version 0.
func (t *tx) makeRepository(r pulp.Repository) (pulp.Repository, error) {
	r.ID, r.Stamps = pulp.NewID(), stamps(t.now, t.now)
	if r.Labels == nil {
		r.Labels = pulp.Labels{}
	}
	_, err := t.exec(`
		INSERT INTO repository (id, type, name, description, labels, retain_repo_versions, signing_service_id, signing_assigned, sign_on_push, remote_id, allow_shrink,
		       made_by_push, pushed_as, created, updated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14)`,
		r.ID, r.Type, r.Name, nullText(r.Description), toJSON(r.Labels), nullInt(r.RetainRepoVersions), null(r.SigningServiceID), r.SigningAssigned, r.SignOnPush,
		null(r.RemoteID), r.AllowShrink, r.MadeByPush, r.PushedAs, t.now)
	if err != nil {
		return r, err
	}
	return r, t.insertVersion(pulp.Version{ID: pulp.NewID(), RepositoryID: r.ID})
}

func (t *tx) putNamespace(name string) (string, error) {
	if _, err := t.exec(`INSERT INTO namespace (id, name, created, updated) VALUES ($1, $2, $3, $3) ON CONFLICT (name) DO NOTHING`,
		pulp.NewID(), name, t.now); err != nil {
		return "", err
	}
	return scanString(t.row(`SELECT id FROM namespace WHERE name = $1`, name))
}

// PutManifest is one manifest on its way into a repository.
type PutManifest struct {
	RepositoryID    string
	Manifest        pulp.Manifest
	Tags            []string // none: pushed by digest
	RequireChildren bool     // an index may not name absent manifests (D11)
	// When says whether the tags may change, given the digest that each stands for now, empty for one that is not there; nil: always.
	When func(current digest.Digest) bool
}

// PutManifest stores a manifest. By tag, or with a subject, it enters a new version of the repository together with everything of it that was
// sent before; by digest alone it is pending (contract 3.3, D23). It returns the new version, nil when none was made. MissingBlobs
// when it names blobs that the repository has not. Unsigned where it must be signed before it is seen: it is kept then as what a sync has fetched, for those who
// sign, and nobody is served.
func (s *Store) PutManifest(ctx context.Context, p PutManifest) (*pulp.Version, error) {
	v, err := s.putManifest(ctx, p)
	if _, unsigned := errors.AsType[*Unsigned](err); unsigned {
		if err := s.FetchedManifest(ctx, p.RepositoryID, p.Manifest); err != nil {
			return nil, err
		}
	}
	return v, err
}

func (s *Store) putManifest(ctx context.Context, p PutManifest) (*pulp.Version, error) {
	var v *pulp.Version
	err := s.inTx(ctx, func(t *tx) error {
		c, err := t.begin(p.RepositoryID)
		if err != nil {
			return err
		}
		for _, name := range p.Tags {
			if err := c.demand(name, p.When); err != nil {
				return err
			}
		}
		if err := c.checkParts(p); err != nil {
			return err
		}
		id, err := t.putManifest(p.Manifest)
		if err != nil {
			return err
		}
		dgst := string(p.Manifest.Digest)
		if len(p.Tags) == 0 && p.Manifest.Subject == "" {
			if _, present, err := c.content(pulp.KindManifest, dgst); err != nil || present {
				return err
			}
			if seen, err := c.completes(dgst); err != nil {
				return err
			} else if seen {
				if err := c.addManifest(dgst, id); err != nil {
					return err
				}
				v, err = c.end()
				return err
			}
			return t.putPending(p.RepositoryID, pulp.KindManifest, dgst, id)
		}
		if err := c.addManifest(dgst, id); err != nil {
			return err
		}
		for _, name := range p.Tags {
			if err := c.tag(name, id); err != nil {
				return err
			}
		}
		v, err = c.end()
		return err
	})
	return v, err
}

// completes says whether a manifest completes a list that the repository shows, and that must be signed before it is seen.
func (c *change) completes(dgst string) (seen bool, err error) {
	if v, err := c.tx.sealedWith(c.repo); err != nil || v == nil {
		return false, err
	}
	err = c.tx.row(`
		SELECT EXISTS (SELECT 1 FROM manifest_child e JOIN repository_content c ON c.content_id = e.manifest_id
		 WHERE e.digest = $1 AND c.repository_id = $2 AND c.kind = $3 AND c.version_removed IS NULL)`, dgst, c.repo.ID, pulp.KindManifest).Scan(&seen)
	return seen, err
}

// TagMoved says that a tag does not stand for what a change of it demands.
type TagMoved struct {
	Name    string
	Current digest.Digest // empty when there is no such tag
}

// Error says what the tag stands for.
func (e *TagMoved) Error() string { return fmt.Sprintf("the tag %s stands for %q", e.Name, e.Current) }

// demand sees that a tag stands for what is demanded. The repository is locked: of several who demand the same, one finds it.
func (c *change) demand(name string, when func(digest.Digest) bool) error {
	if when == nil {
		return nil
	}
	var current digest.Digest
	err := c.tx.row(`
		SELECT m.digest FROM repository_content c JOIN tag t ON t.id = c.content_id JOIN manifest m ON m.id = t.manifest_id
		 WHERE c.repository_id = $1 AND c.kind = $2 AND c.key = $3 AND c.version_removed IS NULL`, c.repo.ID, pulp.KindTag, name).Scan(&current)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if !when(current) {
		return &TagMoved{name, current}
	}
	return nil
}

// checkParts sees that what a manifest must not lack is in the repository, in its latest version or pending.
func (c *change) checkParts(p PutManifest) error {
	missing := func(kind pulp.Kind, parts []pulp.Descriptor) ([]digest.Digest, error) {
		var absent []digest.Digest
		for _, d := range parts {
			if len(d.URLs) > 0 || pulp.IsForeign(d.MediaType) {
				continue
			}
			id, _, ok, err := c.anywhere(kind, string(d.Digest))
			if err == nil && ok && kind == pulp.KindBlob {
				ok, err = c.servable(id)
			}
			if err != nil {
				return nil, err
			}
			if !ok && !slices.Contains(absent, d.Digest) {
				absent = append(absent, d.Digest)
			}
		}
		return absent, nil
	}
	blobs := p.Manifest.Layers
	if p.Manifest.Config != nil {
		blobs = append([]pulp.Descriptor{*p.Manifest.Config}, blobs...)
	}
	absent, err := missing(pulp.KindBlob, blobs)
	if err != nil || len(absent) > 0 {
		return errors.Join(err, missingError(absent))
	}
	if !p.RequireChildren {
		return nil
	}
	absent, err = missing(pulp.KindManifest, p.Manifest.Children)
	if err == nil && len(absent) > 0 {
		err = &MissingChildren{absent}
	}
	return err
}

func missingError(absent []digest.Digest) error {
	if len(absent) == 0 {
		return nil
	}
	return &MissingBlobs{absent}
}

// tag makes a name stand for a manifest in the repository.
func (c *change) tag(name, manifestID string) error {
	id, err := c.tx.putTag(name, manifestID)
	if err != nil {
		return err
	}
	if err := c.add(pulp.KindTag, name, id); err != nil {
		return err
	}
	return c.noteTag(name)
}

// putTag stores a tag's row unless it is there and returns its id.
func (t *tx) putTag(name, manifestID string) (string, error) {
	if _, err := t.exec(`
		INSERT INTO tag (id, name, manifest_id, created, updated) VALUES ($1, $2, $3, $4, $4) ON CONFLICT (name, manifest_id) DO NOTHING`,
		pulp.NewID(), name, manifestID, t.now); err != nil {
		return "", err
	}
	return scanString(t.row(`SELECT id FROM tag WHERE name = $1 AND manifest_id = $2`, name, manifestID))
}

// DeleteTag takes a tag out of a repository's latest version; its manifest stays. NotFound when there is no such tag, TagMoved when
// it does not stand for what is demanded (nil: anything).
func (s *Store) DeleteTag(ctx context.Context, repositoryID, name string, when func(digest.Digest) bool) (*pulp.Version, error) {
	return s.change(ctx, repositoryID, func(c *change) error {
		_, ok, err := c.content(pulp.KindTag, name)
		if err != nil {
			return err
		}
		if !ok {
			return fault.New(fault.NotFound, "Manifest not found.")
		}
		if err := c.demand(name, when); err != nil {
			return err
		}
		return errors.Join(c.remove(pulp.KindTag, name), c.noteTag(name))
	})
}

// change runs f on a repository's content and returns the version that it made, nil when it made none.
func (s *Store) change(ctx context.Context, repositoryID string, f func(*change) error) (*pulp.Version, error) {
	var v *pulp.Version
	err := s.inTx(ctx, func(t *tx) error {
		c, err := t.begin(repositoryID)
		if err != nil {
			return err
		}
		if err := f(c); err != nil {
			return err
		}
		v, err = c.end()
		return err
	})
	return v, err
}

// DeleteManifest removes the tags of a manifest from a repository's latest version and, unless a list that remains names the manifest, the manifest
// itself by the rule of RemoveImage. A pending manifest is removed by the same rule. It returns the new version, nil when none was made. NotFound when
// the repository has no such manifest.
func (s *Store) DeleteManifest(ctx context.Context, repositoryID string, dgst digest.Digest) (*pulp.Version, error) {
	return s.change(ctx, repositoryID, func(c *change) error {
		id, present, ok, err := c.anywhere(pulp.KindManifest, string(dgst))
		switch {
		case err != nil:
			return err
		case !ok:
			return fault.New(fault.NotFound, "Manifest not found.")
		case present:
			return c.removeImage(id)
		}
		return c.removePending(string(dgst), id)
	})
}

// removeImage removes a manifest of the latest version with its tags, its signatures and the content that it names, except what remaining tags and
// lists refer to.
func (c *change) removeImage(id string) error {
	return steps(c.gather, func() error {
		_, err := c.tx.exec(`
			INSERT INTO change_unit (kind, key, content_id)
			SELECT c.kind, c.key, c.content_id FROM repository_content c JOIN tag t ON t.id = c.content_id
			 WHERE t.manifest_id = $1 AND c.repository_id = $2 AND c.kind = $3 AND c.version_removed IS NULL`, id, c.repo.ID, pulp.KindTag)
		return err
	}, func() error { return c.gatherUnits([]Unit{{pulp.KindManifest, id}}, heldNow(c.repo.ID)) }, c.removeTrees)
}

// removePending removes a pending manifest with its signatures, and blobs of the latest version that no other manifest names. A manifest that a list of
// the repository names, in the latest version or pending, stays.
func (c *change) removePending(dgst, id string) error {
	var listed bool
	err := c.tx.row(`
		SELECT EXISTS (SELECT 1 FROM manifest_child e WHERE e.digest = $1 AND (EXISTS (
			SELECT 1 FROM repository_content c
			 WHERE c.repository_id = $2 AND c.kind = $3 AND c.content_id = e.manifest_id AND c.version_removed IS NULL) OR EXISTS (
			SELECT 1 FROM pending_content p WHERE p.repository_id = $2 AND p.kind = $3 AND p.content_id = e.manifest_id)))`,
		dgst, c.repo.ID, pulp.KindManifest).Scan(&listed)
	if err != nil || listed {
		return err
	}
	if err := c.tx.noteRemovedPending(c.repo.ID, dgst); err != nil {
		return err
	}
	if _, err := c.tx.exec(`
		DELETE FROM pending_content WHERE repository_id = $1 AND (kind = $2 AND key = $3 OR kind = $4 AND content_id IN (
			SELECT g.id FROM signature g WHERE g.manifest_id = $5))`, c.repo.ID, pulp.KindManifest, dgst, pulp.KindSignature, id); err != nil {
		return err
	}
	blobs, err := c.tx.blobsOf(id)
	if err != nil {
		return err
	}
	for _, d := range blobs {
		used, err := c.blobUsed(d)
		if err != nil {
			return err
		}
		if !used {
			if err := c.remove(pulp.KindBlob, d); err != nil {
				return err
			}
		}
	}
	return nil
}
