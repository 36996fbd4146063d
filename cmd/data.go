package cmd

import (
	"errors"
	"io"
	"os"

	"adit/tunnel"
)

// errOutputClosed is what a write to standard output gives that would go nowhere.
var errOutputClosed = errors.New("standard output is closed, or is /dev/null for reading too; >/dev/null drops what comes")

// dataInput returns standard input, of a command that sends it to the peer.
func dataInput(u *ui) io.Reader {
	if closedAtStart(os.Stdin) {
		u.say("standard input is closed: nothing is sent to the other side")
	}
	return os.Stdin
}

// dataOutput returns standard output, of a command that writes there what the peer sends.
func dataOutput() io.Writer {
	if closedAtStart(os.Stdout) {
		return closedOutput{}
	}
	return os.Stdout
}

type closedOutput struct{}

func (closedOutput) Write([]byte) (int, error) { return 0, errOutputClosed }

// written returns err, why the data of a command have ended. If there is no reason it closes standard output, which on
// some file systems tells that there was no room.
func written(err error) error {
	if err != nil {
		return err
	}
	if err := os.Stdout.Close(); err != nil {
		return &tunnel.LocalError{Op: "write output", Err: err}
	}
	return nil
}
