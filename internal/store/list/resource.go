package list

import (
	"context"
	"maps"
	"strings"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// common returns the fields that most lists have.
func common(alias string) map[string]string {
	return map[string]string{
		"pulp_id": alias + ".id", "pk": alias + ".id", "pulp_created": alias + ".created", "pulp_last_updated": alias + ".updated",
	}
}

// with returns the common fields of a table and further ones.
func with(alias string, more map[string]string) map[string]string {
	fields := common(alias)
	maps.Copy(fields, more)
	return fields
}

// permitted returns the visibility of objects of a kind that nobody sees without a permission.
func permitted(kind access.Kind, id string) visibility {
	return func(b *statement) string {
		return id + " IN (" + record.Permitted{Viewer: b.viewer, Arg: b.arg}.IDs(kind, access.View) + ")"
	}
}

// inSeenRepositories returns the visibility of rows that belong to a repository.
func inSeenRepositories(repository string) visibility {
	return func(b *statement) string { return b.seesRepository(repository) }
}

// TaskList is the list of tasks without their arguments. It omits the internal tasks that sign pushed images.
var TaskList = &List[taskstore.Task]{
	long: []string{"error", "result"},
	large: []large{
		{attributes: []string{"result"}, column: "k.result", instead: "NULL"},
		{attributes: []string{"error"}, column: "k.error", instead: "NULL"},
		{attributes: []string{"reserved_resources_record"}, column: "k.resources", instead: "'[]'"},
		{attributes: []string{"created_resources", "created_resource_prns"}, column: "k.created_resources", instead: "'[]'"},
		{attributes: []string{"progress_reports"}, column: "k.progress", instead: "'[]'"},
	},
	columns: strings.Replace(taskstore.TaskColumns, "k.args", "'null'", 1),
	source:  ` FROM (SELECT * FROM task WHERE name <> '` + taskstore.PushSigningTask + `') k`, id: "k.id", scan: taskstore.ScanTask,
	fields: with("k", map[string]string{
		"name": "k.name", "state": "k.state", "logging_cid": "k.logging_cid", "unblocked_at": "k.unblocked", "started_at": "k.started",
		"finished_at": "k.finished", "error": "k.error", "result": "k.result", "worker": "k.worker_id", "created_by": "k.created_by",
		"created_resources": "k.created_resources",
	}),
	visible: permitted(access.Task, "k.id"),
}

// Tasks lists tasks.
func (s *Store) Tasks(ctx context.Context, q Query) ([]taskstore.Task, int64, error) {
	return TaskList.Rows(ctx, s, q)
}

// RepositoryList is the list of repositories of every type.
var RepositoryList = &List[pulp.Repository]{
	long: []string{"description"},
	large: []large{
		{attributes: []string{"pulp_labels"}, column: "r.labels", instead: "'{}'"},
		{attributes: []string{"description"}, column: "r.description", instead: "NULL"},
	},
	columns: record.RepositoryColumns, source: ` FROM repository r`, id: "r.id", scan: record.ScanRepository,
	fields: with("r", map[string]string{
		"name": "r.name", "description": "r.description", "pulp_labels": "r.labels", "type": "r.type", "pulp_type": "('container.' || r.type)",
		"retain_repo_versions": "r.retain_repo_versions", "retain_checkpoints": "CAST(NULL AS BIGINT)",
		"next_version": "r.next_version", "remote": "r.remote_id",
	}),
	visible: inSeenRepositories("r.id"), sparse: true,
}

// Repositories lists repositories of every type.
func (s *Store) Repositories(ctx context.Context, q Query) ([]pulp.Repository, int64, error) {
	return RepositoryList.Rows(ctx, s, q)
}

// VersionList is the list of the versions of all repositories.
var VersionList = &List[pulp.Version]{
	columns: strings.Replace(record.VersionColumns, record.VersionAuthor, `COALESCE((SELECT a.id FROM account a WHERE a.id = v.actor_id), 0)`, 1),
	source:  record.VersionSource, id: "v.id", scan: record.ScanVersion,
	fields:  with("v", map[string]string{"number": "v.number", "repository": "v.repository_id"}),
	visible: inSeenRepositories("v.repository_id"), sparse: true,
}

// Versions lists the versions of all repositories.
func (s *Store) Versions(ctx context.Context, q Query) ([]pulp.Version, int64, error) {
	return VersionList.Rows(ctx, s, q)
}

// DistributionList is the list of distributions.
var DistributionList = &List[pulp.Distribution]{
	long: []string{"description"},
	large: []large{
		{attributes: []string{"pulp_labels"}, column: "d.labels", instead: "'{}'"},
		{attributes: []string{"description"}, column: "d.description", instead: "NULL"},
	},
	columns: record.DistributionColumns, source: record.DistributionSource, id: "d.id", scan: record.ScanDistribution,
	fields: with("d", map[string]string{
		"name": "d.name", "base_path": "d.base_path", "repository": "d.repository_id", "repository_version": "d.repository_version_id",
		"namespace": "d.namespace_id", "namespace__name": "(SELECT n.name FROM namespace n WHERE n.id = d.namespace_id)",
		"private": "d.private", "hidden": "d.hidden", "description": "d.description", "pulp_labels": "d.labels",
	}),
	visible: func(b *statement) string { return "NOT d.private OR " + permitted(access.Distribution, "d.id")(b) },
}

// Distributions lists distributions.
func (s *Store) Distributions(ctx context.Context, q Query) ([]pulp.Distribution, int64, error) {
	return DistributionList.Rows(ctx, s, q)
}

// connectionAttributes are the attributes that show the connection settings of a remote.
var connectionAttributes = []string{
	"ca_cert", "client_cert", "tls_validation", "proxy_url", "max_retries", "total_timeout", "connect_timeout",
	"sock_connect_timeout", "sock_read_timeout", "headers", "download_concurrency", "rate_limit",
}

// RemoteList is the list of remotes.
var RemoteList = &List[pulp.Remote]{
	long: []string{"sigstore"},
	large: []large{
		{attributes: []string{"pulp_labels"}, column: "m.labels", instead: "'{}'"},
		{attributes: []string{"includes"}, column: "m.includes", instead: "NULL"},
		{attributes: []string{"excludes"}, column: "m.excludes", instead: "NULL"},
		{attributes: []string{"sigstore"}, column: record.RemoteSigstore, instead: "NULL"},
		{attributes: []string{"hidden_fields"}, column: record.RemoteSecrets, instead: "'{}'"},
		{attributes: connectionAttributes, column: record.RemoteConnection, instead: "'{}'"},
	},
	columns: record.RemoteColumns, source: record.RemoteSource, id: "m.id", scan: record.ScanRemote,
	fields: with("m", map[string]string{
		"name": "m.name", "url": "m.url", "upstream_name": "m.upstream_name", "policy": "m.policy", "sigstore": "m.sigstore",
		"pulp_labels": "m.labels",
	}),
	visible: permitted(access.Remote, "m.id"),
}

// Remotes lists remotes.
func (s *Store) Remotes(ctx context.Context, q Query) ([]pulp.Remote, int64, error) {
	return RemoteList.Rows(ctx, s, q)
}

// NamespaceList is the list of namespaces.
var NamespaceList = &List[pulp.Namespace]{
	large:   []large{{attributes: []string{"pulp_labels"}, column: "n.labels", instead: "'{}'"}},
	columns: `n.id, n.name, n.labels, n.created, n.updated`, source: ` FROM namespace n`, id: "n.id", scan: record.ScanNamespace,
	fields: with("n", map[string]string{"name": "n.name", "pulp_labels": "n.labels"}),
	visible: func(b *statement) string {
		return "EXISTS (SELECT 1 FROM distribution d WHERE d.namespace_id = n.id AND NOT d.private) OR " + permitted(access.Namespace, "n.id")(b)
	},
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
	visible: permitted(access.SigningService, "v.id"),
}

// SigningServices lists signing services.
func (s *Store) SigningServices(ctx context.Context, q Query) ([]pulp.SigningService, int64, error) {
	return ServiceList.Rows(ctx, s, q)
}

// WorkerList is the list of workers, including those that are no longer online.
var WorkerList = &List[pulp.Worker]{
	columns: taskstore.WorkerColumns, source: ` FROM worker w`, id: "w.id", scan: taskstore.ScanWorker,
	fields: map[string]string{
		"pulp_id": "w.id", "pk": "w.id", "pulp_created": "w.started", "pulp_last_updated": "w.heartbeat",
		"name": "w.name", "last_heartbeat": "w.heartbeat",
	},
	visible: func(*statement) string { return "TRUE" },
}

// Workers lists workers, including those that are no longer online.
func (s *Store) Workers(ctx context.Context, q Query) ([]pulp.Worker, int64, error) {
	return WorkerList.Rows(ctx, s, q)
}

// AuditList is the list of the entries of the audit log.
var AuditList = &List[audit.Entry]{
	large:   []large{{attributes: []string{"details"}, column: "e.details", instead: "'{}'"}},
	columns: record.AuditColumns, source: ` FROM audit_entry e`, id: "e.id", scan: record.ScanAuditEntry,
	fields: map[string]string{
		"pulp_id": "e.id", "pk": "e.id", "pulp_created": "e.at", "pulp_last_updated": "e.at", "at": "e.at", "actor": "e.actor",
		"actor_kind": "e.actor_kind", "identity": "e.identity", "address": "e.address", "action": "e.action", "object": "e.object",
		"result": "e.result", "status": "e.status", "correlation_id": "e.correlation",
	},
	visible: func(*statement) string { return "FALSE" }, // administrators only
}
