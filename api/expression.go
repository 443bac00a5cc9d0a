package api

import (
	"strings"
	"unicode"

	"github.com/countersign/countersign/internal/store"
)

// maxComplexity bounds the parameter "q": every comparison and every operator counts one (contract 1.3).
const maxComplexity = 8

// expression parses the parameter "q": comparisons `filter=value` with NOT, AND and OR, which bind in this order, and parentheses.
type expression struct {
	rest       string
	term       func(name, value string) (store.Filter, error)
	complexity int
	depth      int // of parentheses
}

var errSyntax = invalid("q", "Syntax error in expression.")

// parseExpression reads a whole expression; term makes the condition of one comparison.
func parseExpression(text string, term func(name, value string) (store.Filter, error)) (store.Filter, error) {
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

// word takes an operator that stands alone.
func (e *expression) word(operator string) bool {
	e.skipSpace()
	if len(e.rest) < len(operator) || !strings.EqualFold(e.rest[:len(operator)], operator) {
		return false
	}
	after := e.rest[len(operator):]
	if after != "" && after[0] != ' ' && after[0] != '(' {
		return false
	}
	e.rest = after
	return true
}

// spend counts one towards the complexity.
func (e *expression) spend() error {
	if e.complexity++; e.complexity > maxComplexity {
		return invalid("q", "Filter expression exceeds allowed complexity.")
	}
	return nil
}

func (e *expression) or() (store.Filter, error)  { return e.chain("OR", e.and, store.Any) }
func (e *expression) and() (store.Filter, error) { return e.chain("AND", e.not, store.All) }

func (e *expression) chain(operator string, operand func() (store.Filter, error), join func(...store.Filter) store.Filter) (store.Filter, error) {
	f, err := operand()
	if err != nil {
		return nil, err
	}
	all := []store.Filter{f}
	for e.word(operator) {
		if len(all) == 1 {
			if err := e.spend(); err != nil {
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

func (e *expression) not() (store.Filter, error) {
	if e.word("NOT") {
		if err := e.spend(); err != nil {
			return nil, err
		}
		f, err := e.not()
		if err != nil {
			return nil, err
		}
		return store.Not(f), nil
	}
	e.skipSpace()
	if strings.HasPrefix(e.rest, "(") {
		return e.group()
	}
	return e.comparison()
}

// maxDepth bounds parentheses within parentheses, which cost no complexity.
const maxDepth = 64

func (e *expression) group() (store.Filter, error) {
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

func (e *expression) comparison() (store.Filter, error) {
	name, rest, found := strings.Cut(e.rest, "=")
	name = strings.TrimSpace(name)
	if !found || name == "" || strings.ContainsFunc(name, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		return nil, errSyntax
	}
	value, rest, ok := cutValue(strings.TrimLeft(rest, " "))
	if !ok {
		return nil, errSyntax
	}
	e.rest = rest
	if err := e.spend(); err != nil {
		return nil, err
	}
	return e.term(name, value)
}

// cutValue takes a value from the front: in quotes, where a backslash escapes, or of the letters that need none.
func cutValue(text string) (value, rest string, ok bool) {
	if text == "" {
		return "", "", false
	}
	if quote := text[0]; quote == '"' || quote == '\'' {
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
	end := strings.IndexFunc(text, func(r rune) bool {
		return !strings.ContainsRune(".,_-*", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (r < 0xC0 || r > 0xFF)
	})
	if end < 0 {
		end = len(text)
	}
	return text[:end], text[end:], end > 0
}
