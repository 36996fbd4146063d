package acceptance

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// iceLinger is how long a side that is up goes on answering ICE checks, for the sake of the peer's.
const iceLinger = 10 * time.Second

// TestGarbage sends an exposer garbage, broken STUN, and everything its peer sent it once more, from a
// third host and in the peer's own name. Nothing of it is answered, logged one by one, or changes
// anything.
// That holds while ICE still answers checks too: a replayed one must not look like the peer behind a
// new mapping (RFC 8445 section 7.3.1.3).
func TestGarbage(t *testing.T) {
	testtier.Long(t)
	t.Parallel() // it waits, mostly
	const port = 4000
	w := newWorld(t)
	left, right := w.lab.Host(netlab.None, netlab.HostOptions{}), w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})
	mallory := w.lab.Public("mallory")
	victim := netip.AddrPortFrom(left.Addr(), port)
	echo := listen(t, left, func(c net.Conn) { _, _ = io.Copy(c, c) })

	// Datagrams leave one by one, so that the capture sees them as they are and not as one big buffer.
	command(t, right, []string{"ip", "link", "set", "eth0", "gso_max_segs", "1"})
	heard := capture(t, mallory, 0)
	exposer, code := w.expose(left, echo.String(), "--port", "4000", "-v")
	from, err := mallory.ListenPacket("udp4", netip.AddrPortFrom(mallory.Addr(), 5000).String())
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	attack := func(datagrams [][]byte) {
		t.Helper()
		for _, b := range datagrams {
			if _, err := from.WriteTo(b, net.UDPAddrFromAddrPort(victim)); err != nil {
				t.Fatal(err)
			}
		}
	}
	attack(garbage(2000)) // while nobody is there yet

	recorded := capture(t, left, port)
	connecter, local := w.forward(right, code)
	c := dial(t, right, local)
	exchange := func() {
		t.Helper()
		_ = c.SetDeadline(time.Now().Add(patience))
		b := make([]byte, 50_000)
		if _, err := c.Write(pattern[:len(b)]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b); err != nil || string(b) != string(pattern[:len(b)]) {
			t.Fatalf("the echo through the tunnel: %v, or wrong data", err)
		}
	}
	exchange()
	replay := recorded()
	var peer netip.AddrPort
	var payloads [][]byte
	for _, d := range replay {
		if d.from.Addr() == right.PublicAddr() {
			peer, payloads = d.from, append(payloads, d.payload)
		}
	}
	if len(payloads) < 40 { // 50 kB in packets of 1200 bytes
		t.Fatalf("captured %d datagrams of the peer", len(payloads))
	}
	before, logged := exposer.memory(), len(exposer.err.String())

	attack(garbage(5000))
	for range 5 {
		attack(payloads)
		spoof(t, mallory, peer, victim, payloads)
		spoof(t, mallory, peer, victim, garbage(1000))
	}
	exchange()                         // the stream goes on where it was, without a byte more or less
	answers := func(d datagram) bool { // and is not multicast to find a router
		return d.from.Addr() == left.Addr() && d.to.Addr() == mallory.Addr()
	}
	for _, d := range heard() {
		if answers(d) {
			t.Errorf("an answer of %d bytes (STUN: %v): %x", len(d.payload), isSTUN(d.payload), d.payload)
		}
	}
	if testtier.IsLong() {
		if connecter.gone(iceLinger + time.Second) {
			t.Fatal("the connecter ended")
		}
		heard = capture(t, mallory, 0)
		attack(payloads)
		attack(garbage(1000))
		spoof(t, mallory, peer, victim, payloads)
		exchange()
		for _, d := range heard() {
			if answers(d) {
				t.Errorf("an answer of %d bytes when ICE is over: %x", len(d.payload), d.payload)
			}
		}
	}
	for _, p := range []*process{exposer, connecter} {
		if n := p.count("up"); n != 1 || p.count("interrupted")+p.count("error")+p.count("closed") > 0 {
			all, _, _ := p.events()
			t.Errorf("%s: events %+v", p.label, all)
		}
	}
	if grown := exposer.memory() - before; grown > 8<<20 {
		t.Errorf("memory grew by %d bytes", grown)
	}
	// One line for thousands of datagrams is welcome, one for each is not.
	if text := exposer.err.String()[logged:]; strings.Count(text, "\n") > 50 {
		t.Errorf("%d lines of log", strings.Count(text, "\n"))
	}
	t.Logf("replayed %d datagrams of the peer", len(payloads))
	_ = c.Close()
	ends(connecter, exposer)
}

func isSTUN(b []byte) bool {
	return len(b) >= 20 && b[0] < 4 && binary.BigEndian.Uint32(b[4:]) == 0x2112a442
}

// garbage makes datagrams: of any bytes, of what begins like STUN (RFC 8489 section 5), and well-formed
// STUN requests from nobody.
func garbage(n int) [][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	fill := rand.NewChaCha8([32]byte{3})
	var out [][]byte
	for i := range n {
		b := make([]byte, 1+r.IntN(1400))
		switch i % 4 {
		case 2: // a binding request with nothing in it
			b = make([]byte, 20)
		case 3: // one for a user that does not exist, without integrity
			b = make([]byte, 20+4+20)
		}
		_, _ = fill.Read(b) // never fails
		if i%4 > 0 && len(b) >= 20 {
			b[0] &= 0x3f // the other two bits tell STUN from others
			binary.BigEndian.PutUint32(b[4:], 0x2112a442)
		}
		if i%4 > 1 {
			binary.BigEndian.PutUint16(b, 1) // binding request
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)-20))
		}
		if i%4 == 3 {
			binary.BigEndian.PutUint16(b[20:], 6) // USERNAME
			binary.BigEndian.PutUint16(b[22:], 17)
			copy(b[24:], "nobody00:stranger\x00\x00\x00")
		}
		out = append(out, b)
	}
	return out
}

// A datagram is what capture saw.
type datagram struct {
	from    netip.AddrPort
	to      netip.AddrPort
	payload []byte
}

// capture records the UDP datagrams that come into h, for one port or for all, until the function it
// returns is called.
func capture(t testing.TB, h *netlab.Host, port uint16) func() []datagram {
	t.Helper()
	var f *os.File
	err := h.Do(func() error {
		protocol := binary.NativeEndian.Uint16([]byte{unix.ETH_P_IP >> 8, unix.ETH_P_IP & 0xff})
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(protocol))
		if err == nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) // a smaller one may do
			f = os.NewFile(uintptr(fd), "capture")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []datagram
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65536)
		for {
			n, err := f.Read(buf)
			if err != nil {
				return
			}
			if d, ok := parse(buf[:n]); ok && (port == 0 || d.to.Port() == port) {
				all = append(all, d)
			}
		}
	}()
	finish := func() []datagram {
		// What the kernel has queued so far is read before the deadline can be seen.
		_ = f.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		<-done
		_ = f.Close()
		return all
	}
	t.Cleanup(func() {
		_ = f.Close()
		<-done
	})
	return finish
}

// parse reads an IPv4 packet with a whole UDP datagram.
func parse(b []byte) (datagram, bool) {
	if len(b) < 28 || b[0]>>4 != 4 || b[9] != unix.IPPROTO_UDP {
		return datagram{}, false
	}
	udp := b[int(b[0]&15)*4:]
	if len(udp) < 8 {
		return datagram{}, false
	}
	addr := func(ip, port []byte) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip)), binary.BigEndian.Uint16(port))
	}
	length := int(binary.BigEndian.Uint16(udp[4:]))
	if length < 8 || length > len(udp) {
		return datagram{}, false
	}
	return datagram{addr(b[12:16], udp[:2]), addr(b[16:20], udp[2:4]), append([]byte(nil), udp[8:length]...)}, true
}

// spoof sends datagrams from h that claim to come from another address.
func spoof(t testing.TB, h *netlab.Host, from, to netip.AddrPort, payloads [][]byte) {
	t.Helper()
	fd := -1
	err := h.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW) // with IP_HDRINCL
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, payload := range payloads {
		// The kernel fills in length, identification and checksum of the IP header; UDP needs none.
		b := make([]byte, 28, 28+len(payload))
		b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
		src, dst := from.Addr().As4(), to.Addr().As4()
		copy(b[12:], src[:])
		copy(b[16:], dst[:])
		binary.BigEndian.PutUint16(b[20:], from.Port())
		binary.BigEndian.PutUint16(b[22:], to.Port())
		binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload)))
		b = append(b, payload...)
		if err := unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: dst}); err != nil && err != unix.EMSGSIZE {
			t.Fatal(err)
		}
	}
}
