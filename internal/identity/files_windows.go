package identity

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/windows"
)

// tryLock takes the lock of f, or returns errLocked. It ends with f, or with the process.
func tryLock(f *os.File) error {
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, new(windows.Overlapped))
	switch {
	case errors.Is(err, windows.ERROR_LOCK_VIOLATION):
		return errLocked
	case err != nil:
		return os.NewSyscallError("LockFileEx", err)
	}
	return nil
}

// private checks that f is a file. Who may read it is the access list's, which it has from the user's
// own directory.
func private(f *os.File) error {
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s: it is not a regular file", ErrKeyFile, f.Name())
	}
	return err
}

// syncDir does nothing: a directory cannot be flushed here.
func syncDir(string) error { return nil }

// Trusted checks that f is a file. Who may write it is the access list's.
func Trusted(f *os.File) error {
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", f.Name())
	}
	return err
}
