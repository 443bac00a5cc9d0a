//go:build unix && !linux

package script

import "syscall"

// ownGroup starts a script in its own process group. On this system a script outlives a server that is killed.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
