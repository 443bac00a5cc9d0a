package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"
)

// Destinations that are not files.
const (
	Stdout = "stdout" // also "-"
	Stderr = "stderr"
)

const (
	// maxPending is the number of bytes of lines that wait while a destination takes none.
	maxPending = 4 << 20
	// fileMode is the mode of a new file.
	fileMode = 0o600
)

// Destination is the file or stream that lines are written to. It is safe for concurrent use, and several processes may
// write to one file.
//
// A file that was renamed or deleted, as by logrotate, is created again before the next line. Lines that cannot be
// written wait in memory, up to 4 MiB, and are written later.
type Destination struct {
	path string // empty for streams

	mu       sync.Mutex
	to       io.WriteCloser
	info     os.FileInfo // of the open file
	pending  []byte      // lines that are not completely written
	written  int         // bytes of pending that the present file has
	retry    *time.Timer
	closed   bool
	dropped  int64
	reported time.Time
}

// Open opens a destination: "stdout", "-" or "stderr" for a stream, otherwise the path of a file, which is created with
// the mode 0600 if it does not exist. A path of anything but a regular file is an error.
func Open(name string) (*Destination, error) {
	switch {
	case IsStdout(name):
		return stream(os.Stdout), nil
	case name == Stderr:
		return stream(os.Stderr), nil
	}
	d := &Destination{path: name}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.reopen(); err != nil {
		return nil, fmt.Errorf("audit.file: %w", err)
	}
	return d, nil
}

// IsStdout reports whether a destination is standard output.
func IsStdout(name string) bool { return name == Stdout || name == "-" }

func stream(w io.Writer) *Destination { return &Destination{to: keepOpen{w}} }

// keepOpen is a stream that is not closed with its destination.
type keepOpen struct{ io.Writer }

// Close does nothing.
func (keepOpen) Close() error { return nil }

// errNotFile reports a path at which lines cannot be appended safely: opening a pipe may block.
var errNotFile = errors.New("not a regular file; use stdout or stderr for streams")

// reopen opens the file unless the open one is still at the path. The caller holds mu.
func (d *Destination) reopen() error {
	if d.path == "" {
		return nil
	}
	if d.to != nil {
		if info, err := os.Stat(d.path); err == nil && os.SameFile(info, d.info) {
			return nil
		}
	}
	f, err := os.OpenFile(d.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY|syscall.O_NONBLOCK, fileMode)
	if errors.Is(err, syscall.ENXIO) { // a pipe without a reader
		err = &os.PathError{Op: "open", Path: d.path, Err: errNotFile}
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "open", Path: d.path, Err: errNotFile}
	}
	if err != nil {
		_ = f.Close()
		return err
	}
	if d.to != nil {
		_ = d.to.Close()
	}
	d.to, d.info, d.written = f, info, 0 // the new file gets the whole first line
	return nil
}

// write appends a line. Failures are reported to log.
func (d *Destination) write(line []byte, log *slog.Logger) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.pending) > 0 && len(d.pending)+len(line) > maxPending {
		d.dropped++
		d.report(log, "the audit log cannot be written; lines are lost, their rows in the database are not", slog.Int64("lost", d.dropped))
		return
	}
	d.pending = append(d.pending, line...)
	d.flush(log)
}

// flush writes the lines that wait. If that fails it is repeated every second.
func (d *Destination) flush(log *slog.Logger) {
	err := d.reopen()
	if err == nil {
		var n int
		n, err = d.to.Write(d.pending[d.written:])
		d.written += n
	}
	if err == nil {
		d.pending, d.written = d.pending[:0], 0
		if cap(d.pending) > maxPending/16 {
			d.pending = nil
		}
		return
	}
	complete := bytes.LastIndexByte(d.pending[:d.written], '\n') + 1
	d.pending, d.written = d.pending[complete:], d.written-complete
	d.report(log, "the audit log cannot be written; the lines wait in memory", slog.Int("bytes", len(d.pending)), slog.Any("err", err))
	if d.retry == nil && !d.closed {
		d.retry = time.AfterFunc(pause, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.retry = nil; !d.closed {
				d.flush(log)
			}
		})
	}
}

// report logs a problem, at most once per interval. If the log goes to the same stream it may be lost as well.
func (d *Destination) report(log *slog.Logger, problem string, attrs ...slog.Attr) {
	if time.Since(d.reported) < reports {
		return
	}
	d.reported = time.Now()
	log.LogAttrs(context.Background(), slog.LevelError, problem, attrs...) //nolint:forbidigo // not about one request
}

// Close closes a file. It is an error if lines are left that could not be written.
func (d *Destination) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.retry != nil {
		d.retry.Stop()
		d.retry = nil
	}
	var lost error
	if n := bytes.Count(d.pending, []byte("\n")); n > 0 {
		lost = fmt.Errorf("%d lines could not be written", n)
	}
	return errors.Join(lost, d.to.Close())
}
