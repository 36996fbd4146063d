// Package link carries sealed datagrams between two peers over UDP addresses that may change.
//
// A Mux finds the link of an incoming packet by its receiver index, never by its address. A Link
// opens, drops replays, and hands payloads to one handler; in the other direction it queues payloads
// by flow, picks the next fairly, and lets packets go at the rate that the path was seen to carry.
//
//	Send(flow, key, p) -> queues, repairs -> round robin -> pacer -> seal -> Socket.Send
//	                                                        ^ rate, window
//	Receive(f)    <- open, replay window <- Deliver     | FEEDBACK
//
// Whatever is not authenticated changes nothing, is not answered, allocates nothing and is not
// logged. The address that packets go to moves only to the source of an authenticated packet, the
// newest so far, and only after that source answered a challenge. docs/wire.md draws the formats.
//
// The package knows nothing of streams: a payload may be doubled or overtaken. One without a key may
// be lost; one with a key is sent again until it came (repair.go), and early where a flow has little
// to send and the path loses packets (thin.go).
//
// Errors: ErrClosed, ErrFlood, ErrPeerClosed, PeerClosedError, ErrDead, ErrSize, ErrBusy.
package link

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"adit/internal/congestion"
)

var (
	// ErrClosed is the end of a link that this side closed. It unwraps to net.ErrClosed.
	ErrClosed = fmt.Errorf("link closed: %w", net.ErrClosed)
	// ErrPeerClosed is the end of a link that the peer closed. If it gave a reason, a PeerClosedError has it.
	ErrPeerClosed = errors.New("link closed by the peer")
	// ErrDead is the end of a link on which nothing authenticated was heard for Config.DeadAfter.
	ErrDead = errors.New("link dead: the peer does not answer")
	// ErrSize is a control message larger than MaxControl.
	ErrSize = errors.New("control message too large")
	// ErrBusy is a control message too many: 64 wait for the peer already.
	ErrBusy = errors.New("too many control messages unacknowledged")
	// ErrIndex is a receiver index that was not reserved, is in use, or is out of range.
	ErrIndex = errors.New("no such receiver index")
)

// MaxControl is the largest control message, in bytes.
const MaxControl = messageBytes

// A State is what a link knows of its peer.
type State int

const (
	Up          State = iota // the peer answers, or nothing was asked of it yet
	Suspect                  // an answer is late, by most of a second: a moment to look around
	Interrupted              // nothing authenticated for three seconds while something is unanswered
	Dead                     // nothing for Config.DeadAfter; the end
	Closed                   // one of the two sides closed; the end
)

// String returns the state's name.
func (s State) String() string {
	switch s {
	case Up:
		return "up"
	case Suspect:
		return "suspect"
	case Interrupted:
		return "interrupted"
	case Dead:
		return "dead"
	case Closed:
		return "closed"
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// A Socket sends the datagrams of segment bytes each that b holds, of which the last may be shorter.
// It keeps nothing of b. An error is taken as a loss.
type Socket interface {
	Send(b []byte, segment int, to netip.AddrPort) error
}

// Config says what a link needs. Socket, the indexes and the keys are required. The callbacks run on
// the link's goroutine or on the caller of Deliver: they must not block, nor call Link.Close.
type Config struct {
	Socket        Socket
	LocalIndex    uint32 // reserved at the Mux; what the peer writes in its packets
	RemoteIndex   uint32 // the peer's
	SendKey       [32]byte
	RecvKey       [32]byte
	AES           bool // AES-256-GCM; ChaCha20-Poly1305 otherwise
	DontFragment  bool // Socket's datagrams are never fragmented: the path's MTU can be probed
	ReceiveBuffer int  // bytes of the local socket buffer, told to the peer; 0 is unknown

	// OnControl gets a control message of the peer, valid during the call, and where it came from. Each
	// comes once.
	OnControl func(b []byte, from netip.AddrPort)

	// Relayed says which addresses stand for a relay. While a direct path lives, packets that come through
	// a relay do not move the link there. Nil: none does.
	Relayed func(netip.AddrPort) bool

	OnState   func(State)   // called on changes, in order; a link begins Up
	OnMove    func()        // called after Remote changed from one address to another, for whatever reason
	OnRekey   func()        // called when the first packet has opened under the key of a Rekey
	DeadAfter time.Duration // silence that ends the link; 0 is 10 minutes
	Logger    *slog.Logger  // nil is silent
}

// Stats counts what a link did. Packets include the link's own.
type Stats struct {
	SentPackets, SentBytes         uint64
	ReceivedPackets, ReceivedBytes uint64 // authenticated, each once
	Lost                           uint64 // sent, with later ones reported, and not arrived
	Resent                         uint64 // sent again because they were found lost, or might be
	Spurious                       uint64 // of those found lost: they came all the same
	Dropped                        uint64 // refused by Send for want of room
	Rejected                       uint64 // packets with our index that did not open
	Replayed                       uint64 // packets that came again, or too late
	Rate                           float64
	RTT, MinRTT                    time.Duration
	Window                         int // bytes that may be in flight
	MTU                            int // bytes of the largest packet, a UDP payload
	Queue                          int // bytes that wait in queues, or to be sent again
}

// parked says what the run goroutine waits for, and so who must wake it.
type parked uint8

const (
	running parked = iota
	idle           // anything
	blocked        // pacing, window or a path: only flow 0 and the link's own packets are news
)

// A Link is one peer. Its methods may be called from several goroutines.
type Link struct {
	cfg   Config
	mux   *Mux
	start time.Time
	log   *slog.Logger

	demands *rate.Limiter // of the peer

	wake    chan struct{} // capacity 1: a wake-up that is already there is enough
	done    chan struct{} // closed with err set
	stopped chan struct{} // closed when run has ended

	handler atomic.Pointer[func([]byte)]
	remote  atomic.Pointer[netip.AddrPort] // nil before Use; written with mu held
	dataAt  atomic.Int64                   // the same of DATA and the like, 0 once a PING came after it
	pathAt  atomic.Int64                   // the same, of those that came from remote; what answers elsewhere says nothing of it
	rtt     atomic.Int64                   // the smoothed round trip, for receivers
	mtu     atomic.Int32                   // pmtu.size less a packet's overhead
	broken  atomic.Bool                    // the state is not Up: what comes must wake run

	// rmu guards what receiving needs. It is taken after mu, or alone.
	rmu     sync.Mutex
	ended   bool // nothing is opened any more
	opener  opener
	from    netip.AddrPort // source of the highest counter
	report  report
	recvd   traffic
	halves  reassembler
	msgSeen replayWindow // ids of control messages

	mu        sync.Mutex
	err       error
	seal      sealer // only run seals
	cc        *congestion.Sender[*packet]
	sched     scheduler
	repairs   repairs
	pmtu      pmtu
	splits    uint32   // payloads that left as fragments
	news      feedback // being taken in
	parked    parked
	replies   []reply
	probes    []probeRequest
	pings     [32]ping
	pingNext  int
	messages  []message
	nextID    uint64
	path      challenge
	live      liveness
	probed    netip.AddrPort // by the last successful probe, which found probedRTT
	probedRTT time.Duration
	confirmed uint64 // highest counter that a PONG answered
	sentAll   traffic
	states    []State // to be told, in order
	moved     bool    // to be told
}

type traffic struct{ packets, bytes uint64 }

// Mux hands incoming packets to links.
type Mux struct {
	mu    sync.RWMutex
	links map[uint32]*Link // nil: reserved
	batch sync.Pool        // *batch
}

// now is never 0, so that 0 can say "never".
func (l *Link) now() time.Duration { return time.Since(l.start) + 1 }

// Use sets the address that packets go to, from now on. Before it is called, nothing is sent but
// probes and answers.
func (l *Link) Use(to netip.AddrPort) {
	to = unmap(to)
	l.mu.Lock()
	if old := l.remote.Load(); old == nil || *old != to {
		rtt := l.lastRTTLocked(to)
		l.moveLocked(to, rtt, l.now())
	}
	l.path = challenge{hold: l.path.hold}
	l.mu.Unlock()
	l.poke()
}

// moveLocked changes the address. What was learnt of another host's path is worth nothing on this one.
func (l *Link) moveLocked(to netip.AddrPort, rtt, now time.Duration) {
	old := l.remote.Load()
	l.remote.Store(&to)
	l.pathAt.Store(int64(now))
	if old == nil || old.Addr() != to.Addr() {
		l.cc.Reset(rtt, now)
		l.rtt.Store(int64(rtt))
		l.pmtu.reset(l.cfg.DontFragment, !to.Addr().Is4(), now)
		l.resizeLocked()
	}
	if old == nil {
		l.live.begin(now)
	} else {
		l.moved = true
	}
}

// Remote returns the address that packets go to: the one given to Use, or where the peer moved since.
// It is the zero AddrPort before Use.
func (l *Link) Remote() netip.AddrPort {
	if a := l.remote.Load(); a != nil {
		return *a
	}
	return netip.AddrPort{}
}

// Send copies p to the end of the flow's own queue and reports whether there was room. It never
// blocks. Flow 0 goes before all others and past the congestion window: it is for little. p has 1 to
// 1,444 bytes; any other size is refused. What is larger than MTU leaves in two packets.
//
// With key 0 the payload is sent once. With any other key the link keeps it and sends it again until
// the peer's link reported it, or until Forget. While that is so, another payload of the same flow and
// key, not larger, is dropped as a double and true returned.
func (l *Link) Send(flow, key uint32, p []byte) bool {
	if len(p) == 0 || len(p) > mostMTU {
		return false
	}
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return false
	}
	ok := l.sched.push(flow, key, p, limit(l.cc.FlowWindow(l.sched.active(flow))))
	l.queuedLocked(ok, flow)
	return ok
}

// SendFresh is Send with key 0 for what is of no use when it is late: the datagrams of others. More of them may
// be queued, so that what comes while the link still finds out how much the path carries waits instead of being
// dropped. But those that have waited for 200 ms and two round trips are dropped, the oldest first; for 100 ms, once
// more was offered than the path carries for seconds. The flow may not be 0.
func (l *Link) SendFresh(flow uint32, p []byte) bool {
	if len(p) == 0 || len(p) > mostMTU || flow == 0 {
		return false
	}
	now := l.now()
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return false
	}
	ok := l.sched.pushFresh(flow, p, limit(l.cc.FlowWindow(l.sched.active(flow))), now)
	l.queuedLocked(ok, flow)
	return ok
}

// queuedLocked unlocks the link and wakes its goroutine if it has to know of a payload.
func (l *Link) queuedLocked(ok bool, flow uint32) {
	wake := ok && (l.parked == idle || l.parked == blocked && flow == 0)
	if wake {
		l.parked = running
	}
	l.mu.Unlock()
	if wake {
		l.poke()
	}
}

// Receive sets the one handler for payloads. p is valid during the call only. The handler runs on the
// caller of Mux.Deliver: it must not block, nor call Close. Payloads that come before it is set are
// dropped.
func (l *Link) Receive(f func(p []byte)) {
	if f == nil {
		l.handler.Store(nil)
		return
	}
	l.handler.Store(&f)
}

// MTU returns the largest payload that fits one packet, in bytes: 1,200 at first, up to 1,444 as the
// path is found to carry more, and less again when it does not.
func (l *Link) MTU() int { return int(l.mtu.Load()) }

// Window returns how many bytes the flow should keep unacknowledged, what waits in its queue
// included: its share of what the path holds, between 32 KiB and 80 MiB.
func (l *Link) Window(flow uint32) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cc.FlowWindow(l.sched.active(flow))
}

// Pending returns how many of the flow's packets with keys wait to be sent or were not reported by the
// peer yet.
func (l *Link) Pending(flow uint32) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := &l.sched.urgent
	if flow != 0 {
		if f = l.sched.flows[flow]; f == nil {
			return 0
		}
	}
	return f.pending.n
}

// RTT returns the smoothed round trip time, 0 before the first.
func (l *Link) RTT() time.Duration { return time.Duration(l.rtt.Load()) }

// Stats returns what happened so far.
func (l *Link) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rmu.Lock()
	defer l.rmu.Unlock()
	return Stats{
		SentPackets: l.sentAll.packets, SentBytes: l.sentAll.bytes,
		ReceivedPackets: l.recvd.packets, ReceivedBytes: l.recvd.bytes,
		Lost: l.cc.Lost(), Resent: l.repairs.resent, Spurious: l.repairs.spurious, Dropped: l.sched.dropped,
		Rejected: l.opener.rejected, Replayed: l.opener.replay,
		Rate: l.cc.State().Rate, RTT: l.cc.SmoothedRTT(), MinRTT: l.cc.State().MinRTT,
		Window: int(l.cc.Window()), MTU: l.pmtu.size, Queue: l.sched.bytes + l.sched.lost,
	}
}

// Done is closed when the link has ended.
func (l *Link) Done() <-chan struct{} { return l.done }

// Err returns nil while the link lives, then ErrClosed, ErrDead, or an error that wraps ErrPeerClosed.
func (l *Link) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Close tells the peer that this is the end, with authenticated packets that carry the first 256
// bytes of reason, frees the index, and returns when the link's goroutine has ended. Of what is
// queued only flow 0 still goes out. Later calls change nothing and return nil as well.
func (l *Link) Close(reason string) error {
	l.mu.Lock()
	if l.err == nil { // the first to close has the say
		l.live.reason = reason[:min(len(reason), reasonBytes)]
	}
	l.endLocked(ErrClosed)
	l.mu.Unlock()
	l.poke()
	<-l.stopped
	return nil
}

// endLocked ends the link, once.
func (l *Link) endLocked(err error) {
	if l.err != nil {
		return
	}
	l.err = err
	if errors.Is(err, ErrDead) {
		l.states = append(l.states, Dead)
	} else {
		l.states = append(l.states, Closed)
	}
	l.rmu.Lock()
	l.ended = true
	l.rmu.Unlock()
	close(l.done)
}

// poke wakes the run goroutine, or keeps it from going to sleep.
func (l *Link) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
