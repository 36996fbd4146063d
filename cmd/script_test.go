package cmd

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"adit/internal/testtier"
)

// TestScripts runs adit as a user does: real processes over loopback, their output and exit codes.
//
// Beside what testscript has, scripts have
//
//	exits CODE PROGRAM ARGS…         run it and check the exit code; stdin, stdout, stderr as with exec
//	start NAME PROGRAM ARGS…         run it aside
//	says NAME out|err PATTERN [VAR]  wait until it has printed that; VAR is set to the first group
//	! says NAME out|err PATTERN       check that it has not printed that
//	feed NAME [TEXT]                  write a line to its standard input, or end it
//	signals NAME INT|TERM|KILL|HUP…   one or several at once
//	awaits CODE NAME                 wait for its end and check the exit code
//	echo-server VAR                  start a TCP server that sends back what comes; VAR is its port
//	echo PORT TEXT                   send text there, end, and compare what comes back
//	hold NAME PORT                    open a connection and keep it
//	talk NAME TEXT                    send text over it and compare what comes back
//	figures ADDR TEXT…               fetch metrics, check their form and that they have these at the start of a line
//	hole VAR                         take a TCP port and answer nothing; VAR is the port
//	web VAR plain|tls                start a web server that is no rendezvous, without TLS or with; VAR is its port
//	free VAR                         VAR is a TCP port that is free
//	settle PROGRAM ARGS…             run a program until it succeeds
func TestScripts(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the scripts use links, FIFOs and signals")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			bin := filepath.Join(e.WorkDir, ".bin")
			if err := os.Mkdir(bin, 0o700); err != nil {
				return err
			}
			// TestMain is adit when it is started by this name.
			if err := os.Symlink(self, filepath.Join(bin, "adit")); err != nil {
				return err
			}
			e.Values[procsKey] = map[string]*proc{}
			e.Values[heldKey] = map[string]net.Conn{}
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, "config"))
			e.Setenv("XDG_RUNTIME_DIR", filepath.Join(e.WorkDir, "run"))
			e.Setenv("XDG_STATE_HOME", filepath.Join(e.WorkDir, "state"))
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name == "root" {
				return os.Geteuid() == 0, nil
			}
			if name == "long" {
				return testtier.IsLong(), nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "start": start, "says": says, "feed": feed,
			"signals": signals, "awaits": awaits, "echo-server": echoServer, "echo": echo, "hole": hole,
			"figures": figures, "hold": hold, "talk": talk, "web": webServer, "free": free, "settle": untilDone,
		},
	})
}
