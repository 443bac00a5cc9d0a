package taskstore_test

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// TestPlacesAndClaimsLookIntoIndexes reads the plans of the statements that run for every task, with statistics that no longer hold: none reads the table, and each
// begins at the place in an index where its row is.
func TestPlacesAndClaimsLookIntoIndexes(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	storetest.Exec(t, s, `INSERT INTO task (id, seq, name, state, created, updated, unblocked, started, finished)
		WITH RECURSIVE series (n) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT n + 1 FROM series WHERE n < 2000)
		SELECT 'old-' || n, -n, 'nothing', 'completed', n, n, n, n, n FROM series`)
	storetest.Exec(t, s, `INSERT INTO task_resource (task_id, resource, exclusive, seq) SELECT id, 'busy', TRUE, seq FROM task`)
	// Statistics say that many tasks are ready; by now none is.
	storetest.ExecAll(t, s, `UPDATE task SET finished = NULL`, `ANALYZE`, `UPDATE task SET finished = 1`)
	turn, lap := taskstore.Place("FALSE", "'user:1'", "'acme'")
	for what, c := range map[string]struct {
		query string
		index []string
	}{
		"turn":    {`SELECT ` + turn, []string{"task_running_turn", "task_turn", "task_owner"}},
		"lap":     {`SELECT ` + lap, []string{"task_running_lap", "task_lap", "task_namespace"}},
		"head":    {`SELECT id FROM task WHERE ` + taskstore.Ready + ` AND long = FALSE ORDER BY turn, seq LIMIT 1`, []string{"task_turn"}},
		"pick":    {`SELECT id FROM task WHERE ` + taskstore.Ready + ` AND long = FALSE AND owner = 'user:1' ORDER BY lap, seq LIMIT 1`, []string{"task_lap"}},
		"long":    {`SELECT ` + taskstore.Some("TRUE", "TRUE", "turn"), []string{"task_turn"}},
		"besides": {strings.NewReplacer("$1", "FALSE", "$2", "'user:1'", "$3", "'acme'").Replace(taskstore.WaitsBesides), []string{"task_"}},
		"queue":   {`SELECT 1 FROM (SELECT j.value AS href FROM json_each('["free"]') j) w WHERE ` + taskstore.Queued("w.href", ""), []string{"task_resource_queue"}},
		"list":    {`SELECT id FROM task WHERE ` + taskstore.Ready + ` ORDER BY long, turn, seq LIMIT 100`, []string{"task_turn"}},
	} {
		plan := plan(t, s, c.query)
		for _, index := range c.index {
			if !strings.Contains(plan, index) {
				t.Errorf("%s does not use %s:\n%s", what, index, plan)
			}
		}
		for _, slow := range []string{"Seq Scan", "SCAN task\n", "SCAN o\n", "TEMP B-TREE"} {
			if strings.Contains(plan, slow) {
				t.Errorf("%s: %s in the plan:\n%s", what, slow, plan)
			}
		}
	}
}

// plan returns how the database would run a query, a line a step.
func plan(t *testing.T, s *store.Store, query string) string {
	t.Helper()
	explain, width := "EXPLAIN QUERY PLAN ", 4
	if s.DB.IsPostgres() {
		explain, width = "EXPLAIN ", 1
	}
	rows, err := s.DB.Read().QueryContext(t.Context(), explain+query)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var plan strings.Builder
	for rows.Next() {
		columns := make([]any, width)
		for i := range columns {
			columns[i] = new(any)
		}
		var step string
		columns[width-1] = &step
		if err := rows.Scan(columns...); err != nil {
			t.Fatal(err)
		}
		plan.WriteString(step + "\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return plan.String()
}
