//go:build unix

package cmd

import "syscall"

// descriptors returns how many files this process may have open, or 0 if that is not known.
func descriptors() int {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0
	}
	return int(min(uint64(r.Cur), 1<<30))
}
