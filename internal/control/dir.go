package control

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"adit/internal/identity"
)

// suffix is how the name of a socket ends.
const suffix = ".sock"

// systemDir is where services of the system have their sockets, in directories of their own.
const systemDir = "/run/adit"

// Dir returns where a process of this user has its socket: the directory that systemd made for the
// service ($RUNTIME_DIRECTORY), adit in the user's runtime directory ($XDG_RUNTIME_DIR), or adit/run in
// the directory for state ($XDG_STATE_HOME, else ~/.local/state). It need not exist.
func Dir() (string, error) {
	if runtime.GOOS == "windows" {
		return "", ErrUnsupported
	}
	if d, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":"); filepath.IsAbs(d) {
		return d, nil
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(d) {
		return filepath.Join(d, "adit"), nil
	}
	return stateDir()
}

func stateDir() (string, error) {
	if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "adit", "run"), nil
	}
	home, err := identity.Home()
	if err != nil {
		return "", fmt.Errorf("find a place for the control socket: %w", err)
	}
	return filepath.Join(home, ".local", "state", "adit", "run"), nil
}

// SpareDir returns where a process of this user has its socket if it cannot be in Dir, as in a home that is read-only: a
// directory of this user's in that for temporary files. Nobody else can use what is in it, or Listen fails.
func SpareDir() (string, error) {
	if runtime.GOOS == "windows" {
		return "", ErrUnsupported
	}
	return filepath.Join(os.TempDir(), "adit-"+strconv.Itoa(os.Geteuid())), nil
}

// dirs returns where processes of this user may have their sockets, and for root those of services too.
// Those that do not exist, or that others than root and this user could have written to, are left out.
func dirs() []string {
	var all []string
	if d, err := Dir(); err == nil {
		all = append(all, d)
	}
	// A login shell and a job of cron do not see the same environment.
	if d, err := stateDir(); err == nil && runtime.GOOS != "windows" {
		all = append(all, d)
	}
	if d, err := SpareDir(); err == nil {
		all = append(all, d)
	}
	services, _ := filepath.Glob(systemDir + "/*") // the pattern is good
	all = append(append(all, systemDir), services...)
	var out []string
	seen := map[string]bool{}
	for _, d := range all {
		if !seen[d] && trusted(d) == nil {
			out = append(out, d)
		}
		seen[d] = true
	}
	return out
}

// sockets returns the sockets in a directory.
func sockets(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // gone meanwhile
	}
	var out []string
	for _, e := range entries {
		if e.Type() == os.ModeSocket && strings.HasSuffix(e.Name(), suffix) {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out
}
