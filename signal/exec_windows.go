package signal

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// shell hands the command to cmd as it is: cmd does not read quotes as other programs do.
func shell(command string) *exec.Cmd {
	root := os.Getenv("SystemRoot")
	cmd := exec.Command(filepath.Join(root, "System32", "cmd.exe"))
	cmd.SysProcAttr = &syscall.SysProcAttr{CmdLine: `cmd /S /C "` + command + `"`}
	return cmd
}

// terminate ends the command and what it started. There is no gentler way for a console program.
func terminate(cmd *exec.Cmd) {
	_ = exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(cmd.Process.Pid)).Run() // it may have just ended
}

func kill(cmd *exec.Cmd) { _ = cmd.Process.Kill() }
