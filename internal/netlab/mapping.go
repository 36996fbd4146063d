package netlab

import (
	"bufio"
	"errors"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// mappedAddr is what a router that maps ports tells as its address: miniupnpd does not map on a
// documentation address, which is what routers have here.
func mappedAddr(site int) netip.Addr { return netip.AddrFrom4([4]byte{20, 0, 0, byte(site)}) }

// mappingTables are those that Debian's miniupnpd expects.
const mappingTables = `
table inet filter {
	chain forward { type filter hook forward priority 0; policy accept; jump miniupnpd; }
	chain miniupnpd { }
	chain prerouting { type nat hook prerouting priority -100; policy accept; jump prerouting_miniupnpd; }
	chain postrouting { type nat hook postrouting priority 90; policy accept; jump postrouting_miniupnpd; }
	chain prerouting_miniupnpd { }
	chain postrouting_miniupnpd { }
}
`

// MapPorts runs miniupnpd in the router that the host is behind, with UPnP IGD, with NAT-PMP and PCP,
// or with all of them, and returns the public address of its mappings. The test is skipped where
// miniupnpd is not installed.
func (h *Host) MapPorts(upnp, pmp bool) netip.Addr {
	t := h.lab.t
	t.Helper()
	if _, err := exec.LookPath("miniupnpd"); err != nil {
		t.Skip("miniupnpd is not installed")
	}
	public := mappedAddr(h.site)
	h.lab.run(mappingTables, "ip", "netns", "exec", h.router, "nft", "-f", "-")
	h.lab.ip("-n", h.router, "address", "add", public.String()+"/32", "dev", "wan")
	h.lab.ip("-n", h.lab.inet, "route", "add", public.String(), "via", h.public.String())
	yes := map[bool]string{true: "yes", false: "no"}
	dir := t.TempDir()
	file := filepath.Join(dir, "conf")
	config := strings.Join([]string{
		"ext_ifname=wan", "ext_ip=" + public.String(), "listening_ip=lan", "secure_mode=yes", "system_uptime=yes",
		"enable_upnp=" + yes[upnp], "enable_natpmp=" + yes[pmp], "uuid=00000000-0000-0000-0000-000000000001",
		"lease_file=" + filepath.Join(dir, "leases"), "allow 1024-65535 0.0.0.0/0 1024-65535", "",
	}, "\n")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	h.mapper = &mapper{dir: dir, waiting: map[string]bool{"Listening for NAT-PMP/PCP": pmp, "HTTP listening on port": upnp}}
	h.startMapper()
	t.Cleanup(func() {
		h.stopMapper()
		if t.Failed() {
			t.Log(h.mapper.log.String())
		}
	})
	return public
}

// A mapper is the miniupnpd of a router.
type mapper struct {
	dir     string          // its configuration and leases
	waiting map[string]bool // what it says when it is there
	stop    func()          // nil when it does not run
	log     strings.Builder
}

// LoseMappings kills the router's miniupnpd with all that it has mapped, as a restart of the router does; the
// router is without it until the function that is returned is called. [Host.MapPorts] comes first. If silent,
// what it announces when it comes back reaches nobody.
func (h *Host) LoseMappings(silent bool) (back func()) {
	h.lab.t.Helper()
	h.stopMapper()
	in := []string{"ip", "netns", "exec", h.router, "nft"}
	for _, chain := range []string{"miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd"} {
		h.lab.run("", in[0], append(in[1:], "flush", "chain", "inet", "filter", chain)...)
	}
	if silent {
		h.lab.run("table ip quiet { chain out { type filter hook output priority 0; ip daddr 224.0.0.0/24 drop; }; }", in[0], append(in[1:], "-f", "-")...)
	}
	if err := os.Remove(filepath.Join(h.mapper.dir, "leases")); err != nil && !errors.Is(err, os.ErrNotExist) {
		h.lab.t.Fatal(err)
	}
	return h.startMapper
}

func (h *Host) stopMapper() {
	if h.mapper.stop != nil {
		h.mapper.stop()
		h.mapper.stop = nil
	}
}

func (h *Host) startMapper() {
	t, m := h.lab.t, h.mapper
	t.Helper()
	cmd := h.RouterCommand(t.Context(), "miniupnpd", "-d", "-f", filepath.Join(m.dir, "conf"), "-P", filepath.Join(m.dir, "pid"))
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready, over := make(chan struct{}), make(chan struct{})
	waiting := maps.Clone(m.waiting)
	maps.DeleteFunc(waiting, func(_ string, wanted bool) bool { return !wanted })
	go func() {
		defer close(over)
		ready := ready
		for lines := bufio.NewScanner(out); lines.Scan(); {
			m.log.WriteString(lines.Text() + "\n")
			maps.DeleteFunc(waiting, func(text string, _ bool) bool { return strings.Contains(lines.Text(), text) })
			if len(waiting) == 0 && ready != nil {
				close(ready)
				ready = nil
			}
		}
	}()
	m.stop = func() {
		_ = cmd.Process.Kill()
		<-over
		_ = cmd.Wait()
	}
	select {
	case <-ready:
	case <-over:
		t.Fatal("netlab: miniupnpd ended")
	case <-time.After(10 * time.Second):
		t.Fatal("netlab: miniupnpd does not listen")
	}
}
