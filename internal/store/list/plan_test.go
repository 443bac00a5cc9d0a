package list_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/storetest"
)

// addUsers inserts a number of users, each with ten roles on repositories, and groups of ten.
func addUsers(t *testing.T, s *store.Store, users int) {
	t.Helper()
	series := fmt.Sprintf(`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)`, users)
	storetest.ExecAll(t, s,
		series+` INSERT INTO account (id, username, password_hash, is_staff, is_active, created, updated)
			SELECT 1000 + i, 'user' || i, '', FALSE, TRUE, 1, 1 FROM n`,
		series+` INSERT INTO account_group (id, name, created, updated) SELECT i, 'group' || i, 1, 1 FROM n WHERE i % 10 = 0`,
		series+` INSERT INTO account_group_member (group_id, account_id) SELECT i - i % 10 + 10, 1000 + i FROM n WHERE i < `+
			fmt.Sprint(users-10),
		series+` INSERT INTO role_assignment (id, role_id, account_id, object, created, updated)
			SELECT 'a' || n.i || '-' || k.i, r.id, 1000 + n.i, 'repository:' || (n.i * 10 + k.i), 1, 1
			  FROM n JOIN n k ON k.i <= 10 JOIN role r ON r.name = 'container.containerrepository_viewer'`,
		series+` INSERT INTO role_assignment (id, role_id, group_id, object, created, updated)
			SELECT 'g' || n.i || '-' || k.i, r.id, n.i, 'repository:' || (n.i * 10 + k.i), 1, 1
			  FROM n JOIN n k ON k.i <= 10 JOIN role r ON r.name = 'container.containerrepository_viewer' WHERE n.i % 10 = 0`,
		series+` INSERT INTO repository (id, type, name, created, updated)
			SELECT CAST(i AS TEXT), 'container', 'n' || (i % 100) || '/r' || i, 1, 1 FROM n`,
		`ANALYZE`)
}

// TestVisibilityReadsOwnAssignments explains the query of the repositories that a user sees among many users and
// assignments: it looks the user's assignments up by an index and scans neither all assignments nor all members of groups.
func TestVisibilityReadsOwnAssignments(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	storetest.Target(t, s, "acme/app")
	addUsers(t, s, 2000)
	v, err := access.NewDecider(s.Accounts, nil).Viewer(t.Context(), &access.Caller{
		Account: pulp.User{ID: 1500, Username: "user500", Kind: pulp.LocalUser, Active: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	query := record.Permitted{Viewer: v, Arg: func(any) string { return "1500" }}.VisibleRepositories()
	plan := storetest.Plan(t, s, `SELECT r.id FROM repository r WHERE r.id IN (`+query+`) ORDER BY r.created LIMIT 100`)
	for _, scan := range []string{
		"SCAN a\n", "SCAN role_assignment", "SCAN m\n", "SCAN o\n", "Seq Scan on role_assignment", "Seq Scan on account_group_member",
	} {
		if strings.Contains(plan, scan) {
			t.Errorf("the plan has %q:\n%s", scan, plan)
		}
	}
	for _, index := range []string{"role_assignment_account", "role_assignment_group"} {
		if !strings.Contains(plan, index) {
			t.Errorf("the plan does not use %s:\n%s", index, plan)
		}
	}
}
