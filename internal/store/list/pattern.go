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
	maxPattern = 256 << 10 // bytes of an expression in PostgreSQL's syntax
	maxProgram = 2500      // instructions of its program in Go
	// maxEmptyProgram is maxProgram for repetitions of expressions that match the empty text: PostgreSQL's time grows
	// cubically.
	maxEmptyProgram = 500

	pgBadRegexp = "2201B" // invalid_regular_expression; its syntax is valid, so it is too complex
	pgMaxRepeat = 255     // the limit of PostgreSQL's bounds
	neverInARE  = `(?:a\A)`
	wordInARE   = `[0-9A-Za-z_]`
	lineInARE   = `\u000a`
)

var errPattern = fault.New(fault.Invalid, "The regular expression is too complex.")

// CheckPattern returns an error if Match does not accept a regular expression. The error is Invalid if the expression is no
// RE2 expression or too complex.
func CheckPattern(pattern string) error {
	_, err := postgresPattern(pattern)
	return err
}

// postgresPattern returns the advanced regular expression of PostgreSQL that matches the same texts as an RE2 expression.
// Its errors are those of CheckPattern.
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
	w.WriteString("***:") // marks an advanced regular expression
	w.expression(re)
	if w.Len() > maxPattern {
		return "", errPattern
	}
	return w.String(), nil
}

// repeatsEmpty reports whether an expression contains a bounded repetition of an expression that matches the empty text.
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
	default: // *, ? and positions
		return true
	}
}

// patternError turns PostgreSQL's error about a pattern that is too complex into errPattern and returns other errors as they
// are.
func patternError(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == pgBadRegexp {
		return errPattern
	}
	return err
}

// areWriter writes an advanced regular expression. It stops when the text exceeds maxPattern.
type areWriter struct{ strings.Builder }

// expression writes an expression as an atom that can be quantified.
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

// areConstants are the texts of operators without operands.
var areConstants = map[syntax.Op]string{
	syntax.OpNoMatch: neverInARE, syntax.OpEmptyMatch: `(?:)`,
	syntax.OpAnyChar: `.`, syntax.OpAnyCharNotNL: `[^` + lineInARE + `]`,
	syntax.OpBeginText: `(?:\A)`, syntax.OpEndText: `(?:\Z)`,
	syntax.OpBeginLine: `(?:\A|(?<=` + lineInARE + `))`, syntax.OpEndLine: `(?:\Z|(?=` + lineInARE + `))`,
	syntax.OpWordBoundary:   `(?:(?<=` + wordInARE + `)(?!` + wordInARE + `)|(?<!` + wordInARE + `)(?=` + wordInARE + `))`,
	syntax.OpNoWordBoundary: `(?:(?<=` + wordInARE + `)(?=` + wordInARE + `)|(?<!` + wordInARE + `)(?!` + wordInARE + `))`,
}

// bounds returns the least and the greatest number of repetitions. -1 stands for no limit.
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

// repeat writes a repetition as a sequence of repetitions within PostgreSQL's limit of bounds. It ignores laziness, which
// does not change whether a text matches.
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

// quantified writes an expression with a quantifier.
func (w *areWriter) quantified(re *syntax.Regexp, quantifier string) {
	w.WriteString("(?:")
	w.expression(re)
	w.WriteString(")" + quantifier)
}

// literal writes a text, with all cases of its letters if the expression ignores case.
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

// class writes a set of characters, given as pairs of first and last. It omits the null character, which no text in
// PostgreSQL has.
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

// areRune returns the escape of a character.
func areRune(r rune) string {
	if r <= 0xFFFF {
		return fmt.Sprintf(`\u%04x`, r)
	}
	return fmt.Sprintf(`\U%08x`, r)
}
