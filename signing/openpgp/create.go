package openpgp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	pgp "github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Names of files in a directory of keys.
const (
	keySuffix  = ".asc"
	unfinished = ".new-"
)

// Ensure returns the file of the one key in a directory, and creates a key when there is none: Ed25519, version 4,
// with the given user name and mail address, without a passphrase and without an expiry.
//
// Only the owner can access the directory. The file name is the key's fingerprint. The file is written atomically,
// also when the process is killed. Only one call for a directory may run at a time.
func Ensure(dir, name, mail string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("key directory: %w", err)
	}
	there, err := keysIn(dir)
	switch {
	case err != nil:
		return "", err
	case len(there) == 1:
		return there[0], nil
	case len(there) > 1:
		return "", fmt.Errorf("%s has %d keys; exactly one is required", dir, len(there))
	}
	e, err := pgp.NewEntity(name, "", mail, &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Curve: packet.Curve25519})
	if err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	e.Subkeys = nil // for encryption only
	var b bytes.Buffer
	w, err := armor.Encode(&b, pgp.PrivateKeyType, nil)
	if err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	if err := errors.Join(e.SerializePrivate(w, nil), w.Close()); err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	file := filepath.Join(dir, fmt.Sprintf("%X%s", e.PrimaryKey.Fingerprint, keySuffix))
	if err := writeFile(file, b.Bytes()); err != nil {
		return "", fmt.Errorf("write key: %w", err)
	}
	return file, nil
}

// keysIn returns the key files in a directory, and deletes incomplete files of a process that was killed.
func keysIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("key directory: %w", err)
	}
	var found []string
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), unfinished):
			if err := os.Remove(name); err != nil {
				return nil, fmt.Errorf("key directory: %w", err)
			}
		case strings.HasSuffix(e.Name(), keySuffix):
			found = append(found, name)
		}
	}
	return found, nil
}

// writeFile writes a file atomically, with access for its owner only.
func writeFile(name string, content []byte) error {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, unfinished+"*")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(content))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return errors.Join(syncDir(dir), syncDir(filepath.Dir(dir)))
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
