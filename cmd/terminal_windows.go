package cmd

import "os"

// openTerminal opens the console of this process, whatever its standard files are.
func openTerminal() (*os.File, error) { return os.OpenFile("CONIN$", os.O_RDWR, 0) }
