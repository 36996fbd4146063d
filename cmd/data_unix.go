//go:build unix

package cmd

import (
	"os"

	"golang.org/x/sys/unix"
)

// closedAtStart reports whether f, a standard file, was closed when this process began (">&-"). Go's runtime has opened
// /dev/null in its place, for reading and writing, before any code of this program runs. A shell's >/dev/null is open
// for writing alone. Programs that give /dev/null to others for both cannot be told from one that closes the file.
func closedAtStart(f *os.File) bool {
	var st, null unix.Stat_t
	fd := int(f.Fd())
	if unix.Fstat(fd, &st) != nil || unix.Stat(os.DevNull, &null) != nil {
		return false
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == null.Rdev && flags&unix.O_ACCMODE == unix.O_RDWR
}
