package tunnel

import "golang.org/x/sys/unix"

// What a poll says of a connection's end, also behind data that nobody has read.
const (
	pollTells    = true // which end it is, at a unix socket
	pollEndInput = unix.POLLRDHUP
	pollEndBoth  = unix.POLLERR | unix.POLLHUP | unix.POLLNVAL
)
