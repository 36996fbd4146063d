package netlab

import (
	"bufio"
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
	cmd := h.RouterCommand(t.Context(), "miniupnpd", "-d", "-f", file, "-P", filepath.Join(dir, "pid"))
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	ready, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		ready := ready
		waiting := map[string]bool{"Listening for NAT-PMP/PCP": pmp, "HTTP listening on port": upnp}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			log.WriteString(lines.Text() + "\n")
			for text, wanted := range waiting {
				if wanted && strings.Contains(lines.Text(), text) {
					delete(waiting, text)
				}
			}
			if !waiting["Listening for NAT-PMP/PCP"] && !waiting["HTTP listening on port"] && ready != nil {
				close(ready)
				ready = nil
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-over
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	select {
	case <-ready:
	case <-over:
		t.Fatal("netlab: miniupnpd ended")
	case <-time.After(10 * time.Second):
		t.Fatal("netlab: miniupnpd does not listen")
	}
	return public
}
