package matrix_test

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/slowtest"
)

// representatives are the subjects of TestPermissions: one for each way to get permissions, and for each kind of object
// that roles are assigned on.
var representatives = []string{
	"anonymous", "administrator", likeUser, "namespace-collaborator", "distribution-consumer", "repository-content_manager",
	"remote-viewer", "creator", "group-member", "same-name", "key-user", "robot", "token-to-pull", "ci-job", "user-viewer",
	"task-owner",
}

// TestPermissions performs each operation as some subjects on own and on foreign objects, and compares the results with
// the table and the table with the recordings. TestSlowPermissions covers all subjects.
func TestPermissions(t *testing.T) {
	t.Parallel()
	some := slices.DeleteFunc(subjects(), func(s subject) bool { return !slices.Contains(representatives, s.name) })
	if len(some) != len(representatives) {
		t.Fatalf("%d of %d representatives are subjects", len(some), len(representatives))
	}
	lines := readTable(t)
	compare(t, onlyOf(lines, some), perform(t, some))
	compareRecordings(t, lines)
}

// TestSlowPermissions is TestPermissions for all subjects. With -update it writes the table.
func TestSlowPermissions(t *testing.T) {
	t.Parallel()
	if !*update {
		slowtest.Only(t)
	}
	run := perform(t, subjects())
	if *update {
		var names []string
		for _, o := range append(serverOperations(), operations()...) {
			names = append(names, o.name)
		}
		writeTable(t, names, readTable(t), run)
		return
	}
	compare(t, readTable(t), run)
}

// perform performs each operation as some subjects, and returns the results.
func perform(t *testing.T, some []subject) map[cell]string {
	t.Helper()
	s := newServer(t)
	s.mustPush(t, "seed/app", pushedImage, "v1")
	s.user(t, "bystander")
	run := outcomes{cells: map[cell]string{}}
	t.Run("subjects", func(t *testing.T) { // returns after all of its parallel tests
		foreigners := map[bool]*fixture{}
		for private, namespace := range map[bool]string{false: "foreign-public", true: "foreign-private"} {
			foreigners[private] = newFixture(t, s, namespace, private, identity{})
		}
		for _, of := range some {
			a := newAccount(t, s, of)
			t.Run(of.name+", "+onServer, func(t *testing.T) {
				t.Parallel()
				as := a.actor(t, s, of.name+"-server")
				f := newServerFixture(t, s, a, as)
				performAll(t, attempt{f, of.name, as}, onServer, serverOperations(), &run)
			})
			for private, object := range map[bool]string{false: onPublic, true: onPrivate} {
				t.Run(of.name+", "+object, func(t *testing.T) {
					t.Parallel()
					f, as := a.own(t, s, private)
					performAll(t, attempt{f, of.name, as}, object, operations(), &run)
					if !of.alike {
						others := foreigners[private]
						if of.reaches {
							others = newFixture(t, s, "foreign-of-"+of.name+"-"+object, private, identity{})
						}
						performAll(t, attempt{others, of.name, as}, foreign+object, operations(), &run)
					}
				})
			}
		}
	})
	return run.cells
}

// performAll performs the operations and adds their results.
func performAll(t *testing.T, a attempt, object string, all []operation, run *outcomes) {
	t.Helper()
	for _, o := range all {
		result := o.perform(t, a)
		run.add(cell{o.name, object, a.subject}, result)
		if o.undo != nil && strings.HasPrefix(result, "2") && !strings.Contains(result, "failed") {
			a.must(t, o.undo[0], a.fillIn(o.undo[1]), a.fillIn(o.undo[2]))
		}
	}
}

// grantedBy returns the actions on the first resource in a bearer token.
func grantedBy(t *testing.T, token string) []string {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("a token has %d parts", len(parts))
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct{ Access []struct{ Actions []string } }
	if err := json.Unmarshal(raw, &claims); err != nil || len(claims.Access) == 0 {
		t.Fatalf("the claims of a token: %v: %s", err, raw)
	}
	return claims.Access[0].Actions
}
