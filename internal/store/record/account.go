package record

import (
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// AccountColumns are the columns that ScanUser reads.
const AccountColumns = `id, username, password_hash, is_staff, is_active, created, updated`

// ScanUser reads a user.
func ScanUser(row sqldb.Scanner) (pulp.User, error) {
	var u pulp.User
	var created, updated int64
	if err := row.Scan(&u.ID, &u.Username, &u.Hash, &u.Staff, &u.Active, &created, &updated); err != nil {
		return pulp.User{}, err
	}
	u.Stamps = Stamps(created, updated)
	return u, nil
}
