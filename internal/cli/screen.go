package cli

import (
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// Escape sequences of terminals.
const (
	clearLine = "\r\x1b[K"
	noColour  = "\x1b[0m"
)

// colour is the beginning of coloured text on a terminal, or "".
type colour string

// The colours of states and results.
const (
	red    colour = "\x1b[31m"
	green  colour = "\x1b[32m"
	yellow colour = "\x1b[33m"
)

// terminalOf returns the file if w is a terminal, or nil.
func terminalOf(w any) *os.File {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// screen is standard error, with a progress bar in its last line if it is a terminal. It is safe for concurrent use.
type screen struct {
	w        io.Writer
	terminal *os.File // nil: w is none

	mu  sync.Mutex
	bar string
}

func newScreen(w io.Writer) *screen { return &screen{w: w, terminal: terminalOf(w)} }

// Write writes lines above the bar.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bar == "" {
		return s.w.Write(p)
	}
	if _, err := io.WriteString(s.w, clearLine); err != nil {
		return 0, err
	}
	n, err := s.w.Write(p)
	if err == nil && strings.HasSuffix(string(p), "\n") {
		_, err = io.WriteString(s.w, s.bar)
	}
	return n, err
}

// show replaces the bar; an empty one removes it. It does nothing without a terminal.
func (s *screen) show(bar string) {
	if s.terminal == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if bar == s.bar {
		return
	}
	s.bar = bar
	_, _ = io.WriteString(s.w, clearLine+bar)
}

// width returns the number of columns of the terminal.
func (s *screen) width() int {
	if s.terminal != nil {
		if columns, _, err := term.GetSize(int(s.terminal.Fd())); err == nil && columns > 0 {
			return columns
		}
	}
	return 80
}
