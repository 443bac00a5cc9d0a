package script

import "syscall"

// ownGroup puts a script into a process group of its own, and ends it when the server is killed. For the kernel its parent is the thread
// that starts it, so that thread must stay until the script has ended: the goroutine is locked to it.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
