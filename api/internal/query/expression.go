package query

import (
	"strings"
	"unicode"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/store/list"
)

// MaxComplexity is the largest number of comparisons and operators in the parameter "q" (compatibility.md#lists).
const MaxComplexity = 8

// maxDepth is the largest nesting of parentheses, which do not count towards the complexity.
const maxDepth = 64

// Errors of the parameter "q".
var (
	errSyntax     = fault.Field("q", "Syntax error in expression.")
	errComplexity = fault.Field("q", "Filter expression exceeds allowed complexity.")
)

// Term returns the condition of one comparison in an expression.
type Term func(name, value string) (list.Filter, error)

// expression is the state of a parser of the parameter "q".
type expression struct {
	rest       string
	term       Term
	complexity int
	depth      int // of parentheses
}

// ParseExpression parses the parameter "q": comparisons `filter=value` with the operators NOT, AND and OR, which bind
// in this order, and parentheses.
func ParseExpression(text string, term Term) (list.Filter, error) {
	e := &expression{rest: text, term: term}
	f, err := e.or()
	if err != nil {
		return nil, err
	}
	if e.skipSpace(); e.rest != "" {
		return nil, errSyntax
	}
	return f, nil
}

func (e *expression) skipSpace() { e.rest = strings.TrimLeft(e.rest, " \t\r\n") }

// operator skips an operator, in any case, that ends with a space, a parenthesis or the text. It reports whether
// there was one.
func (e *expression) operator(name string) bool {
	e.skipSpace()
	if len(e.rest) < len(name) || !strings.EqualFold(e.rest[:len(name)], name) {
		return false
	}
	after := e.rest[len(name):]
	if after != "" && after[0] != ' ' && after[0] != '(' {
		return false
	}
	e.rest = after
	return true
}

// count adds one to the complexity.
func (e *expression) count() error {
	if e.complexity++; e.complexity > MaxComplexity {
		return errComplexity
	}
	return nil
}

func (e *expression) or() (list.Filter, error)  { return e.chain("OR", e.and, list.Any) }
func (e *expression) and() (list.Filter, error) { return e.chain("AND", e.not, list.All) }

// chain parses operands with an operator between them. All operators of a chain count as one.
func (e *expression) chain(
	operator string, operand func() (list.Filter, error), join func(...list.Filter) list.Filter,
) (list.Filter, error) {
	f, err := operand()
	if err != nil {
		return nil, err
	}
	all := []list.Filter{f}
	for e.operator(operator) {
		if len(all) == 1 {
			if err := e.count(); err != nil {
				return nil, err
			}
		}
		f, err := operand()
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	if len(all) == 1 {
		return f, nil
	}
	return join(all...), nil
}

func (e *expression) not() (list.Filter, error) {
	if e.operator("NOT") {
		if err := e.count(); err != nil {
			return nil, err
		}
		f, err := e.not()
		if err != nil {
			return nil, err
		}
		return list.Not(f), nil
	}
	e.skipSpace()
	if strings.HasPrefix(e.rest, "(") {
		return e.group()
	}
	return e.comparison()
}

func (e *expression) group() (list.Filter, error) {
	if e.depth++; e.depth > maxDepth {
		return nil, errSyntax
	}
	defer func() { e.depth-- }()
	e.rest = e.rest[1:]
	f, err := e.or()
	if err != nil {
		return nil, err
	}
	if e.skipSpace(); !strings.HasPrefix(e.rest, ")") {
		return nil, errSyntax
	}
	e.rest = e.rest[1:]
	return f, nil
}

func (e *expression) comparison() (list.Filter, error) {
	name, rest, found := strings.Cut(e.rest, "=")
	name = strings.TrimSpace(name)
	if !found || name == "" || strings.ContainsFunc(name, func(r rune) bool {
		return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}) {
		return nil, errSyntax
	}
	value, rest, ok := cutValue(strings.TrimLeft(rest, " "))
	if !ok {
		return nil, errSyntax
	}
	e.rest = rest
	if err := e.count(); err != nil {
		return nil, err
	}
	return e.term(name, value)
}

// cutValue splits a text after its leading value: a text in quotes, in which a backslash escapes the next character, or
// letters, digits and a few signs. ok is false when the text begins with neither.
func cutValue(text string) (value, rest string, ok bool) {
	if text == "" {
		return "", "", false
	}
	if text[0] == '"' || text[0] == '\'' {
		return cutQuoted(text)
	}
	end := strings.IndexFunc(text, func(r rune) bool {
		return !strings.ContainsRune(".,_-*", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') &&
			(r < 0xC0 || r > 0xFF)
	})
	if end < 0 {
		end = len(text)
	}
	return text[:end], text[end:], end > 0
}

func cutQuoted(text string) (value, rest string, ok bool) {
	quote := text[0]
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == quote:
			return b.String(), text[i+1:], true
		case text[i] == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		default:
			b.WriteByte(text[i])
		}
	}
	return "", "", false
}
