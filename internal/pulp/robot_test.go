package pulp_test

import (
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

// TestRobotNames checks that the names of local users and of robots do not collide.
func TestRobotNames(t *testing.T) {
	t.Parallel()
	for name, robot := range map[string]bool{
		"acme+ci": true, "acme+ci.2": true, "a-b_c+x": true, "+ci": false, "acme+": false, "acme+a+b": false,
		"Acme+ci": false, "alice+tag@example.com": false, "acme": false, "acme/x+ci": false, "acme+CI": false,
	} {
		if got := pulp.IsRobotName(name); got != robot {
			t.Errorf("IsRobotName(%s) = %t", name, got)
		}
		if robot && pulp.ValidUsername(name) {
			t.Errorf("a user can have the name %s", name)
		}
	}
	if !pulp.ValidUsername("alice+tag@example.com") || !pulp.ValidUsername("A+b") {
		t.Error("names with + that no robot can have are refused")
	}
}
