// Package pidone lets a program be the first process of a container.
//
// Process 1 of a PID namespace is the parent of all orphans there and has to reap them. Signing scripts leave
// orphans, for example gpg-agent, and each that is not reaped counts against the process limit of the container. A
// program that uses os/exec cannot reap orphans itself: waiting for any child can take the exit status that os/exec
// waits for. Run therefore starts the program again as a child, reaps all processes and forwards signals.
package pidone

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

// forwarded lists the signals that are sent on to the program. It omits signals about this process (SIGCHLD, SIGURG,
// faults) and those of job control.
var forwarded = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM,
	syscall.SIGWINCH, syscall.SIGCONT,
}

// Needed reports whether this process is the first of its PID namespace.
func Needed() bool { return os.Getpid() == 1 }

// Run starts the executable of this process as a child with the given arguments and environment and the same standard
// files. It reaps all processes and forwards signals to the child until the child ends. It returns the exit status of
// the child, or 128 plus the number of the signal that killed it. Run returns an error if it could not start the
// child; it has no effect then.
func Run(args, environ []string) (int, error) {
	program, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find the executable of the program: %w", err)
	}
	runtime.GOMAXPROCS(1) // saves threads, which count against the process limit
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
				_ = syscall.Kill(child, number) // fails only after the child has ended
			}
		}
	}()
	return reap(child)
}

// reap waits for all children until the program ends, and returns the exit status of the program.
func reap(program int) (int, error) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1, nil //nolint:nilerr // there is no child: the program has ended without its status
		case pid != program:
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		case status.Exited():
			return status.ExitStatus(), nil
		}
	}
}
