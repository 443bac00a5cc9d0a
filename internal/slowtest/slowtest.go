// Package slowtest marks tests that are too slow for `make test`. `make test-slow` runs them.
package slowtest

import (
	"os"
	"strings"
	"testing"
)

// Variable is the environment variable that runs slow tests.
const Variable = "COUNTERSIGN_TEST_SLOW"

// Prefix begins the names of slow tests, by which `make test-slow` selects them.
const Prefix = "TestSlow"

// Only skips a test unless slow tests are run. It fails one whose name `make test-slow` would not select.
func Only(t *testing.T) {
	t.Helper()
	if !strings.HasPrefix(t.Name(), Prefix) {
		t.Fatalf("the name of a slow test begins with %s, or make test-slow does not run it", Prefix)
	}
	if !Enabled() {
		t.Skip("a slow test: make test-slow runs it")
	}
}

// Enabled reports whether slow tests are run.
func Enabled() bool { return os.Getenv(Variable) != "" }
