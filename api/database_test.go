package api_test

import (
	"database/sql"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
)

// exec runs a statement in the database. It creates states that the REST API cannot create.
func (w *world) exec(query string, args ...any) {
	w.t.Helper()
	driver, source := "pgx", w.database // the store's own drivers
	if path, ok := strings.CutPrefix(w.database, "sqlite:"); ok {
		driver, source = "sqlite", "file:"+path+"?_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)"
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(w.t.Context(), query, args...); err != nil {
		w.t.Fatal(err)
	}
}

// undistributed creates a repository without a distribution that no push created.
func (w *world) undistributed(name string) pulp.Repository {
	w.t.Helper()
	target := w.target(name)
	w.exec(
		`UPDATE distribution SET repository_id = NULL, base_path = 'moved/' || base_path, name = 'moved/' || name WHERE id = $1`,
		target.Distribution.ID,
	)
	w.exec(`UPDATE repository SET made_by_push = FALSE WHERE id = $1`, target.Repository.ID)
	return target.Repository
}

// distribute creates a distribution of a repository and returns its id.
func (w *world) distribute(path, repositoryID string) string {
	w.t.Helper()
	id := pulp.NewID()
	w.exec(`INSERT INTO distribution (id, name, base_path, repository_id, namespace_id, created, updated)
		SELECT $1, $2, $2, $3, n.id, 1, 1 FROM namespace n WHERE n.name = $4`, id, path, repositoryID, pulp.NamespaceOf(path))
	return id
}

// hide makes a distribution private.
func (w *world) hide(path string) {
	w.t.Helper()
	w.exec(`UPDATE distribution SET private = TRUE WHERE base_path = $1`, path)
}
