package record

import (
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// ServiceColumns are the columns of a signing service that ScanService reads.
const ServiceColumns = `id, name, class, kind, script, fingerprint, public_key, gnupghome, config, created, updated`

// ScanService reads a signing service.
func ScanService(row sqldb.Scanner) (pulp.SigningService, error) {
	var v pulp.SigningService
	var config string
	var created, updated int64
	if err := row.Scan(&v.ID, &v.Name, &v.Class, &v.Kind, &v.Script, &v.Fingerprint, &v.PublicKey, &v.GnuPGHome, &config, &created, &updated); err != nil {
		return pulp.SigningService{}, err
	}
	v.Stamps = Stamps(created, updated)
	return v, sqldb.FromJSON("signing_service.config", config, &v.Config)
}
