package api_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// goldenTests has the tests that compare answers with recordings. TestGoldenTable runs them, and then checks which recordings they compared.
var goldenTests = map[string]func(*testing.T){
	"shapes":        testAnswersHaveTheReferencesShape,
	"status":        testStatusHasTheReferencesShape,
	"errors":        testErrorsAreTheReferences,
	"orphans":       testOrphanCleanupIsTheReferences,
	"purge":         testPurgesTellTheirTotals,
	"cancels":       testTasksAreCanceledAndDeleted,
	"changes":       testChangesAreAnsweredAsTheReference,
	"fields":        testObjectsHaveTheReferencesFields,
	"distributions": testDistributionsOutliveTheirRepository,
	"task groups":   testTaskGroupsAreNone,
	"story":         testTheRecordedStory,
}

// row is a line of testdata/golden.tsv: a recording and how Countersign answers it. The column is replayed, excepted or unserved; how names the test that
// replays it, or the heading of docs/compatibility.md that explains the other answer. The answer is whole or shape for a replayed recording, which is the
// part that the test compares; otherwise it is the expected status with the error codes or the names of the fields in error.
type row struct{ file, column, how, answer, note string }

func readTable(t *testing.T) []row {
	t.Helper()
	lines, err := readTSV("golden.tsv", 5)
	if err != nil {
		t.Fatal(err)
	}
	rows := make([]row, len(lines))
	for i, l := range lines {
		rows[i] = row{l[0], l[1], l[2], l[3], l[4]}
	}
	return rows
}

// readTSV reads the rows of a table in testdata, without the first line, which names the columns.
func readTSV(name string, columns int) ([][]string, error) {
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		return nil, err
	}
	var rows [][]string
	for _, line := range strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n") {
		fields := strings.Split(line, "\t")
		if len(fields) != columns {
			return nil, fmt.Errorf("%s: %d fields, want %d: %s", name, len(fields), columns, line)
		}
		rows = append(rows, fields)
	}
	return rows[1:], nil
}

// compared has the results of the comparisons of this run: whole or shape for an answer as recorded, otherwise the listed answer.
var compared sync.Map

// comparedIn identifies a comparison: a recording, and the one of goldenTests that compared it.
type comparedIn struct{ test, file string }

// compares notes, if the test passes, that it compared a recording.
func compares(t *testing.T, file, answer string) {
	t.Helper()
	under := strings.Split(t.Name(), "/") // TestGoldenTable/replays/<test>
	if len(under) < 3 {
		t.Fatalf("%s compares %s, but is not in goldenTests", t.Name(), file)
	}
	t.Cleanup(func() {
		if !t.Failed() && !t.Skipped() {
			compared.Store(comparedIn{strings.ReplaceAll(under[2], "_", " "), file}, answer)
		}
	})
}

// TestGoldenTable runs every comparison with a recording and checks that testdata/golden.tsv accounts for each recording exactly once. A replayed recording
// must have been compared in this run by the test that its row names. An excepted or unserved one must have got the answer that its row lists.
func TestGoldenTable(t *testing.T) {
	t.Parallel()
	t.Run("replays", func(t *testing.T) { // returns after all of its parallel tests
		for name, test := range goldenTests {
			t.Run(name, test)
		}
	})
	found, err := filepath.Glob(filepath.Join(goldenDir, "*.json"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no recordings in %s: %v", goldenDir, err)
	}
	listed := map[string]row{}
	for _, r := range readTable(t) {
		if listed[r.file] != (row{}) {
			t.Errorf("%s is listed twice", r.file)
		}
		listed[r.file] = r
		test := "story"
		if r.column == "replayed" {
			test = r.how
		}
		answer, was := compared.Load(comparedIn{test, r.file})
		switch {
		case !slices.Contains(found, filepath.Join(goldenDir, r.file+".json")):
			t.Errorf("%s is listed, but there is no such recording", r.file)
		case !slices.Contains([]string{"replayed", "excepted", "unserved"}, r.column):
			t.Errorf("%s: unknown column %s", r.file, r.column)
		case r.how == "" || (r.column != "replayed" || r.answer == "shape") && r.note == "":
			t.Errorf("%s: no explanation why it is %s", r.file, r.column)
		case goldenTests[test] == nil:
			t.Errorf("%s: no such test: %s", r.file, test)
		case !was:
			t.Errorf("%s is listed as %s by the test %s, which did not compare it in this run, or found a fault", r.file, r.column, test)
		case answer != r.answer:
			t.Errorf("%s is listed with the answer %s, want %s", r.file, r.answer, answer)
		}
	}
	for _, path := range found {
		if name := strings.TrimSuffix(filepath.Base(path), ".json"); listed[name] == (row{}) {
			t.Errorf("%s is not listed in golden.tsv", name)
		}
	}
	compared.Range(func(key, answer any) bool {
		if k := key.(comparedIn); listed[k.file].column != "replayed" && k.test != "story" {
			t.Errorf("%s is listed as %s, but the test %s compared it: %s", k.file, listed[k.file].column, k.test, answer)
		}
		return true
	})
	for _, d := range differences() {
		if d.why == "" {
			t.Errorf("differences.tsv: no reason why %s of %s differs", d.field, d.files)
		}
		for _, file := range d.files {
			if _, was := met.Load(place{file, d.field}); !was {
				t.Errorf("differences.tsv lists %s of %s, but no test of this run found a difference", d.field, file)
			}
		}
	}
}
