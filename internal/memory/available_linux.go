package memory

import (
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
)

// Available returns how many bytes the process may use: what the machine has, or less where a control group says so. It
// is 0 if that is not known.
func Available() int64 {
	var n int64
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) == nil {
		n = int64(info.Totalram) * int64(info.Unit)
	}
	groups, _ := os.ReadFile("/proc/self/cgroup") // without it there are none
	if l := groupLimit("/sys/fs/cgroup", string(groups)); l > 0 && (n == 0 || l < n) {
		n = l
	}
	return n
}

// groupLimit returns the least limit of the groups in the text of /proc/self/cgroup (cgroups(7)) and of those above
// them, or 0. Version 2 has one hierarchy, at root or at root/unified; version 1 one for memory, at root/memory.
func groupLimit(root, groups string) int64 {
	var least int64
	look := func(dir, group, file string) {
		// In a container the group's own path is not there, but its files are at the root.
		for at := path.Clean("/" + group); ; at = path.Dir(at) {
			b, err := os.ReadFile(path.Join(root, dir, at, file))
			if n, perr := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && perr == nil && n > 0 && (least == 0 || n < least) {
				least = n // "max" is no number
			}
			if at == "/" {
				return
			}
		}
	}
	for line := range strings.Lines(groups) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 {
			continue
		}
		switch {
		case part[0] == "0" && part[1] == "":
			look("", part[2], "memory.max")
			look("unified", part[2], "memory.max")
		case strings.Contains(","+part[1]+",", ",memory,"):
			look("memory", part[2], "memory.limit_in_bytes")
		}
	}
	return least
}
