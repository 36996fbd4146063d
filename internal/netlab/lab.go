package netlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// namePrefix begins the name of every namespace: aditlab-PID-START-LAB-NAME, where START tells two
// processes apart that were given the same PID.
const namePrefix = "aditlab-"

var labs atomic.Int64 // numbers the labs of this process

// A TB is what a lab needs of the test that it belongs to: a [testing.TB], or what a program that is no
// test has in its place. Fatal, Fatalf and Skip end the calling goroutine; what Cleanup was given is called when
// the test is over, last first.
type TB interface {
	Helper()
	Cleanup(func())
	Context() context.Context
	Failed() bool
	TempDir() string
	Log(args ...any)
	Logf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Skip(args ...any)
}

// A Lab is a network of namespaces that lives as long as its test. Its methods end the test when
// they fail, so call them from the test's own goroutine.
type Lab struct {
	t      TB
	prefix string
	uplink LinkConfig

	inet   string // the internet's namespace, made when first needed
	spaces []string
	links  []*emulation
	sites  int // routers and hosts with an address on the internet, behind the hosts' counter
	public int // public hosts
	pairs  int // links and veth pairs
}

// An Option changes a Lab as a whole.
type Option func(*Lab)

// WithUplink gives every host made by [Lab.Host] this link to the internet, unless its own options
// name another.
func WithUplink(c LinkConfig) Option { return func(l *Lab) { l.uplink = c } }

// New makes an empty lab, or skips the test where there can be none. Everything in the lab, processes
// included, ends with the test.
func New(t TB, opts ...Option) *Lab {
	t.Helper()
	Skip(t)
	removeStale()
	l := &Lab{t: t, prefix: fmt.Sprintf("%s%d-%s-%d-", namePrefix, os.Getpid(), startTime(os.Getpid()), labs.Add(1))}
	for _, o := range opts {
		o(l)
	}
	t.Cleanup(l.close)
	return l
}

// Skip skips the test, and says why, where there can be no lab.
func Skip(t TB) {
	t.Helper()
	if m := missing(); m != "" {
		t.Skip("needs root on Linux, with iproute2 and nftables: " + m)
	}
}

// missing says what keeps this system from having a lab, or nothing.
var missing = sync.OnceValue(func() string {
	if runtime.GOOS != "linux" {
		return "this is " + runtime.GOOS
	}
	if os.Geteuid() != 0 {
		return "not root"
	}
	for _, tool := range []string{"ip", "nft", "tc"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "no " + tool
		}
	}
	// A container's root may lack the capability; only trying tells.
	probe := fmt.Sprintf("%s%d-%s-0-probe", namePrefix, os.Getpid(), startTime(os.Getpid()))
	if out, err := exec.Command("ip", "netns", "add", probe).CombinedOutput(); err != nil {
		return strings.TrimSpace(string(out))
	}
	_ = exec.Command("ip", "netns", "del", probe).Run() // stale at worst, and removed as such
	return ""
})

// startTime is when a process started, in the kernel's ticks; empty if it is gone.
func startTime(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The second field, the name in parentheses, may hold blanks; the 22nd is the one wanted.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}

// removeStale removes the namespaces of test processes that are gone. Races with others doing the
// same are harmless.
func removeStale() {
	entries, _ := os.ReadDir("/run/netns")
	for _, e := range entries {
		rest, ours := strings.CutPrefix(e.Name(), namePrefix)
		part := strings.SplitN(rest, "-", 3)
		if !ours || len(part) < 3 {
			continue
		}
		if pid, err := strconv.Atoi(part[0]); err == nil && startTime(pid) != part[1] {
			removeSpace(e.Name())
		}
	}
}

// removeSpace ends the processes inside a namespace and removes it.
func removeSpace(ns string) {
	out, _ := exec.Command("ip", "netns", "pids", ns).Output()
	for _, word := range strings.Fields(string(out)) {
		// A thread of this very process may be inside for a moment.
		if pid, err := strconv.Atoi(word); err == nil && pid != os.Getpid() {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill() // it may have ended by itself
			}
		}
	}
	_ = exec.Command("ip", "netns", "del", ns).Run()  // gone already is fine
	_ = os.RemoveAll(filepath.Join("/etc/netns", ns)) // see Host.resolver
}

func (l *Lab) close() {
	for _, e := range l.links {
		e.stop()
		for _, s := range []LinkStats{e.stats(0), e.stats(1)} {
			if s.Failed > 0 {
				l.t.Logf("netlab: the emulated link itself lost %d of %d packets", s.Failed, s.Packets)
			}
		}
	}
	for _, ns := range l.spaces {
		removeSpace(ns)
	}
}

// run runs a tool of the system and ends the test if it fails.
func (l *Lab) run(stdin, name string, args ...string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("netlab: %s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}

func (l *Lab) ip(args ...string) {
	l.t.Helper()
	l.run("", "ip", args...)
}

// space makes a namespace with loopback.
func (l *Lab) space(name string) string {
	l.t.Helper()
	ns := l.prefix + name
	l.ip("netns", "add", ns)
	l.spaces = append(l.spaces, ns)
	// Without duplicate address detection IPv6 addresses work at once, not a second later.
	l.sysctl(ns, "ipv6/conf/all/accept_dad", "0")
	l.sysctl(ns, "ipv6/conf/default/accept_dad", "0")
	l.ip("-n", ns, "link", "set", "lo", "up")
	return ns
}

// router makes a namespace that forwards.
func (l *Lab) router(name string) string {
	l.t.Helper()
	ns := l.space(name)
	l.sysctl(ns, "ipv4/ip_forward", "1")
	l.sysctl(ns, "ipv6/conf/all/forwarding", "1")
	return ns
}

// sysctl sets a value below /proc/sys/net. A system without IPv6 lacks some, and needs none of them.
func (l *Lab) sysctl(ns, key, value string) {
	l.t.Helper()
	err := inNamespace(ns, func() error {
		return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0)
	})
	if err != nil && !(errors.Is(err, os.ErrNotExist) && strings.HasPrefix(key, "ipv6/")) {
		l.t.Fatalf("netlab: set %s in %s: %v", key, ns, err)
	}
}

// An end is one side of a cable.
type end struct {
	ns, dev string
	bridge  string         // the bridge to join, if any
	addrs   []netip.Prefix // of dev, or none
}

// cable joins a and b: by a veth pair, or by an emulated link when c asks for one.
func (l *Lab) cable(a, b end, c LinkConfig) *emulation {
	l.t.Helper()
	var e *emulation
	if c == (LinkConfig{}) {
		l.ip("link", "add", "name", a.dev, "netns", a.ns, "type", "veth", "peer", "name", b.dev, "netns", b.ns)
	} else {
		var err error
		// Only a TAP device can join a bridge; a TUN device needs no ARP.
		if e, err = emulate(a, b, a.bridge != "" || b.bridge != "", c); err != nil {
			l.t.Fatalf("netlab: emulate a link: %v", err)
		}
		l.links = append(l.links, e)
	}
	for _, x := range []end{a, b} {
		if e != nil {
			l.ip("-n", x.ns, "link", "set", x.dev, "txqueuelen", "20000")
		}
		if x.bridge != "" {
			l.ip("-n", x.ns, "link", "set", x.dev, "master", x.bridge)
		}
		l.up(x)
	}
	if e != nil {
		e.start()
	}
	return e
}

// up gives a device its addresses and starts it.
func (l *Lab) up(x end) {
	l.t.Helper()
	for _, p := range x.addrs {
		if p.Addr().Is4() {
			l.ip("-n", x.ns, "addr", "add", p.String(), "dev", x.dev)
		} else if haveIPv6() {
			l.ip("-n", x.ns, "addr", "add", p.String(), "dev", x.dev, "nodad")
		}
	}
	l.ip("-n", x.ns, "link", "set", x.dev, "up")
}

// route adds a default route in ns.
func (l *Lab) route(ns string, via netip.Addr) {
	l.t.Helper()
	if via.Is4() {
		l.ip("-n", ns, "route", "add", "default", "via", via.String())
	} else if haveIPv6() {
		l.ip("-n", ns, "-6", "route", "add", "default", "via", via.String())
	}
}

func haveIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}
