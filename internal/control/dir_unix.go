//go:build unix

package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// prepare makes dir where it is missing, for this user alone, and checks that it is.
func prepare(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("make the directory of control sockets: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the directory of control sockets: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("check the directory of control sockets: %w", err)
	}
	return private(dir, info, os.Geteuid())
}

// private returns an error if others than uid could use what is in dir.
func private(dir string, info fs.FileInfo, uid int) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%w: %s is no directory", ErrDir, dir)
	case !ok || int(st.Uid) != uid:
		return fmt.Errorf("%w: %s belongs to another user", ErrDir, dir)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%w: %s has mode %04o; run chmod 700 on it", ErrDir, dir, info.Mode().Perm())
	}
	return nil
}

// trusted is what a client asks of a directory: that nobody but its owner could use it, who is this
// user. Root may look at any user's, but see own.
func trusted(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	uid := os.Geteuid()
	if st, ok := info.Sys().(*syscall.Stat_t); ok && uid == 0 {
		uid = int(st.Uid)
	}
	return private(dir, info, uid)
}

// own reports whether dir is this user's own.
func own(dir string) bool {
	info, err := os.Lstat(dir)
	return err == nil && private(dir, info, os.Geteuid()) == nil
}
