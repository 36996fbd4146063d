package punch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A space runs functions in a network namespace of its own: on a thread that never comes back.
type space struct {
	tid int
	do  chan func()
}

func newSpace(t *testing.T) *space {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	for _, tool := range []string{"ip", "tc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs iproute2:", err)
		}
	}
	s := &space{do: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		s.tid = unix.Gettid()
		ready <- err
		for f := range s.do {
			f()
		}
	}()
	t.Cleanup(func() { close(s.do) })
	if err := <-ready; err != nil {
		t.Skip("no network namespaces here:", err)
	}
	s.sh(t, "ip link set lo up")
	return s
}

// in runs f on the thread of the namespace.
func (s *space) in(f func()) {
	done := make(chan struct{})
	s.do <- func() { defer close(done); f() }
	<-done
}

func (s *space) sh(t *testing.T, command string) {
	t.Helper()
	var out []byte
	var err error
	args := strings.Fields(command)
	s.in(func() { out, err = exec.Command(args[0], args[1:]...).CombinedOutput() })
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

func (s *space) listen(t *testing.T, cfg Config) (h *Host) {
	t.Helper()
	var err error
	s.in(func() { h, err = Listen(cfg) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func (s *space) agent(t *testing.T, h *Host, local, remote Credentials, controlling bool) (a *Agent, own []Candidate) {
	t.Helper()
	var err error
	s.in(func() {
		if err = h.Gather(t.Context(), func(c Candidate) { own = append(own, c) }); err == nil {
			a, err = h.NewAgent(AgentConfig{Local: local, Controlling: controlling})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.SetRemote(remote); err != nil {
		t.Fatal(err)
	}
	return a, own
}

// wire joins two namespaces by a veth without any route but that of the LAN.
func wire(t *testing.T, a, b *space) {
	t.Helper()
	a.sh(t, fmt.Sprintf("ip link add veth0 type veth peer name veth0 netns %d", b.tid))
	for i, s := range []*space{a, b} {
		s.sh(t, fmt.Sprintf("ip addr add 10.99.0.%d/24 dev veth0", i+1))
		s.sh(t, "ip link set veth0 up")
	}
}

func TestSpaces(t *testing.T) {
	for _, test := range []struct {
		name     string
		loopback bool
		setup    func(t *testing.T) (a, b *space)
	}{
		{"no default route", false, func(t *testing.T) (a, b *space) {
			a, b = newSpace(t), newSpace(t)
			wire(t, a, b)
			return a, b
		}},
		{"loopback alone", true, func(t *testing.T) (a, b *space) {
			a = newSpace(t)
			return a, a
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			sa, sb := test.setup(t)
			a, b := sa.listen(t, Config{Loopback: test.loopback}), sb.listen(t, Config{Loopback: test.loopback})
			ca, cb := CredentialsFromSeed(seed(1)), CredentialsFromSeed(seed(2))
			x, ownA := sa.agent(t, a, ca, cb, true)
			y, ownB := sb.agent(t, b, cb, ca, false)
			for _, c := range ownB {
				if err := x.AddRemote(c); err != nil {
					t.Error(err)
				}
			}
			for _, c := range ownA {
				if err := y.AddRemote(c); err != nil {
					t.Error(err)
				}
			}
			ox, oy := connect(t.Context(), x), connect(t.Context(), y)
			for _, o := range []outcome{wait(t, ox), wait(t, oy)} {
				if o.err != nil {
					t.Errorf("candidates %v and %v: %v", ownA, ownB, o.err)
				}
			}
		})
	}
}

func TestNoAddress(t *testing.T) {
	s := newSpace(t)
	h := s.listen(t, Config{})
	var err error
	s.in(func() { _, err = h.NewAgent(AgentConfig{Local: CredentialsFromSeed(seed(1))}) })
	if !errors.Is(err, ErrNoAddress) {
		t.Errorf("got %v, want %v", err, ErrNoAddress)
	}
}

// A slow link must not hold up the sender: what finds no room is lost, later datagrams are sent.
func TestFullSendBuffer(t *testing.T) {
	a, b := newSpace(t), newSpace(t)
	wire(t, a, b)
	a.sh(t, "tc qdisc add dev veth0 root tbf rate 2mbit burst 10kb limit 10mb")
	from, to := a.listen(t, Config{}), b.listen(t, Config{})
	raw, err := from.socks[0].conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 128<<10); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	arrived := make(chan struct{}, 1)
	to.SetHandler(func(b []byte, _ int, _ netip.AddrPort) {
		if b[0] == 0x7f {
			select {
			case arrived <- struct{}{}:
			default:
			}
		}
	})
	dst := netip.AddrPortFrom(netip.MustParseAddr("10.99.0.2"), uint16(to.Port()))
	p := datagrams(0, 1000, 1200, 1200) // five seconds at this rate
	start := time.Now()
	if err := from.Send(p, 1200, dst); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v, want %v", err, os.ErrDeadlineExceeded)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("blocked for %v", took)
	}
	a.sh(t, "tc qdisc del dev veth0 root") // and all that waits in it
	for deadline := time.Now().Add(patience); ; {
		if err := from.Send([]byte{0x7f}, 1, dst); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		select {
		case <-arrived:
			return
		case <-time.After(10 * time.Millisecond):
			if time.Now().After(deadline) {
				t.Fatal("nothing is sent any more")
			}
		}
	}
}

// The hop limit of near checks is on the packet, and on no later one.
func TestSendNear(t *testing.T) {
	h := listen(t, Config{})
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTTL, 1); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	dst := c.LocalAddr().(*net.UDPAddr).AddrPort()
	s := h.socks[0]
	for i, near := range []bool{true, false, true} {
		if near {
			err = s.batch.sendNear([]byte("near"), nearHops, dst)
		} else {
			err = s.batch.send([]byte("far"), 3, dst)
		}
		if err != nil {
			t.Fatal(err)
		}
		b, oob := make([]byte, 100), make([]byte, 100)
		_, on, _, _, err := c.ReadMsgUDPAddrPort(b, oob)
		if err != nil {
			t.Fatal(err)
		}
		h, data, _, err := unix.ParseOneSocketControlMessage(oob[:on])
		if err != nil || h.Type != unix.IP_TTL {
			t.Fatalf("got control message %v, %v", h, err)
		}
		if ttl := binary.NativeEndian.Uint32(data); (ttl == nearHops) != near {
			t.Errorf("packet %d: got hop limit %d, near %v", i, ttl, near)
		}
	}
	if err := s.batch.sendNear([]byte("x"), nearHops, netip.MustParseAddrPort("[::1]:9")); err == nil {
		t.Error("IPv6 from the IPv4 socket: got no error")
	}
}
