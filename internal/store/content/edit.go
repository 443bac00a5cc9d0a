package content

import (
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
)

// unitColumns are, for each kind, the columns key and id of a unit u and its table.
var unitColumns = map[pulp.Kind]string{
	pulp.KindBlob: "u.digest AS key, u.id FROM blob u", pulp.KindManifest: "u.digest AS key, u.id FROM manifest u",
	pulp.KindTag: "u.name AS key, u.id FROM tag u", pulp.KindSignature: "u.digest AS key, u.id FROM signature u",
}

// gatherUnits gathers those of the units that satisfy the condition where.
func (c *Change) gatherUnits(units []record.Unit, where origin) error {
	for _, u := range units {
		_, err := c.Tx.Exec(`INSERT INTO change_unit (kind, key, content_id) SELECT CAST($1 AS BIGINT), `+unitColumns[u.Kind]+
			` WHERE u.id = $2 AND `+where.Condition+` ON CONFLICT DO NOTHING`, append([]any{u.Kind, u.ID}, where.Args...)...)
		if err != nil {
			return err
		}
	}
	return nil
}
