package matrix_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

var update = flag.Bool("update", false, "write the results to the table; review the difference")

// The table has a line for each operation on each kind of object. Its columns are the operation, the object, the
// results, recordings of the reference, and the reason why a result differs from a recording.
//
// The results are separated by bars, each with its subjects. The subject others stands for those that no other result
// lists. On foreign objects each subject has the result of the subject likeUser, unless a line says otherwise.
//
// A recording is named as SUBJECT=FILE if its status is that of the subject's result, and as SUBJECT!=FILE if not.
const (
	tableFile  = "testdata/permissions.tsv"
	tableTitle = "operation\tobject\tresults\trecordings\tdifference"
	goldenDir  = "../../../api/testdata/golden"
	others     = "others"
	likeUser   = "user"

	onPublic  = "public"
	onPrivate = "private"
	foreign   = "foreign " // prefix of the objects of others
	onServer  = "server"
)

// line is a line of the table.
type line struct {
	operation, object string
	results           []result
	recordings        []recording
	difference        string
}

type result struct {
	text     string // for example "200 listed"
	subjects []string
}

type recording struct {
	subject, file string
	differs       bool
}

// of returns the result of a subject; empty if the line has none.
func (l line) of(subject string) string {
	for _, name := range []string{subject, others} {
		for _, r := range l.results {
			if slices.Contains(r.subjects, name) {
				return r.text
			}
		}
	}
	return ""
}

// cell is an operation of a subject on an object.
type cell struct{ operation, object, subject string }

// outcomes has the results of a run. It is safe for concurrent use.
type outcomes struct {
	mu    sync.Mutex
	cells map[cell]string
}

func (o *outcomes) add(c cell, result string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cells[c] = result
}

// readTable reads the table.
func readTable(t *testing.T) []line {
	t.Helper()
	text, err := os.ReadFile(tableFile)
	if err != nil {
		t.Fatal(err)
	}
	title, rest, _ := strings.Cut(string(text), "\n")
	if title != tableTitle {
		t.Fatalf("%s: the columns are %q, want %q", tableFile, title, tableTitle)
	}
	var lines []line
	for one := range strings.Lines(rest) {
		columns := strings.Split(strings.TrimSuffix(one, "\n"), "\t")
		if len(columns) != 5 {
			t.Fatalf("%s: %d columns, want 5: %s", tableFile, len(columns), one)
		}
		l := line{operation: columns[0], object: columns[1], difference: columns[4]}
		for part := range strings.SplitSeq(columns[2], " | ") {
			text, subjects, _ := strings.Cut(part, ": ")
			l.results = append(l.results, result{text, strings.Fields(subjects)})
		}
		for _, name := range strings.Fields(columns[3]) {
			subject, file, _ := strings.Cut(name, "=")
			subject, differs := strings.CutSuffix(subject, "!")
			l.recordings = append(l.recordings, recording{subject, file, differs})
		}
		lines = append(lines, l)
	}
	return lines
}

// onlyOf returns the lines with the results of some subjects. The subject others stays.
func onlyOf(lines []line, some []subject) []line {
	unknown := func(name string) bool {
		return name != others && !slices.ContainsFunc(some, func(s subject) bool { return s.name == name })
	}
	var all []line
	for _, l := range lines {
		l.results = slices.Clone(l.results)
		for i, r := range l.results {
			l.results[i].subjects = slices.DeleteFunc(slices.Clone(r.subjects), unknown)
		}
		all = append(all, l)
	}
	return all
}

// compare compares the results of a run with the table.
func compare(t *testing.T, lines []line, run map[cell]string) {
	t.Helper()
	listed := map[cell]line{}
	for _, l := range lines {
		key := cell{l.operation, l.object, ""}
		if listed[key].operation != "" {
			t.Errorf("%s: %s, %s is listed twice", tableFile, l.operation, l.object)
		}
		listed[key] = l
		for _, r := range l.results {
			for _, s := range r.subjects {
				if _, was := run[cell{l.operation, l.object, s}]; s != others && !was {
					t.Errorf("%s lists %s, %s, %s, which was not performed", tableFile, l.operation, l.object, s)
				}
			}
		}
	}
	for _, c := range sortedCells(run) {
		want := listed[cell{c.operation, c.object, ""}].of(c.subject)
		if own, is := strings.CutPrefix(c.object, foreign); is && want == "" {
			want = listed[cell{c.operation, own, ""}].of(likeUser)
		}
		if run[c] != want {
			t.Errorf("%s, %s, %s: %s, want %q", c.operation, c.object, c.subject, run[c], want)
		}
	}
}

func sortedCells(run map[cell]string) []cell {
	return slices.SortedFunc(maps.Keys(run), func(a, b cell) int {
		return strings.Compare(a.operation+"\t"+a.object+"\t"+a.subject, b.operation+"\t"+b.object+"\t"+b.subject)
	})
}

// compareRecordings compares the table with the recordings that it names. The table names each recording of a
// permission.
func compareRecordings(t *testing.T, lines []line) {
	t.Helper()
	named := map[string]bool{}
	for _, l := range lines {
		differs := false
		for _, r := range l.recordings {
			named[r.file] = true
			raw, err := os.ReadFile(filepath.Join(goldenDir, r.file+".json"))
			if err != nil {
				t.Error(err)
				continue
			}
			var recorded struct{ Status int }
			if err := json.Unmarshal(raw, &recorded); err != nil {
				t.Fatal(err)
			}
			status, _, _ := strings.Cut(l.of(r.subject), " ")
			if (status != strconv.Itoa(recorded.Status)) != r.differs {
				t.Errorf("%s, %s, %s: %s, and the recording %s has %d", l.operation, l.object, r.subject, status, r.file, recorded.Status)
			}
			differs = differs || r.differs
		}
		if differs != (l.difference != "") {
			t.Errorf("%s, %s: the difference is %q, but a recording differs: %t", l.operation, l.object, l.difference, differs)
		}
	}
	for _, pattern := range []string{"111*", "113*", "5[0-4]*", "69b*"} {
		found, err := filepath.Glob(filepath.Join(goldenDir, pattern+".json"))
		if err != nil || len(found) == 0 {
			t.Fatalf("no recordings %s: %v", pattern, err)
		}
		for _, path := range found {
			name := strings.TrimSuffix(filepath.Base(path), ".json")
			if named[name] == (otherRecordings[name] != "") {
				t.Errorf("%s names the recording %s: %t; otherRecordings explains it as %q", tableFile, name, named[name], otherRecordings[name])
			}
		}
	}
}

// otherRecordings are recordings that the table does not name, with the reason. The golden story of package api replays
// them.
var otherRecordings = map[string]string{
	"50c-v2-no-slash":           "a redirect",
	"52c-token-noscope":         "a token without a scope",
	"52d-token-catalog":         "a token for the catalog, which every account gets",
	"52g-token-multi":           "several scopes",
	"52h-token-malformed-scope": "a malformed scope",
	"52i-token-no-service":      "a missing parameter",
	"52j-token-badpw":           "a wrong password",
	"52k-token-post":            "another method",
	"52l-token-noslash":         "a redirect",
	"53b-v2-with-scoped-token":  "the form of the token",
	"53c-badtoken":              "an invalid token",
	"53d-wrong-host":            "an invalid token",
	"53e-insufficient":          "the scope of a token, whatever its user may",
	"69b-push-insufficient":     "the scope of a token, whatever its user may",
	"54b-catalog-n1":            "pages",
	"54c-catalog-last":          "pages",
}

// writeTable writes the results of a run as a table. It takes recordings and differences from the old table.
func writeTable(t *testing.T, operations []string, old []line, run map[cell]string) {
	t.Helper()
	var text bytes.Buffer
	_, _ = fmt.Fprintln(&text, tableTitle)
	for _, operation := range operations {
		for _, object := range []string{onPublic, onPrivate, foreign + onPublic, foreign + onPrivate, onServer} {
			l := lineOf(operation, object, run)
			if len(l.results) == 0 {
				continue
			}
			var results, recordings []string
			for _, r := range l.results {
				results = append(results, r.text+": "+strings.Join(r.subjects, " "))
			}
			for _, o := range old {
				if o.operation == operation && o.object == object {
					l.recordings, l.difference = o.recordings, o.difference
				}
			}
			for _, r := range l.recordings {
				sign := "="
				if r.differs {
					sign = "!="
				}
				recordings = append(recordings, r.subject+sign+r.file)
			}
			_, _ = fmt.Fprintf(&text, "%s\t%s\t%s\t%s\t%s\n", operation, object,
				strings.Join(results, " | "), strings.Join(recordings, " "), l.difference)
		}
	}
	if err := os.WriteFile(tableFile, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// lineOf returns the line of an operation on an object. For foreign objects it has only the subjects whose results
// differ from that of likeUser on own ones.
func lineOf(operation, object string, run map[cell]string) line {
	l := line{operation: operation, object: object}
	own, isForeign := strings.CutPrefix(object, foreign)
	like := run[cell{operation, own, likeUser}]
	for _, c := range sortedCells(run) {
		if c.operation != operation || c.object != object || isForeign && run[c] == like {
			continue
		}
		i := slices.IndexFunc(l.results, func(r result) bool { return r.text == run[c] })
		if i < 0 {
			i = len(l.results)
			l.results = append(l.results, result{text: run[c]})
		}
		l.results[i].subjects = append(l.results[i].subjects, c.subject)
	}
	rest := func(r result) bool { return slices.Contains(r.subjects, likeUser) }
	slices.SortStableFunc(l.results, func(a, b result) int {
		if rest(a) != rest(b) {
			return map[bool]int{true: 1, false: -1}[rest(a)]
		}
		return strings.Compare(a.text, b.text)
	})
	for i, r := range l.results {
		if rest(r) && !isForeign {
			l.results[i].subjects = []string{others}
		}
	}
	return l
}
