package sweep_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/sweep"
)

// TestSweepsReadOldRowsByIndex reads the plans of the sweeps' queries in a table where most units are too young to be swept.
func TestSweepsReadOldRowsByIndex(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	repository := storetest.Target(t, s, "acme/app").Repository.ID
	storetest.ExecAll(t, s, fmt.Sprintf(`
		INSERT INTO unversioned_content (reason, repository_id, kind, key, content_id, touched)
		WITH RECURSIVE series (n) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT n + 1 FROM series WHERE n < 5000)
		SELECT r.reason, '%s', 1 + MOD(n, 2), 'u' || n, 'u' || n, n FROM series, (SELECT 'pending' AS reason UNION ALL SELECT 'fetched') r`, repository),
		`ANALYZE`)
	arguments := strings.NewReplacer("$1", "1", "$2", "50", "$3", "2")
	for name, c := range map[string]struct{ query, index string }{
		"pending": {`SELECT p.key FROM unversioned_content p WHERE ` + sweep.OldPending + ` AND NOT ` + sweep.Named + ` ORDER BY p.touched LIMIT 10`,
			"unversioned_content_pending"},
		"fetched": {`SELECT p.key FROM unversioned_content p WHERE ` + strings.ReplaceAll(sweep.OldFetched, "$1", "50") + ` ORDER BY p.touched LIMIT 10`,
			"unversioned_content_fetched"},
		"one blob": {`SELECT u.id FROM blob u WHERE u.id = 'x' AND ` + sweep.Unreferenced, "unversioned_content_unit"},
	} {
		plan := storetest.Plan(t, s, arguments.Replace(c.query))
		if !strings.Contains(plan, c.index) {
			t.Errorf("%s: the plan does not use %s:\n%s", name, c.index, plan)
		}
		if strings.Contains(plan, "TEMP B-TREE") { // PostgreSQL may sort the few old rows
			t.Errorf("%s: the plan sorts:\n%s", name, plan)
		}
	}
}
