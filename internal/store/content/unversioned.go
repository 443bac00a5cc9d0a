package content

import (
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
)

// reason is why unversioned_content holds a unit of a repository.
type reason string

const (
	reasonPending reason = "pending" // a client uploaded it; the repository serves it
	reasonFetched reason = "fetched" // stored for the next version; nobody is served it
)

// PutPending records a unit as pending in a repository under a key, instead of any other unit that is pending under the key.
func (t *Tx) PutPending(repositoryID string, kind pulp.Kind, key, id string) error {
	return t.putUnversioned(reasonPending, repositoryID, kind, key, id)
}

// putUnversioned records a unit under a key of a repository, instead of any other unit with the same reason and key.
func (t *Tx) putUnversioned(why reason, repositoryID string, kind pulp.Kind, key, id string) error {
	_, err := t.Exec(`
		INSERT INTO unversioned_content (reason, repository_id, kind, key, content_id, touched) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (repository_id, reason, kind, key) DO UPDATE SET content_id = excluded.content_id, touched = excluded.touched`,
		why, repositoryID, kind, key, id, t.Now)
	return err
}

// touch begins the grace period of an unversioned unit anew. A missing unit is no error.
func (t *Tx) touch(why reason, repositoryID string, kind pulp.Kind, key string) error {
	_, err := t.Exec(`UPDATE unversioned_content SET touched = $5 WHERE repository_id = $1 AND reason = $2 AND kind = $3 AND key = $4`,
		repositoryID, why, kind, key, t.Now)
	return err
}

// dropFetched deletes the records of all units that were fetched for a repository.
func (t *Tx) dropFetched(repositoryID string) error {
	_, err := t.Exec(`DELETE FROM unversioned_content AS f WHERE `+record.Fetched("$1"), repositoryID)
	return err
}
