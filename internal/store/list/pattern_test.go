package list_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/storetest"
)

// patternNames are the names that patterns are matched with.
var patternNames = []string{
	"a", "A", "ab", "abc", "aab", "b", "acme/app", "acme/app-2", "ACME/APP", "acme.app", "acme_app", "acme app", "x.y", "x+y", "x*y", `x\y`, "x[y]", "{x}", "(x)", "x|y", "^x$",
	"1", "12", "123", "v1.2.3", "Ünïcode", "ünïcode", "straße", "STRASSE", "ſ", "s", "S", "K", "\u212a", "k", "\u2126", "Ω", "ω", "日本", "日本語", "\u00e9", "e\u0301", "🙂", "line\nbreak", "break\n", "\nbreak",
	"tab\tbed", "word boundary", "wordboundary", "under_score", "ab ab", "abab", strings.Repeat("z", 300), strings.Repeat("z", 256), strings.Repeat("z", 255), strings.Repeat("z", 1000), "-", "]", "***:a", "(?i)",
}

// TestPatternsMatchAsInGo proves that the database matches names like Go's package regexp.
func TestPatternsMatchAsInGo(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	for _, name := range patternNames {
		if _, err := s.Catalog.CreateNamespace(t.Context(), pulp.Namespace{Name: name}, 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, pattern := range []string{
		"", "a", "^a", "a$", "^a$", "^abc?$", "a|b", "^(a|b)$", "^(?:a|)$", "^$", "()", "(|a)b", ".", "^.$", "^..$", "^.{3}$", `x\.y`, `x\+y`, `x\*y`, `x\\y`, `x\[y\]`, `\{x\}`, `\(x\)`, `x\|y`, `\^x\$`,
		`\d`, `^\d+$`, `^\D+$`, `^\w+$`, `\W`, `\s`, `^\S+$`, `[[:word:]]`, `^[[:alpha:]]+$`, `^[[:^alpha:]]+$`, `[[:digit:][:space:]]`, `[[:punct:]]`, `^[[:upper:]]+$`, `[^[:ascii:]]`,
		`\pL`, `^\pL+$`, `\PL`, `\p{Lu}`, `^\p{Greek}+$`, `\p{Han}`, `\P{Latin}`, `^[\pL\pN]+$`, `[^\pL]`,
		`(?i)^a$`, `(?i)acme/APP`, `(?i)^ünïcode$`, `(?i)^s$`, `(?i)^k$`, `(?i)^ω$`, `(?i)[a-c]pp`, `(?i)[^a]pp`, `(?i)straße`, `a(?i)b`, `a(?i:B)c`, `(?i)a(?-i)B`,
		`(?s)line.break`, `line.break`, `(?s:e.b)r`, `(?s)^.{5}$`, `(?m)^break`, `(?m)line$`, `(?m)^$`, `^break`, `line$`, `\Abreak`, `break\z`, `break$`, `(?m)\Abreak`, `(?m)break\z`, `(?m)^`, `$`,
		`a+?b`, `a*?b`, `^a??b`, `^(a+?)(b*?)$`, `(?U)a+b`, `a{2}b`, `a{2,}b`, `^a{1,2}b$`, `a{0}b`, `a{0,0}`, `(a*)*`, `(a*)+b`, `(a|b)*c`, `(?:a?){3}b`, `(^a)+`, `(\b)*a`, `(?:^)*b`,
		`z{255}`, `z{256}`, `^z{256}$`, `^z{300}$`, `z{301}`, `^z{1000}$`, `^z{0,1000}$`, `^z{256,}$`, `^z{10,256}$`, `^(?:z{50}){6}$`, `z{256}?`, `^(?:zz){128}$`,
		`\Qx.y\E`, `\Qx+y`, `^\Q(?i)\E$`, `\Q***:a\E`, `\*\*\*:a`, `(?P<name>a)b`, `(?<name>a)c`, `(?P<x>a)(?P<y>b)`,
		`\bboundary`, `\Bboundary`, `word\b`, `word\B`, `\b`, `^\b`, `\B`, `\bab\b`, `\x41`, `\x{65E5}`, `\x{1F642}`, `\101`, `\n`, `\t`, `[\n\t]`, `[\x{0}-\x{10FFFF}]`, `[^\x{0}-\x{10FFFF}]`, `[\x{0}]`, `a\x00`, `[^a]`, `^[^a]$`,
		`[a-]`, `[]a]`, `[^]a]`, `[-]`, `[\]]`, `[a\-c]`, `[.]`, `[$^]`, "^\u00e9$", "^e\u0301$", "(?i)\u2126", "(?i)^\u212a$", `日本?`, `^[日本]+$`, `🙂`, `[🙂é]`, `\x{1F600}-`, `[\x{1F600}-\x{1F650}]`,
	} {
		re, err := regexp.Compile(pattern)
		if err != nil {
			t.Fatalf("%q: %v", pattern, err)
		}
		var want []string
		for _, name := range patternNames {
			if re.MatchString(name) && !slices.Contains(want, name) {
				want = append(want, name)
			}
		}
		found, _, err := s.Lists.Namespaces(t.Context(), list.Query{Where: []list.Filter{list.Where("name", list.Match, pattern)}, Limit: 1000})
		if err != nil {
			t.Errorf("%q: %v", pattern, err)
			continue
		}
		var got []string
		for _, n := range found {
			got = append(got, n.Name)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%q matches %.300q, want %.300q", pattern, got, want)
		}
	}
}

// TestRejectedPatterns proves that both engines reject the same expressions as invalid or too complex.
func TestRejectedPatterns(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	if _, err := s.Catalog.CreateNamespace(t.Context(), pulp.Namespace{Name: "aa"}, 0); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{
		`(a)\1`, `(?=a)`, `(?!a)`, `(?<=a)b`, `(?<!a)b`, `(`, `)`, `[`, `[z-a]`, `a**`, `*`, `+a`, `a{1001}`, `(a{100}){100}`, `\m`, `\y`, `\Z`, `[[:nonsense:]]`, `\p{Nonsense}`, `(?x)a`, `\`, "\xff",
		strings.Repeat(`\pL`, 300),
	} {
		_, _, err := s.Lists.Namespaces(t.Context(), list.Query{Where: []list.Filter{list.Where("name", list.Match, pattern)}, Limit: 1000})
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("%.100q: %v, want Invalid", pattern, err)
		}
	}
}

// TestLargePatterns proves that valid expressions that grow large are either answered or rejected as too complex, and that
// CheckPattern agrees.
func TestLargePatterns(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	if _, err := s.Catalog.CreateNamespace(t.Context(), pulp.Namespace{Name: "aa"}, 0); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{
		`\pL{1000}`, `(?i)(?:\pL{50}\d{50}){10}`, strings.Repeat(`\pL?`, 15), strings.Repeat("(", 300) + "a" + strings.Repeat(")", 300), strings.Repeat("(?:", 200) + "a" + strings.Repeat(")?", 200),
		strings.Repeat("(?:", 200) + "a" + strings.Repeat("|b)+", 200), `(?:.{0,30}a){30}`, `(?:a|aa|aaa|aaaa|aaaaa){0,200}$`, strings.Repeat(`\b\w`, 100), strings.Repeat("a?", 490),
		`(?:(?:(?:a?){10}){10}){10}`, `(?:(?:a?){10}){20}`, `(?:a*b*){100}`, `(?:(?:a|b){0,30}c){0,30}`, `(?:(?:(?:a?b){10}c?d){10}e?f){10}`,
	} {
		if _, err := regexp.Compile(pattern); err != nil {
			t.Fatalf("%.100q: %v", pattern, err)
		}
		_, _, err := s.Lists.Namespaces(t.Context(), list.Query{Where: []list.Filter{list.Where("name", list.Match, pattern)}, Limit: 1000})
		if err != nil && !fault.Is(err, fault.Invalid) || fault.Is(err, fault.Invalid) != fault.Is(list.CheckPattern(pattern), fault.Invalid) {
			t.Errorf("%.100q: %v", pattern, err)
		}
	}
}
