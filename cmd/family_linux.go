package cmd

import (
	"os/exec"
	"runtime"
	"syscall"
)

// dieWithParent has the kernel kill the child when this process dies, however it dies. The kernel
// means the thread that starts the child, so that thread must stay: it is locked to the goroutine.
func dieWithParent(c *exec.Cmd) {
	runtime.LockOSThread()
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
