// Package cmd is adit's command line: flags, configuration, the terminal and exit codes. It knows no
// protocol.
package cmd

import (
	"fmt"
	"os"
	"runtime/debug"
)

// Main runs adit with the given arguments, the program's name first, and returns its exit code.
func Main(args []string) int {
	if len(args) == 2 && args[1] == "version" {
		v := "unknown"
		if info, ok := debug.ReadBuildInfo(); ok {
			v = info.Main.Version
		}
		fmt.Println("adit", v)
		return 0
	}
	fmt.Fprintln(os.Stderr, "adit: usage: adit version")
	return 2
}
