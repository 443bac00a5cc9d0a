package openpgp

import (
	"io/fs"
	"os"
	"sync"
	"time"
)

// retry is how long it is remembered that a key in unchanged files could not be loaded: trying may cost as much as a passphrase is meant to.
const retry = time.Minute

// Cache loads keys, and each again only when its files have changed. Its zero value is ready; it is safe for concurrent use, and a key
// that loads keeps nobody from another.
type Cache struct {
	mu   sync.Mutex
	keys map[Options]*cached
}

type cached struct {
	mu     sync.Mutex
	signer *Signer
	err    error
	files  []fs.FileInfo // that were read; none: nothing is known
	at     time.Time
}

// Load returns what Load(o) returned for the files as they are.
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

// fresh says whether what is known is about the files as they are.
func (k *cached) fresh(o Options) bool {
	if len(k.files) == 0 || k.err != nil && time.Since(k.at) > retry {
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
