package api

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/store"
)

func TestExpressionsBindAsTheContractSays(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{ // the comparisons in the order in which they are met
		`a=1`:                                 "a=1",
		` a = 1 `:                             "a=1",
		`a="x y" AND NOT b='z'`:               "a=x y|b=z",
		`a="say \"hi\""`:                      `a=say "hi"`,
		`((a=1)) or (b=2 and (c=3))`:          "a=1|b=2|c=3",
		`NOT NOT a=1`:                         "a=1",
		`NOT(a=1)`:                            "a=1",
		`android=1 AND nota=2 OR orb=3`:       "android=1|nota=2|orb=3",
		`a=1 AND b=2 AND c=3 AND d=4 AND e=5`: "a=1|b=2|c=3|d=4|e=5",
		`name__in=a,b,c`:                      "name__in=a,b,c",
		``:                                    "!Syntax error in expression.",
		`a`:                                   "!Syntax error in expression.",
		`a=`:                                  "!Syntax error in expression.",
		`=1`:                                  "!Syntax error in expression.",
		`a==1`:                                "!Syntax error in expression.",
		`a=1 b=2`:                             "!Syntax error in expression.",
		`a=1 AND`:                             "!Syntax error in expression.",
		`(a=1`:                                "!Syntax error in expression.",
		`a=1)`:                                "!Syntax error in expression.",
		`a="x`:                                "!Syntax error in expression.",
		`NOT`:                                 "!Syntax error in expression.",
		strings.Repeat("( ", 100) + "a=1":     "!Syntax error in expression.",
		strings.Repeat("NOT ", 8) + "a=1":     "!Filter expression exceeds allowed complexity.",
		`a=1 OR a=2 OR a=3 OR a=4 OR a=5 OR a=6 OR a=7`:        "a=1|a=2|a=3|a=4|a=5|a=6|a=7",
		`a=1 OR a=2 OR a=3 OR a=4 OR a=5 OR a=6 OR a=7 OR a=8`: "!Filter expression exceeds allowed complexity.",
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			var met []string
			_, err := parseExpression(text, func(name, value string) (store.Filter, error) {
				met = append(met, name+"="+value)
				return store.All(), nil
			})
			got := strings.Join(met, "|")
			if err != nil {
				got = "!" + strings.TrimPrefix(err.Error(), "q: ")
			}
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestAnErrorOfATermEndsTheExpression(t *testing.T) {
	t.Parallel()
	bad := errors.New("bad")
	if _, err := parseExpression("a=1 AND (NOT b=2)", func(name, _ string) (store.Filter, error) {
		if name == "b" {
			return nil, bad
		}
		return store.All(), nil
	}); !errors.Is(err, bad) {
		t.Errorf("got %v", err)
	}
}

func FuzzExpression(f *testing.F) {
	for _, seed := range []string{`a=1`, `NOT (a="x" OR b=2) AND c='\''`, `((((`, `a="`, "é=ÿ", `a=1 OR`} {
		f.Add(seed)
	}
	f.Fuzz(func(_ *testing.T, text string) {
		terms := 0
		_, err := parseExpression(text, func(string, string) (store.Filter, error) {
			terms++
			return store.All(), nil
		})
		if err == nil && (terms == 0 || terms > maxComplexity) {
			panic("an expression of no or of too many comparisons")
		}
	})
}

func TestLabelTermsAreSplitAtCommas(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"a,b=c": {"a", "b=c"}, `a=x\,y,b`: {"a=x,y", "b"}, `a=\d`: {`a=\d`}, `a\`: {`a\`}, "": {""}, ",": {"", ""},
	} {
		if diff := cmp.Diff(want, splitTerms(text)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
	for _, bad := range []string{"", "=x", "!", "!a=b", "!a~b", "a!b", "a)b=c", "ä"} {
		if _, err := labelTerm(bad); err == nil {
			t.Errorf("%q passed", bad)
		}
	}
}

func TestTimesAreReadInManyForms(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-11-22T21:00": at, "2026-11-22 21:00": at, "2026-11-22T21:00:00": at, "2026-11-22T21:00Z": at, "2026-11-22T21:00:00.000000Z": at,
		"2026-11-22T22:00:00+01:00": at, "2026-11-22T22:00:00 01:00": at, "2026-11-22T22:00:00+0100": at, "2026-11-22T22:00+01:00": at,
		"2026-11-22T21:00:00.123456Z": at.Add(123456 * time.Microsecond), "2026-11-22": at.Add(-21 * time.Hour),
		"": {}, "abc": {}, "2026": {}, "2026-13-01": {}, "21:00": {}, "2026-11-22T25:00": {},
	} {
		got, ok := parseTime(text)
		if ok == want.IsZero() || !got.Equal(want) {
			t.Errorf("%q: %v %v, want %v", text, got, ok, want)
		}
	}
}

func FuzzParseTime(f *testing.F) {
	for _, seed := range []string{"2026-11-22T21:00", "2026-11-22 21:00:00.1+01:00", "  ", "2026-11-22T", strings.Repeat(" ", 30)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got, ok := parseTime(text); ok && got.Location() != time.UTC {
			t.Errorf("%q: %v is not UTC", text, got)
		}
	})
}

func FuzzLabelSelect(f *testing.F) {
	for _, seed := range []string{"a", "a=b,!c", `a\,b~c`, "!", "a!=", "=,~"} {
		f.Add(seed)
	}
	f.Fuzz(func(_ *testing.T, text string) {
		for _, term := range splitTerms(text) {
			if filter, err := labelTerm(term); (filter == nil) == (err == nil) {
				panic("neither a filter nor an error")
			}
		}
	})
}

func FuzzJSONBody(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":[{"b":1e999}]}`, `[]`, `{"a":1}x`, "{\"\xff\":1}", strings.Repeat("[", 10001)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(_ *testing.T, raw []byte) {
		values, err := parseJSON(raw)
		if err != nil {
			return
		}
		for name := range values { // every reader copes with every value
			b := &body{values: values, known: map[string]bool{}, errs: map[string][]string{}}
			b.text(name, true, false)
			b.count(name)
			b.flag(name)
			b.texts(name)
			b.labels(name)
			b.moment(name)
			b.reference(name)
			_ = b.finish()
		}
	})
}
