package tunnel

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

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

// ownPeer reports whether the process at the other end of c, a unix socket, belongs to this user or to root.
func ownPeer(c net.Conn) bool {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return false
	}
	own := false
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		own = err == nil && (cred.Uid == 0 || int(cred.Uid) == os.Geteuid())
	})
	return err == nil && own
}
