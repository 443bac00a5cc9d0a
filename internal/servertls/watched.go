package servertls

import (
	"crypto/sha256"
	"os"
	"slices"
)

// watched is a group of files that are used together.
type watched struct {
	paths     []string
	seen      [][sha256.Size]byte // digests of the contents at the last check that could read them
	readError string              // of the last check
}

// changed reads the files and passes their contents to use if they differ from those of the last check. It reports
// whether use accepted new contents. An error is returned only once: not again while the files stay as they are.
func (w *watched) changed(use func(contents [][]byte) error) (bool, error) {
	if len(w.paths) == 0 {
		return false, nil
	}
	contents, digests, err := readAll(w.paths)
	if err != nil {
		if err.Error() == w.readError {
			return false, nil
		}
		w.readError = err.Error()
		return false, err
	}
	w.readError = ""
	if slices.Equal(digests, w.seen) {
		return false, nil
	}
	w.seen = digests
	if err := use(contents); err != nil {
		return false, err
	}
	return true, nil
}

// readAll returns the contents of files and their digests.
func readAll(paths []string) (contents [][]byte, digests [][sha256.Size]byte, err error) {
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, err
		}
		contents, digests = append(contents, text), append(digests, sha256.Sum256(text))
	}
	return contents, digests, nil
}
