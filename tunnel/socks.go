package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// SOCKS version 5 (RFC 1928), as a server without authentication. Names are not resolved here: they travel to
// the peer as they are.
const (
	socksVersion = 5
	socksNoAuth  = 0x00
	socksNoneFit = 0xff // of the client's ways to authenticate

	socksConnect   = 1
	socksAssociate = 3

	socksIPv4 = 1
	socksName = 3
	socksIPv6 = 4

	// socksTimeout is how long a client has to say what it wants.
	socksTimeout = 10 * time.Second
)

// The replies of RFC 1928 section 6.
const (
	socksOK          = 0
	socksFailed      = 1
	socksNotAllowed  = 2
	socksUnreachable = 4
	socksNoCommand   = 7
	socksNoAddress   = 8
)

var errSocks = errors.New("not SOCKS version 5")

// ListenDynamic listens where f says, whose target is the default one, for SOCKS 5 clients, until ctx is done or
// Close is called. Each of their connections gets a stream of its own on s, to the target that the client
// names, and each target of their datagrams a flow. Whoever reaches the address may use it: there is no
// authentication.
//
// A local address that cannot be listened on gives a *ListenError.
func ListenDynamic(ctx context.Context, s Session, f Forward, opts Options) (*Listener, error) {
	l := &Listener{session: s, name: "SOCKS", opts: opts}
	if err := l.listen(ctx, f); err != nil {
		return nil, err
	}
	if opts.OnListen != nil {
		opts.OnListen(l.Addr(), l.name)
	}
	l.start(ctx, l.serveSocks)
	return l, nil
}

// serveSocks serves one client, whose connection it owns.
func (l *Listener) serveSocks(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(socksTimeout)) // never fails on an open connection
	command, target, err := readSocks(c)
	if err != nil {
		abort(c)
		return
	}
	switch {
	case command == socksAssociate:
		l.associate(ctx, c)
	case target.IsDefault():
		l.denySocks(c, socksNoAddress)
	case command != socksConnect:
		l.denySocks(c, socksNoCommand)
	default:
		stop()
		l.connectSocks(ctx, c.(conn), target)
	}
}

// readSocks greets the client and reads its request. The target is the default one if it cannot be one.
func readSocks(c io.ReadWriter) (command byte, target Target, err error) {
	var b [256]byte
	if _, err := io.ReadFull(c, b[:2]); err != nil {
		return 0, Target{}, err
	}
	if b[0] != socksVersion {
		return 0, Target{}, errSocks
	}
	methods := b[:b[1]]
	if _, err := io.ReadFull(c, methods); err != nil {
		return 0, Target{}, err
	}
	choice := byte(socksNoneFit)
	for _, m := range methods {
		if m == socksNoAuth {
			choice = socksNoAuth
		}
	}
	if _, err := c.Write([]byte{socksVersion, choice}); err != nil {
		return 0, Target{}, err
	}
	if choice == socksNoneFit {
		return 0, Target{}, errSocks
	}
	if _, err := io.ReadFull(c, b[:3]); err != nil {
		return 0, Target{}, err
	}
	if b[0] != socksVersion {
		return 0, Target{}, errSocks
	}
	command = b[1]
	var addr [1 + 1 + 255 + 2]byte
	n, err := readSocksAddr(c, addr[:])
	if err != nil {
		return 0, Target{}, err
	}
	target, _, _ = parseSocksAddr(addr[:n], false)
	return command, target, nil
}

// readSocksAddr reads an address and a port as they are, with their type, and returns their size.
func readSocksAddr(r io.Reader, b []byte) (int, error) {
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return 0, err
	}
	n := 0
	switch b[0] {
	case socksIPv4:
		n = 1 + 4 + 2
	case socksIPv6:
		n = 1 + 16 + 2
	case socksName:
		n = 2 + int(b[1]) + 2
	default:
		return 0, fmt.Errorf("%w: an address of type %d", errSocks, b[0])
	}
	_, err := io.ReadFull(r, b[2:n])
	return n, err
}

// parseSocksAddr reads an address and returns how many bytes it takes. It is not ok if there is no such target.
func parseSocksAddr(b []byte, udp bool) (t Target, n int, ok bool) {
	if len(b) < 2 {
		return Target{}, 0, false
	}
	var host string
	switch b[0] {
	case socksIPv4:
		n = 1 + 4
	case socksIPv6:
		n = 1 + 16
	case socksName:
		n = 2 + int(b[1])
	default:
		return Target{}, 0, false
	}
	if len(b) < n+2 {
		return Target{}, 0, false
	}
	switch b[0] {
	case socksName:
		host = string(b[2:n])
		if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
			host = "[" + host + "]" // some clients send addresses so
		}
	default:
		a, _ := netip.AddrFromSlice(b[1:n]) // of a right size
		host = bracketed(a.Unmap().String())
	}
	text := host + ":" + strconv.Itoa(int(binary.BigEndian.Uint16(b[n:])))
	if udp {
		text += udpSuffix
	}
	t, err := ParseTarget(text)
	if err != nil || t.Path != "" || host == "" { // a name like /run/x.sock is no way to a unix socket
		return Target{}, 0, false
	}
	return t, n + 2, true
}

// appendSocks appends a reply, or with code 0 the head of a datagram, that names an address.
func appendSocks(b []byte, first, code byte, at netip.AddrPort) []byte {
	b = append(b, first, code, 0)
	if a := at.Addr().Unmap(); a.Is6() {
		b = append(append(b, socksIPv6), a.AsSlice()...)
	} else {
		var four [4]byte // 0.0.0.0 for no address
		if a.Is4() {
			four = a.As4()
		}
		b = append(append(b, socksIPv4), four[:]...)
	}
	return binary.BigEndian.AppendUint16(b, at.Port())
}

// denySocks tells the client that there is nothing for it, and closes.
func (l *Listener) denySocks(c net.Conn, code byte) {
	_, _ = c.Write(appendSocks(nil, socksVersion, code, netip.AddrPort{})) // the end says the same
	_ = c.Close()
}

// connectSocks joins c to a stream to the target once the peer has it.
func (l *Listener) connectSocks(ctx context.Context, c conn, target Target) {
	e := StreamEvent{Target: target.String(), Peer: c.RemoteAddr().String()}
	_ = c.SetDeadline(time.Time{}) // it may wait for the session; fails on a closed one only
	st, err := l.waiting.open(ctx, l.session, header{kind: kindDynamic, target: target}.encode(), c)
	if err == nil {
		if err = st.WaitAccepted(ctx); err != nil {
			_ = st.Reset(CodeCanceled) // it may be what failed
		}
	}
	// The path may have been interrupted meanwhile, so the client's time begins anew.
	_ = c.SetDeadline(time.Now().Add(socksTimeout))
	if err != nil {
		l.opts.stream(ended(e, 0, 0, err))
		l.denySocks(c, socksCode(err))
		return
	}
	if _, err = c.Write(appendSocks(nil, socksVersion, socksOK, netip.AddrPort{})); err != nil {
		_ = st.Reset(CodeReset) // the client has gone
		abort(c)
		l.opts.stream(ended(e, 0, 0, err))
		return
	}
	_ = c.SetDeadline(time.Time{}) // from here on it is the target's
	open := e
	open.State = StateOpen
	l.opts.stream(open)
	sent, received, err := join(ctx, c, st, nil)
	l.opts.stream(ended(e, sent, received, err))
}

// socksCode makes a reply of why there is no stream.
func socksCode(err error) byte {
	var refused *RefusedError
	if errors.As(err, &refused) {
		switch refused.Code {
		case CodeRefused:
			return socksNotAllowed
		case CodeUnreachable:
			return socksUnreachable
		}
	}
	return socksFailed
}
