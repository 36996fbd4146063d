//go:build !linux

package sdnotify

// monotonic is systemd's, which runs on Linux.
func monotonic() (int64, bool) { return 0, false }
