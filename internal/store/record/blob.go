package record

import (
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// BlobColumns are the columns of a blob b that ScanBlob reads.
const BlobColumns = `b.id, b.digest, b.size, b.data, b.data IS NOT NULL, b.location, b.absent, b.created, b.updated`

// ScanBlob reads a blob. Only small blobs have their bytes in Data.
func ScanBlob(row sqldb.Scanner) (pulp.Blob, error) {
	var b pulp.Blob
	var created, updated int64
	if err := row.Scan(&b.ID, &b.Digest, &b.Size, &b.Data, &b.Inline, &b.Location, &b.Absent, &created, &updated); err != nil {
		return pulp.Blob{}, err
	}
	b.Stamps = Stamps(created, updated)
	return b, nil
}

// ScanDigest reads a row of one digest.
func ScanDigest(row sqldb.Scanner) (digest.Digest, error) {
	var d digest.Digest
	err := row.Scan(&d)
	return d, err
}
