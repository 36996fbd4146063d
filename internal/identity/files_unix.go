//go:build unix

package identity

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// tryLock takes the lock of f, or returns errLocked. It ends with f, or with the process.
func tryLock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK), errors.Is(err, syscall.EINTR):
		return errLocked
	case err != nil:
		return os.NewSyscallError("flock", err)
	}
	return nil
}

// private checks that nobody but its owner reads the key file f, or puts another in its place.
func private(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s: it is not a regular file", ErrKeyFile, f.Name())
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%w: %s has mode %04o; chmod 600 it", ErrPermissions, f.Name(), mode)
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if me := os.Geteuid(); me != 0 && int(owner) != me {
		return fmt.Errorf("%w: %s belongs to user %d and not to %d", ErrPermissions, f.Name(), owner, me)
	}
	dir := filepath.Dir(f.Name())
	in, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if mode := in.Mode(); mode.Perm()&0o022 != 0 && mode&os.ModeSticky == 0 {
		return fmt.Errorf("%w: others may write into %s, mode %04o; chmod 700 it", ErrPermissions, dir, mode.Perm())
	}
	return nil
}

// syncDir makes a rename in dir last. Some file systems know no such thing, and need none.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if errors.Is(err, os.ErrPermission) {
		return nil // a directory may be written to and not read
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return err
	}
	return nil
}

// Trusted checks that nobody but its owner, who is this user or root, writes the file f: what stands
// in it decides who may come in. The error wraps ErrPermissions.
func Trusted(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	me := os.Geteuid()
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return fmt.Errorf("%s is not a regular file", f.Name())
	case mode.Perm()&0o022 != 0:
		return fmt.Errorf("%w: others may write %s, mode %04o, and so decide who comes in; chmod 600 it", ErrPermissions, f.Name(), mode.Perm())
	case owner != me && owner != 0 && me != 0:
		return fmt.Errorf("%w: %s belongs to user %d and not to %d", ErrPermissions, f.Name(), owner, me)
	}
	return nil
}
