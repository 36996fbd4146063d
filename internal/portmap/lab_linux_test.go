package portmap

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/internal/netlab"
)

// helperEnv makes the test binary the machine behind the router: it maps a port, prints the mapping,
// echoes what arrives, and removes the mapping when its standard input ends.
const helperEnv = "ADIT_PORTMAP_HELPER"

func init() { runHelper = helper }

func helper() {
	c, err := net.ListenUDP("udp4", nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	out := json.NewEncoder(os.Stdout)
	if r, err := Survey(context.Background(), netip.Addr{}); err == nil {
		_ = out.Encode(r)
	}
	m := Open(Config{Port: c.LocalAddr().(*net.UDPAddr).Port, Logger: log}, func(m Mapping) { _ = out.Encode(m) })
	_, _ = io.Copy(io.Discard, os.Stdin)
	m.Close()
	os.Exit(0)
}

// TestRouter maps a port by each protocol of a real router, uses it from outside, and looks whether
// it is gone afterwards.
func TestRouter(t *testing.T) {
	netlab.Skip(t)
	if _, err := exec.LookPath("miniupnpd"); err != nil {
		t.Skip("miniupnpd is not installed")
	}
	for _, c := range []struct {
		name, config string
		want         Protocol
		survey       string
	}{
		{"all", "enable_upnp=yes\nenable_natpmp=yes\n", PCP, "[PCP NAT-PMP UPnP]"},
		{"pcp", "enable_upnp=no\nenable_natpmp=yes\n", PCP, "[PCP NAT-PMP]"},
		{"upnp", "enable_upnp=yes\nenable_natpmp=no\n", UPnP, "[UPnP]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			lab := netlab.New(t)
			host := lab.Host(netlab.Symmetric, netlab.HostOptions{})
			outside := lab.Public("outside")
			startRouter(t, host, c.config)
			address(t, outside, host)

			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			cmd := host.Command(ctx, os.Args[0])
			cmd.Env = append(os.Environ(), helperEnv+"=1")
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			var log strings.Builder
			cmd.Stderr = &log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := json.NewDecoder(bufio.NewReader(stdout))
			var r Report
			var m Mapping
			if err := lines.Decode(&r); err != nil {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				t.Fatalf("no survey: %v\n%s", err, log.String())
			}
			if got := fmt.Sprint(r.Protocols); got != c.survey {
				t.Errorf("the router speaks %s, want %s", got, c.survey)
			}
			if err := lines.Decode(&m); err != nil {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				t.Fatalf("no mapping: %v\n%s", err, log.String())
			}
			if m.Protocol != c.want || m.External.Addr() != public {
				t.Errorf("mapped %+v, want by %s at %v", m, c.want, public)
			}
			if !echoes(t, outside, m.External, 20) {
				t.Errorf("nothing comes back through %v", m.External)
			}
			stdin.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("helper: %v\n%s", err, log.String())
			}
			rules, err := host.RouterCommand(t.Context(), "nft", "list", "ruleset").CombinedOutput()
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(rules), fmt.Sprintf("dport %d ", m.External.Port())) {
				t.Errorf("the mapping is still there:\n%s", rules)
			}
		})
	}
}

// public is the router's address as it tells it: miniupnpd does not map on a documentation address,
// which is what routers have here.
var public = netip.MustParseAddr("20.0.0.1")

// address gives the router that address and lets the outside find it.
func address(t *testing.T, outside, host *netlab.Host) {
	t.Helper()
	for _, cmd := range []*exec.Cmd{
		host.RouterCommand(t.Context(), "ip", "address", "add", public.String()+"/32", "dev", "wan"),
		outside.Command(t.Context(), "ip", "route", "add", public.String(), "via", host.PublicAddr().String()),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", cmd.Args, err, out)
		}
	}
}

// startRouter runs miniupnpd in the host's router, with the tables that Debian's package makes.
func startRouter(t *testing.T, host *netlab.Host, config string) {
	t.Helper()
	tables := host.RouterCommand(t.Context(), "nft", "-f", "-")
	tables.Stdin = strings.NewReader(`
table inet filter {
	chain forward { type filter hook forward priority 0; policy accept; jump miniupnpd; }
	chain miniupnpd { }
	chain prerouting { type nat hook prerouting priority -100; policy accept; jump prerouting_miniupnpd; }
	chain postrouting { type nat hook postrouting priority 90; policy accept; jump postrouting_miniupnpd; }
	chain prerouting_miniupnpd { }
	chain postrouting_miniupnpd { }
}
`)
	if out, err := tables.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "conf")
	config += "ext_ifname=wan\nlistening_ip=lan\nsecure_mode=yes\nsystem_uptime=yes\nuuid=00000000-0000-0000-0000-000000000001\n" +
		"ext_ip=" + public.String() + "\nallow 1024-65535 0.0.0.0/0 1024-65535\n" +
		"lease_file=" + filepath.Join(dir, "leases") + "\n"
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	cmd := host.RouterCommand(t.Context(), "miniupnpd", "-d", "-f", file, "-P", filepath.Join(dir, "pid"))
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
}

// echoes sends until something comes back, so many times.
func echoes(t *testing.T, from *netlab.Host, to netip.AddrPort, tries int) bool {
	t.Helper()
	c, err := from.ListenPacket("udp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 100)
	for range tries {
		if _, err := c.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(to)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, _, err := c.ReadFrom(b); err == nil && string(b[:n]) == "hello" {
			return true
		}
	}
	return false
}
