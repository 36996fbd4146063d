package tunnel

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// unsent returns how many bytes were written to c and are not with the other end's kernel yet, or not known to be
// (SIOCOUTQ in tcp(7)); of a unix socket, how much memory they take that its other end has not read.
func unsent(c net.Conn) (n int) {
	control(c, func(fd int) { n, _ = unix.IoctlGetInt(fd, unix.SIOCOUTQ) }) // 0 on a dead connection
	return n
}

// limitUnsent bounds what c's kernel takes of a TCP connection and does not send (TCP_NOTSENT_LOWAT in tcp(7)).
func limitUnsent(c net.Conn) {
	if c.LocalAddr().Network() == "tcp" {
		control(c, func(fd int) {
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, mostUnsent) // it is better, not necessary
		})
	}
}

// wasReset reports whether a TCP connection whose input seems to have ended was reset: after a FIN it would wait for
// this side to close (tcp_reset in net/ipv4/tcp_input.c).
func wasReset(c net.Conn) (reset bool) {
	if c.LocalAddr().Network() != "tcp" {
		return false
	}
	const tcpClose = 7
	control(c, func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		reset = err == nil && info.State == tcpClose
	})
	return reset
}

func control(c net.Conn, f func(fd int)) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := s.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { f(int(fd)) }) // fails on a closed connection
	}
}
