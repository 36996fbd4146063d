//go:build unix

package cmd

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"adit/internal/peer"
)

// terminalInUse finds the terminal that this process is used at: that of its standard files. gone reports
// whether it is there no more, as after SIGHUP from a window that was closed. A process whose standard files all
// go elsewhere, as a service's do, is used at none, and nothing is ever gone.
func terminalInUse() (gone func() bool) {
	var files []*os.File
	for _, f := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
		if isTerminal(f) {
			files = append(files, f)
		}
	}
	return func() bool {
		for _, f := range files {
			p := []unix.PollFd{{Fd: int32(f.Fd())}} // a hangup is always told
			n, err := unix.Poll(p, 0)
			if !isTerminal(f) || err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0 {
				return true
			}
		}
		return false
	}
}

// recoverOnHangup makes s look for another path whenever this process is sent SIGHUP, until the returned
// function is called. Where the terminal is gone that does no harm: the session ends.
func recoverOnHangup(s *peer.Session) (stop func()) {
	ch := make(chan os.Signal, 1) // one says it all
	signal.Notify(ch, syscall.SIGHUP)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ch:
				s.Recover()
			case <-quit:
				return
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		close(quit)
		<-done
	}
}
