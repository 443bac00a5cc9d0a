package record

import (
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Stamps returns the times of creation and last change of a row, given in microseconds.
func Stamps(created, updated int64) pulp.Stamps {
	return pulp.Stamps{Created: sqldb.FromMicros(created), Updated: sqldb.FromMicros(updated)}
}
