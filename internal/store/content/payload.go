package content

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Blobs returns the digests of the blobs of all repositories, in their order: at most limit, after the digest after. It also
// returns the last of them.
func (s *Store) Blobs(ctx context.Context, after string, limit int) (found []digest.Digest, last string, err error) {
	found, err = sqldb.Collect(ctx, s.db.Read(), record.ScanDigest, `SELECT b.digest FROM blob b WHERE b.digest > $1 ORDER BY b.digest LIMIT $2`, after, limit)
	if n := len(found); n > 0 {
		last = string(found[n-1])
	}
	return found, last, err
}

// Payload is the stored content of a manifest or signature.
type Payload struct {
	ID     string
	Digest digest.Digest
	Bytes  []byte
}

// payloads are the queries of the payloads of each kind.
var payloads = map[pulp.Kind]string{
	pulp.KindManifest:  `SELECT u.id, u.digest, u.payload FROM manifest u`,
	pulp.KindSignature: `SELECT u.id, u.digest, u.content FROM signature u`,
}

// Payloads returns the content of the manifests or signatures of all repositories, in the order of their ids: at most limit,
// after the id after.
func (s *Store) Payloads(ctx context.Context, kind pulp.Kind, after string, limit int) ([]Payload, error) {
	query, ok := payloads[kind]
	if !ok {
		return nil, fmt.Errorf("no payloads of %s", kind)
	}
	return sqldb.Collect(ctx, s.db.Read(), func(row sqldb.Scanner) (p Payload, err error) {
		err = row.Scan(&p.ID, &p.Digest, &p.Bytes)
		return p, err
	}, query+` WHERE u.id > $1 ORDER BY u.id LIMIT $2`, after, limit)
}
