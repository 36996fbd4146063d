package netlab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// translated is the prefix behind which the lab's NAT64s have the IPv4 internet. It is not the well-known one
// (64:ff9b::/96), behind which documentation addresses do not belong.
var translated = netip.MustParsePrefix("2001:db8:64:ff9b::/96")

// IPv6Only makes a host without IPv4, behind a router with a stateful filter. With nat64 the router is a NAT64
// (tayga in front of a port-restricted NAT) and its resolver tells of the prefix, and of nothing else (RFC 7050);
// [Host.Command] finds it in /etc/resolv.conf. The test is skipped where tayga is not installed.
func (l *Lab) IPv6Only(nat64 bool) *Host {
	l.t.Helper()
	if !haveIPv6() {
		l.t.Skip("no IPv6 here")
	}
	if nat64 {
		if _, err := exec.LookPath("tayga"); err != nil {
			l.t.Skip("tayga is not installed")
		}
	}
	h := l.Host(PortRestricted, HostOptions{IPv6: true})
	h.name = fmt.Sprintf("ipv6-only%d", h.site)
	l.ip("-n", h.ns, "-4", "addr", "flush", "dev", "eth0")
	h.addr = netip.Addr{}
	if !nat64 {
		h.resolver("::1") // nobody
		return h
	}
	l.translate64(h)
	h.resolver(addr6(h.site, 1).String())
	return h
}

// resolver makes a resolver that of the host's commands.
func (h *Host) resolver(addr string) {
	h.lab.t.Helper()
	dir := filepath.Join("/etc/netns", h.ns) // what "ip netns exec" puts over /etc
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.lab.t.Fatal(err)
	}
	h.lab.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte("nameserver "+addr+"\noptions timeout:1 attempts:1\n"), 0o644); err != nil {
		h.lab.t.Fatal(err)
	}
}

// translate64 makes the host's router a NAT64 with a resolver.
func (l *Lab) translate64(h *Host) {
	t := l.t
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "tayga.conf")
	config := fmt.Sprintf("tun-device nat64\nipv4-addr 192.0.0.8\nipv6-addr %v\nprefix %v\ndynamic-pool 100.65.0.0/24\ndata-dir %s\n",
		addr6(h.site, 0x64), translated, dir)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	router := []string{"netns", "exec", h.router}
	l.ip(append(router, "tayga", "-c", file, "--mktun")...)
	l.ip("-n", h.router, "link", "set", "nat64", "up")
	l.ip("-n", h.router, "route", "add", "100.65.0.0/24", "dev", "nat64")
	l.ip("-n", h.router, "-6", "route", "add", translated.String(), "dev", "nat64")
	cmd := h.RouterCommand(t.Context(), "tayga", "-c", file, "--nodetach")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Log(out.String())
		}
	})
	c, err := h.routerListen("udp6", netip.AddrPortFrom(addr6(h.site, 1), 53).String())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if reply := answer64(b[:n]); reply != nil {
				_, _ = c.WriteTo(reply, from) // a loss
			}
		}
	}()
	t.Cleanup(func() {
		_ = c.Close()
		<-done
	})
}

func (h *Host) routerListen(network, addr string) (c net.PacketConn, err error) {
	err = inNamespace(h.router, func() error {
		for limit := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			// The address may not be there yet for a moment.
			if c, err = net.ListenPacket(network, addr); err == nil || time.Now().After(limit) {
				return err
			}
		}
	})
	return c, err
}

// answer64 answers a query as a DNS64 does whose internet has one name, ipv4only.arpa (RFC 7050 §8.2).
func answer64(q []byte) []byte {
	const header, typeA, typeAAAA = 12, 1, 28
	if len(q) < header || q[2]&0x80 != 0 {
		return nil
	}
	end := header
	for end < len(q) && q[end] != 0 {
		end += int(q[end]) + 1
	}
	if end+5 > len(q) {
		return nil
	}
	known := strings.EqualFold(string(q[header:end]), "\x08ipv4only\x04arpa")
	kind := q[end+2]
	out := append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, q[header:end+5]...)
	if !known {
		out[3] |= 3 // there is no such name
		return out
	}
	for _, last := range []byte{170, 171} {
		v4 := []byte{192, 0, 0, last}
		switch kind {
		case typeA:
			out = append(out, 0xc0, header, 0, typeA, 0, 1, 0, 0, 0, 60, 0, 4)
		case typeAAAA:
			prefix := translated.Addr().As16()
			out = append(out, 0xc0, header, 0, typeAAAA, 0, 1, 0, 0, 0, 60, 0, 16)
			out = append(out, prefix[:12]...)
		default:
			continue
		}
		out = append(out, v4...)
		out[7]++
	}
	return out
}
