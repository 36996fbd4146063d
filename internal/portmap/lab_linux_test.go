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
	"strings"
	"sync"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
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
	for _, c := range []struct {
		name      string
		upnp, pmp bool
		want      Protocol
		survey    string
	}{
		{"all", true, true, PCP, "[PCP NAT-PMP UPnP]"},
		{"pcp", false, true, PCP, "[PCP NAT-PMP]"},
		{"upnp", true, false, UPnP, "[UPnP]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name != "all" {
				testtier.Long(t)
			}
			lab := netlab.New(t)
			host := lab.Host(netlab.Symmetric, netlab.HostOptions{})
			outside := lab.Public("outside")
			public := host.MapPorts(c.upnp, c.pmp)

			h := startHelper(t, host)
			if got := fmt.Sprint(h.report.Protocols); got != c.survey {
				t.Errorf("the router speaks %s, want %s", got, c.survey)
			}
			m := h.next()
			if m.Protocol != c.want || m.External.Addr() != public {
				t.Errorf("mapped %+v, want by %s at %v", m, c.want, public)
			}
			if !echoes(t, outside, m.External, 20) {
				t.Errorf("nothing comes back through %v", m.External)
			}
			h.stop()
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

// A helped is the machine behind the router.
type helped struct {
	t      *testing.T
	report Report
	lines  *json.Decoder
	stop   func()
}

func startHelper(t *testing.T, host *netlab.Host) *helped {
	t.Helper()
	cmd := host.Command(context.Background(), os.Args[0]) // it is stopped
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
	h := &helped{t: t, lines: json.NewDecoder(bufio.NewReader(stdout))}
	h.stop = sync.OnceFunc(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("helper: %v\n%s", err, log.String())
		}
	})
	t.Cleanup(h.stop)
	if err := h.lines.Decode(&h.report); err != nil {
		t.Fatalf("no survey: %v", err)
	}
	return h
}

// next waits for the next mapping.
func (h *helped) next() (m Mapping) {
	h.t.Helper()
	if err := h.lines.Decode(&m); err != nil {
		h.t.Fatalf("no mapping: %v", err)
	}
	return m
}

// TestRouterRestarts: a router that comes back without its mappings is asked for the port again, at once if it
// announces that it is back, within a minute if not.
func TestRouterRestarts(t *testing.T) {
	netlab.Skip(t)
	for _, c := range []struct {
		name      string
		upnp, pmp bool
		silent    bool
		want      time.Duration
	}{
		{"announced", false, true, false, 10 * time.Second},
		{"PCP", false, true, true, time.Minute},
		{"UPnP", true, false, true, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			testtier.Long(t)
			t.Parallel()
			lab := netlab.New(t)
			host := lab.Host(netlab.Symmetric, netlab.HostOptions{})
			outside := lab.Public("outside")
			host.MapPorts(c.upnp, c.pmp)
			m := startHelper(t, host).next()
			if !echoes(t, outside, m.External, 50) {
				t.Fatalf("nothing comes back through %v", m.External)
			}
			back := host.LoseMappings(c.silent)
			if echoes(t, outside, m.External, 3) {
				t.Fatal("the mapping is still there")
			}
			back()
			began := time.Now()
			for !echoes(t, outside, m.External, 10) {
				if time.Since(began) > c.want {
					t.Fatalf("not mapped again after %v", c.want)
				}
			}
			t.Logf("mapped again after %.1f s", time.Since(began).Seconds())
		})
	}
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
