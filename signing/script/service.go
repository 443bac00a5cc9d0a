package script

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/safefile"
)

// KeyQuery selects the key of a service in a keyring of gpg.
type KeyQuery struct {
	KeyID     string // key id, fingerprint or any other user id specification of gpg
	GnuPGHome string // empty for the user's own
	Keyring   string // keyring file; empty for that of the home
}

// gpgTimeout is the timeout of one call of gpg.
const gpgTimeout = 30 * time.Second

// LookupKey returns the public key of the one primary key that matches, as ASCII armor, and its fingerprint. The
// errors are those of Pulp's command (compatibility.md#service-commands).
func LookupKey(ctx context.Context, q KeyQuery) (armored, fingerprint string, err error) {
	if q.KeyID == "" || strings.HasPrefix(q.KeyID, "-") {
		return "", "", fault.New(fault.Invalid, "gpg: error reading key: No public key")
	}
	listing, err := q.gpg(ctx, "--with-colons", "--fingerprint", "--list-keys", q.KeyID)
	if err != nil {
		return "", "", err
	}
	found := primaryFingerprints(listing)
	if len(found) != 1 {
		return "", "", fault.New(fault.Invalid, "There are %d keys matching the key id.", len(found))
	}
	key, err := q.gpg(ctx, "--armor", "--export", found[0])
	if err != nil {
		return "", "", err
	}
	if len(key) == 0 {
		return "", "", fault.New(fault.Invalid, "gpg: error reading key: No public key")
	}
	return string(key), found[0], nil
}

// primaryFingerprints parses gpg's colon listing. The fingerprint of a primary key is in the fpr record after its pub
// record.
func primaryFingerprints(listing []byte) (found []string) {
	primary := false
	for line := range strings.Lines(string(listing)) {
		fields := strings.Split(strings.TrimRight(line, "\n"), ":")
		switch {
		case fields[0] == "pub":
			primary = true
		case fields[0] == "fpr" && primary && len(fields) > 9:
			found = append(found, fields[9])
			primary = false
		}
	}
	return found
}

// gpg runs gpg with the keyring of the query and returns its output.
func (q KeyQuery) gpg(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, gpgTimeout)
	defer cancel()
	base := []string{"--batch", "--no-tty", "--no-auto-check-trustdb"}
	if q.GnuPGHome != "" {
		base = append(base, "--homedir", q.GnuPGHome)
	}
	if q.Keyring != "" {
		ring, err := filepath.Abs(q.Keyring)
		if err != nil {
			return nil, err
		}
		base = append(base, "--no-default-keyring", "--keyring", ring)
	}
	cmd := exec.CommandContext(ctx, "gpg", append(base, args...)...)
	cmd.WaitDelay = pipeWait
	var out bytes.Buffer
	errOut := &bounded{limit: maxErrors}
	cmd.Stdout, cmd.Stderr = &out, errOut
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fault.New(fault.Invalid, "gpg is not installed. It is needed to look up the key.")
	}
	if err != nil {
		lines := strings.Split(printable(errOut.Bytes()), "\n")
		return nil, fault.Wrap(fault.Invalid, err, "%s", lines[len(lines)-1])
	}
	return out.Bytes(), nil
}

// Resolve returns the absolute path of a script without symbolic links. The script must be an executable regular file
// that only root and the server's user can change.
func Resolve(name string) (string, error) {
	path, err := filepath.Abs(name)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if errors.Is(err, os.ErrNotExist) {
		return "", fault.New(fault.Invalid, "[Errno 2] No such file or directory: '%s'", name)
	} else if err != nil {
		return "", fault.Wrap(fault.Invalid, err, "The script '%s' cannot be read.", name)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fault.Wrap(fault.Invalid, err, "The script '%s' cannot be read.", name)
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return "", fault.New(fault.Invalid, "[Errno 13] Permission denied: '%s' (it must be an executable file)", name)
	}
	return path, safefile.CheckProgram(path)
}
