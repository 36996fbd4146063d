package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ticksPerSecond is the unit of times in /proc: USER_HZ, which is 100 on every architecture of Linux.
const ticksPerSecond = 100

// family returns the processes and all that descend from them.
func family(pids []int) []int {
	children := map[int][]int{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if f := stat(pid); len(f) > 1 {
			if parent, err := strconv.Atoi(f[1]); err == nil {
				children[parent] = append(children[parent], pid)
			}
		}
	}
	all := append([]int(nil), pids...)
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// stat returns the fields of /proc/PID/stat from the third on (the state), or nothing.
func stat(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}

// cpu returns the seconds of processor time, user and system, that processes and what descends from them
// have used.
func cpu(pids []int) float64 {
	ticks := 0
	for _, pid := range family(pids) {
		f := stat(pid)
		if len(f) < 15 {
			continue
		}
		for _, i := range []int{11, 12} { // utime, stime: fields 14 and 15 of proc_pid_stat(5)
			n, _ := strconv.Atoi(f[i])
			ticks += n
		}
	}
	return float64(ticks) / ticksPerSecond
}

// peak returns the largest peak of resident memory among processes and what descends from them, in MiB.
func peak(pids []int) float64 {
	most := 0
	for _, pid := range family(pids) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				kib, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
				most = max(most, kib)
			}
		}
	}
	return float64(most) / 1024
}

// elsewhere returns the seconds of processor time that went to something else than this process and what
// descends from it: other programs, a hypervisor's other guests, and what the kernel does on its own
// account, packets in softirq included.
func elsewhere() float64 {
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n")
	busy := 0
	for i, f := range strings.Fields(line) {
		// user, nice, system, idle, iowait, irq, softirq, steal; guests are in user
		if n, err := strconv.Atoi(f); err == nil && i >= 1 && i <= 8 && i != 4 && i != 5 {
			busy += n
		}
	}
	return float64(busy)/ticksPerSecond - cpu([]int{os.Getpid()})
}
