//go:build !unix

package cmd

func underManager() bool { return false }
func underJournal() bool { return false }
