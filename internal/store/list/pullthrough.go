package list

import (
	"context"
	"strings"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
)

// PullThroughList is the list of pull-through distributions.
var PullThroughList = &List[pulp.Distribution]{
	long:    DistributionList.long,
	large:   DistributionList.large,
	columns: record.PullThroughColumns, source: ` FROM pull_through_distribution d`, id: "d.id", scan: record.ScanDistribution,
	fields: with("d", map[string]string{
		"name": "d.name", "base_path": "d.base_path", "namespace": "d.namespace_id",
		"namespace__name": "(SELECT n.name FROM namespace n WHERE n.id = d.namespace_id)",
		"private":         "d.private", "hidden": "d.hidden", "description": "d.description", "pulp_labels": "d.labels",
		// A pull-through distribution serves no repository. The fields are those of the filters of every distribution.
		"repository": "CAST(NULL AS TEXT)", "repository_version": "CAST(NULL AS TEXT)",
	}),
	visible: func(b *statement) string { return "NOT d.private OR " + permitted(access.PullThrough, "d.id")(b) },
}

// PullThroughs lists pull-through distributions.
func (s *Store) PullThroughs(ctx context.Context, q Query) ([]pulp.Distribution, int64, error) {
	return PullThroughList.Rows(ctx, s, q)
}

// everyDistribution is the table of the distributions of both kinds.
const everyDistribution = `(
	SELECT id, name, base_path, repository_id, repository_version_id, namespace_id, private, hidden, description, labels,
	       FALSE AS pull_through, pull_through_id, created, updated FROM distribution
	UNION ALL
	SELECT id, name, base_path, NULL, NULL, namespace_id, private, hidden, description, labels, TRUE, NULL, created, updated
	  FROM pull_through_distribution)`

// AnyDistributionList is the list of the distributions of both kinds. RemoteID of pull-through distributions is empty.
var AnyDistributionList = &List[pulp.Distribution]{
	long: DistributionList.long, large: DistributionList.large, fields: DistributionList.fields, id: "d.id", scan: record.ScanDistribution,
	columns: strings.Replace(record.DistributionColumns, "FALSE", "d.pull_through", 1),
	source:  strings.Replace(record.DistributionSource, "distribution d", everyDistribution+" d", 1),
	visible: func(b *statement) string {
		return "NOT d.private OR " + permitted(access.Distribution, "d.id")(b) + " OR " + permitted(access.PullThrough, "d.id")(b)
	},
}

// PullThroughRemoteList is the list of pull-through remotes.
var PullThroughRemoteList = &List[pulp.Remote]{
	long: RemoteList.long,
	large: []large{
		{attributes: []string{"pulp_labels"}, column: "m.labels", instead: "'{}'"},
		{attributes: []string{"includes"}, column: "m.includes", instead: "NULL"},
		{attributes: []string{"excludes"}, column: "m.excludes", instead: "NULL"},
		{attributes: []string{"sigstore"}, column: "m.sigstore", instead: "NULL"},
		{attributes: []string{"hidden_fields"}, column: "m.secrets", instead: "'{}'"},
		{attributes: connectionAttributes, column: "m.connection", instead: "'{}'"},
	},
	columns: record.PullThroughRemoteColumns, source: ` FROM pull_through_remote m`, id: "m.id", scan: record.ScanRemote,
	fields: with("m", map[string]string{
		"name": "m.name", "url": "m.url", "policy": "'" + string(pulp.OnDemand) + "'", "sigstore": "m.sigstore", "pulp_labels": "m.labels",
	}),
	visible: permitted(access.PullThroughRemote, "m.id"),
}

// PullThroughRemotes lists pull-through remotes.
func (s *Store) PullThroughRemotes(ctx context.Context, q Query) ([]pulp.Remote, int64, error) {
	return PullThroughRemoteList.Rows(ctx, s, q)
}

// everyRemote is the table of the remotes of both kinds.
const everyRemote = `(
	SELECT id, name, url, upstream_name, policy, includes, excludes, sigstore, connection, secrets, labels, FALSE AS pull_through,
	       pull_through_id, created, updated FROM remote
	UNION ALL
	SELECT id, name, url, '', '` + string(pulp.OnDemand) + `', includes, excludes, sigstore, connection, secrets, labels, TRUE,
	       NULL, created, updated FROM pull_through_remote)`

// AnyRemoteList is the list of the remotes of both kinds.
var AnyRemoteList = &List[pulp.Remote]{
	long: RemoteList.long, large: RemoteList.large, fields: RemoteList.fields, id: "m.id", scan: record.ScanRemote,
	columns: strings.Replace(record.RemoteColumns, "FALSE", "m.pull_through", 1),
	source:  strings.Replace(record.RemoteSource, "remote m", everyRemote+" m", 1),
	visible: func(b *statement) string {
		return permitted(access.Remote, "m.id")(b) + " OR " + permitted(access.PullThroughRemote, "m.id")(b)
	},
}
