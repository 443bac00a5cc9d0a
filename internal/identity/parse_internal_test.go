package identity

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// seeds are files with lines of many forms.
var seeds = []string{
	"alice:$2y$05$lmRfOfRckqmbeNOjRAfAYueIE1uinJZEt0OxwHPiofL9eUnB4tRV.\n",
	"\ufeffalice:$2b$14$lmRfOfRckqmbeNOjRAfAYueIE1uinJZEt0OxwHPiofL9eUnB4tRV.:Alice\r\n# comment\r\n\r\nbob:secret",
	"a:$2y$31$lmRfOfRckqmbeNOjRAfAYueIE1uinJZEt0OxwHPiofL9eUnB4tRV.\nno colon\n:\n::\n \n\x00:\xff\n",
	"dev: alice bob\nops:alice\ndev: carol\n",
}

// FuzzParseHashes verifies that each line is an entry, without effect or refused, and that no refusal contains a hash
// or a password.
func FuzzParseHashes(f *testing.F) {
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		hashes, refused := parseHashes(raw)
		count := bytes.Count(raw, []byte("\n")) + 1
		if len(hashes)+len(refused) > count {
			t.Errorf("%d entries and %d refusals of %d lines", len(hashes), len(refused), count)
		}
		for name, hash := range hashes {
			if !ValidName(name) || !hashForm.MatchString(hash) || !bytes.Contains(raw, []byte(name+":"+hash)) {
				t.Errorf("entry %q: %q", name, hash)
			}
		}
		checkRefusals(t, refused, count)
		for _, r := range refused {
			if strings.Contains(r.reason, "$2") {
				t.Errorf("refusal with a hash: %s", r.reason)
			}
		}
		if d := decoyOf(hashes); !hashForm.MatchString(d) {
			t.Errorf("decoy %q", d)
		}
	})
}

// FuzzParseGroups verifies that members and groups have valid names, and that each refusal has the number of a line.
func FuzzParseGroups(f *testing.F) {
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		groups, refused := parseGroups(raw)
		for name, of := range groups {
			if !ValidName(name) || len(of) == 0 || !slices.IsSorted(of) || len(slices.Compact(slices.Clone(of))) != len(of) ||
				slices.ContainsFunc(of, func(group string) bool { return !validGroup(group) }) {
				t.Errorf("groups of %q: %q", name, of)
			}
		}
		checkRefusals(t, refused, bytes.Count(raw, []byte("\n"))+1)
	})
}

// checkRefusals verifies that the numbers of refused lines are in order and not above count.
func checkRefusals(t *testing.T, refused []refusal, count int) {
	t.Helper()
	last := 0
	for _, r := range refused {
		if r.line <= last || r.line > count || r.reason == "" {
			t.Errorf("refusal %+v after line %d of %d", r, last, count)
		}
		last = r.line
	}
}

// TestDecoyHasTheHighestCost verifies that an unknown name takes as long as the slowest entry.
func TestDecoyHasTheHighestCost(t *testing.T) {
	t.Parallel()
	const rest = "lmRfOfRckqmbeNOjRAfAYueIE1uinJZEt0OxwHPiofL9eUnB4tRV."
	for want, hashes := range map[string]map[string]string{
		"$2a$10$" + decoy: {},
		"$2a$05$" + decoy: {"a": "$2y$05$" + rest},
		"$2a$12$" + decoy: {"a": "$2y$05$" + rest, "b": "$2b$12$" + rest, "c": "$2a$07$" + rest},
	} {
		if got := decoyOf(hashes); got != want {
			t.Errorf("decoyOf(%v) = %s, want %s", hashes, got, want)
		}
	}
}
