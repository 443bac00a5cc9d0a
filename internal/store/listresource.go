package store

import (
	"context"
	"maps"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
)

// with returns the common fields of a table and more.
func with(alias string, more map[string]string) map[string]string {
	fields := common(alias)
	maps.Copy(fields, more)
	return fields
}

var taskListing = listing[Task]{
	columns: taskColumns, source: ` FROM (SELECT * FROM task WHERE name <> '` + SealTask + `') k`, id: "k.id", scan: scanTask,
	fields: with("k", map[string]string{
		"name": "k.name", "state": "k.state", "logging_cid": "k.logging_cid", "unblocked_at": "k.unblocked", "started_at": "k.started",
		"finished_at": "k.finished", "error": "k.error", "result": "k.result", "worker": "k.worker_id", "created_by": "k.created_by",
		"created_resources": "k.created_resources",
	}),
	visible: "FALSE", // whose tasks they are is a Where on created_by
}

// Tasks lists tasks.
func (s *Store) Tasks(ctx context.Context, q ListQuery) ([]Task, int64, error) {
	return list(ctx, s.read, taskListing, q)
}

var repositoryListing = listing[pulp.Repository]{
	columns: repositoryColumns, source: ` FROM repository r`, id: "r.id", scan: scanRepository,
	fields: with("r", map[string]string{
		"name": "r.name", "description": "r.description", "pulp_labels": "r.labels", "pulp_type": "('container.' || r.type)",
		"retain_repo_versions": "r.retain_repo_versions", "retain_checkpoints": "CAST(NULL AS BIGINT)", "next_version": "r.next_version", "remote": "r.remote_id",
	}),
	visible: "r.id IN (" + visibleRepositories + ")",
}

// Repositories lists repositories of every type.
func (s *Store) Repositories(ctx context.Context, q ListQuery) ([]pulp.Repository, int64, error) {
	return list(ctx, s.read, repositoryListing, q)
}

var versionListing = listing[pulp.Version]{
	columns: versionColumns, source: versionSource, id: "v.id", scan: scanVersion,
	fields:  with("v", map[string]string{"number": "v.number", "repository": "v.repository_id"}),
	visible: "v.repository_id IN (" + visibleRepositories + ")",
}

// Versions lists the versions of all repositories.
func (s *Store) Versions(ctx context.Context, q ListQuery) ([]pulp.Version, int64, error) {
	return list(ctx, s.read, versionListing, q)
}

var distributionListing = listing[pulp.Distribution]{
	columns: distributionColumns, source: distributionSource, id: "d.id", scan: scanDistribution,
	fields: with("d", map[string]string{
		"name": "d.name", "base_path": "d.base_path", "repository": "d.repository_id", "repository_version": "d.repository_version_id",
		"namespace": "d.namespace_id", "namespace__name": "(SELECT n.name FROM namespace n WHERE n.id = d.namespace_id)",
		"private": "d.private", "hidden": "d.hidden", "description": "d.description", "pulp_labels": "d.labels",
	}),
	visible: "NOT d.private OR %s = (SELECT n.name FROM namespace n WHERE n.id = d.namespace_id)",
}

// Distributions lists distributions.
func (s *Store) Distributions(ctx context.Context, q ListQuery) ([]pulp.Distribution, int64, error) {
	return list(ctx, s.read, distributionListing, q)
}

var remoteListing = listing[pulp.Remote]{
	columns: remoteColumns, source: ` FROM remote m`, id: "m.id", scan: scanRemote,
	fields: with("m", map[string]string{
		"name": "m.name", "url": "m.url", "upstream_name": "m.upstream_name", "policy": "m.policy", "sigstore": "m.sigstore", "pulp_labels": "m.labels",
	}),
	visible: "m.name = %s OR SUBSTR(m.name, 1, LENGTH(%s) + 1) = %s || '/'",
}

// Remotes lists remotes.
func (s *Store) Remotes(ctx context.Context, q ListQuery) ([]pulp.Remote, int64, error) {
	return list(ctx, s.read, remoteListing, q)
}

var namespaceListing = listing[pulp.Namespace]{
	columns: `n.id, n.name, n.labels, n.created, n.updated`, source: ` FROM namespace n`, id: "n.id", scan: scanNamespace,
	fields:  with("n", map[string]string{"name": "n.name", "pulp_labels": "n.labels"}),
	visible: "n.name = %s OR EXISTS (SELECT 1 FROM distribution d WHERE d.namespace_id = n.id AND NOT d.private)",
}

func scanNamespace(row scanner) (pulp.Namespace, error) {
	var n pulp.Namespace
	var labels string
	var created, updated int64
	if err := row.Scan(&n.ID, &n.Name, &labels, &created, &updated); err != nil {
		return pulp.Namespace{}, err
	}
	n.Stamps = stamps(created, updated)
	return n, fromJSON("namespace.labels", labels, &n.Labels)
}

// Namespaces lists namespaces.
func (s *Store) Namespaces(ctx context.Context, q ListQuery) ([]pulp.Namespace, int64, error) {
	return list(ctx, s.read, namespaceListing, q)
}

var serviceListing = listing[pulp.SigningService]{
	columns: serviceColumns, source: ` FROM signing_service v`, id: "v.id", scan: scanService,
	fields: with("v", map[string]string{
		"name": "v.name", "public_key": "v.public_key", "pubkey_fingerprint": "v.fingerprint", "script": "v.script",
	}),
	visible: "FALSE",
}

// ListSigningServices lists signing services.
func (s *Store) ListSigningServices(ctx context.Context, q ListQuery) ([]pulp.SigningService, int64, error) {
	return list(ctx, s.read, serviceListing, q)
}

var workerListing = listing[pulp.Worker]{
	columns: workerColumns, source: ` FROM worker w`, id: "w.id", scan: scanWorker,
	fields: map[string]string{
		"pulp_id": "w.id", "pk": "w.id", "pulp_created": "w.started", "pulp_last_updated": "w.heartbeat",
		"name": "w.name", "last_heartbeat": "w.heartbeat",
	},
	visible: "TRUE",
}

// Workers lists workers, those that stopped beating too.
func (s *Store) Workers(ctx context.Context, q ListQuery) ([]pulp.Worker, int64, error) {
	return list(ctx, s.read, workerListing, q)
}

var tagListing = listing[pulp.Tag]{
	columns: `t.id, t.name, t.manifest_id, t.created, t.updated`, source: ` FROM tag t`, id: "t.id", kind: pulp.KindTag, scan: scanTag,
	fields: contentFields("t", pulp.KindTag, map[string]string{
		"name":       "t.name",
		"media_type": "(SELECT m.media_type FROM manifest m WHERE m.id = t.manifest_id)",
		"digest":     "(SELECT m.digest FROM manifest m WHERE m.id = t.manifest_id)",
	}),
	visible: visibleContent("t.id"),
}

func scanTag(row scanner) (pulp.Tag, error) {
	var t pulp.Tag
	var created, updated int64
	if err := row.Scan(&t.ID, &t.Name, &t.ManifestID, &created, &updated); err != nil {
		return pulp.Tag{}, err
	}
	t.Stamps = stamps(created, updated)
	return t, nil
}

// Tags lists tags: one for each manifest that a name has stood for.
func (s *Store) Tags(ctx context.Context, q ListQuery) ([]pulp.Tag, int64, error) {
	return list(ctx, s.read, tagListing, q)
}

// ofType returns the condition that a manifest m is of a type, or is an index with an image of that type, at any depth, which the viewer sees.
func ofType(name string) string {
	return `(m.type = '` + name + `' OR m.type = 'index' AND EXISTS (
		WITH RECURSIVE listed (id, type) AS (
			SELECT k.id, k.type FROM manifest_child e JOIN manifest k ON k.digest = e.digest WHERE e.manifest_id = m.id AND %see(k.id)
			UNION SELECT k.id, k.type FROM listed l JOIN manifest_child e ON e.manifest_id = l.id JOIN manifest k ON k.digest = e.digest WHERE %see(k.id))
		SELECT 1 FROM listed WHERE listed.type = '` + name + `'))`
}

// Nature says what kind of image a manifest is, or has in it.
type Nature struct{ Bootable, Flatpak bool }

// ManifestNatures returns the natures of manifests by the manifests' ids, as the fields is_bootable and is_flatpak have them. Of the images in an index
// those count that the user viewer sees; an empty viewer sees everything.
func (s *Store) ManifestNatures(ctx context.Context, ids []string, viewer string) (map[string]Nature, error) {
	b := &statement{fields: manifestListing.fields, viewer: viewer}
	query := `SELECT m.id, ` + b.field("is_bootable") + `, ` + b.field("is_flatpak") + ` FROM manifest m WHERE m.id IN ` + b.set(ids)
	type row struct {
		id string
		Nature
	}
	rows, err := collect(ctx, s.read, func(in scanner) (row, error) {
		var r row
		err := in.Scan(&r.id, &r.Bootable, &r.Flatpak)
		return r, err
	}, query, b.args...)
	natures := make(map[string]Nature, len(rows))
	for _, r := range rows {
		natures[r.id] = r.Nature
	}
	return natures, err
}

var manifestListing = listing[pulp.Manifest]{
	columns: strings.Replace(manifestColumns, "m.payload", "x''", 1), source: ` FROM manifest m`, id: "m.id", kind: pulp.KindManifest, scan: scanManifest,
	fields: contentFields("m", pulp.KindManifest, map[string]string{
		"digest": "m.digest", "media_type": "m.media_type", "schema_version": "m.schema_version", "type": "m.type", "architecture": "m.architecture",
		"os": "m.os", "compressed_image_size": "m.image_size", "is_bootable": ofType("bootable"), "is_flatpak": ofType("flatpak"),
	}),
	visible: visibleContent("m.id"),
}

// Manifests lists manifests without their payloads, layers and children; see ManifestParts.
func (s *Store) Manifests(ctx context.Context, q ListQuery) ([]pulp.Manifest, int64, error) {
	return list(ctx, s.read, manifestListing, q)
}

var blobListing = listing[pulp.Blob]{
	columns: strings.Replace(blobColumns, "b.data,", "NULL,", 1), source: ` FROM blob b`, id: "b.id", kind: pulp.KindBlob, scan: scanBlob,
	fields:  contentFields("b", pulp.KindBlob, map[string]string{"digest": "b.digest"}),
	visible: visibleContent("b.id"),
}

// Blobs lists blobs without their bytes.
func (s *Store) Blobs(ctx context.Context, q ListQuery) ([]pulp.Blob, int64, error) {
	return list(ctx, s.read, blobListing, q)
}

var signatureListing = listing[pulp.Signature]{
	columns: strings.Replace(signatureColumns, "g.content", "x''", 1), source: ` FROM signature g`, id: "g.id", kind: pulp.KindSignature, scan: scanSignature,
	fields: contentFields("g", pulp.KindSignature, map[string]string{
		"name": "g.name", "digest": "g.digest", "key_id": "g.key_id", "fingerprint": "g.fingerprint", "timestamp": "g.signed_at", "creator": "g.creator",
		"manifest": "(SELECT m.digest FROM manifest m WHERE m.id = g.manifest_id)",
	}),
	visible: visibleContent("g.id"),
}

// Signatures lists signatures without their content.
func (s *Store) Signatures(ctx context.Context, q ListQuery) ([]pulp.Signature, int64, error) {
	return list(ctx, s.read, signatureListing, q)
}

// ManifestParts are the ids of the blobs and manifests that a manifest references.
type ManifestParts struct {
	Config   string   // a blob; empty when there is none
	Layers   []string // blobs, in the manifest's order, each once
	Children []string // manifests, in the list's order, each once
}

// ManifestParts returns the parts of manifests by the manifests' ids. Absent parts are left out, and so are parts in no version of a repository that the user
// viewer sees: a manifest may reference any digest, and the id of its content would tell that somebody else has it. An empty viewer sees everything.
func (s *Store) ManifestParts(ctx context.Context, ids []string, viewer string) (map[string]ManifestParts, error) {
	type edge struct {
		manifest, unit string
		position       int64
	}
	scan := func(row scanner) (edge, error) {
		var e edge
		err := row.Scan(&e.manifest, &e.position, &e.unit)
		return e, err
	}
	args, seenBlob, seenManifest := []any{toJSON(append([]string{}, ids...))}, "", ""
	if viewer != "" {
		args = append(args, viewer)
		seenBlob = " AND " + strings.ReplaceAll(visibleContent("b.id"), "%s", "$2")
		seenManifest = " AND " + strings.ReplaceAll(visibleContent("m.id"), "%s", "$2")
	}
	blobs, err := collect(ctx, s.read, scan, `
		SELECT e.manifest_id, MIN(e.position), b.id FROM manifest_blob e JOIN blob b ON b.digest = e.digest
		 WHERE e.manifest_id IN (SELECT j.value FROM json_each($1) j)`+seenBlob+`
		 GROUP BY e.manifest_id, b.id, e.position < 0 ORDER BY 1, 2`, args...)
	if err != nil {
		return nil, err
	}
	children, err := collect(ctx, s.read, scan, `
		SELECT e.manifest_id, MIN(e.position), m.id FROM manifest_child e JOIN manifest m ON m.digest = e.digest
		 WHERE e.manifest_id IN (SELECT j.value FROM json_each($1) j)`+seenManifest+`
		 GROUP BY e.manifest_id, m.id ORDER BY 1, 2`, args...)
	if err != nil {
		return nil, err
	}
	parts := make(map[string]ManifestParts, len(ids))
	for _, e := range blobs {
		p := parts[e.manifest]
		if e.position < 0 {
			p.Config = e.unit
		} else {
			p.Layers = append(p.Layers, e.unit)
		}
		parts[e.manifest] = p
	}
	for _, e := range children {
		p := parts[e.manifest]
		p.Children = append(p.Children, e.unit)
		parts[e.manifest] = p
	}
	return parts, nil
}

// Gone returns those of these versions and other objects, named by hrefs, that are no more.
func (s *Store) Gone(ctx context.Context, hrefs []string) (map[string]bool, error) {
	gone := map[string]bool{}
	for _, href := range hrefs {
		ref, ok := pulp.ParseRef(href)
		if !ok {
			continue
		}
		query, args := existence(ref)
		if query == "" {
			continue
		}
		var exists bool
		if err := s.read.QueryRowContext(ctx, `SELECT EXISTS (`+query+`)`, args...).Scan(&exists); err != nil {
			return nil, err
		}
		if !exists {
			gone[href] = true
		}
	}
	return gone, nil
}

// tables are where the objects of a collection are kept that a task can make.
var tables = map[string]string{
	pulp.PushCollection: "repository", pulp.ContainerCollection: "repository", pulp.DistributionCollection: "distribution",
	pulp.NamespaceCollection: "namespace", pulp.TagCollection: "tag", pulp.RemoteCollection: "remote",
}

func existence(ref pulp.Ref) (query string, args []any) {
	if ref.Version >= 0 {
		return `SELECT 1 FROM repository_version WHERE repository_id = $1 AND number = $2`, []any{ref.ID, ref.Version}
	}
	if table, ok := tables[ref.Collection]; ok {
		return `SELECT 1 FROM ` + table + ` WHERE id = $1`, []any{ref.ID}
	}
	return "", nil
}
