// Package simnet is networks in memory, for tests: sockets joined by pipes that have a rate, a queue, a
// delay, and lose, double and reorder datagrams. netlab is its counterpart with a real kernel.
//
//	Socket.Send -> MTU -> [queue | rate] -> loss -> delay + jitter -> the receiver's handler
//	               \______________ Pipe _____________________________/
//
// A Pipe is one direction. Sockets that share one share its bottleneck. Inside of a testing/synctest
// bubble time is simulated: seconds at a rate cost what it takes to handle the packets, and what a pipe
// does depends on the seed and the order of the sends only. A Network made in a bubble must be closed
// in it.
package simnet

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// A Handler takes in the datagrams of segment bytes each that b holds, of which the last may be shorter.
// It may change b, and keeps nothing of it. It runs on the goroutine of the pipe they came through.
type Handler func(b []byte, segment int, from netip.AddrPort)

// A Network is sockets and the pipes between them. Its methods may be called from several goroutines.
type Network struct {
	seed uint64

	mu       sync.RWMutex
	handlers map[netip.AddrPort]Handler
	pipes    []*Pipe
	closed   bool
}

// New returns a network without sockets. Networks with the same seed decide alike.
func New(seed uint64) *Network {
	return &Network{seed: seed, handlers: make(map[netip.AddrPort]Handler)}
}

// Pipe adds one direction of a path, which carries what sockets that were given it send, to whichever
// socket it is addressed to.
func (n *Network) Pipe(c Config) *Pipe {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := &Pipe{
		net: n, start: time.Now(), line: *NewLine(c, n.seed, uint64(len(n.pipes))),
		wake: make(chan struct{}, 1), done: make(chan struct{}), over: make(chan struct{}),
	}
	n.pipes = append(n.pipes, p)
	go p.run()
	return p
}

// Socket adds a socket that sends into up and whose datagrams go to h. One that is there at this address
// is replaced. h may be nil: then they are dropped.
func (n *Network) Socket(addr netip.AddrPort, up *Pipe, h Handler) *Socket {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handlers[addr] = h
	return &Socket{addr: addr, up: up}
}

func (n *Network) handler(addr netip.AddrPort) Handler {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.handlers[addr]
}

// Close stops the pipes and waits until no handler runs any more. What was on its way is lost. Handlers
// must not call it.
func (n *Network) Close() {
	n.mu.Lock()
	pipes, closed := n.pipes, n.closed
	n.closed = true
	n.mu.Unlock()
	if closed {
		return
	}
	for _, p := range pipes {
		close(p.done)
	}
	for _, p := range pipes {
		<-p.over
	}
}

// A Socket is an address on a network.
type Socket struct {
	addr netip.AddrPort
	up   *Pipe
}

// Addr returns the address that others see.
func (s *Socket) Addr() netip.AddrPort { return s.addr }

// Send sends the datagrams of segment bytes each that b holds, of which the last may be shorter. It
// keeps nothing of b and never blocks. What is dropped is no error; a closed network is net.ErrClosed.
func (s *Socket) Send(b []byte, segment int, to netip.AddrPort) error {
	if !s.up.send(b, segment, s.addr, to) {
		return net.ErrClosed
	}
	return nil
}
