//go:build !unix

package cmd

import "os"

// closedAtStart reports nothing here: a write to a file that was closed fails.
func closedAtStart(*os.File) bool { return false }
