package cmd

import (
	"context"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"
)

// versionOverride is set by the linker of a release: -X adit/cmd.versionOverride=1.2.3.
var versionOverride string

func versionCommand(u *ui) *cli.Command {
	return &cli.Command{
		Name:        "version",
		Usage:       "print the version",
		Description: "Print adit's version, the Go it was built with, and the system it is for.",
		Action: func(c *cli.Context) error {
			return action(u, func(_ context.Context, c *cli.Context) error {
				if c.NArg() > 0 {
					return usagef("for example: adit version", "version takes no arguments")
				}
				u.answer("adit %s %s %s/%s", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
				return nil
			})(c)
		},
	}
}

// version is what the build knows of itself: a release's number, or the revision it was built from.
func version() string {
	if versionOverride != "" {
		return versionOverride
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "devel-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}
