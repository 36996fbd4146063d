//go:build linux

package cmd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnit: the units are what systemd understands, and as closed as it knows how to tell.
func TestUnit(t *testing.T) {
	for name, n := range map[string]unit{
		"system": {Name: "adit", Command: "/bin/true expose 22"},
		"server": {Name: "rendezvous", Command: "/bin/true serve", Low: true},
		"user":   {Name: "home", Command: "/bin/true connect home", User: true},
	} {
		t.Run(name, func(t *testing.T) {
			text := n.text()
			for _, want := range []string{"\nType=notify\n", "\nExecStart=" + n.Command + "\n", "\nWatchdogSec=", "\nNoNewPrivileges=yes\n", "\nSystemCallFilter=", "\nSuccessExitStatus=130\n", "\nEnvironment=GOTRACEBACK=crash\nLimitCORE=0\n"} {
				if !strings.Contains(text, want) {
					t.Errorf("lacks %q:\n%s", want, text)
				}
			}
			for _, want := range []string{"\nDynamicUser=yes\n", "\nProtectSystem=strict\n", "\nRuntimeDirectory=adit/" + n.Name + "\n"} {
				if strings.Contains(text, want) == n.User {
					t.Errorf("%q is for services of the system:\n%s", want, text)
				}
			}
			if strings.Contains(text, "CAP_NET_BIND_SERVICE") != n.Low {
				t.Errorf("low ports:\n%s", text)
			}
			if _, err := exec.LookPath("systemd-analyze"); err != nil {
				t.Skip("needs systemd-analyze")
			}
			path := filepath.Join(t.TempDir(), n.File())
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			args := []string{"--man=no", "--recursive-errors=no", "verify", path}
			if n.User {
				args = append([]string{"--user"}, args...)
			}
			verify := exec.Command("systemd-analyze", args...)
			verify.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir())
			if out, err := verify.CombinedOutput(); err != nil || strings.Contains(string(out), path) || strings.Contains(string(out), n.File()) {
				t.Errorf("systemd-analyze verify: %v\n%s\n%s", err, out, text)
			}
		})
	}
}

// TestHiddenFromService: what a service cannot run is told before there is a unit.
func TestHiddenFromService(t *testing.T) {
	for path, hidden := range map[string]bool{
		"/bin/sh": false, "/root/adit": true, "/home/me/bin/adit": true, "/tmp/adit": true, "/etc/passwd": true, "/nowhere/adit": true,
	} {
		if got := hiddenFromService(path); (got != "") != hidden {
			t.Errorf("%s: %q", path, got)
		}
	}
}

func TestUnitQuoted(t *testing.T) {
	for in, want := range map[string]string{
		"22": "22", "": `""`, "a b": `"a b"`, `a"b\c`: `"a\"b\\c"`, "100%": "100%%", "$HOME": "$$HOME", "a;b": `"a;b"`, "exec:ssh x": `"exec:ssh x"`,
	} {
		if got := unitQuoted(in); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}
