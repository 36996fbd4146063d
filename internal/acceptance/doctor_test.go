//go:build unix

package acceptance

import (
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// A diagnosis is what a script reads of adit doctor's report.
type diagnosis struct {
	Class    string `json:"class"`
	Verdict  string `json:"verdict"`
	Advice   string `json:"advice"`
	Possible bool   `json:"possible"`
	IPv4     struct {
		UDP       bool     `json:"udp"`
		NAT64     string   `json:"nat64"`
		NAT       string   `json:"nat"`
		Mapping   string   `json:"mapping"`
		Filtering string   `json:"filtering"`
		Step      int      `json:"port_step"`
		MTU       int      `json:"mtu"`
		Hairpin   *bool    `json:"hairpin"`
		Public    []string `json:"public"`
	} `json:"ipv4"`
	Carrier string `json:"carrier"`
	Ports   struct {
		Protocols []string `json:"protocols"`
		External  string   `json:"external"`
		Public    bool     `json:"public"`
	} `json:"port_mapping"`
	Rendezvous struct {
		OK    bool    `json:"ok"`
		RTT   float64 `json:"rtt_ms"`
		Clock int     `json:"clock_s"`
	} `json:"rendezvous"`
	Relays []struct {
		URL     string `json:"url"`
		OK      bool   `json:"ok"`
		Relayed string `json:"relayed"`
	} `json:"relays"`
	Seconds float64 `json:"seconds"`
}

// doctor runs adit doctor inside h and returns its report, and what else it wrote.
func (w *world) doctor(h *netlab.Host, code int, args ...string) (diagnosis, *process) {
	w.t.Helper()
	p := w.run(h, append([]string{"doctor"}, args...)...)
	return w.diagnosis(h, p, code), p
}

// diagnosis waits for the end of adit doctor, and returns its report.
func (w *world) diagnosis(h *netlab.Host, p *process, code int) (d diagnosis) {
	w.t.Helper()
	p.exits(code, patience)
	for line := range strings.SplitSeq(p.out.String(), "\n") {
		if strings.HasPrefix(line, `{"event":"doctor"`) {
			if err := json.Unmarshal([]byte(line), &d); err != nil {
				w.t.Fatal(err)
			}
			w.t.Logf("%v: %s (%s) after %.1f s", h, d.IPv4.NAT, d.Verdict, d.Seconds)
			return d
		}
	}
	w.t.Fatalf("no report: %s%s", p.out, p.err)
	return d
}

// behavior starts a STUN server with two addresses (RFC 5780): coturn. It returns one of them.
func (w *world) behavior() string {
	w.t.Helper()
	tool(w.t, "turnserver")
	h := w.lab.Public("behaviour")
	second := h.Addr().Next().String()
	command(w.t, h, []string{"ip", "address", "add", second + "/24", "dev", "eth0"})
	dir := w.t.TempDir()
	start(w.t, h, "coturn", []string{"turnserver", "-n", "--stun-only", "--no-cli", "--no-tls", "--no-dtls", "--listening-port=3478",
		"--listening-ip=" + h.Addr().String(), "--listening-ip=" + second, "--log-file=stdout", "--simple-log", "--pidfile=" + dir + "/pid"})
	c, err := h.ListenPacket("udp4", h.Addr().String()+":0")
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	request := []byte("\x00\x01\x00\x00\x21\x12\xa4\x42doctor's lab")
	last := net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.Addr().Next(), 3479))
	for began, answer := time.Now(), make([]byte, 500); ; {
		_, _ = c.WriteTo(request, last) // refused at first
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, _, err := c.ReadFrom(answer); err == nil && n > 0 {
			break
		}
		if time.Since(began) > patience {
			w.t.Fatal("coturn does not answer")
		}
	}
	return netip.AddrPortFrom(h.Addr(), 3478).String()
}

// TestDoctor: doctor names each kind of NAT, and draws the right conclusion.
func TestDoctor(t *testing.T) {
	testtier.Long(t)
	w := newWorld(t)
	stun := w.behavior()
	cases := []struct {
		kind     netlab.NAT
		nat      string // with a server that has two addresses
		nat1     string // with that of the rendezvous alone
		class    string
		carrier  bool
		possible bool
	}{
		{netlab.None, "none", "none", "anyone", false, true},
		{netlab.FullCone, "full cone", "full cone or address-restricted", "anyone", false, true},
		{netlab.AddressRestricted, "address-restricted", "full cone or address-restricted", "anyone", false, true},
		{netlab.PortRestricted, "port-restricted", "port-restricted", "not-hard", false, true},
		{netlab.CGNAT, "port-restricted", "port-restricted", "not-hard", true, true},
		{netlab.Symmetric, "symmetric", "symmetric", "open-only", false, true},
		{netlab.SymmetricSequential, "symmetric, sequential", "symmetric, sequential", "open-only", false, true},
		{netlab.UDPBlocked, "", "", "nothing", false, false},
	}
	hosts := make([]*netlab.Host, len(cases))
	for i, c := range cases {
		hosts[i] = w.lab.Host(c.kind, netlab.HostOptions{})
	}
	for _, two := range []bool{true, false} {
		// They wait, mostly: all at once, but one behind each NAT.
		args := []string{"doctor", "--signal", w.signal}
		if two {
			args = append(args, "--stun", stun)
		}
		running := make([]*process, len(cases))
		for i, h := range hosts {
			running[i] = w.run(h, args...)
		}
		for i, c := range cases {
			code, nat := 0, c.nat1
			if !c.possible {
				code = 4
			}
			if two {
				nat = c.nat
			}
			h, p := hosts[i], running[i]
			d := w.diagnosis(h, p, code)
			if d.IPv4.NAT != nat || d.Class != c.class || d.Possible != c.possible || (d.Carrier != "") != c.carrier {
				t.Errorf("%v: got %+v, want %q, %s, carrier %v", c.kind, d, nat, c.class, c.carrier)
			}
			if d.Seconds >= 10 {
				t.Errorf("%v: took %v s", c.kind, d.Seconds)
			}
			if !d.Rendezvous.OK || d.Rendezvous.Clock != 0 {
				t.Errorf("%v: rendezvous: %+v", c.kind, d.Rendezvous)
			}
			if c.possible {
				if want := h.PublicAddr().String() + ":"; !strings.HasPrefix(d.IPv4.Public[0], want) {
					t.Errorf("%v: public address %v, want %s", c.kind, d.IPv4.Public, want)
				}
				if d.IPv4.MTU != 1500 {
					t.Errorf("%v: mtu %d, want 1500", c.kind, d.IPv4.MTU)
				}
				if d.Advice == "" && d.Class != "anyone" {
					t.Errorf("%v: no advice", c.kind)
				}
			} else if all, _, _ := p.events(); all[len(all)-1].Name != "error" || all[len(all)-1].Hint == "" {
				t.Errorf("%v: last event %+v, want an error with a hint", c.kind, all[len(all)-1])
			}
		}
	}
}

// TestDoctorPorts: doctor names what the router speaks.
func TestDoctorPorts(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	for _, c := range []struct {
		name      string
		upnp, pmp bool
		want      []string
	}{
		{"all", true, true, []string{"NAT-PMP", "PCP", "UPnP"}},
		{"UPnP alone", true, false, []string{"UPnP"}},
		{"PCP and NAT-PMP", false, true, []string{"NAT-PMP", "PCP"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			h := w.lab.Host(netlab.Symmetric, netlab.HostOptions{})
			external := h.MapPorts(c.upnp, c.pmp)
			d, _ := w.doctor(h, 0, "--signal", w.signal)
			slices.Sort(d.Ports.Protocols)
			if !slices.Equal(d.Ports.Protocols, c.want) || !strings.HasPrefix(d.Ports.External, external.String()+":") || !d.Ports.Public {
				t.Errorf("got %+v, want %v and an address on %v", d.Ports, c.want, external)
			}
			if d.IPv4.NAT != "symmetric" || d.Class != "anyone" {
				t.Errorf("got %s behind %q, want anyone behind a symmetric one", d.Class, d.IPv4.NAT)
			}
		})
	}
}

// TestDoctorRelay: doctor tries relays over each transport, and a relay over TCP is enough for a tunnel.
func TestDoctorRelay(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	w := newRelayWorld(t)
	for _, c := range []struct {
		kind  netlab.NAT
		works map[string]bool // transport
		class string
	}{
		{netlab.PortRestricted, map[string]bool{"udp": true, "tcp": true}, "not-hard"},
		{netlab.UDPBlocked, map[string]bool{"udp": false, "tcp": true}, "relay-only"},
	} {
		t.Run(c.kind.String(), func(t *testing.T) {
			w := w.in(t)
			h := w.lab.Host(c.kind, netlab.HostOptions{})
			d, _ := w.doctor(h, 0, "--signal", w.signal)
			if d.Class != c.class || len(d.Relays) != len(c.works) {
				t.Errorf("got %s with relays %+v, want %s with %d", d.Class, d.Relays, c.class, len(c.works))
			}
			for _, r := range d.Relays {
				_, transport, _ := strings.Cut(r.URL, "transport=")
				if r.OK != c.works[transport] || r.OK != (r.Relayed != "") {
					t.Errorf("%+v, want %v", r, c.works[transport])
				}
			}
			_, p := w.doctor(h, 0, "--signal", w.signal, "--redact")
			for _, secret := range []string{"198.51.100.", "192.168."} {
				if s := p.out.String(); strings.Contains(s, secret) {
					t.Errorf("%q stands in %s", secret, s)
				}
			}
		})
	}
}

// TestDoctorIPv6: doctor looks through a NAT64, and knows when there is none.
func TestDoctorIPv6(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	t.Run("NAT64", func(t *testing.T) {
		w := newRelayWorld(t)
		d, _ := w.doctor(w.lab.IPv6Only(true), 0, "--signal", w.signal)
		if d.IPv4.NAT64 == "" || !d.IPv4.UDP || d.IPv4.NAT != "port-restricted" || d.Class != "not-hard" || d.IPv4.MTU != 1480 || d.Seconds >= 10 {
			t.Errorf("got %+v", d)
		}
	})
	t.Run("IPv6 alone", func(t *testing.T) {
		w := newWorld(t)
		h := w.lab.Public("IPv6")
		web, stun := netip.AddrPortFrom(h.Addr6(), 8080).String(), netip.AddrPortFrom(h.Addr6(), 3478).String()
		w.run(h, "serve", "--http", web, "--stun", stun, "--external-ip", h.Addr6().String()).await("listening")
		d, _ := w.doctor(w.lab.IPv6Only(false), 0, "--signal", "http://"+web)
		if d.Class != "ipv6-only" || d.IPv4.UDP || d.Advice == "" || d.Seconds >= 10 {
			t.Errorf("got %+v", d)
		}
	})
}

// TestDoctorAlone: without a rendezvous that answers the verdict says what is to be seen to.
func TestDoctorAlone(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	w := newWorld(t)
	h := w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})
	d, _ := w.doctor(h, 0, "--signal", "http://198.51.100.1:1", "--stun", w.stun)
	if d.Rendezvous.OK || !d.Possible || !strings.Contains(d.Advice, "198.51.100.1:1") {
		t.Errorf("got %+v", d)
	}
	blocked := w.lab.Host(netlab.UDPBlocked, netlab.HostOptions{})
	d, _ = w.doctor(blocked, 4, "--signal", "http://198.51.100.1:1", "--stun", w.stun)
	if !strings.HasPrefix(d.Verdict, "nothing works: ") || d.Seconds >= 10 {
		t.Errorf("got %+v", d)
	}
}
