package record

import (
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// ScanTag reads a tag.
func ScanTag(row sqldb.Scanner) (pulp.Tag, error) {
	var t pulp.Tag
	var created, updated int64
	if err := row.Scan(&t.ID, &t.Name, &t.ManifestID, &created, &updated); err != nil {
		return pulp.Tag{}, err
	}
	t.Stamps = Stamps(created, updated)
	return t, nil
}

// TaggedManifest is a manifest under a tag. Tag is empty for the children of an image index.
type TaggedManifest struct{ Tag, ID, Digest, MediaType string }

// ScanTagged reads a manifest under a tag.
func ScanTagged(row sqldb.Scanner) (TaggedManifest, error) {
	var t TaggedManifest
	err := row.Scan(&t.Tag, &t.ID, &t.Digest, &t.MediaType)
	return t, err
}
