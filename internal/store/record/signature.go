package record

import (
	"database/sql"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// SignatureColumns are the columns of a signature g that ScanSignature reads.
const SignatureColumns = `g.id, g.digest, g.name, g.manifest_id, g.content, g.key_id, g.fingerprint, g.verified_by, g.reference,
	g.creator, g.signed_at, g.created, g.updated`

// ScanSignature reads a signature with its content.
func ScanSignature(row sqldb.Scanner) (pulp.Signature, error) {
	var g pulp.Signature
	var fingerprint sql.NullString
	var created, updated int64
	err := row.Scan(&g.ID, &g.Digest, &g.Name, &g.ManifestID, &g.Content, &g.KeyID, &fingerprint, &g.VerifiedBy, &g.Reference,
		&g.Creator, &g.SignedAt, &created, &updated)
	if err != nil {
		return pulp.Signature{}, err
	}
	g.Fingerprint, g.Stamps = sqldb.Pointer(fingerprint), Stamps(created, updated)
	return g, nil
}
