package cmd

import (
	"context"
	"encoding/json"
	"runtime"
	"runtime/debug"

	"adit/internal/fail"

	"github.com/urfave/cli/v2"
)

// versionOverride is set by the linker of a release: -X adit/cmd.versionOverride=1.2.3.
var versionOverride string

func versionCommand(u *ui) *cli.Command {
	return command(u, cli.Command{
		Name:        "version",
		Usage:       "print the version",
		Description: "Print adit's version, the Go it was built with, and the system it is for.",
	}, newPlainOptions, func(_ context.Context, u *ui, o *plainOptions) error {
		if len(o.args) > 0 {
			return fail.Usagef("for example: adit version", "version takes no arguments")
		}
		if u.json {
			b, err := json.Marshal(map[string]string{"version": version(), "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
			if err != nil {
				return err
			}
			u.answer("%s", b)
			return nil
		}
		u.answer("adit %s %s %s/%s", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	})
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

// builtAt is when what was built was written, in the form of RFC 3339, or "".
func builtAt() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.time" {
				return s.Value
			}
		}
	}
	return ""
}
