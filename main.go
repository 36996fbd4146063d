// Command adit joins two machines behind NATs by a direct, encrypted path and forwards ports over it.
package main

import (
	"os"

	"adit/cmd"
)

func main() { os.Exit(cmd.Main(os.Args)) }
