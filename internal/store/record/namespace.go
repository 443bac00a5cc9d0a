package record

import (
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// ScanNamespace reads a namespace.
func ScanNamespace(row sqldb.Scanner) (pulp.Namespace, error) {
	var n pulp.Namespace
	var labels string
	var created, updated int64
	if err := row.Scan(&n.ID, &n.Name, &labels, &created, &updated); err != nil {
		return pulp.Namespace{}, err
	}
	n.Stamps = Stamps(created, updated)
	return n, sqldb.FromJSON("namespace.labels", labels, &n.Labels)
}
