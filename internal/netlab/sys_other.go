//go:build !linux

package netlab

import (
	"errors"
	"os/exec"
)

// There are no network namespaces here: New skips the test before any of this is called.

func inNamespace(string, func() error) error { return errors.ErrUnsupported }

func dieWithParent(*exec.Cmd) {}

type emulation struct{}

func emulate(a, b end, tap bool, c LinkConfig) (*emulation, error) { return nil, errors.ErrUnsupported }

func (*emulation) start()              {}
func (*emulation) stats(int) LinkStats { return LinkStats{} }
func (*emulation) stop()               {}
