package tunnel

import "syscall"

// private lets only this user connect to a unix socket from the moment it has a name: Linux gives the
// name the mode of the socket (unix_bind in net/unix/af_unix.c).
func private(network, _ string, c syscall.RawConn) error {
	if network != "unix" {
		return nil
	}
	var err error
	if cerr := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); cerr != nil {
		return cerr
	}
	return err
}
