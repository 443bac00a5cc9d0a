package list

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign/countersign/internal/fault"
)

const (
	maxPattern = 256 << 10 // bytes that an expression may have in PostgreSQL's form
	maxProgram = 2500      // instructions that it may have in Go's form
	// maxEmptyProgram is maxProgram for expressions that repeat what may be empty: PostgreSQL's time grows with the third power of it.
	maxEmptyProgram = 500

	pgBadRegexp = "2201B" // invalid_regular_expression: too complex, as the syntax is ours
	pgMaxRepeat = 255     // PostgreSQL's greatest bound
	neverInARE  = `(?:a\A)`
	wordInARE   = `[0-9A-Za-z_]`
	lineInARE   = `\u000a`
)

var errPattern = fault.New(fault.Invalid, "The regular expression is too complex.")

// CheckPattern reports what is wrong with a regular expression that rows are to be matched with. Both engines take the same ones.
func CheckPattern(pattern string) error {
	_, err := postgresPattern(pattern)
	return err
}

// postgresPattern returns an RE2 expression as an advanced regular expression of PostgreSQL that matches the same texts. Invalid when it is no RE2 expression, or
// too complex.
func postgresPattern(pattern string) (string, error) {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return "", fault.New(fault.Invalid, "The regular expression is not valid: %v", err)
	}
	program, err := syntax.Compile(re.Simplify())
	if err != nil || len(program.Inst) > maxProgram || repeatsEmpty(re) && len(program.Inst) > maxEmptyProgram {
		return "", errPattern
	}
	w := &areWriter{}
	w.WriteString("***:") // what follows is an advanced regular expression
	w.expression(re)
	if w.Len() > maxPattern {
		return "", errPattern
	}
	return w.String(), nil
}

// repeatsEmpty reports whether an expression repeats, a limited number of times, something that matches the empty text.
func repeatsEmpty(re *syntax.Regexp) bool {
	return re.Op == syntax.OpRepeat && matchesEmpty(re.Sub[0]) || slices.ContainsFunc(re.Sub, repeatsEmpty)
}

// matchesEmpty reports whether an expression may match the empty text.
func matchesEmpty(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpLiteral, syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL, syntax.OpNoMatch:
		return false
	case syntax.OpCapture, syntax.OpPlus:
		return matchesEmpty(re.Sub[0])
	case syntax.OpRepeat:
		return re.Min == 0 || matchesEmpty(re.Sub[0])
	case syntax.OpConcat:
		return !slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return !matchesEmpty(sub) })
	case syntax.OpAlternate:
		return slices.ContainsFunc(re.Sub, matchesEmpty)
	default: // a star, a question mark, a position
		return true
	}
}

// patternError tells the error of a pattern that PostgreSQL finds too complex from others.
func patternError(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == pgBadRegexp {
		return errPattern
	}
	return err
}

// areWriter writes an advanced regular expression. It stops where that gets too long.
type areWriter struct{ strings.Builder }

// expression writes an atom that may be quantified.
func (w *areWriter) expression(re *syntax.Regexp) {
	if w.Len() > maxPattern {
		return
	}
	switch re.Op {
	case syntax.OpLiteral:
		w.literal(re)
	case syntax.OpCharClass:
		w.class(re.Rune)
	case syntax.OpCapture:
		w.expression(re.Sub[0])
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		least, most := bounds(re)
		w.repeat(re.Sub[0], least, most)
	case syntax.OpConcat, syntax.OpAlternate:
		w.WriteString("(?:")
		for i, sub := range re.Sub {
			if i > 0 && re.Op == syntax.OpAlternate {
				w.WriteByte('|')
			}
			w.expression(sub)
		}
		w.WriteByte(')')
	default:
		w.WriteString(areConstants[re.Op])
	}
}

// areConstants are the operators without operands.
var areConstants = map[syntax.Op]string{
	syntax.OpNoMatch: neverInARE, syntax.OpEmptyMatch: `(?:)`, syntax.OpAnyChar: `.`, syntax.OpAnyCharNotNL: `[^` + lineInARE + `]`,
	syntax.OpBeginText: `(?:\A)`, syntax.OpEndText: `(?:\Z)`,
	syntax.OpBeginLine: `(?:\A|(?<=` + lineInARE + `))`, syntax.OpEndLine: `(?:\Z|(?=` + lineInARE + `))`,
	syntax.OpWordBoundary:   `(?:(?<=` + wordInARE + `)(?!` + wordInARE + `)|(?<!` + wordInARE + `)(?=` + wordInARE + `))`,
	syntax.OpNoWordBoundary: `(?:(?<=` + wordInARE + `)(?=` + wordInARE + `)|(?<!` + wordInARE + `)(?!` + wordInARE + `))`,
}

// bounds returns how often a repetition's operand stands at least and at most; -1: without a limit.
func bounds(re *syntax.Regexp) (least, most int) {
	switch re.Op {
	case syntax.OpStar:
		return 0, -1
	case syntax.OpPlus:
		return 1, -1
	case syntax.OpQuest:
		return 0, 1
	default:
		return re.Min, re.Max
	}
}

// repeat writes a repetition as several, of which none exceeds PostgreSQL's greatest bound. Whether it is lazy does not matter to whether it matches.
func (w *areWriter) repeat(re *syntax.Regexp, least, most int) {
	w.WriteString("(?:")
	for least > pgMaxRepeat || most > pgMaxRepeat {
		n := min(least, pgMaxRepeat)
		w.quantified(re, fmt.Sprintf("{%d,%d}", n, max(n, min(most, pgMaxRepeat))))
		if least -= n; most >= 0 {
			most -= max(n, min(most, pgMaxRepeat))
		}
	}
	switch {
	case most < 0:
		w.quantified(re, fmt.Sprintf("{%d,}", least))
	default:
		w.quantified(re, fmt.Sprintf("{%d,%d}", least, most))
	}
	w.WriteByte(')')
}

func (w *areWriter) quantified(re *syntax.Regexp, quantifier string) {
	w.WriteString("(?:")
	w.expression(re)
	w.WriteString(")" + quantifier)
}

// literal writes a text, in which the case of letters may not matter.
func (w *areWriter) literal(re *syntax.Regexp) {
	w.WriteString("(?:")
	for _, r := range re.Rune {
		runes := []rune{r, r}
		if re.Flags&syntax.FoldCase != 0 {
			for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
				runes = append(runes, f, f)
			}
		}
		w.class(runes)
	}
	w.WriteByte(')')
}

// class writes a set of characters, given as pairs of first and last. No text in PostgreSQL has a null character.
func (w *areWriter) class(pairs []rune) {
	var set strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		first, last := max(pairs[i], 1), pairs[i+1]
		if first > last {
			continue
		}
		set.WriteString(areRune(first))
		if last > first {
			set.WriteString("-" + areRune(last))
		}
	}
	if set.Len() == 0 {
		w.WriteString(neverInARE)
		return
	}
	w.WriteString("[" + set.String() + "]")
}

func areRune(r rune) string {
	if r <= 0xFFFF {
		return fmt.Sprintf(`\u%04x`, r)
	}
	return fmt.Sprintf(`\U%08x`, r)
}
