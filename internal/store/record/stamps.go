package record

import (
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

func Stamps(created, updated int64) pulp.Stamps {
	return pulp.Stamps{Created: sqldb.FromMicros(created), Updated: sqldb.FromMicros(updated)}
}
