package list

import (
	"context"
	"encoding/json"
	"maps"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// with returns the common fields of a table and more.
func with(alias string, more map[string]string) map[string]string {
	fields := common(alias)
	maps.Copy(fields, more)
	return fields
}

// TaskList is the list of tasks, without their arguments.
var TaskList = &List[taskstore.Task]{
	long: []string{"error", "result"},
	large: []large{
		{attributes: []string{"result"}, column: "k.result", instead: "NULL"},
		{attributes: []string{"error"}, column: "k.error", instead: "NULL"},
		{attributes: []string{"reserved_resources_record"}, column: "k.resources", instead: "'[]'"},
		{attributes: []string{"created_resources", "created_resource_prns"}, column: "k.created_resources", instead: "'[]'"},
		{attributes: []string{"progress_reports"}, column: "k.progress", instead: "'[]'"},
	},
	columns: strings.Replace(taskstore.TaskColumns, "k.args", "'null'", 1), source: ` FROM (SELECT * FROM task WHERE name <> '` + taskstore.PushSigningTask + `') k`, id: "k.id", scan: taskstore.ScanTask,
	fields: with("k", map[string]string{
		"name": "k.name", "state": "k.state", "logging_cid": "k.logging_cid", "unblocked_at": "k.unblocked", "started_at": "k.started",
		"finished_at": "k.finished", "error": "k.error", "result": "k.result", "worker": "k.worker_id", "created_by": "k.created_by",
		"created_resources": "k.created_resources",
	}),
	visible: "FALSE", // whose tasks they are is a Where on created_by
}

// Tasks lists tasks.
func (s *Store) Tasks(ctx context.Context, q Query) ([]taskstore.Task, int64, error) {
	return TaskList.Rows(ctx, s, q)
}

// RepositoryList is the list of repositories of every type.
var RepositoryList = &List[pulp.Repository]{
	long:    []string{"description"},
	large:   []large{{attributes: []string{"pulp_labels"}, column: "r.labels", instead: "'{}'"}, {attributes: []string{"description"}, column: "r.description", instead: "NULL"}},
	columns: record.RepositoryColumns, source: ` FROM repository r`, id: "r.id", scan: record.ScanRepository,
	fields: with("r", map[string]string{
		"name": "r.name", "description": "r.description", "pulp_labels": "r.labels", "pulp_type": "('container.' || r.type)",
		"retain_repo_versions": "r.retain_repo_versions", "retain_checkpoints": "CAST(NULL AS BIGINT)", "next_version": "r.next_version", "remote": "r.remote_id",
	}),
	visible: "r.id IN (" + record.VisibleRepositories + ")",
}

// Repositories lists repositories of every type.
func (s *Store) Repositories(ctx context.Context, q Query) ([]pulp.Repository, int64, error) {
	return RepositoryList.Rows(ctx, s, q)
}

// VersionList is the list of the versions of all repositories.
var VersionList = &List[pulp.Version]{
	columns: record.VersionColumns, source: record.VersionSource, id: "v.id", scan: record.ScanVersion,
	fields:  with("v", map[string]string{"number": "v.number", "repository": "v.repository_id"}),
	visible: "v.repository_id IN (" + record.VisibleRepositories + ")",
}

// Versions lists the versions of all repositories.
func (s *Store) Versions(ctx context.Context, q Query) ([]pulp.Version, int64, error) {
	return VersionList.Rows(ctx, s, q)
}

// DistributionList is the list of distributions.
var DistributionList = &List[pulp.Distribution]{
	long:    []string{"description"},
	large:   []large{{attributes: []string{"pulp_labels"}, column: "d.labels", instead: "'{}'"}, {attributes: []string{"description"}, column: "d.description", instead: "NULL"}},
	columns: record.DistributionColumns, source: record.DistributionSource, id: "d.id", scan: record.ScanDistribution,
	fields: with("d", map[string]string{
		"name": "d.name", "base_path": "d.base_path", "repository": "d.repository_id", "repository_version": "d.repository_version_id",
		"namespace": "d.namespace_id", "namespace__name": "(SELECT n.name FROM namespace n WHERE n.id = d.namespace_id)",
		"private": "d.private", "hidden": "d.hidden", "description": "d.description", "pulp_labels": "d.labels",
	}),
	visible: "NOT d.private OR %s = (SELECT n.name FROM namespace n WHERE n.id = d.namespace_id)",
}

// Distributions lists distributions.
func (s *Store) Distributions(ctx context.Context, q Query) ([]pulp.Distribution, int64, error) {
	return DistributionList.Rows(ctx, s, q)
}

// RemoteList is the list of remotes.
var RemoteList = &List[pulp.Remote]{
	long: []string{"sigstore"},
	large: []large{
		{attributes: []string{"pulp_labels"}, column: "m.labels", instead: "'{}'"},
		{attributes: []string{"includes"}, column: "m.includes", instead: "NULL"},
		{attributes: []string{"excludes"}, column: "m.excludes", instead: "NULL"},
		{attributes: []string{"sigstore"}, column: "m.sigstore", instead: "NULL"},
		{attributes: []string{"hidden_fields"}, column: "m.secrets", instead: "'{}'"},
		{attributes: []string{
			"ca_cert", "client_cert", "tls_validation", "proxy_url", "max_retries", "total_timeout", "connect_timeout", "sock_connect_timeout", "sock_read_timeout",
			"headers", "download_concurrency", "rate_limit",
		}, column: "m.connection", instead: "'{}'"},
	},
	columns: record.RemoteColumns, source: ` FROM remote m`, id: "m.id", scan: record.ScanRemote,
	fields: with("m", map[string]string{
		"name": "m.name", "url": "m.url", "upstream_name": "m.upstream_name", "policy": "m.policy", "sigstore": "m.sigstore", "pulp_labels": "m.labels",
	}),
	visible: "m.name = %s OR SUBSTR(m.name, 1, LENGTH(%s) + 1) = %s || '/'",
}

// Remotes lists remotes.
func (s *Store) Remotes(ctx context.Context, q Query) ([]pulp.Remote, int64, error) {
	return RemoteList.Rows(ctx, s, q)
}

// NamespaceList is the list of namespaces.
var NamespaceList = &List[pulp.Namespace]{
	large:   []large{{attributes: []string{"pulp_labels"}, column: "n.labels", instead: "'{}'"}},
	columns: `n.id, n.name, n.labels, n.created, n.updated`, source: ` FROM namespace n`, id: "n.id", scan: record.ScanNamespace,
	fields:  with("n", map[string]string{"name": "n.name", "pulp_labels": "n.labels"}),
	visible: "n.name = %s OR EXISTS (SELECT 1 FROM distribution d WHERE d.namespace_id = n.id AND NOT d.private)",
}

// Namespaces lists namespaces.
func (s *Store) Namespaces(ctx context.Context, q Query) ([]pulp.Namespace, int64, error) {
	return NamespaceList.Rows(ctx, s, q)
}

// ServiceList is the list of signing services.
var ServiceList = &List[pulp.SigningService]{
	long:    []string{"public_key", "script"},
	large:   []large{{attributes: []string{"public_key"}, column: "public_key", instead: "''"}},
	columns: record.ServiceColumns, source: ` FROM signing_service v`, id: "v.id", scan: record.ScanService,
	fields: with("v", map[string]string{
		"name": "v.name", "public_key": "v.public_key", "pubkey_fingerprint": "v.fingerprint", "script": "v.script",
	}),
	visible: "FALSE",
}

// ListSigningServices lists signing services.
func (s *Store) ListSigningServices(ctx context.Context, q Query) ([]pulp.SigningService, int64, error) {
	return ServiceList.Rows(ctx, s, q)
}

// WorkerList is the list of workers, also those that no longer beat.
var WorkerList = &List[pulp.Worker]{
	columns: taskstore.WorkerColumns, source: ` FROM worker w`, id: "w.id", scan: taskstore.ScanWorker,
	fields: map[string]string{
		"pulp_id": "w.id", "pk": "w.id", "pulp_created": "w.started", "pulp_last_updated": "w.heartbeat",
		"name": "w.name", "last_heartbeat": "w.heartbeat",
	},
	visible: "TRUE",
}

// Workers lists workers, those that stopped beating too.
func (s *Store) Workers(ctx context.Context, q Query) ([]pulp.Worker, int64, error) {
	return WorkerList.Rows(ctx, s, q)
}

// TagList is the list of tags: one for each manifest that a name has stood for.
var TagList = &List[pulp.Tag]{
	columns: `t.id, t.name, t.manifest_id, t.created, t.updated`, source: ` FROM tag t`, id: "t.id", kind: pulp.KindTag, scan: record.ScanTag,
	fields: contentFields("t", pulp.KindTag, map[string]string{
		"name":       "t.name",
		"media_type": "(SELECT m.media_type FROM manifest m WHERE m.id = t.manifest_id)",
		"digest":     "(SELECT m.digest FROM manifest m WHERE m.id = t.manifest_id)",
	}),
	visible: record.VisibleContent("t.id"),
}

// Tags lists tags: one for each manifest that a name has stood for.
func (s *Store) Tags(ctx context.Context, q Query) ([]pulp.Tag, int64, error) {
	return TagList.Rows(ctx, s, q)
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
	b := &statement{fields: ManifestList.fields, viewer: viewer}
	query := `SELECT m.id, ` + b.field("is_bootable") + `, ` + b.field("is_flatpak") + ` FROM manifest m WHERE m.id IN ` + b.set(ids)
	type row struct {
		id string
		Nature
	}
	rows, err := sqldb.Collect(ctx, s.db.Read(), func(in sqldb.Scanner) (row, error) {
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

// ManifestList is the list of manifests without their payloads, layers and children; see ManifestParts.
var ManifestList = &List[ListedManifest]{
	long: []string{"architecture", "os"},
	large: []large{
		{attributes: []string{"annotations"}, column: "m.annotations", instead: "'{}'"},
		{attributes: []string{"labels"}, column: "m.labels", instead: "'{}'"},
		{attributes: []string{"architecture"}, column: "m.architecture", instead: "NULL"},
		{attributes: []string{"os"}, column: "m.os", instead: "NULL"},
		{attributes: []string{"listed_manifests"}, size: "100 * (SELECT COUNT(*) FROM manifest_child e WHERE e.manifest_id = m.id)"},
		{attributes: []string{"config_blob", "blobs"}, size: "100 * (SELECT COUNT(*) FROM manifest_blob e WHERE e.manifest_id = m.id)"},
	},
	columns: strings.NewReplacer("m.payload", "x''", "m.artifact_type", "''").Replace(record.ManifestColumns) + `, m.annotations, m.labels`, source: ` FROM manifest m`, id: "m.id",
	kind: pulp.KindManifest, scan: scanListedManifest,
	fields: contentFields("m", pulp.KindManifest, map[string]string{
		"digest": "m.digest", "media_type": "m.media_type", "schema_version": "m.schema_version", "type": "m.type", "architecture": "m.architecture",
		"os": "m.os", "compressed_image_size": "m.image_size", "is_bootable": ofType("bootable"), "is_flatpak": ofType("flatpak"),
	}),
	visible: record.VisibleContent("m.id"),
}

// ListedManifest is a manifest in a list.
type ListedManifest struct {
	pulp.Manifest                             // its Annotations and Labels are not set
	RawAnnotations, RawLabels json.RawMessage // JSON objects, which are shown and not looked into
}

func scanListedManifest(row sqldb.Scanner) (ListedManifest, error) {
	var m ListedManifest
	var annotations, labels string
	var err error
	m.Manifest, err = record.ScanManifest(sqldb.WithMore(row, &annotations, &labels))
	m.RawAnnotations, m.RawLabels = json.RawMessage(annotations), json.RawMessage(labels)
	return m, err
}

// Manifests lists manifests without their payloads, layers and children; see ManifestParts.
func (s *Store) Manifests(ctx context.Context, q Query) ([]ListedManifest, int64, error) {
	return ManifestList.Rows(ctx, s, q)
}

// BlobList is the list of blobs without their bytes.
var BlobList = &List[pulp.Blob]{
	columns: strings.Replace(record.BlobColumns, "b.data,", "NULL,", 1), source: ` FROM blob b`, id: "b.id", kind: pulp.KindBlob, scan: record.ScanBlob,
	fields:  contentFields("b", pulp.KindBlob, map[string]string{"digest": "b.digest"}),
	visible: record.VisibleContent("b.id"),
}

// Blobs lists blobs without their bytes.
func (s *Store) Blobs(ctx context.Context, q Query) ([]pulp.Blob, int64, error) {
	return BlobList.Rows(ctx, s, q)
}

// SignatureList is the list of signatures without their content.
var SignatureList = &List[pulp.Signature]{
	long: []string{"creator"},
	large: []large{
		{attributes: []string{"creator"}, column: "g.creator", instead: "''"},
		{attributes: []string{"docker_reference"}, column: "g.reference", instead: "''"},
		{attributes: []string{"verified", "signing_services"}, size: "LENGTH(g.content)"},
	},
	columns: strings.Replace(record.SignatureColumns, "g.content", "x''", 1), source: ` FROM signature g`, id: "g.id", kind: pulp.KindSignature, scan: record.ScanSignature,
	fields: contentFields("g", pulp.KindSignature, map[string]string{
		"name": "g.name", "digest": "g.digest", "key_id": "g.key_id", "fingerprint": "g.fingerprint", "timestamp": "g.signed_at", "creator": "g.creator",
		"manifest": "(SELECT m.digest FROM manifest m WHERE m.id = g.manifest_id)",
	}),
	visible: record.VisibleContent("g.id"),
}

// Signatures lists signatures without their content.
func (s *Store) Signatures(ctx context.Context, q Query) ([]pulp.Signature, int64, error) {
	return SignatureList.Rows(ctx, s, q)
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
		if err := s.db.Read().QueryRowContext(ctx, `SELECT EXISTS (`+query+`)`, args...).Scan(&exists); err != nil {
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
