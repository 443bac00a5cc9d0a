// Package script makes signatures by running a script of the operator (compatibility.md#signing-scripts).
//
// A script gets its own directory, the manifest as a file, a few environment variables and a deadline. It prints the
// path of the signature in that directory. signing.Checked verifies the signature.
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

// Limits of the output of a script.
const (
	maxOutput = 64 << 10 // bytes of standard output
	maxErrors = 64 << 10 // bytes of standard error that are kept
	maxShown  = 2 << 10  // bytes of standard error in an error message
)

// pipeWait is how long the pipes of a script may stay open after its end. A process that it leaves behind, such as
// gpg-agent, may hold them open.
const pipeWait = 2 * time.Second

// dirPrefix is the prefix of the directories of calls.
const dirPrefix = "sign-"

// Options configure a Signer.
type Options struct {
	Path        string        // absolute path of the script
	Fingerprint string        // of the key; the value of PULP_SIGNING_KEY_FINGERPRINT
	GnuPGHome   string        // value of GNUPGHOME; empty for the server's own
	WorkDir     string        // parent of the directories of calls
	Timeout     time.Duration // of one call
}

// Signer runs a script for each signature. It is safe for concurrent use.
type Signer struct{ options Options }

var _ signing.Signer = (*Signer)(nil)

// New returns a Signer. It does not check the script; see Resolve and signing.Validate.
func New(o Options) *Signer { return &Signer{o} }

// Sign implements signing.Signer. When ctx ends or the timeout passes, it kills the script and its process group.
// Errors of the script are Invalid and contain its standard error, if any.
func (s *Signer) Sign(ctx context.Context, r signing.Request) ([]byte, error) {
	// The check is repeated because permissions may change. For a script that is missing, the start returns a better
	// error.
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
		return nil, fmt.Errorf("write the manifest for the signing script: %w", err)
	}
	out, err := s.run(ctx, dir, manifest, r)
	if err != nil {
		return nil, err
	}
	return readSignature(dir, out)
}

// makeDir creates the directory of a call and returns its path without symbolic links, so that it equals the output
// of pwd in the script.
func (s *Signer) makeDir() (string, error) {
	if err := os.MkdirAll(s.options.WorkDir, 0o700); err != nil {
		return "", fmt.Errorf("working directory of signing scripts: %w", err)
	}
	dir, err := os.MkdirTemp(s.options.WorkDir, dirPrefix)
	if err != nil {
		return "", fmt.Errorf("working directory of signing scripts: %w", err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("working directory of signing scripts: %w", err)
	}
	return filepath.Abs(real)
}

// Sweep deletes the directories that were left by calls of a process that was killed: those that were not changed for
// longer than a call may take.
func Sweep(workDir string, timeout time.Duration) error {
	entries, err := os.ReadDir(workDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil // no script has run yet
	} else if err != nil {
		return fmt.Errorf("working directory of signing scripts: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), dirPrefix) {
			continue
		}
		if info, err := e.Info(); err != nil || time.Since(info.ModTime()) <= timeout {
			continue // deleted by another process, or in use
		}
		if err := os.RemoveAll(filepath.Join(workDir, e.Name())); err != nil {
			return fmt.Errorf("working directory of signing scripts: %w", err)
		}
	}
	return nil
}

// run runs the script and returns its standard output.
func (s *Signer) run(ctx context.Context, dir, manifest string, r signing.Request) ([]byte, error) {
	late := fault.New(fault.Invalid, "The signing service script did not end within %s.", s.options.Timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, s.options.Timeout, late)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.options.Path, manifest)
	cmd.Dir = dir
	cmd.Env = s.environment(dir, r)
	cmd.SysProcAttr = ownGroup()
	// Kill the process group, since children of the script may ignore other signals.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = pipeWait
	out, errOut := &bounded{limit: maxOutput, strict: true}, &bounded{limit: maxErrors}
	cmd.Stdout, cmd.Stderr = out, errOut
	runtime.LockOSThread() // see ownGroup
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // processes that it left in its group
	}
	if errors.Is(err, exec.ErrWaitDelay) { // the script succeeded, and another process holds its pipes
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

// environment returns the environment of the script (compatibility.md#signing-scripts). It contains none of the server's
// settings.
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

// failed returns the error for a script that failed: its standard error, or otherwise its exit status.
func failed(err error, errOut []byte) error {
	if words := printable(errOut); words != "" {
		return fault.Wrap(fault.Invalid, err, "%s", words)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return fault.Wrap(fault.Invalid, err, "The signing service script ended with %s and wrote nothing to standard error.", exit.ProcessState)
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

// signaturePath returns the member signature_path of a script's output.
func signaturePath(out []byte) (string, error) {
	var answer map[string]any
	if err := json.Unmarshal(out, &answer); err != nil || answer == nil {
		return "", errNotJSON
	}
	name, ok := answer["signature_path"].(string)
	if !ok {
		return "", fault.New(fault.Invalid, "The signing service script did not return a 'signature_path'.")
	}
	return name, nil
}

// Errors of the output of a script. Pulp has the text of the first.
var (
	errNotJSON = fault.New(fault.Invalid, "The signing service script did not return valid JSON!")
	errOutside = fault.New(fault.Invalid, "The signing service script returned a signature_path outside its directory, or no file.")
)

// readSignature reads the file that the script's output names. It must be a regular file in the directory of the call.
func readSignature(dir string, out []byte) ([]byte, error) {
	name, err := signaturePath(out)
	if err != nil {
		return nil, err
	}
	if filepath.IsAbs(name) {
		if name, err = filepath.Rel(dir, filepath.Clean(name)); err != nil {
			return nil, errOutside
		}
	}
	if !filepath.IsLocal(name) {
		return nil, errOutside
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the directory of the signing script: %w", err)
	}
	defer func() { _ = root.Close() }()
	// Lstat first, since opening a named pipe or a device may block.
	if info, err := root.Lstat(name); err != nil || !info.Mode().IsRegular() {
		return nil, errOutside
	}
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, errOutside
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errOutside
	}
	raw, err := io.ReadAll(io.LimitReader(f, signing.MaxSize+1))
	switch {
	case err != nil:
		return nil, errOutside
	case len(raw) == 0:
		return nil, fault.New(fault.Invalid, "The signing service script returned an empty signature.")
	case len(raw) > signing.MaxSize:
		return nil, fault.New(fault.Invalid, "The signing service script returned a signature of more than %d bytes.", signing.MaxSize)
	}
	return raw, nil
}

// bounded is a writer that keeps the last bytes up to a limit. A strict one fails when the limit is exceeded, so that
// the writing process finds its pipe closed.
type bounded struct {
	limit  int
	strict bool
	kept   []byte
	over   bool
}

var errOver = errors.New("output limit exceeded")

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

// Bytes returns the kept bytes.
func (b *bounded) Bytes() []byte { return b.kept }
