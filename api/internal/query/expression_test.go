package query

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/store/list"
)

// TestParseExpression compares the comparisons of each expression, in their order, or the error.
func TestParseExpression(t *testing.T) {
	t.Parallel()
	const (
		syntax  = "q: Syntax error in expression."
		complex = "q: Filter expression exceeds allowed complexity."
	)
	for _, c := range []struct {
		text  string
		terms []string
		err   string
	}{
		{text: `a=1`, terms: []string{"a=1"}},
		{text: ` a = 1 `, terms: []string{"a=1"}},
		{text: `a="x y" AND NOT b='z'`, terms: []string{"a=x y", "b=z"}},
		{text: `a="say \"hi\""`, terms: []string{`a=say "hi"`}},
		{text: `((a=1)) or (b=2 and (c=3))`, terms: []string{"a=1", "b=2", "c=3"}},
		{text: `NOT NOT a=1`, terms: []string{"a=1"}},
		{text: `NOT(a=1)`, terms: []string{"a=1"}},
		{text: `android=1 AND nota=2 OR orb=3`, terms: []string{"android=1", "nota=2", "orb=3"}},
		{text: `a=1 AND b=2 AND c=3 AND d=4 AND e=5`, terms: []string{"a=1", "b=2", "c=3", "d=4", "e=5"}},
		{text: `name__in=a,b,c`, terms: []string{"name__in=a,b,c"}},
		{text: ``, err: syntax},
		{text: `a`, err: syntax},
		{text: `a=`, err: syntax},
		{text: `=1`, err: syntax},
		{text: `a==1`, err: syntax},
		{text: `a=1 b=2`, err: syntax},
		{text: `a=1 AND`, err: syntax},
		{text: `(a=1`, err: syntax},
		{text: `a=1)`, err: syntax},
		{text: `a="x`, err: syntax},
		{text: `NOT`, err: syntax},
		{text: strings.Repeat("( ", 100) + "a=1", err: syntax},
		{text: strings.Repeat("NOT ", 8) + "a=1", err: complex},
		{
			text:  `a=1 OR a=2 OR a=3 OR a=4 OR a=5 OR a=6 OR a=7`,
			terms: []string{"a=1", "a=2", "a=3", "a=4", "a=5", "a=6", "a=7"},
		},
		{text: `a=1 OR a=2 OR a=3 OR a=4 OR a=5 OR a=6 OR a=7 OR a=8`, err: complex},
	} {
		t.Run(c.text, func(t *testing.T) {
			t.Parallel()
			var terms []string
			_, err := ParseExpression(c.text, func(name, value string) (list.Filter, error) {
				terms = append(terms, name+"="+value)
				return list.All(), nil
			})
			if c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Errorf("error %v, want %s", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.terms, terms); diff != "" {
				t.Errorf("comparisons (-want +got):\n%s", diff)
			}
		})
	}
}

// TestParseExpressionReturnsTheErrorOfATerm proves that an error of a comparison ends the parsing.
func TestParseExpressionReturnsTheErrorOfATerm(t *testing.T) {
	t.Parallel()
	bad := errors.New("bad")
	if _, err := ParseExpression("a=1 AND (NOT b=2)", func(name, _ string) (list.Filter, error) {
		if name == "b" {
			return nil, bad
		}
		return list.All(), nil
	}); !errors.Is(err, bad) {
		t.Errorf("error %v, want %v", err, bad)
	}
}

// FuzzExpression proves that a valid expression has at least one and at most MaxComplexity comparisons.
func FuzzExpression(f *testing.F) {
	for _, seed := range []string{`a=1`, `NOT (a="x" OR b=2) AND c='\''`, `((((`, `a="`, "é=ÿ", `a=1 OR`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		terms := 0
		_, err := ParseExpression(text, func(string, string) (list.Filter, error) {
			terms++
			return list.All(), nil
		})
		if err == nil && (terms == 0 || terms > MaxComplexity) {
			t.Errorf("%q: %d comparisons without an error", text, terms)
		}
	})
}
