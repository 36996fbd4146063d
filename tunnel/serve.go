package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// maxReasonBytes is what a stream carries of a reason.
	maxReasonBytes = 256

	// A unix socket whose backlog is full is tried again after so long.
	unixRetry = 10 * time.Millisecond
)

// An Offer is what this side serves to one session. The zero Offer serves nothing.
type Offer struct {
	// Gate says which targets the peer may reach. It may be nil.
	Gate *Gate

	// Bench, if set, serves streams that measure the path, with the request of their opener. It owns
	// the stream, has to accept or refuse it, and returns when ctx is done.
	Bench func(ctx context.Context, st Stream, request []byte)

	// Remotes are the places that this side has the peer listen at. It may be nil.
	Remotes *Remotes

	testOnlyDial func(ctx context.Context, t Target) (conn, error)
}

// A destination is where a stream of the peer's goes.
type destination struct {
	Target
	direction Direction
	own       bool // this side asked for it: the gate has no say
}

// choose returns where h leads, or the reason to refuse it before anything is looked up.
func (o *Offer) choose(h header) (destination, *RefusedError) {
	switch h.kind {
	case kindPipe:
		return destination{}, &RefusedError{CodeRefused, "this side does not run adit pipe"}
	case kindBench:
		return destination{}, &RefusedError{CodeRefused, "this side does not let the path be measured"}
	case kindReturn:
		t, ok := o.Remotes.target(h.id)
		if !ok {
			return destination{}, &RefusedError{CodeRefused, "this side has not asked to be listened for, or no longer"}
		}
		return destination{Target: t, own: true}, nil
	case kindDynamic:
		return destination{Target: h.target, direction: Dynamic}, nil
	case kindDefault:
		t, ok := o.Gate.Policy().Default(h.target.UDP)
		switch {
		case ok:
			return destination{Target: t, direction: Local}, nil
		case h.target.UDP:
			return destination{}, &RefusedError{CodeRefused, "this side has no default target for datagrams, name one: -L port:host:hostport/udp"}
		}
		return destination{}, &RefusedError{CodeRefused, "this side has no default target, name one: -L port:host:hostport"}
	}
	return destination{Target: h.target, direction: Local}, nil
}

// Serve accepts streams of s and joins them to their targets until ctx is done or the session ends;
// it returns why, when all its goroutines have ended: the cause of ctx, or the session's own error.
// Each stream is checked against o, then dialled, then accepted; what fails is refused with a reason. A target without
// an answer holds up the streams to itself alone.
func Serve(ctx context.Context, s Session, o Offer, opts Options) error {
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	turns := newDials()
	for {
		st, err := s.Accept(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		h, err := parseHeader(st.Header())
		if err != nil {
			refuse(st, StreamEvent{}, &RefusedError{CodeUsage, err.Error()}, &opts)
			continue
		}
		e := StreamEvent{Target: h.target.String()}
		if h.kind == kindBench {
			e.Target = benchTarget
		}
		if h.kind == kindBench && o.Bench != nil {
			wg.Go(func() { serveBench(ctx, st, []byte(h.request), o.Bench, e, &opts) })
			continue
		}
		if h.kind == kindListen {
			e.Target = h.forward.Place()
		}
		t, no := o.choose(h)
		if no != nil {
			refuse(st, e, no, &opts)
			continue
		}
		if h.kind != kindListen {
			e.Target = t.String()
		}
		leave, err := o.Gate.Enter()
		if err != nil {
			refuse(st, e, err, &opts)
			continue
		}
		if h.kind == kindListen {
			wg.Go(func() {
				defer leave()
				o.serveListen(ctx, s, st, h, e, &opts)
			})
			continue
		}
		wg.Go(func() {
			defer leave()
			c, err := turns.do(ctx, t.String(), st, func(ctx context.Context) (net.Conn, error) { return o.dial(ctx, t) })
			serveStream(ctx, st, e, c, err, &opts)
		})
	}
}

// serveStream joins st to the dialled connection, or refuses it if err says that there is none.
func serveStream(ctx context.Context, st Stream, e StreamEvent, dialed net.Conn, err error, opts *Options) {
	if err != nil {
		if ctx.Err() != nil {
			_ = st.Reset(CodeCanceled) // this side ends
			return
		}
		refuse(st, e, err, opts)
		return
	}
	if u, ok := dialed.(*net.UDPConn); ok {
		serveFlow(ctx, st, e, u, opts)
		return
	}
	c := dialed.(conn) // TCP or a unix socket
	if err := st.Accept(); err != nil {
		abort(c)
		_ = st.Reset(CodeReset) // most likely the peer did
		opts.stream(ended(e, 0, 0, err))
		return
	}
	open := e
	open.State = StateOpen
	opts.stream(open)
	sent, received, err := join(ctx, c, st, nil)
	opts.stream(ended(e, sent, received, err))
}

// refuse tells both ends that st is not served: why a *RefusedError says, and any other error is that
// of a dial.
func refuse(st Stream, e StreamEvent, err error, opts *Options) {
	why := &RefusedError{dialCode(err), e.Target + " cannot be reached: " + plain(err)}
	_ = errors.As(err, &why)
	why.Reason = printable(why.Reason)
	if err := st.Refuse(why.Code, why.Reason); err != nil {
		_ = st.Reset(CodeReset) // most likely the peer did
	}
	opts.stream(ended(e, 0, 0, why))
}

// dial connects to t where the gate lets it, at the first of its addresses that answers.
func (o *Offer) dial(ctx context.Context, t destination) (net.Conn, error) {
	var addrs []string
	if t.own {
		addrs = t.addresses()
	} else {
		var err error
		if addrs, err = o.Gate.Addresses(ctx, t.direction, t.String()); err != nil {
			return nil, err
		}
	}
	if err := t.CheckHere(); err != nil {
		return nil, &RefusedError{CodeUnreachable, t.String() + " cannot be reached: " + err.Error()}
	}
	if o.testOnlyDial != nil {
		return o.testOnlyDial(ctx, t.Target)
	}
	network := "tcp"
	switch {
	case t.Path != "":
		network = "unix"
	case t.UDP:
		network = "udp"
	}
	return dialFirst(ctx, addrs, func(ctx context.Context, addr string) (net.Conn, error) {
		var d net.Dialer
		if host, _, err := net.SplitHostPort(addr); err == nil && net.ParseIP(host).IsLoopback() {
			d.KeepAlive = -1 // who is on this machine cannot vanish, and it costs four system calls
		}
		if network == "unix" {
			return dialUnix(ctx, &d, addr)
		}
		return d.DialContext(ctx, network, addr)
	})
}

// dialUnix waits for room in the backlog of a unix socket, as connect does for a program that lets it block: to this
// one the system says at once that there is none.
func dialUnix(ctx context.Context, d *net.Dialer, path string) (net.Conn, error) {
	for {
		c, err := d.DialContext(ctx, "unix", path)
		if !errors.Is(err, syscall.EAGAIN) {
			return c, err
		}
		if !sleep(ctx, unixRetry) {
			return nil, ctx.Err()
		}
	}
}

// dialFirst returns what dial has for the first address that answers, or the first error. Each has its share of the
// time that is left to ctx, as net.Dialer gives it to the addresses of a name, so that one without an answer leaves
// some for the next.
func dialFirst(ctx context.Context, addrs []string, dial func(ctx context.Context, addr string) (net.Conn, error)) (net.Conn, error) {
	var first error
	for i, a := range addrs {
		each, cancel := ctx, context.CancelFunc(func() {})
		if deadline, ok := ctx.Deadline(); ok {
			each, cancel = context.WithTimeout(ctx, max(time.Until(deadline)/time.Duration(len(addrs)-i), minDial))
		}
		c, err := dial(each, a)
		cancel()
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, first
}

// addresses returns what to dial for t. The name localhost needs no resolver.
func (t Target) addresses() []string {
	port := strconv.Itoa(t.Port)
	switch {
	case t.Path != "":
		return []string{t.Path}
	case t.Host == "localhost":
		return []string{net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("::1", port)}
	}
	return []string{net.JoinHostPort(t.Host, port)}
}

// plain says why a dial failed without repeating the address, nor what it resolved to: the peer sees it.
func plain(err error) string {
	var dns *net.DNSError
	var sys *os.SyscallError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "no such host"
	case errors.As(err, &dns):
		return "its name cannot be resolved"
	case errors.Is(err, errNoTurn) || errors.Is(err, errDisplaced):
		return err.Error()
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Sprintf("no answer within %v", dialTimeout)
	case errors.Is(err, syscall.ENOENT):
		return "no such socket"
	case errors.As(err, &sys):
		return sys.Err.Error()
	}
	return "dial failed"
}

// dialCode returns the code of a refusal for a dial that failed with err.
func dialCode(err error) uint32 {
	switch {
	case errors.Is(err, errNoTurn):
		return CodeBusy
	case errors.Is(err, errDisplaced), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		isErrno(err, syscall.ETIMEDOUT, 10060):
		return CodeDialTimeout
	case isErrno(err, syscall.ECONNREFUSED, 10061):
		return CodeDialRefused
	case isErrno(err, syscall.ENETUNREACH, 10051), isErrno(err, syscall.ENETDOWN, 10050):
		return CodeNoNetwork
	}
	return CodeUnreachable
}

// isErrno reports whether err is the system's error number, or that of Windows, for which package syscall has other
// values.
func isErrno(err error, number syscall.Errno, windows syscall.Errno) bool {
	return errors.Is(err, number) || runtime.GOOS == "windows" && errors.Is(err, windows)
}

// printable makes a reason safe to send and to show: one line, no control characters, bounded.
func printable(s string) string {
	if len(s) > maxReasonBytes {
		s = s[:maxReasonBytes]
	}
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}
