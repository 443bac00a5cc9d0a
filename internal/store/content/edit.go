package content

import (
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
)

// unitColumns are where units of a kind are kept and what repositories know them by. Signatures are not added by hand (compatibility.md#container-repositories).
var unitColumns = map[pulp.Kind]string{
	pulp.KindBlob: "u.digest AS key, u.id FROM blob u", pulp.KindManifest: "u.digest AS key, u.id FROM manifest u",
	pulp.KindTag: "u.name AS key, u.id FROM tag u", pulp.KindSignature: "u.digest AS key, u.id FROM signature u",
}

// gatherUnits gathers units that are where they may be taken from.
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
