package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// listSizes are the numbers of rows of the database for the measurement of lists.
type listSizes struct{ repositories, units, tasks int }

// Names in the database of lists.
const (
	listOwner  = "lister" // has roles on some thousand repositories and on namespaces
	listViewer = "viewer" // has the role of a viewer of all repositories
	listBig    = "team0/big"
)

// generated replaces the words of statements that make rows. A row n has the time at(n), and an id that begins with that
// time, as the server's ids do. repo(n) is the id of a repository, each in turn in a mixed order, and version(n) that of its
// version.
func (z listSizes) generated(driver string) func(string) string {
	hex := func(digits int, number string) string {
		if driver == "sqlite" {
			return fmt.Sprintf("PRINTF('%%0%dx', %s)", digits, number)
		}
		return fmt.Sprintf("LPAD(TO_HEX(CAST(%s AS BIGINT)), %d, '0')", number, digits)
	}
	stamp, mixed := hex(12, "1700000000000 + n * 1000"), hex(12, fmt.Sprintf("(n * 7919) %% %d", z.repositories))
	bytes := "x'00'"
	if driver != "sqlite" {
		bytes = `'\x00'::bytea`
	}
	return strings.NewReplacer(
		"at(n)", "(1700000000000000 + n * 1000000)",
		"id(n)", "(SUBSTR("+stamp+", 1, 8) || '-' || SUBSTR("+stamp+", 9, 4) || '-7000-8000-' || "+hex(12, "n")+")",
		"digest(n)", "('sha256:' || "+hex(8, "(n * 2654435761) % 4294967296")+" || "+hex(8, "(n * 40503) % 4294967296")+
			" || "+strings.Repeat(hex(12, "n")+" || ", 3)+hex(12, "0")+")",
		"repo(n)", "('r-' || "+mixed+")", "version(n)", "('v1-' || "+mixed+")",
		"hex12(n)", hex(12, "n"), "hex12(step)", hex(12, fmt.Sprintf("n * %d", max(z.repositories*20/z.units, 1))),
		"hex12(assigned)", hex(12, "n * 10 + 5"), "hex32(n)", hex(8, "(n * 2654435761) % 4294967296")+" || "+hex(12, "n")+" || "+hex(12, "n"),
		"some_bytes", bytes,
	).Replace
}

// fill is a statement that adds generated rows, with the numbers from 0 to rows-1 as n.
type fill struct {
	rows int
	text string // INSERT INTO ... SELECT ... FROM series ...
}

// fills returns the statements in order. 30 % of the repositories are public. One repository has a sixth of the content.
func (z listSizes) fills() []fill {
	manifests, blobs, signatures := z.units*30/100, z.units*40/100, z.units*5/100
	big := `CASE WHEN n % 6 = 5 THEN 'big' ELSE repo(n) END`
	held := func(kind int, key, id, where string) string {
		return fmt.Sprintf(`INSERT INTO repository_content (repository_id, kind, key, content_id, version_added)
			SELECT %s, %d, %s, '%s' || id(n), 1 FROM series WHERE %s`, big, kind, key, id, where)
	}
	name := `CASE WHEN n % 6 = 5 THEN 'b' || n WHEN n < ` + fmt.Sprint(z.repositories) + ` THEN 'latest'
		ELSE 'v' || (n / ` + fmt.Sprint(z.repositories) + `) || '.' || (n % 5000) END`
	return []fill{
		{20, `INSERT INTO account (id, username, password_hash, is_staff, is_active, created, updated)
			SELECT 1000 + n, CASE n WHEN 0 THEN '` + listOwner + `' ELSE 'user' || n END, '', FALSE, TRUE, 1, 1 FROM series`},
		{1000, `INSERT INTO namespace (id, name, created, updated) SELECT 'n-' || n, 'team' || n, at(n), at(n) FROM series`},
		{z.repositories, `INSERT INTO repository (id, type, name, latest_version, next_version, created, updated)
			SELECT 'r-' || hex12(n), CASE WHEN n % 10 < 7 THEN 'container-push' ELSE 'container' END,
			       'team' || (n % 1000) || '/app' || n, 1, 2, at(n), at(n) FROM series`},
		{1, `INSERT INTO repository (id, type, name, latest_version, next_version, created, updated)
			SELECT 'big', 'container', '` + listBig + `', 1, 2, at(n), at(n) FROM series`},
		{z.repositories, `INSERT INTO repository_version (id, repository_id, number, created, updated)
			SELECT 'v0-' || hex12(n), 'r-' || hex12(n), 0, at(n), at(n) FROM series`},
		{z.repositories, `INSERT INTO repository_version (id, repository_id, number, created, updated)
			SELECT 'v1-' || hex12(n), 'r-' || hex12(n), 1, at(n) + 1, at(n) + 1 FROM series`},
		{1, `INSERT INTO repository_version (id, repository_id, number, created, updated)
			SELECT 'v1-big', 'big', 1, at(n) + 1, at(n) + 1 FROM series`},
		{z.repositories, `INSERT INTO distribution (id, name, base_path, repository_id, namespace_id, private, created, updated)
			SELECT 'd-' || hex12(n), 'team' || (n % 1000) || '/app' || n, 'team' || (n % 1000) || '/app' || n, 'r-' || hex12(n),
			       'n-' || (n % 1000), n % 10 >= 3, at(n), at(n) FROM series`},
		{manifests, `INSERT INTO manifest (id, digest, media_type, schema_version, payload, type, architecture, os, image_size, created, updated)
			SELECT 'm' || id(n), digest(n), CASE n % 20 WHEN 0 THEN 'application/vnd.oci.image.index.v1+json'
			       WHEN 1 THEN 'application/vnd.docker.distribution.manifest.v2+json' ELSE 'application/vnd.oci.image.manifest.v1+json' END,
			       2, '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[]}',
			       CASE n % 20 WHEN 0 THEN 'index' ELSE 'image' END, 'amd64', 'linux', 1000000, at(n), at(n) FROM series`},
		{manifests, `INSERT INTO manifest_blob (manifest_id, position, digest) SELECT 'm' || id(n), -1, digest(n) FROM series WHERE n % 20 <> 0`},
		{manifests, `INSERT INTO manifest_blob (manifest_id, position, digest) SELECT 'm' || id(n), 0, REPLACE(digest(n), 'sha256:', 'sha256:0') FROM series WHERE n % 20 <> 0`},
		{manifests, held(2, `digest(n)`, "m", "TRUE")},
		{blobs, `INSERT INTO blob (id, digest, size, created, updated) SELECT 'b' || id(n), digest(n), 1000, at(n), at(n) FROM series`},
		{blobs, held(1, `digest(n)`, "b", "TRUE")},
		// Some blobs are in many repositories, as layers of base images are.
		{z.units / 20, `INSERT INTO repository_content (repository_id, kind, key, content_id, version_added)
			SELECT x.repository, 1, digest(n), 'b' || id(n), 1
			  FROM (SELECT n % 20 AS n, 'r-' || hex12(step) AS repository FROM series) x
			 WHERE x.repository <> repo(n)`},
		{manifests, `INSERT INTO tag (id, name, manifest_id, created, updated)
			SELECT 't' || id(n), ` + name + `, 'm' || id(n), at(n), at(n) FROM series WHERE n % 6 <> 4`},
		{manifests, held(3, name, "t", "n % 6 <> 4")},
		{signatures, `INSERT INTO signature (id, digest, name, manifest_id, content, key_id, fingerprint, reference, creator, signed_at, created, updated)
			SELECT 's' || id(n), digest(n), digest(n) || '@' || hex32(n), 'm' || id(n), some_bytes,
			       'D1B86E06B4D8888' || (n % 5), '2950DA0EEA6F1C907BE918A6D1B86E06B4D8888' || (n % 5), 'localhost/app', 'atomic', 1, at(n), at(n) FROM series`},
		{signatures, held(4, `digest(n)`, "s", "TRUE")},
		{z.tasks, `INSERT INTO task (id, seq, name, state, attempt, resources, created_resources, logging_cid, created_by, origin, worker_id,
			       created, updated, unblocked, started, finished)
			SELECT 'k' || id(n), -1 - n, CASE n % 10 WHEN 0 THEN 'pulp_container.app.tasks.sign.sign' WHEN 1 THEN 'pulp_container.app.tasks.synchronize.synchronize'
			       WHEN 2 THEN 'pulp_container.app.tasks.tag.tag_image' WHEN 3 THEN 'pulpcore.app.tasks.base.ageneral_update'
			       WHEN 4 THEN 'pulpcore.app.tasks.base.general_create' ELSE 'pulp_container.app.tasks.recursive_add.recursive_add_content' END,
			       CASE WHEN n % 25 = 24 THEN 'failed' WHEN n % 1000 = 1 THEN 'canceled' ELSE 'completed' END, 1,
			       '[{"href":"/pulp/api/v3/repositories/container/container/' || repo(n) || '/","exclusive":true}]',
			       '[{"href":"/pulp/api/v3/repositories/container/container/' || repo(n) || '/versions/1/","prn":"prn:core.repositoryversion:' || version(n) || '"}]',
			       hex32(n), CASE WHEN n % 25 < 20 THEN 1000 + n % 25 END,
			       CASE WHEN n % 25 < 20 THEN 'user' ELSE 'system' END, 'w-' || (n % 8), at(n), at(n) + 3, at(n), at(n) + 1, at(n) + 2 FROM series`},
		{z.tasks, `INSERT INTO task_resource (task_id, resource, exclusive, seq, active)
			SELECT 'k' || id(n), '/pulp/api/v3/repositories/container/container/' || ` + strings.ReplaceAll(big, "n % 6 = 5", "n % 50 = 5") + ` || '/', TRUE, -1 - n, FALSE FROM series`},
		// The measured user has roles on private repositories and on namespaces.
		{1, `INSERT INTO account (id, username, password_hash, is_staff, is_active, created, updated)
			SELECT 2001, '` + listViewer + `', '', FALSE, TRUE, 1, 1 FROM series`},
		{1, `INSERT INTO role_assignment (id, role_id, account_id, object, created, updated)
			SELECT 'viewer', r.id, 2001, '', 1, 1 FROM series JOIN role r ON r.name = 'container.containerrepository_viewer'`},
		{min(3000, z.repositories/10), `INSERT INTO role_assignment (id, role_id, account_id, object, created, updated)
			SELECT 'o' || n, r.id, 1000, 'repository:r-' || hex12(assigned), 1, 1 FROM series JOIN role r ON r.name = 'container.containerrepository_viewer'`},
		{10, `INSERT INTO role_assignment (id, role_id, account_id, object, created, updated)
			SELECT 'n' || n, r.id, 1000, 'namespace:n-' || (n * 37 + 4), 1, 1 FROM series JOIN role r ON r.name = 'container.containernamespace_collaborator'`},
	}
}

// fillLists fills a migrated database.
func fillLists(ctx context.Context, driver, source string, z listSizes) (err error) {
	db, err := sql.Open(driver, source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)                                             // the settings below are those of a connection
	before, after := `SET synchronous_commit = off`, `VACUUM ANALYZE` // as autovacuum does in time
	series := `WITH series (n) AS (SELECT GENERATE_SERIES(0, CAST($1 AS BIGINT)) n) `
	if driver == "sqlite" {
		before, after = `PRAGMA synchronous = OFF; PRAGMA cache_size = -400000`, `PRAGMA wal_checkpoint(TRUNCATE)`
		series = `WITH RECURSIVE series (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM series WHERE n < $1) `
	}
	if _, err := db.ExecContext(ctx, before); err != nil {
		return err
	}
	generated := z.generated(driver)
	for _, f := range z.fills() {
		insert, query, _ := strings.Cut(f.text, "SELECT")
		if _, err := db.ExecContext(ctx, insert+series+"SELECT"+generated(query), f.rows-1); err != nil {
			return fmt.Errorf("%.60s: %w", strings.TrimSpace(f.text), err)
		}
	}
	_, err = db.ExecContext(ctx, after)
	return err
}
