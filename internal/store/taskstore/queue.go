package taskstore

import (
	"database/sql"
	"errors"
	"slices"

	"github.com/countersign/countersign/internal/store/sqldb"
)

// queued returns the condition that the queue of a resource has a reservation r that satisfies a condition. Every planner begins at
// the head of the queue; with a join it might read all queues.
func queued(href, condition string) string {
	return `(SELECT r.seq FROM task_resource r WHERE r.resource = ` + href + ` AND r.active` + condition + ` ORDER BY r.seq LIMIT 1) IS NOT NULL`
}

func hrefsOf(resources []Resource) []string {
	all := make([]string, len(resources))
	for i, r := range resources {
		all[i] = r.Href
	}
	return all
}

// LockResources locks the queues of resources until the transaction ends, in a fixed order.
func LockResources(t *sqldb.Tx, hrefs []string) error {
	hrefs = slices.Compact(slices.Sorted(slices.Values(hrefs)))
	for _, href := range hrefs {
		if err := t.LockNamed(href); err != nil {
			return err
		}
	}
	return nil
}

// reservations selects the resources that a task has reserved, separated by spaces. They may differ from the resources in the
// task's row when a resource was renamed.
const reservations = `COALESCE((SELECT string_agg(r.resource, ' ') FROM task_resource r WHERE r.task_id = task.id AND r.active), '')`

// release releases the reservations of a task and marks the tasks as ready that waited for nothing else. It returns their ids.
func release(t *sqldb.Tx, id string, hrefs []string) ([]string, error) {
	if len(hrefs) == 0 {
		return nil, nil
	}
	if err := LockResources(t, hrefs); err != nil {
		return nil, err
	}
	if _, err := t.Exec(`UPDATE task_resource SET active = FALSE WHERE task_id = $1`, id); err != nil {
		return nil, err
	}
	var freed []string
	for _, href := range hrefs {
		ready, err := unblock(t, href)
		if err != nil {
			return nil, err
		}
		freed = append(freed, ready...)
	}
	return freed, nil
}

// unblock marks the tasks as ready that are first in a resource's queue and in the queues of all their other resources. It returns
// their ids. Each statement begins at the head of a queue or the key of a task, so other waiting tasks cost nothing.
func unblock(t *sqldb.Tx, href string) ([]string, error) {
	var first string
	var exclusive, single bool
	err := t.Row(`
		SELECT r.task_id, r.exclusive, NOT EXISTS (SELECT 1 FROM task_resource m WHERE m.task_id = r.task_id AND m.resource <> r.resource)
		  FROM task_resource r WHERE r.resource = $1 AND r.active ORDER BY r.seq LIMIT 1`, href).Scan(&first, &exclusive, &single)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if exclusive && single { // it is first in its only queue
		return markReady(t, []string{first})
	}
	heads := []string{first}
	if !exclusive { // all shared reservations before the first exclusive one
		heads, err = sqldb.Collect(t.Ctx, t, sqldb.ScanString, `
			SELECT task_id FROM task_resource WHERE resource = $1 AND active
			   AND seq < COALESCE((SELECT MIN(seq) FROM task_resource WHERE resource = $1 AND active AND exclusive), 9223372036854775807)
			 ORDER BY seq`, href)
		if err != nil {
			return nil, err
		}
	}
	if t.Dialect.ForUpdate != "" { // concurrent releases of different resources of one task must see each other
		if _, err := t.Exec(`
			SELECT 1 FROM task WHERE id IN (SELECT j.value FROM json_each($1) j)`+waits+` ORDER BY seq`+t.Dialect.ForUpdate, sqldb.ToJSON(heads)); err != nil {
			return nil, err
		}
	}
	free, err := sqldb.Collect(t.Ctx, t, sqldb.ScanString, `
		SELECT k.id FROM task k WHERE k.id IN (SELECT j.value FROM json_each($1) j)`+waits+` AND NOT EXISTS (
			SELECT 1 FROM task_resource mine JOIN task_resource other
			    ON other.resource = mine.resource AND other.seq < mine.seq AND other.active AND (other.exclusive OR mine.exclusive)
			 WHERE mine.task_id = k.id) ORDER BY k.seq`, sqldb.ToJSON(heads))
	if err != nil {
		return nil, err
	}
	return markReady(t, free)
}

// waits is the condition of tasks that are not ready.
const waits = ` AND state = 'waiting' AND unblocked IS NULL`

// markReady marks the waiting ones of some tasks as ready and places them in this order. It returns their ids.
func markReady(t *sqldb.Tx, ids []string) ([]string, error) {
	turn, lap := place("task.long", "task.owner", "task.namespace")
	var marked []string
	for _, id := range ids {
		ready, err := sqldb.Collect(t.Ctx, t, sqldb.ScanString, `UPDATE task SET unblocked = $2, turn = `+turn+`, lap = `+lap+` WHERE id = $1`+waits+` RETURNING id`, id, t.Now)
		if err != nil {
			return nil, err
		}
		marked = append(marked, ready...)
	}
	return marked, nil
}
