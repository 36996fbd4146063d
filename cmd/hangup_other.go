//go:build !unix

package cmd

import "adit/internal/peer"

func onTerminal() bool { return true } // SIGHUP stands for the closing of the console

func recoverOnHangup(*peer.Session) (stop func()) { return func() {} }
