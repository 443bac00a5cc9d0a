//go:build unix && !linux

package script

import "syscall"

// ownGroup puts a script into a process group of its own. Here a script outlives a server that is killed.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
