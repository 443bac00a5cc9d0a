package content

import (
	"context"
	"database/sql"
	"errors"
)

// Listing is how many tags a remote repository lists, before filters.
type TagListing struct {
	URL  string // of the registry
	Name string // of the repository there
	Tags int64
}

// ListedTags returns how many tags a remote repository listed when a sync of it into this repository last succeeded. known is false when none did.
func (s *Store) ListedTags(ctx context.Context, repositoryID, url, name string) (tags int64, known bool, err error) {
	err = s.db.Read().QueryRowContext(ctx, `SELECT tags FROM listed_tags WHERE repository_id = $1 AND url = $2 AND upstream_name = $3`, repositoryID, url, name).Scan(&tags)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	return tags, err == nil, err
}

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
