package matrix_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
)

// TestPermissions performs each operation as each subject on own and on foreign objects, and compares the results with the
// table and the table with the recordings.
func TestPermissions(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.mustPush(t, "seed/app", pushedImage, "v1")
	s.user(t, "bystander")
	run := outcomes{cells: map[cell]string{}}
	t.Run("subjects", func(t *testing.T) { // returns after all of its parallel tests
		foreigners := map[bool]*fixture{}
		for private, namespace := range map[bool]string{false: "foreign-public", true: "foreign-private"} {
			foreigners[private] = newFixture(t, s, namespace, private, identity{})
		}
		for _, of := range subjects() {
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
	if *update {
		var names []string
		for _, o := range append(serverOperations(), operations()...) {
			names = append(names, o.name)
		}
		writeTable(t, names, readTable(t), run.cells)
		return
	}
	lines := readTable(t)
	compare(t, lines, run.cells)
	compareRecordings(t, lines)
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
