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

// SOCKS version 5 (RFC 1928), as a server without authentication, and CONNECT of versions 4 and 4a. Names are not
// resolved here: they travel to the peer as they are.
const (
	socksNoAuth  = 0x00
	socksNoneFit = 0xff // of the client's ways to authenticate

	socksConnect   = 1
	socksAssociate = 3

	socksIPv4 = 1
	socksName = 3
	socksIPv6 = 4

	// socksTimeout is how long a client has to say what it wants.
	socksTimeout = 10 * time.Second

	// A client that is denied has so long, and so many bytes, to read the reply and close.
	denyLinger = time.Second
	denyBytes  = 64 << 10
)

// The replies of RFC 1928 section 6, and the two of version 4 that are sent. What went wrong there is no more than
// "rejected or failed": the other two are about identd.
const (
	socksOK          = 0
	socksFailed      = 1
	socksNotAllowed  = 2
	socksNoNetwork   = 3
	socksNoHost      = 4
	socksConnRefused = 5
	socksExpired     = 6
	socksNoCommand   = 7
	socksNoAddress   = 8

	socks4OK       = 90
	socks4Rejected = 91

	// socks4Bytes bounds each of the texts of a request of version 4: a user's name, which is not looked at, and
	// the name of a host.
	socks4Bytes = 255
)

var errSocks = errors.New("not SOCKS version 4 or 5")

// A socksRequest is what a client asks for. The target is the default one if what it names cannot be one.
type socksRequest struct {
	version byte // 4 or 5
	command byte
	target  Target
}

// reply appends the answer to r that names an address.
func (r socksRequest) reply(b []byte, code byte, at netip.AddrPort) []byte {
	if r.version == 5 {
		return appendSocks(b, 5, code, at)
	}
	granted := byte(socks4Rejected)
	if code == socksOK {
		granted = socks4OK
	}
	return append(b, 0, granted, 0, 0, 0, 0, 0, 0) // clients do not look at the address
}

// ListenDynamic listens where f says, whose target is the default one, for SOCKS clients, until ctx is done or
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
	r, err := readSocks(c)
	if err != nil {
		abort(c)
		return
	}
	switch {
	case r.version == 5 && r.command == socksAssociate:
		l.associate(ctx, c, r)
	case r.target.IsDefault():
		l.denySocks(c, r, socksNoAddress)
	case r.command != socksConnect:
		l.denySocks(c, r, socksNoCommand)
	default:
		stop()
		l.connectSocks(ctx, c.(conn), r)
	}
}

// readSocks reads a client's request, and in version 5 greets it before.
func readSocks(c io.ReadWriter) (socksRequest, error) {
	var b [256]byte
	if _, err := io.ReadFull(c, b[:2]); err != nil {
		return socksRequest{}, err
	}
	switch b[0] {
	case 4:
		return readSocks4(c, b[1])
	case 5:
	default:
		return socksRequest{}, errSocks
	}
	methods := b[:b[1]]
	if _, err := io.ReadFull(c, methods); err != nil {
		return socksRequest{}, err
	}
	choice := byte(socksNoneFit)
	for _, m := range methods {
		if m == socksNoAuth {
			choice = socksNoAuth
		}
	}
	if _, err := c.Write([]byte{5, choice}); err != nil {
		return socksRequest{}, err
	}
	if choice == socksNoneFit {
		return socksRequest{}, errSocks
	}
	if _, err := io.ReadFull(c, b[:3]); err != nil {
		return socksRequest{}, err
	}
	if b[0] != 5 {
		return socksRequest{}, errSocks
	}
	r := socksRequest{version: 5, command: b[1]}
	var addr [1 + 1 + 255 + 2]byte
	n, err := readSocksAddr(c, addr[:])
	if err != nil {
		return socksRequest{}, err
	}
	r.target, _, _ = parseSocksAddr(addr[:n], false)
	return r, nil
}

// readSocks4 reads what follows the version and the command of a request of version 4:
//
//	 0      2         6
//	+------+---------+--------+---+--------+---+
//	| port | address | user   | 0 | name   | 0 |
//	+------+---------+--------+---+--------+---+
//
// There is a name where the address is 0.0.0.x and not 0.0.0.0 (version 4a).
func readSocks4(c io.Reader, command byte) (socksRequest, error) {
	r := socksRequest{version: 4, command: command}
	var b [2 + 4]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return r, err
	}
	if _, err := readSocks4Text(c); err != nil {
		return r, err
	}
	addr := append([]byte{socksIPv4}, b[2:]...)
	if b[2] == 0 && b[3] == 0 && b[4] == 0 && b[5] != 0 {
		name, err := readSocks4Text(c)
		if err != nil {
			return r, err
		}
		addr = append([]byte{socksName, byte(len(name))}, name...)
	}
	r.target, _, _ = parseSocksAddr(append(addr, b[:2]...), false)
	return r, nil
}

// readSocks4Text reads a text to the zero behind it, and nothing more: the client's data may follow.
func readSocks4Text(r io.Reader) ([]byte, error) {
	var text []byte
	for len(text) <= socks4Bytes {
		var one [1]byte
		if _, err := io.ReadFull(r, one[:]); err != nil {
			return nil, err
		}
		if one[0] == 0 {
			return text, nil
		}
		text = append(text, one[0])
	}
	return nil, fmt.Errorf("%w: a text of more than %d bytes", errSocks, socks4Bytes)
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
func (l *Listener) denySocks(c net.Conn, r socksRequest, code byte) {
	_, _ = c.Write(r.reply(nil, code, netip.AddrPort{})) // the end says the same
	// To close with input unread would be a reset, which may overtake the reply.
	_ = c.(conn).CloseWrite() // the client may have gone
	_ = c.SetReadDeadline(time.Now().Add(denyLinger))
	_, _ = io.CopyN(io.Discard, c, denyBytes)
	_ = c.Close()
}

// connectSocks joins c to a stream to r's target once the peer has it.
func (l *Listener) connectSocks(ctx context.Context, c conn, r socksRequest) {
	e := StreamEvent{Target: r.target.String(), Peer: c.RemoteAddr().String()}
	_ = c.SetDeadline(time.Time{}) // it may wait for the session; fails on a closed one only
	st, err := l.waiting.open(ctx, l.session, header{kind: kindDynamic, target: r.target}.encode(), c)
	if err == nil {
		if err = st.WaitAccepted(ctx); err != nil {
			_ = st.Reset(CodeCanceled) // it may be what failed
		}
	}
	// The path may have been interrupted meanwhile, so the client's time begins anew.
	_ = c.SetDeadline(time.Now().Add(socksTimeout))
	if err != nil {
		l.opts.stream(ended(e, 0, 0, err))
		l.denySocks(c, r, socksCode(err))
		return
	}
	if _, err = c.Write(r.reply(nil, socksOK, netip.AddrPort{})); err != nil {
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
//
// RFC 1928 has no word for a target that does not answer. "Host unreachable" (4) is what a router, or the resolver, says
// at once; of the others "TTL expired" (6) alone is about time, and Tor, Dante and microsocks send it for a timeout, so
// that clients tell a silent host from one that is known not to be there.
func socksCode(err error) byte {
	var refused *RefusedError
	if !errors.As(err, &refused) {
		return socksFailed
	}
	switch refused.Code {
	case CodeRefused:
		return socksNotAllowed
	case CodeUsage, CodeBusy:
		return socksFailed
	case CodeDialRefused:
		return socksConnRefused
	case CodeDialTimeout:
		return socksExpired
	case CodeNoNetwork:
		return socksNoNetwork
	}
	return socksNoHost
}
