//go:build unix

package cmd

import (
	"fmt"
	"os"
	"syscall"
)

// underManager reports whether a service manager wants to hear from this process.
func underManager() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// underJournal reports whether standard error leads to systemd's journal ($JOURNAL_STREAM, systemd.exec(5)).
func underJournal() bool {
	var st syscall.Stat_t
	if err := syscall.Fstat(2, &st); err != nil {
		return false
	}
	return os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}
