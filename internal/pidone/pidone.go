// Package pidone lets a program be the first process of a container.
//
// The kernel makes process 1 the parent of every orphan in its PID namespace, and expects it to reap them. Signing scripts leave such orphans
// (gpg-agent, and whatever runs in the background), and each that is not reaped counts against the container's limit of processes. A
// program that starts children with os/exec cannot reap others on its own: waiting for any child would take away the exit status that
// os/exec waits for. So Run starts the program again as its only child and does nothing else than to reap and to pass signals on.
package pidone

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

// forwarded are the signals that are passed on: all that have a meaning for the program. Those that report on this process itself
// (SIGCHLD, SIGURG, faults) and those of job control are not.
var forwarded = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM,
	syscall.SIGWINCH, syscall.SIGCONT,
}

// Needed reports whether this process is the first of its PID namespace.
func Needed() bool { return os.Getpid() == 1 }

// Run starts this program again with the same arguments, environment and standard files, reaps whatever ends in the namespace, and passes
// signals on. It returns when the program has ended, with the exit status to end with: the program's, or 128 and the number of the signal that
// killed it, as shells say it. Run returns an error when the program could not be started; nothing has happened then.
func Run(args, environ []string) (int, error) {
	program, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find the program's own file: %w", err)
	}
	runtime.GOMAXPROCS(1) // a few threads less under the limit of processes
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	child, err := syscall.ForkExec(program, args, &syscall.ProcAttr{
		Env: environ, Files: []uintptr{uintptr(syscall.Stdin), uintptr(syscall.Stdout), uintptr(syscall.Stderr)},
	})
	if err != nil {
		signal.Reset(forwarded...)
		runtime.GOMAXPROCS(runtime.NumCPU())
		return 0, fmt.Errorf("start %s: %w", program, err)
	}
	go func() {
		for s := range signals {
			if number, ok := s.(syscall.Signal); ok {
				_ = syscall.Kill(child, number) // it fails when the program has ended, which Run sees
			}
		}
	}()
	return reap(child)
}

// reap waits for every child until the program ends, and returns its exit status.
func reap(program int) (int, error) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1, nil //nolint:nilerr // the program has run; it can only be that somebody else has waited for it
		case pid != program:
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		case status.Exited():
			return status.ExitStatus(), nil
		}
	}
}
