package script

import "syscall"

// ownGroup starts a script in its own process group, and kills it when the server is killed. The kernel regards the
// thread that starts the script as its parent, so the goroutine must stay locked to that thread until the script
// ends.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
