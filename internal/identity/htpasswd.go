package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/countersign/countersign/internal/safefile"
)

// maxBcrypt is the length limit of passwords in bytes, which is the limit of bcrypt.
const maxBcrypt = 72

// settled is the age after which the modification time of a file distinguishes its versions. Two changes within the
// resolution of a file system's clock have the same time.
const settled = 2 * time.Second

// decoy is a bcrypt hash of discarded random bytes, without its version and cost. A comparison with it takes as long as
// one with a hash of the same cost.
const decoy = "TXvOQHQ3rraAFhCJ.dBjuujUA7Egi.s6I0yUjWBbMtVzsL6vjHqKq"

// HtpasswdOptions are the settings of an Htpasswd.
type HtpasswdOptions struct {
	File        string   // lines NAME:HASH with bcrypt hashes
	GroupFile   string   // lines GROUP: NAME NAME …; empty: no groups
	AdminGroups []string // groups in GroupFile whose members are administrators
	Log         *slog.Logger
}

// Htpasswd is a Source with people in an htpasswd file. It reads its files again when they change.
type Htpasswd struct {
	o   HtpasswdOptions
	now func() time.Time

	mu     sync.Mutex
	loaded *people // nil: not read yet
}

var _ Source = (*Htpasswd)(nil)

// people is the content of the files.
type people struct {
	hashes map[string]string
	groups map[string][]string
	decoy  string      // has the highest cost of the hashes
	read   time.Time   // when the files were read
	stamps []fileStamp // of the files
}

// fileStamp identifies a version of a file.
type fileStamp struct{ info fs.FileInfo }

// same reports whether a file is the version of the stamp.
func (s fileStamp) same(info fs.FileInfo) bool {
	return os.SameFile(s.info, info) && s.info.Size() == info.Size() && s.info.ModTime().Equal(info.ModTime()) &&
		s.info.Mode() == info.Mode()
}

// NewHtpasswd returns a source with the people of a file. It is an error if a file cannot be read or if users other
// than its owner can access it. Lines that have no effect are logged.
func NewHtpasswd(ctx context.Context, o HtpasswdOptions) (*Htpasswd, error) {
	h := &Htpasswd{o: o, now: time.Now}
	if len(o.AdminGroups) > 0 && o.GroupFile == "" {
		return nil, errors.New("htpasswd.admin_groups: set htpasswd.group_file, which has the members of groups")
	}
	_, err := h.read(ctx)
	return h, err
}

// Name implements Source.
func (h *Htpasswd) Name() string { return "htpasswd" }

// Authenticate implements Source. An unknown name takes as long as a wrong password.
func (h *Htpasswd) Authenticate(ctx context.Context, name, password string) (Person, error) {
	all, err := h.current(ctx)
	if err != nil {
		return Person{}, err
	}
	hash, known := all.hashes[name]
	if !known {
		hash = all.decoy
	}
	good := password != "" && len(password) <= maxBcrypt &&
		bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil
	switch {
	case !known:
		return Person{}, ErrUnknown
	case !good:
		return Person{}, ErrPassword
	}
	return h.person(all, name), nil
}

// Confirm implements Source.
func (h *Htpasswd) Confirm(ctx context.Context, name string) (Person, error) {
	all, err := h.current(ctx)
	if err != nil {
		return Person{}, err
	}
	if _, known := all.hashes[name]; !known {
		return Person{}, ErrUnknown
	}
	return h.person(all, name), nil
}

func (h *Htpasswd) person(all *people, name string) Person {
	groups := slices.Clone(all.groups[name])
	admin := slices.ContainsFunc(groups, func(group string) bool { return slices.Contains(h.o.AdminGroups, group) })
	return Person{Name: name, Groups: groups, Admin: admin}
}

// current returns the people in the present versions of the files. The error is an outage if a file cannot be read: its
// people are not lost because of a mistake of the operator.
func (h *Htpasswd) current(ctx context.Context) (*people, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.loaded != nil && h.upToDate(h.loaded) {
		return h.loaded, nil
	}
	all, err := h.read(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	return all, nil
}

// upToDate reports whether the files are the versions that were read.
func (h *Htpasswd) upToDate(all *people) bool {
	for i, name := range h.files() {
		info, err := os.Stat(name)
		if err != nil || !all.stamps[i].same(info) || all.read.Sub(info.ModTime()) < settled {
			return false
		}
	}
	return true
}

// files returns the names of the files, in the order of people.stamps.
func (h *Htpasswd) files() []string {
	if h.o.GroupFile == "" {
		return []string{h.o.File}
	}
	return []string{h.o.File, h.o.GroupFile}
}

// read reads the files. It logs lines without an effect once for each version of the files.
func (h *Htpasswd) read(ctx context.Context) (*people, error) {
	all := &people{read: h.now()}
	raw, info, err := safefile.ReadSecret(h.o.File, "file of htpasswd.file", maxFile)
	if err != nil {
		return nil, err
	}
	var refused, refusedGroups []refusal
	all.hashes, refused = parseHashes(raw)
	all.decoy = decoyOf(all.hashes)
	all.stamps = append(all.stamps, fileStamp{info})
	if h.o.GroupFile != "" {
		raw, info, err := safefile.ReadSecret(h.o.GroupFile, "file of htpasswd.group_file", maxFile)
		if err != nil {
			return nil, err
		}
		all.groups, refusedGroups = parseGroups(raw)
		all.stamps = append(all.stamps, fileStamp{info})
	}
	if before := h.loaded; before == nil || !slices.EqualFunc(before.stamps, all.stamps, func(a, b fileStamp) bool {
		return a.same(b.info)
	}) {
		h.report(ctx, h.o.File, len(all.hashes), refused)
		if h.o.GroupFile != "" {
			h.report(ctx, h.o.GroupFile, len(all.groups), refusedGroups)
		}
	}
	h.loaded = all
	return all, nil
}

// report logs the number of entries of a file and the lines without an effect.
func (h *Htpasswd) report(ctx context.Context, file string, entries int, refused []refusal) {
	h.o.Log.InfoContext(ctx, "read a file of user accounts", slog.String("file", file), slog.Int("entries", entries),
		slog.Int("refused", len(refused)))
	for _, r := range refused[:min(len(refused), maxRefusals)] {
		h.o.Log.WarnContext(ctx, "a line of a file of user accounts has no effect", slog.String("file", file),
			slog.Int("line", r.line), slog.String("reason", r.reason))
	}
}

// decoyOf returns a hash that no password matches, with the highest cost of the hashes.
func decoyOf(hashes map[string]string) string {
	cost := fmt.Sprintf("%02d", bcrypt.DefaultCost)
	if len(hashes) > 0 {
		cost = ""
	}
	for _, hash := range hashes {
		if of := strings.Split(hash, "$")[2]; of > cost {
			cost = of
		}
	}
	return "$2a$" + cost + "$" + decoy
}
