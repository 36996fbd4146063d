//go:build !windows

package cmd

import "os"

// openTerminal opens the terminal of this process, whatever its standard files are.
func openTerminal() (*os.File, error) { return os.OpenFile("/dev/tty", os.O_RDWR, 0) }
