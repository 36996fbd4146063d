//go:build unix

package cmd

import (
	"os"
	"os/signal"
	"syscall"

	"adit/internal/peer"
)

// onTerminal reports whether this process has a controlling terminal. Without one, as a service, SIGHUP
// asks for another look at the network; with one it says that the terminal is gone.
func onTerminal() bool {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	_ = f.Close() // nothing was written
	return true
}

// recoverOnHangup makes s look for another path whenever a service is sent SIGHUP, until the returned
// function is called.
func recoverOnHangup(s *peer.Session) (stop func()) {
	if onTerminal() {
		return func() {}
	}
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
