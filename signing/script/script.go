// Package script makes signatures by running an operator's script, as Pulp does (contract 5.5).
//
// A script gets a directory of its own, one file, a few environment variables and a deadline, and gives back the path of a file in that
// directory. What it made is judged by signing.Checked, not here.
package script

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/safefile"
	"github.com/countersign/countersign/signing"
)

// Bounds of what a script may say.
const (
	maxOutput = 64 << 10 // bytes of standard output
	maxErrors = 64 << 10 // bytes of standard error that are kept
	maxShown  = 2 << 10  // bytes of standard error that an error shows
)

// pipeWait is how long a script's pipes may stay open after it has ended: what it left behind (a gpg-agent) may hold them.
const pipeWait = 2 * time.Second

// dirPrefix begins the name of every call's directory.
const dirPrefix = "sign-"

// Options say which script is run, and how.
type Options struct {
	Path        string // absolute
	Fingerprint string // of the key: PULP_SIGNING_KEY_FINGERPRINT
	GnuPGHome   string // GNUPGHOME; empty: the server's own
	WorkDir     string // below which each call gets its directory
	Timeout     time.Duration
}

// Signer runs a script for every signature. It is safe for concurrent use.
type Signer struct{ options Options }

var _ signing.Signer = (*Signer)(nil)

// New returns a Signer. It does not look at the script: see Resolve and signing.Validate.
func New(o Options) *Signer { return &Signer{o} }

// Sign implements signing.Signer. When ctx ends, or the deadline passes, the script and everything in its process group is killed. Its
// errors are Invalid and say what the script did wrong, in its own words where it has some.
func (s *Signer) Sign(ctx context.Context, r signing.Request) ([]byte, error) {
	// At each use: permissions change. Why the script cannot be started at all is said better by starting it.
	if err := safefile.CheckProgram(s.options.Path); errors.Is(err, safefile.ErrUnsafe) {
		return nil, err
	}
	dir, err := s.makeDir()
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	b, err := r.Manifest(ctx)
	if err != nil {
		return nil, err
	}
	manifest := filepath.Join(dir, "manifest.json")
	if err := os.WriteFile(manifest, b, 0o600); err != nil {
		return nil, fmt.Errorf("write manifest for the signing script: %w", err)
	}
	out, err := s.run(ctx, dir, manifest, r)
	if err != nil {
		return nil, err
	}
	return readSignature(dir, out)
}

// makeDir makes a call's own directory, by its real path: that is what a script's own pwd says.
func (s *Signer) makeDir() (string, error) {
	if err := os.MkdirAll(s.options.WorkDir, 0o700); err != nil {
		return "", fmt.Errorf("working directory: %w", err)
	}
	dir, err := os.MkdirTemp(s.options.WorkDir, dirPrefix)
	if err != nil {
		return "", fmt.Errorf("working directory: %w", err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("working directory: %w", err)
	}
	return filepath.Abs(real)
}

// Sweep removes the directories that calls of a process left behind that was killed: those that nothing has touched for longer than a call may
// take.
func Sweep(workDir string, timeout time.Duration) error {
	entries, err := os.ReadDir(workDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil // nothing was ever signed
	} else if err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), dirPrefix) {
			continue
		}
		if info, err := e.Info(); err != nil || time.Since(info.ModTime()) <= timeout {
			continue // it is gone, or may be in use
		}
		if err := os.RemoveAll(filepath.Join(workDir, e.Name())); err != nil {
			return fmt.Errorf("working directory: %w", err)
		}
	}
	return nil
}

// run runs the script and returns what it printed.
func (s *Signer) run(ctx context.Context, dir, manifest string, r signing.Request) ([]byte, error) {
	late := fault.New(fault.Invalid, "The signing service script did not end within %s.", s.options.Timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, s.options.Timeout, late)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.options.Path, manifest)
	cmd.Dir = dir
	cmd.Env = s.environment(dir, r)
	cmd.SysProcAttr = ownGroup()
	// The whole group is killed: a script's children may ignore what the script is told.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = pipeWait
	out, errOut := &bounded{limit: maxOutput, strict: true}, &bounded{limit: maxErrors}
	cmd.Stdout, cmd.Stderr = out, errOut
	runtime.LockOSThread() // see ownGroup
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left behind in its group
	}
	if errors.Is(err, exec.ErrWaitDelay) { // it ended well; only its pipes were still held
		err = nil
	}
	switch {
	case out.over:
		return nil, fault.New(fault.Invalid, "The signing service script printed more than %d bytes.", maxOutput)
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, failed(err, errOut.Bytes())
	}
	return out.Bytes(), nil
}

// environment is all that a script gets to know (architecture 6): nothing of the server's own settings.
func (s *Signer) environment(dir string, r signing.Request) []string {
	env := []string{
		"PULP_SIGNING_KEY_FINGERPRINT=" + s.options.Fingerprint,
		"REFERENCE=" + r.Claim.DockerReference,
		"SIG_PATH=" + filepath.Join(dir, "signature"),
		"CORRELATION_ID=" + r.CorrelationID,
	}
	for _, key := range []string{"PATH", "HOME", "LANG", "TMPDIR"} {
		if v, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+v)
		}
	}
	home := s.options.GnuPGHome
	if home == "" {
		home = os.Getenv("GNUPGHOME")
	}
	if home != "" {
		env = append(env, "GNUPGHOME="+home)
	}
	return env
}

// failed tells in the script's own words why it failed.
func failed(err error, errOut []byte) error {
	if words := printable(errOut); words != "" {
		return fault.Wrap(fault.Invalid, err, "%s", words)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return fault.Wrap(fault.Invalid, err, "The signing service script ended with %s and said nothing.", exit.ProcessState)
	}
	return fault.Wrap(fault.Invalid, err, "The signing service script could not be started.")
}

// printable returns the end of a text without control characters.
func printable(b []byte) string {
	text := strings.TrimSpace(strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && unicode.IsControl(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(b), "")))
	if len(text) > maxShown {
		text = "…" + strings.ToValidUTF8(text[len(text)-maxShown:], "")
	}
	return text
}

// readSignature returns the file that a script's answer names: a regular file inside the script's own directory.
func readSignature(dir string, out []byte) ([]byte, error) {
	var answer map[string]any
	if err := json.Unmarshal(out, &answer); err != nil || answer == nil {
		return nil, fault.New(fault.Invalid, "The signing service script did not return valid JSON!")
	}
	name, ok := answer["signature_path"].(string)
	if !ok {
		return nil, fault.New(fault.Invalid, "The signing service script did not return a 'signature_path'.")
	}
	outside := fault.New(fault.Invalid, "The signing service script returned a signature_path outside its directory, or no file.")
	if filepath.IsAbs(name) {
		relative, err := filepath.Rel(dir, filepath.Clean(name))
		if err != nil {
			return nil, outside
		}
		name = relative
	}
	if !filepath.IsLocal(name) {
		return nil, outside
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the signing script's directory: %w", err)
	}
	defer func() { _ = root.Close() }()
	// Looked at before it is opened: opening a pipe or a device would wait.
	if info, err := root.Lstat(name); err != nil || !info.Mode().IsRegular() {
		return nil, outside
	}
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, outside
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, outside
	}
	raw, err := io.ReadAll(io.LimitReader(f, signing.MaxSize+1))
	switch {
	case err != nil:
		return nil, outside
	case len(raw) == 0:
		return nil, fault.New(fault.Invalid, "The signing service script returned an empty signature.")
	case len(raw) > signing.MaxSize:
		return nil, fault.New(fault.Invalid, "The signing service script returned a signature of more than %d bytes.", signing.MaxSize)
	}
	return raw, nil
}

// bounded keeps the last bytes written to it, up to a limit. It takes all, unless it is strict: then it takes no more behind the limit, and who
// writes finds the pipe closed.
type bounded struct {
	limit  int
	strict bool
	kept   []byte
	over   bool
}

var errOver = errors.New("more output than may be")

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	b.kept = append(b.kept, p[max(0, len(p)-b.limit):]...)
	if extra := len(b.kept) - b.limit; extra > 0 || len(p) > b.limit {
		b.over = true
		b.kept = append(b.kept[:0], b.kept[max(0, extra):]...)
	}
	if b.over && b.strict {
		return 0, errOver
	}
	return len(p), nil
}

// Bytes returns what was kept.
func (b *bounded) Bytes() []byte { return b.kept }
