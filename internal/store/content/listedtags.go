package content

import (
	"context"
	"database/sql"
	"errors"
)

// TagListing is the number of tags that a remote repository lists, before filters.
type TagListing struct {
	URL  string // of the registry
	Name string // of the repository there
	Tags int64
}

// ListedTags returns the number of tags that a remote repository listed at the last successful sync of it into this
// repository. known is false if there was none.
func (s *Store) ListedTags(ctx context.Context, repositoryID, url, name string) (tags int64, known bool, err error) {
	err = s.db.Read().QueryRowContext(ctx, `SELECT tags FROM listed_tags WHERE repository_id = $1 AND url = $2 AND upstream_name = $3`, repositoryID, url, name).Scan(&tags)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	return tags, err == nil, err
}

// putListing stores a tag listing for later syncs to compare. A nil listing changes nothing.
func (t *Tx) putListing(repositoryID string, l *TagListing) error {
	if l == nil {
		return nil
	}
	_, err := t.Exec(`
		INSERT INTO listed_tags (repository_id, url, upstream_name, tags, updated) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (repository_id, url, upstream_name) DO UPDATE SET tags = excluded.tags, updated = excluded.updated`,
		repositoryID, l.URL, l.Name, l.Tags, t.Now)
	return err
}
