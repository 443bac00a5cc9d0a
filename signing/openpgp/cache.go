package openpgp

import (
	"io/fs"
	"os"
	"sync"
	"time"
)

// retryInterval is the time between attempts to load a key from unchanged files after a failure. An attempt may be
// expensive: passphrases are protected by slow functions.
const retryInterval = time.Minute

// Cache loads keys, and loads one again only when its files have changed. The zero value is ready to use. It is safe for
// concurrent use; loading one key does not delay others.
type Cache struct {
	mu   sync.Mutex
	keys map[Options]*cached
}

type cached struct {
	mu     sync.Mutex
	signer *Signer
	err    error
	files  []fs.FileInfo // read by the last load; empty when it read none
	at     time.Time
}

// Load returns the result of the function Load for the present content of the files.
func (c *Cache) Load(o Options) (*Signer, error) {
	c.mu.Lock()
	if c.keys == nil {
		c.keys = map[Options]*cached{}
	}
	k := c.keys[o]
	if k == nil {
		k = &cached{}
		c.keys[o] = k
	}
	c.mu.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.fresh(o) {
		k.signer, k.files, k.err = load(o)
		k.at = time.Now()
	}
	return k.signer, k.err
}

// fresh reports whether the last result is valid for the present files.
func (k *cached) fresh(o Options) bool {
	if len(k.files) == 0 || k.err != nil && time.Since(k.at) > retryInterval {
		return false
	}
	names := []string{o.KeyFile, o.PassphraseFile}
	for i, was := range k.files {
		is, err := os.Stat(names[i])
		if err != nil || !os.SameFile(was, is) || was.Size() != is.Size() || was.Mode() != is.Mode() || !was.ModTime().Equal(is.ModTime()) {
			return false
		}
	}
	return true
}
