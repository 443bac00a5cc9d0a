package api_test

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// goldenTests are the tests that hold the server against recordings. They run under TestGoldenTable, which asks afterwards what they compared.
var goldenTests = map[string]func(*testing.T){
	"shapes":        testAnswersHaveTheReferencesShape,
	"status":        testStatusHasTheReferencesShape,
	"errors":        testErrorsAreTheReferences,
	"orphans":       testOrphanCleanupIsTheReferences,
	"purge":         testPurgesTellTheirTotals,
	"cancels":       testTasksAreCanceledAndDeleted,
	"changes":       testChangesAreAnsweredAsTheReference,
	"fields":        testObjectsHaveTheReferencesFields,
	"bad remote":    testABadRemoteIsRefusedAsTheReferenceDoes,
	"distributions": testDistributionsOutliveTheirRepository,
	"task groups":   testTaskGroupsAreNone,
	"story":         testTheRecordedStory,
}

// row is a line of the table: a recording and what becomes of it here.
type row struct{ file, column, how, note string }

func readTable(t *testing.T) []row {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "golden.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var rows []row
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		if len(fields) != 4 {
			t.Fatalf("golden.tsv: %d fields, want 4: %s", len(fields), lines.Text())
		}
		rows = append(rows, row{fields[0], fields[1], fields[2], fields[3]})
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return rows[1:] // the first line names the columns
}

// TestGoldenTable runs every comparison with a recording, and demands that testdata/golden.tsv accounts for each recording once: replayed, when a
// test of this run compared it; excepted, by a decision; unserved, with its tier; differs, with the reason.
func TestGoldenTable(t *testing.T) {
	t.Parallel()
	t.Run("replays", func(t *testing.T) { // is over when all of its parallel tests are
		for name, test := range goldenTests {
			t.Run(name, test)
		}
	})
	dir := contract(t)
	found, err := filepath.Glob(filepath.Join(dir, "golden", "*.json"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no recordings in %s: %v", dir, err)
	}
	listed := map[string]bool{}
	for _, r := range readTable(t) {
		if listed[r.file] {
			t.Errorf("%s is listed twice", r.file)
		}
		listed[r.file] = true
		_, was := compared.Load(r.file)
		switch {
		case !slices.Contains(found, filepath.Join(dir, "golden", r.file+".json")):
			t.Errorf("%s is listed and no recording", r.file)
		case !slices.Contains([]string{"replayed", "excepted", "unserved", "differs"}, r.column):
			t.Errorf("%s: no such column: %s", r.file, r.column)
		case r.how == "" || r.column != "replayed" && r.note == "":
			t.Errorf("%s: nothing says how it is %s", r.file, r.column)
		case r.column == "replayed" && goldenTests[r.how] == nil:
			t.Errorf("%s: no such test: %s", r.file, r.how)
		case r.column == "replayed" && !was:
			t.Errorf("%s is listed as replayed, and no test of this run compared it, or one found a fault", r.file)
		case r.column != "replayed" && was:
			t.Errorf("%s is listed as %s, and a test of this run compared it", r.file, r.column)
		}
	}
	for _, path := range found {
		if name := strings.TrimSuffix(filepath.Base(path), ".json"); !listed[name] {
			t.Errorf("%s is in no column of golden.tsv", name)
		}
	}
}
