package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// cell is a cell of a table. Its text may come from others.
type cell struct {
	text   string
	colour colour
}

// table is a table with aligned columns. A header of nil is omitted.
type table struct {
	header []string
	rows   [][]cell
}

// add adds a row of cells without colours.
func (t *table) add(texts ...string) {
	row := make([]cell, len(texts))
	for i, text := range texts {
		row[i].text = text
	}
	t.rows = append(t.rows, row)
}

// write writes the table, with colours if coloured.
func (t *table) write(w io.Writer, coloured bool) error {
	rows := t.rows
	if t.header != nil {
		header := make([]cell, len(t.header))
		for i, text := range t.header {
			header[i].text = text
		}
		rows = append([][]cell{header}, rows...)
	}
	widths := map[int]int{}
	for _, row := range rows {
		for i := range row {
			row[i].text = printable(row[i].text)
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		padding := 0
		for i, c := range row {
			if c.text == "" { // padded before the next text
				padding += widths[i] + 2
				continue
			}
			line.WriteString(strings.Repeat(" ", padding))
			line.WriteString(c.colour.of(c.text, coloured))
			padding = widths[i] - utf8.RuneCountInString(c.text) + 2
		}
		if _, err := fmt.Fprintln(w, line.String()); err != nil {
			return err
		}
	}
	return nil
}

// of returns the text in the colour, if coloured.
func (c colour) of(text string, coloured bool) string {
	if c == "" || !coloured {
		return text
	}
	return string(c) + text + noColour
}

// printable replaces the characters of a text that are not printable, such as the escape sequences of terminals.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}
