//go:build unix

package signal

import (
	"os"
	"os/exec"
	"syscall"
)

// shell makes the command the leader of a process group, so that all of it can be ended. Not so on
// a terminal: there it would be in the background and stopped as soon as it asked for a password, as
// ssh does; Ctrl-C reaches it by itself.
func shell(command string) *exec.Cmd {
	cmd := exec.Command("/bin/sh", "-c", command)
	if tty, err := os.OpenFile("/dev/tty", os.O_RDWR|syscall.O_NOCTTY, 0); err == nil {
		tty.Close()
	} else {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	return cmd
}

func terminate(cmd *exec.Cmd) { signalAll(cmd, syscall.SIGTERM) }

func kill(cmd *exec.Cmd) { signalAll(cmd, syscall.SIGKILL) }

// signalAll may find that the command has just ended: that was what it is for.
func signalAll(cmd *exec.Cmd, s syscall.Signal) {
	if cmd.SysProcAttr != nil && cmd.SysProcAttr.Setpgid {
		_ = syscall.Kill(-cmd.Process.Pid, s)
		return
	}
	_ = cmd.Process.Signal(s)
}
