package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/net/proxy"
)

// socksListening has SOCKS served over a session whose other side allows what the rules say by -D.
func socksListening(t *testing.T, texts ...string) *Listener {
	t.Helper()
	x, y := reliableSessions(t)
	serving(t, Over(y), Offer{Gate: NewGate("", Policy{Dynamic: rules(t, texts...)}, nil)}, Options{})
	l, err := ListenDynamic(t.Context(), Over(x), Forward{Bind: "localhost"}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestSocksConnect(t *testing.T) {
	target, _ := service(t, "tcp", "127.0.0.1:0", echo)
	l := socksListening(t, fmt.Sprintf("localhost:%d", target.Port), "127.0.0.0/8:1")
	d, err := proxy.SOCKS5("tcp", l.Addr().String(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The name is resolved at the far side: this client does not.
	for _, host := range []string{"localhost", "127.0.0.1"} {
		c, err := d.Dial("tcp", net.JoinHostPort(host, fmt.Sprint(target.Port)))
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
			t.Errorf("%q, %v came back", b, err)
		}
		c.Close()
	}
}

// request returns a SOCKS request with one way to authenticate, none.
func request(command byte, addr []byte, port int) []byte {
	b := append([]byte{5, 1, 0, 5, command, 0}, addr...)
	return binary.BigEndian.AppendUint16(b, uint16(port))
}

func named(host string) []byte { return append([]byte{socksName, byte(len(host))}, host...) }

func TestSocksReplies(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().(*net.TCPAddr).Port
	closed.Close()
	l := socksListening(t, fmt.Sprintf("localhost:%d", nobody), "no-such-host.invalid:80")
	for _, c := range []struct {
		name string
		send []byte
		want []byte // after the greeting; nil: the end at once
	}{
		{"refused", request(socksConnect, named("example.org"), 443), []byte{5, socksNotAllowed, 0, 1, 0, 0, 0, 0, 0, 0}},
		{"refused by address", request(socksConnect, []byte{socksIPv6, 0x20, 1, 15: 0, 16: 1}, 443), []byte{5, socksNotAllowed, 0, 1, 0, 0, 0, 0, 0, 0}},
		{"nobody listens", request(socksConnect, named("localhost"), nobody), []byte{5, socksConnRefused, 0, 1, 0, 0, 0, 0, 0, 0}},
		{"nobody listens, by address", request(socksConnect, []byte{socksIPv4, 127, 0, 0, 1}, nobody), []byte{5, socksConnRefused, 0, 1, 0, 0, 0, 0, 0, 0}},
		{"no such host", request(socksConnect, named("no-such-host.invalid"), 80), []byte{5, socksNoHost, 0, 1, 0, 0, 0, 0, 0, 0}},
		{"bind", request(2, named("localhost"), 1), []byte{5, socksNoCommand, 0, 1, 0, 0, 0, 0, 0, 0}},
		{"no such name", request(socksConnect, named("a b"), 1), []byte{5, socksNoAddress, 0, 1, 0, 0, 0, 0, 0, 0}},
		{"port 0", request(socksConnect, named("localhost"), 0), []byte{5, socksNoAddress, 0, 1, 0, 0, 0, 0, 0, 0}},
		{"an address of no type", request(socksConnect, []byte{9, 1}, 1), nil},
		{"a password alone", []byte{5, 1, 2}, nil},
		{"version 3", []byte{3, 1, 0, 80, 127, 0, 0, 1, 0}, nil},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := dialed(t, l.Addr())
			if _, err := s.Write(c.send); err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(s) // a reset is an end as well
			if c.want == nil {
				if bytes.HasPrefix(got, []byte{5, 0, 5}) {
					t.Errorf("got % x, want the end", got)
				}
				return
			}
			if want := append([]byte{5, 0}, c.want...); !bytes.Equal(got, want) {
				t.Errorf("got % x, want % x", got, want)
			}
		})
	}
}

func TestSocksAssociate(t *testing.T) {
	target := udpEcho(t)
	l := socksListening(t, fmt.Sprintf("localhost:%d/udp", target.Port))
	control := dialed(t, l.Addr())
	if _, err := control.Write(request(socksAssociate, []byte{socksIPv4, 0, 0, 0, 0}, 0)); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 2+10)
	if _, err := io.ReadFull(control, reply); err != nil || reply[3] != socksOK || reply[5] != socksIPv4 {
		t.Fatalf("got % x, %v, want the address of a relay", reply, err)
	}
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte(reply[6:10])), binary.BigEndian.Uint16(reply[10:]))
	c, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	head := func(addr []byte, port int) []byte {
		return binary.BigEndian.AppendUint16(append([]byte{0, 0, 0}, addr...), uint16(port))
	}
	byName, byAddr := head(named("localhost"), target.Port), head([]byte{socksIPv4, 127, 0, 0, 1}, target.Port)
	answered(t, c, append(byName, "hello"...))
	answered(t, c, append(byAddr, make([]byte, 30000)...))
	answered(t, c, append(byAddr, "again"...))

	// What makes no sense, is refused, or is a stranger's is dropped.
	other, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, _ = other.Write(append(byAddr, "not mine"...))
	for _, p := range [][]byte{{}, {0, 0}, {0, 0, 1, 1, 127, 0, 0, 1, 0, 1}, {0, 0, 0, 7}, head(named(""), 1), head(named("example.org"), 53), head([]byte{socksIPv4, 127, 0, 0, 1}, 1)} {
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	answered(t, c, append(byName, "still there"...))

	_ = control.Close()
	waitUntil(t, func() bool {
		_, err := c.Write(byName)
		return err != nil // the relay's port is closed
	})
}

// request4 returns a request of version 4, or with a name of version 4a.
func request4(command byte, port int, addr [4]byte, user, name string) []byte {
	b := binary.BigEndian.AppendUint16([]byte{4, command}, uint16(port))
	b = append(append(append(b, addr[:]...), user...), 0)
	if name != "" {
		b = append(append(b, name...), 0)
	}
	return b
}

// Versions 4 and 4a, as ssh -D speaks them: what the client sends behind its request is the target's.
func TestSocks4(t *testing.T) {
	target, _ := service(t, "tcp", "127.0.0.1:0", echo)
	l := socksListening(t, fmt.Sprintf("localhost:%d", target.Port))
	local, byName := [4]byte{127, 0, 0, 1}, [4]byte{0, 0, 0, 1}
	for _, c := range []struct {
		name string
		send []byte
		want byte // 0 for the end at once
	}{
		{"4", request4(socksConnect, target.Port, local, "", ""), socks4OK},
		{"4 with a user", request4(socksConnect, target.Port, local, "somebody", ""), socks4OK},
		{"4a", request4(socksConnect, target.Port, byName, "", "localhost"), socks4OK},
		{"4a with a user", request4(socksConnect, target.Port, byName, "x", "LOCALHOST."), socks4OK},
		{"not allowed", request4(socksConnect, 1, local, "", ""), socks4Rejected},
		{"no such name", request4(socksConnect, target.Port, byName, "", "a b"), socks4Rejected},
		{"a socket is no name", request4(socksConnect, target.Port, byName, "", "/run/x"), socks4Rejected},
		{"an abstract socket is no name", request4(socksConnect, target.Port, byName, "", "@x"), socks4Rejected},
		{"port 0", request4(socksConnect, 0, local, "", ""), socks4Rejected},
		{"bind", request4(2, target.Port, local, "", ""), socks4Rejected},
		{"associate is not of this version", request4(socksAssociate, target.Port, local, "", ""), socks4Rejected},
		{"a user without an end", request4(socksConnect, target.Port, local, strings.Repeat("x", 300), ""), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := dialed(t, l.Addr())
			if _, err := s.Write(append(c.send, "data"...)); err != nil {
				t.Fatal(err)
			}
			_ = s.CloseWrite()
			got, _ := io.ReadAll(s) // a reset is an end as well
			want := append([]byte{0, c.want}, make([]byte, 6)...)
			switch c.want {
			case 0:
				want = nil
			case socks4OK:
				want = append(want, "data"...)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got % x, want % x", got, want)
			}
		})
	}
}

// The reason of a failed dial travels to the client.
func TestSocksTellsWhy(t *testing.T) {
	connect := func(number syscall.Errno) error {
		return &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", number)}
	}
	for _, test := range []struct {
		err  error
		want byte
	}{
		{connect(syscall.ECONNREFUSED), socksConnRefused},
		{connect(syscall.EHOSTUNREACH), socksNoHost},
		{connect(syscall.ENETUNREACH), socksNoNetwork},
		{connect(syscall.ETIMEDOUT), socksExpired},
		{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, socksExpired},
		{&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, socksNoHost},
		{errNoTurn, socksFailed},
	} {
		x, y := reliableSessions(t)
		gate := NewGate("", Policy{Dynamic: []Rule{Any}}, nil)
		serving(t, Over(y), Offer{Gate: gate, testOnlyDial: func(context.Context, Target) (conn, error) { return nil, test.err }}, Options{})
		l, err := ListenDynamic(t.Context(), Over(x), Forward{Bind: "localhost"}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		c := dialed(t, l.Addr())
		if _, err := c.Write(request(socksConnect, named("example.org"), 80)); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if want := appendSocks([]byte{5, 0}, 5, test.want, netip.AddrPort{}); !bytes.Equal(got, want) {
			t.Errorf("%v: got % x, %v, want % x", test.err, got, err, want)
		}
		c.Close()
		l.Close()
	}
}

func FuzzSocks(f *testing.F) {
	f.Add(request(socksConnect, named("localhost"), 80))
	f.Add(request(socksAssociate, []byte{socksIPv4, 1, 2, 3, 4}, 0))
	f.Add([]byte{5, 0})
	f.Add(request4(socksConnect, 80, [4]byte{0, 0, 0, 1}, "user", "localhost"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := readSocks(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(b), io.Discard})
		if err == nil && !r.target.IsDefault() {
			if got, err := ParseTarget(r.target.String()); err != nil || got != r.target || got.Path != "" {
				t.Errorf("%+v: the target became %v, %v", r, got, err)
			}
		}
		if to, n, ok := parseSocksAddr(b, true); ok && (n > len(b) || !to.UDP) {
			t.Errorf("%v of %d bytes, there are %d", to, n, len(b))
		}
	})
}
