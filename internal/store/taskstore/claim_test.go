package taskstore_test

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// TestPlacesAndClaimsUseIndexes reads the plans of the statements that run for every task, with outdated statistics:
// each uses its index, and none scans the table.
func TestPlacesAndClaimsUseIndexes(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	storetest.Exec(t, s, `INSERT INTO task (id, seq, name, state, created, updated, unblocked, started, finished)
		WITH RECURSIVE series (n) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT n + 1 FROM series WHERE n < 2000)
		SELECT 'old-' || n, -n, 'nothing', 'completed', n, n, n, n, n FROM series`)
	storetest.Exec(
		t,
		s,
		`INSERT INTO task_resource (task_id, resource, exclusive, seq) SELECT id, 'busy', TRUE, seq FROM task`,
	)
	// Statistics say that many tasks are ready; by now none is.
	storetest.ExecAll(t, s, `UPDATE task SET finished = NULL`, `ANALYZE`, `UPDATE task SET finished = 1`)
	turn, lap := taskstore.Place("FALSE", "'user:1'", "'acme'")
	for name, tt := range map[string]struct {
		query string
		index []string
	}{
		"turn": {
			query: `SELECT ` + turn,
			index: []string{"task_running_turn", "task_turn", "task_owner"},
		},
		"lap": {
			query: `SELECT ` + lap,
			index: []string{"task_running_lap", "task_lap", "task_namespace"},
		},
		"head": {
			query: `SELECT id FROM task WHERE ` + taskstore.Ready + ` AND long = FALSE ORDER BY turn, seq LIMIT 1`,
			index: []string{"task_turn"},
		},
		"pick": {
			query: `SELECT id FROM task WHERE ` + taskstore.Ready + ` AND long = FALSE AND owner = 'user:1' ORDER BY lap, seq LIMIT 1`,
			index: []string{"task_lap"},
		},
		"long": {
			query: `SELECT ` + taskstore.Some("TRUE", "TRUE", "turn"),
			index: []string{"task_turn"},
		},
		"besides": {
			query: strings.NewReplacer("$1", "FALSE", "$2", "'user:1'", "$3", "'acme'").Replace(taskstore.WaitsBesides),
			index: []string{"task_"},
		},
		"queue": {
			query: `SELECT 1 FROM (SELECT j.value AS href FROM json_each('["free"]') j) w WHERE ` + taskstore.Queued("w.href", ""),
			index: []string{"task_resource_queue"},
		},
		"list": {
			query: `SELECT id FROM task WHERE ` + taskstore.Ready + ` ORDER BY long, turn, seq LIMIT 100`,
			index: []string{"task_turn"},
		},
	} {
		plan := storetest.Plan(t, s, tt.query)
		for _, index := range tt.index {
			if !strings.Contains(plan, index) {
				t.Errorf("%s does not use %s:\n%s", name, index, plan)
			}
		}
		for _, slow := range []string{"Seq Scan", "SCAN task\n", "SCAN o\n", "TEMP B-TREE"} {
			if strings.Contains(plan, slow) {
				t.Errorf("%s: %s in the plan:\n%s", name, slow, plan)
			}
		}
	}
}
