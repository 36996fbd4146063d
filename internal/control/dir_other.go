//go:build !unix

package control

// Without unix permissions there is no directory to trust, and so no control socket.

func prepare(string) error { return ErrUnsupported }
func trusted(string) error { return ErrUnsupported }
func own(string) bool      { return false }
