package pulp_test

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

func TestValidUsername(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"a": true, "Dora.D@x+1_2-3": true, strings.Repeat("a", 150): true,
		"": false, strings.Repeat("a", 151): false, "a b": false, "a/b": false, "oidc:x": false, "a\n": false, "ä": false,
		"a\x00": false, "robot$x": false, "\u0430dmin": false,
	} {
		if got := pulp.ValidUsername(name); got != want {
			t.Errorf("ValidUsername(%q) = %t, want %t", name, got, want)
		}
	}
}
