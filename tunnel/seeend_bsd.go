//go:build unix && !linux

package tunnel

import "golang.org/x/sys/unix"

// What a poll says of a connection's end. Not all of these systems keep POLLHUP for the end of both directions, nor
// show it behind data that nobody has read.
const (
	pollTells    = false
	pollEndInput = unix.POLLHUP
	pollEndBoth  = unix.POLLERR | unix.POLLNVAL
)
