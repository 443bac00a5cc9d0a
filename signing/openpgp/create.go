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

// Ensure returns the file of the one key in a directory, and where there is no key makes one: Ed25519, version 4, for this user, without a
// passphrase or an expiry. The directory is for its owner alone. The file is named after the key's fingerprint, and is there whole or not at
// all, whenever the process is killed. The directory must be the caller's alone while Ensure runs.
func Ensure(dir, name, mail string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("directory of keys: %w", err)
	}
	there, err := keysIn(dir)
	switch {
	case err != nil:
		return "", err
	case len(there) == 1:
		return there[0], nil
	case len(there) > 1:
		return "", fmt.Errorf("%s has %d keys where one is wanted", dir, len(there))
	}
	e, err := pgp.NewEntity(name, "", mail, &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Curve: packet.Curve25519})
	if err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	e.Subkeys = nil // it would be for encryption
	var b bytes.Buffer
	w, err := armor.Encode(&b, pgp.PrivateKeyType, nil)
	if err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	if err := errors.Join(e.SerializePrivate(w, nil), w.Close()); err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	file := filepath.Join(dir, fmt.Sprintf("%X%s", e.PrimaryKey.Fingerprint, keySuffix))
	if err := keepFile(file, b.Bytes()); err != nil {
		return "", fmt.Errorf("keep key: %w", err)
	}
	return file, nil
}

// keysIn returns the keys in a directory, and removes what a process that was killed has half written.
func keysIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("directory of keys: %w", err)
	}
	var found []string
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), unfinished):
			if err := os.Remove(name); err != nil {
				return nil, fmt.Errorf("directory of keys: %w", err)
			}
		case strings.HasSuffix(e.Name(), keySuffix):
			found = append(found, name)
		}
	}
	return found, nil
}

// keepFile writes a file for its owner alone: beside its place, synced and renamed.
func keepFile(name string, content []byte) error {
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
