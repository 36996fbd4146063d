//go:build !unix

package cmd

import "adit/internal/peer"

// terminalInUse returns what reports that the terminal is gone: SIGHUP stands for the closing of the console.
func terminalInUse() (gone func() bool) { return func() bool { return true } }

func recoverOnHangup(*peer.Session) (stop func()) { return func() {} }
