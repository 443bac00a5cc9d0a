package content

import (
	"cmp"
	"database/sql"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/events"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/eventlog"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// maxAnnounced is the number of events about tags, and of those about signatures, for one version. The event about the
// version says whether there would be more.
const maxAnnounced = 1000

// pushed is the manifest of a push.
type pushed struct {
	manifest pulp.Manifest
	tags     []string
}

// diff selects the rows c of repository_content that differ between two states of a repository, by conditions with the number
// of a version as $2. The queries find them by that number, so their cost does not depend on the size of the repository.
type diff struct{ before, after string }

// changedBy is the difference that the new version of a change makes.
var changedBy = diff{before: `c.version_removed = $2`, after: `c.version_added = $2 AND c.version_removed IS NULL`}

// revertedTo is the difference that the deletion of all versions after one makes.
var revertedTo = diff{
	before: `c.version_added > $2 AND c.version_removed IS NULL`,
	after:  `c.version_removed > $2 AND c.version_added <= $2`,
}

// announcement composes the events about one change.
type announcement struct {
	tx      *Tx
	to      *eventlog.Recorder
	repo    pulp.Repository
	base    *string // path of a distribution
	content events.Content
	number  int64
	diff    diff
}

// announce records the events about a new version, if a webhook receives them.
func (c *Change) announce(v pulp.Version) error {
	if !c.listening {
		return nil
	}
	a, err := c.Tx.announcement(c.Repo, v.Number, changedBy)
	if err != nil || a == nil {
		return err
	}
	if c.pushed != nil {
		if err := a.push(*c.pushed); err != nil {
			return err
		}
	}
	complete := true
	tags, signatures := c.counts[pulp.KindTag], c.counts[pulp.KindSignature]
	if tags.Added+tags.Removed > 0 {
		all, err := a.tags()
		if err != nil {
			return err
		}
		complete = all
	}
	if signatures.Added+signatures.Removed > 0 {
		all, err := a.signatures()
		if err != nil {
			return err
		}
		complete = complete && all
	}
	return a.version(c.counts, complete)
}

// announceRevert records the events about tags and signatures of a repository whose versions after one are about to be
// deleted, if a webhook receives them.
func (c *Change) announceRevert(number int64) error {
	if !c.listening {
		return nil
	}
	a, err := c.Tx.announcement(c.Repo, number, revertedTo)
	if err != nil || a == nil {
		return err
	}
	if _, err := a.tags(); err != nil {
		return err
	}
	_, err = a.signatures()
	return err
}

// announcement begins the events about a version. It is nil if no webhook receives events about the repository.
func (t *Tx) announcement(r pulp.Repository, number int64, d diff) (*announcement, error) {
	to, err := eventlog.For(t.Tx, r.ID, r.Name)
	if err != nil || to == nil {
		return nil, err
	}
	repo, err := eventlog.Repository(t.Tx, r)
	if err != nil {
		return nil, err
	}
	by := actor.From(t.Ctx)
	return &announcement{
		tx: t, to: to, repo: r, base: repo.BasePath, number: number, diff: d,
		content: events.Content{
			Repository: repo, Version: events.Version{Number: number, Href: pulp.VersionHref(r.Type, r.ID, number)},
			Actor: events.Actor{Name: by.Name, Kind: string(by.Kind)},
		},
	}, nil
}

// subject returns the path of the repository, with a suffix such as a tag.
func (a *announcement) subject(suffix string) string {
	if a.base != nil {
		return *a.base + suffix
	}
	return a.repo.Name + suffix
}

func (a *announcement) record(kind events.Type, suffix string, data any) error {
	e, err := events.New(kind, pulp.RepositoryHref(a.repo.Type, a.repo.ID), a.subject(suffix), data)
	if err == nil {
		a.to.Record(e)
	}
	return err
}

func (a *announcement) push(p pushed) error {
	if !a.to.Wants(events.Push) {
		return nil
	}
	suffix := "@" + string(p.manifest.Digest)
	if len(p.tags) > 0 {
		suffix = ":" + p.tags[0]
	}
	return a.record(events.Push, suffix, events.PushData{
		Content: a.content, Digest: string(p.manifest.Digest), MediaType: p.manifest.MediaType, Tags: append([]string{}, p.tags...),
	})
}

// tags records an event for each changed tag, sorted by name. all is false if there are too many.
func (a *announcement) tags() (all bool, err error) {
	if !a.to.Wants(events.TagCreated, events.TagMoved, events.TagRemoved) {
		return true, nil
	}
	changed, bound := map[string]*events.TagData{}, "" // no name beyond the bound is complete
	collect := func(condition string, set func(*events.TagData, *string, *string)) error {
		type row struct{ name, digest, mediaType string }
		rows, err := sqldb.Collect(a.tx.Ctx, a.tx, func(s sqldb.Scanner) (r row, err error) {
			err = s.Scan(&r.name, &r.digest, &r.mediaType)
			return r, err
		}, `SELECT c.key, m.digest, m.media_type FROM repository_content c JOIN tag t ON t.id = c.content_id JOIN manifest m ON m.id = t.manifest_id
			 WHERE c.repository_id = $1 AND +c.kind = $3 AND `+condition+` ORDER BY c.key || '' LIMIT $4`,
			a.repo.ID, a.number, pulp.KindTag, maxAnnounced+1)
		if len(rows) > maxAnnounced && (bound == "" || rows[maxAnnounced].name < bound) {
			bound = rows[maxAnnounced].name
		}
		for _, r := range rows {
			if changed[r.name] == nil {
				changed[r.name] = &events.TagData{Content: a.content, Tag: r.name}
			}
			set(changed[r.name], &r.digest, &r.mediaType)
		}
		return err
	}
	if err := collect(a.diff.before, func(d *events.TagData, digest, mediaType *string) { d.OldDigest, d.OldMediaType = digest, mediaType }); err != nil {
		return false, err
	}
	if err := collect(a.diff.after, func(d *events.TagData, digest, mediaType *string) { d.Digest, d.MediaType = digest, mediaType }); err != nil {
		return false, err
	}
	data := make([]*events.TagData, 0, len(changed))
	for name, d := range changed {
		if bound == "" || name < bound {
			data = append(data, d)
		}
	}
	slices.SortFunc(data, func(x, y *events.TagData) int { return cmp.Compare(x.Tag, y.Tag) })
	all = bound == "" && len(data) <= maxAnnounced
	for _, d := range data[:min(len(data), maxAnnounced)] {
		kind := events.TagMoved
		switch {
		case d.OldDigest == nil:
			kind = events.TagCreated
		case d.Digest == nil:
			kind = events.TagRemoved
		}
		if err := a.record(kind, ":"+d.Tag, d); err != nil {
			return false, err
		}
	}
	return all, nil
}

// signatures records an event for each removed and each added signature. all is false if there are too many.
func (a *announcement) signatures() (all bool, err error) {
	all, left := true, maxAnnounced
	for _, change := range []struct {
		kind      events.Type
		condition string
	}{{events.SignatureRemoved, a.diff.before}, {events.SignatureAdded, a.diff.after}} {
		if !a.to.Wants(change.kind) {
			continue
		}
		found, err := sqldb.Collect(a.tx.Ctx, a.tx, a.scanSignature, `
			SELECT m.digest, g.digest, g.name, g.reference, g.key_id, v.name, g.signed_at
			  FROM repository_content c JOIN signature g ON g.id = c.content_id JOIN manifest m ON m.id = g.manifest_id
			  LEFT JOIN signing_service v ON v.fingerprint = g.verified_by AND g.verified_by <> ''
			 WHERE c.repository_id = $1 AND +c.kind = $3 AND `+change.condition+` ORDER BY m.digest, g.digest LIMIT $4`,
			a.repo.ID, a.number, pulp.KindSignature, left+1)
		if err != nil {
			return false, err
		}
		all = all && len(found) <= left
		found = found[:min(len(found), left)]
		left -= len(found)
		for _, d := range found {
			if err := a.record(change.kind, "@"+d.Digest, d); err != nil {
				return false, err
			}
		}
	}
	return all, nil
}

func (a *announcement) scanSignature(row sqldb.Scanner) (events.SignatureData, error) {
	d := events.SignatureData{Content: a.content}
	var service sql.NullString
	var signed int64
	err := row.Scan(&d.Digest, &d.Signature.Digest, &d.Signature.Name, &d.Signature.Reference, &d.Signature.KeyID, &service, &signed)
	d.Signature.Service, d.Signature.SignedAt = sqldb.Pointer(service), time.Unix(signed, 0).UTC()
	return d, err
}

func (a *announcement) version(counts map[pulp.Kind]pulp.Count, complete bool) error {
	if !a.to.Wants(events.VersionCreated) {
		return nil
	}
	units := func(n func(pulp.Count) int64) events.Units {
		return events.Units{
			Blobs: n(counts[pulp.KindBlob]), Manifests: n(counts[pulp.KindManifest]), Tags: n(counts[pulp.KindTag]),
			Signatures: n(counts[pulp.KindSignature]),
		}
	}
	return a.record(events.VersionCreated, "", events.VersionData{
		Content: a.content, Complete: complete, Present: units(func(c pulp.Count) int64 { return c.Present }),
		Added: units(func(c pulp.Count) int64 { return c.Added }), Removed: units(func(c pulp.Count) int64 { return c.Removed }),
	})
}
