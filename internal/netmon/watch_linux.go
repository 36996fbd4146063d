package netmon

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// openRoutes opens the socket on which the kernel tells of every change of addresses, links and routes
// (rtnetlink(7)).
func openRoutes() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd) // it was of no use
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "rtnetlink"), nil // not blocking, so that Close ends Read
}

func watch(ctx context.Context, log *slog.Logger, hints chan<- struct{}) {
	watchSocket(ctx, log, hints, openRoutes, func([]byte) bool { return true })
}

// defaultRoutes returns the default routes of the main table with their interfaces and gateways. Their
// order and counters do not matter. Flags stay out of it but for whether the route is in use.
func defaultRoutes() []string {
	var out []string
	// Not below /proc/self: the thread may be in another network namespace.
	if b, err := os.ReadFile("/proc/thread-self/net/route"); err == nil {
		for line := range bytes.Lines(b) {
			// Iface Destination Gateway Flags RefCnt Use Metric Mask ...
			f := bytes.Fields(line)
			if len(f) >= 8 && string(f[1]) == "00000000" && string(f[7]) == "00000000" {
				out = append(out, "route="+string(f[0])+"/"+string(f[2])+"/"+string(f[6]))
			}
		}
	}
	if b, err := os.ReadFile("/proc/thread-self/net/ipv6_route"); err == nil {
		const zero = "00000000000000000000000000000000"
		for line := range bytes.Lines(b) {
			// destination prefix source prefix gateway metric refcount use flags device
			f := bytes.Fields(line)
			if len(f) >= 10 && string(f[0]) == zero && string(f[1]) == "00" && string(f[9]) != "lo" {
				out = append(out, "route6="+string(f[9])+"/"+string(f[4])+"/"+string(f[5]))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
