package record

import (
	"time"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// AccountColumns are the columns that ScanUser reads.
const AccountColumns = `id, username, password_hash, is_staff, is_active, kind, source, external_id, COALESCE(checked, 0),
	COALESCE(namespace_id, ''), first_name, last_name, email, description, created, updated`

// ScanUser reads a user.
func ScanUser(row sqldb.Scanner) (pulp.User, error) {
	var u pulp.User
	var checked, created, updated int64
	err := row.Scan(&u.ID, &u.Username, &u.Hash, &u.Staff, &u.Active, &u.Kind, &u.Source, &u.ExternalID, &checked,
		&u.NamespaceID, &u.FirstName, &u.LastName, &u.Email, &u.Description, &created, &updated)
	if err != nil {
		return pulp.User{}, err
	}
	if checked != 0 {
		u.Checked = time.UnixMicro(checked)
	}
	u.Stamps = Stamps(created, updated)
	return u, nil
}
