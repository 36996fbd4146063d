package punch

import "golang.org/x/sys/unix"

// What is above net.core.rmem_max and wmem_max is granted with CAP_NET_ADMIN; else the kernel takes
// the maximum, without an error.
func setSendBuffer(fd uintptr, n int) error {
	if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, n) == nil {
		return nil
	}
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, n)
}

func setReceiveBuffer(fd uintptr, n int) error {
	if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, n) == nil {
		return nil
	}
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, n)
}

// receiveBuffer returns twice what was granted, socket(7), because the kernel counts the memory around
// a datagram too: 2,304 bytes for one that fills a packet of Ethernet.
func receiveBuffer(fd uintptr) (int, error) {
	return unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
}
