package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// maxPasswordInput bounds the text that is read as a password. Passwords are shorter.
const maxPasswordInput = 4096

// readPassword returns a password for an account: with stdin the whole standard input without the newline at its end,
// otherwise the text that the operator types twice on the terminal, which does not show it.
func (a *Admin) readPassword(ctx context.Context, name string, stdin bool) (string, error) {
	if stdin {
		return readPasswordFrom(a.in)
	}
	f, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return "", errors.New("standard input is not a terminal: pass the password on it with --password-stdin")
	}
	first, err := a.prompt(ctx, f, fmt.Sprintf("Password of %s: ", name))
	if err != nil {
		return "", err
	}
	second, err := a.prompt(ctx, f, "Again: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", errors.New("the two passwords differ; nothing was changed")
	}
	return first, nil
}

// prompt asks for a line on the terminal that the terminal does not show. It returns when ctx ends, such as by Ctrl-C, with
// the terminal as it was.
func (a *Admin) prompt(ctx context.Context, terminal *os.File, text string) (string, error) {
	fd := int(terminal.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	if _, err := fmt.Fprint(a.errOut, text); err != nil {
		return "", err
	}
	type result struct {
		line []byte
		err  error
	}
	read := make(chan result, 1)
	go func() {
		line, err := term.ReadPassword(fd)
		read <- result{line, err}
	}()
	var got result
	select {
	case got = <-read:
	case <-ctx.Done():
		_, got.err = term.Restore(fd, before), errors.New("interrupted; nothing was changed")
	}
	_, _ = fmt.Fprintln(a.errOut)
	if got.err != nil {
		return "", fmt.Errorf("read password: %w", got.err)
	}
	return string(got.line), nil
}

// readPasswordFrom returns a password that is the whole input, without one newline at its end.
func readPasswordFrom(r io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxPasswordInput))
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	switch {
	case password == "":
		return "", errors.New("standard input has no password")
	case strings.ContainsAny(password, "\r\n"):
		return "", errors.New("standard input has more than one line; the password must be the only one")
	}
	return password, nil
}
