// Package docs_test checks references to the documentation: links between pages, and citations of pages and headings in code, tables and scripts.
package docs_test

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// file is a text file of the repository. Its path is relative to the root, with slashes.
type file struct{ path, text string }

// files returns the text files of the repository, except for the recorded exchanges and this file, which contains the patterns that it looks for.
func files(t *testing.T) []file {
	t.Helper()
	extensions := []string{".go", ".md", ".sql", ".lua", ".tsv", ".txt", ".yaml", ".yml", ".sh", ".service", ".conf", ".mod"}
	names := []string{"Makefile", "Containerfile", "run", ".gitignore"}
	skipped := []string{".git", ".cache", "bin", "data", "golden"}
	var found []file
	err := filepath.WalkDir("..", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains(skipped, entry.Name()):
			return filepath.SkipDir
		case !entry.Type().IsRegular() || entry.Name() == "docs_test.go":
			return nil
		case !slices.Contains(extensions, filepath.Ext(name)) && !slices.Contains(names, entry.Name()):
			return nil
		}
		text, err := os.ReadFile(name)
		found = append(found, file{strings.TrimPrefix(filepath.ToSlash(name), "../"), string(text)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 200 {
		t.Fatalf("only %d files found", len(found))
	}
	return found
}

// at returns the path of the file and the line of a byte in it.
func (f file) at(offset int) string {
	return fmt.Sprintf("%s:%d", f.path, 1+strings.Count(f.text[:offset], "\n"))
}

var (
	heading   = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	codeBlock = regexp.MustCompile("(?ms)^```.*?^```")
	unlinked  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors returns the anchors of a page: its headings in lower case, without punctuation and with dashes for spaces, as code hosting sites make them.
func anchors(page string) map[string]bool {
	found := map[string]bool{}
	for _, h := range heading.FindAllStringSubmatch(codeBlock.ReplaceAllString(page, ""), -1) {
		found[strings.ReplaceAll(unlinked.ReplaceAllString(strings.ToLower(strings.TrimSpace(h[1])), ""), " ", "-")] = true
	}
	return found
}

// TestLinks follows the links of every page to files and headings of the repository.
func TestLinks(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^()\s]+)\)`)
	all := files(t)
	pages := map[string]map[string]bool{}
	for _, f := range all {
		if filepath.Ext(f.path) == ".md" {
			pages[f.path] = anchors(f.text)
		}
	}
	links := 0
	for _, f := range all {
		if pages[f.path] == nil {
			continue
		}
		for _, m := range link.FindAllStringSubmatchIndex(f.text, -1) {
			target, anchor, _ := strings.Cut(f.text[m[2]:m[3]], "#")
			if strings.Contains(target, "://") {
				continue
			}
			links++
			page := f.path
			if target != "" {
				page = path.Join(path.Dir(f.path), target)
			}
			if _, err := os.Stat(filepath.Join("..", filepath.FromSlash(page))); err != nil {
				t.Errorf("%s links to %s, which does not exist", f.at(m[0]), target)
			} else if anchor != "" && !pages[page][anchor] {
				t.Errorf("%s links to %s#%s, which has no such heading", f.at(m[0]), page, anchor)
			}
		}
	}
	if links < 50 {
		t.Errorf("only %d links found", links)
	}
}

// TestCitations checks that each page and heading cited outside of the pages exists. A citation is the name of a page in docs or in the root, with or
// without the directory.
func TestCitations(t *testing.T) {
	t.Parallel()
	citation := regexp.MustCompile(`\b((?:docs/)?[A-Za-z][A-Za-z0-9-]*\.md)\b(?:#([\p{L}\p{N}_-]+))?`)
	citations := 0
	for _, f := range files(t) {
		if filepath.Ext(f.path) == ".md" {
			continue
		}
		for _, m := range citation.FindAllStringSubmatchIndex(f.text, -1) {
			citations++
			name := f.text[m[2]:m[3]]
			page, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(name)))
			if err != nil {
				page, err = os.ReadFile(filepath.FromSlash(name))
			}
			if err != nil {
				t.Errorf("%s cites %s, which does not exist", f.at(m[0]), name)
			} else if m[4] >= 0 && !anchors(string(page))[f.text[m[4]:m[5]]] {
				t.Errorf("%s cites %s, which has no such heading", f.at(m[0]), f.text[m[0]:m[1]])
			}
		}
	}
	if citations < 20 {
		t.Errorf("only %d citations found", citations)
	}
}

// TestGoldenTableCitesHeadings checks the rows of recordings that Countersign answers differently: each names the heading that explains the difference.
func TestGoldenTableCitesHeadings(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile(filepath.Join("..", "api", "testdata", "golden.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	headings, rows := anchors(string(page)), 0
	for line := range strings.Lines(string(table)) {
		if row := strings.Split(line, "\t"); row[1] == "excepted" || row[1] == "unserved" {
			rows++
			if !headings[row[2]] {
				t.Errorf("%s is %s for %q, which is no heading of compatibility.md", row[0], row[1], row[2])
			}
		}
	}
	if rows < 20 {
		t.Errorf("only %d rows found", rows)
	}
}

// TestNoReferencesOutside looks for references to documents outside of the repository, and to numbered rules, which mean nothing to readers who have only
// the repository. Rules are cited by headings of compatibility.md and hostile-inputs.md.
func TestNoReferencesOutside(t *testing.T) {
	t.Parallel()
	patterns := []*regexp.Regexp{
		regexp.MustCompile(`\.\./shared\b`),
		regexp.MustCompile(`\b[Cc]ontract,? (?:\d|appendix|section|step)`),
		regexp.MustCompile(`\b[Aa]rchitecture \d`),
		regexp.MustCompile(`\b[Gg]olden \d`),
		regexp.MustCompile(`\b[Hh]ostile inputs? \d`),
		regexp.MustCompile(`(?m)(?:^|[\s(,:])D[1-9]\d?(?:[),:;.\s]|$)`),
	}
	for _, f := range files(t) {
		for _, p := range patterns {
			for _, m := range p.FindAllStringIndex(f.text, -1) {
				t.Errorf("%s: %q", f.at(m[0]), strings.TrimSpace(f.text[m[0]:m[1]]))
			}
		}
	}
}
