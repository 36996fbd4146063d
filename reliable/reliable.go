// Package reliable carries byte streams over a link of datagrams, one KCP conversation for each.
//
//	Stream ── conversation: sender (kcp.KCP), receiver ──┐
//	Stream ── conversation: sender (kcp.KCP), receiver ──┼── Session ── Link
//	control ─ conversation: sender (kcp.KCP), receiver ──┘
//
// There is no multiplexer above KCP: streams share no queue, so a lost packet or a slow reader holds
// up its own stream only. The side that Config calls the initiator gives its streams odd numbers, the
// other side even ones; a stream's number is its KCP conversation and its flow of the link. Numbers
// only grow and are never used again.
//
// A stream opens with its first bytes, the header, so that nobody waits for a round trip. KCP knows
// no end of a stream and cannot say that all is there: conversation 0, the control conversation,
// carries accept, credit, FIN with the final size and its acknowledgement, stop and reset.
//
// What a stream may have on its way is bounded twice: by the link's window (Link.Window, what the
// path bears) and by the credit that the peer's reader gives (what the peer is ready to hold). A
// reader that stops makes the peer's Write block; KCP's own receive window stays open meanwhile, so
// that nothing depends on its probes, which wait for up to two minutes.
//
// The link repairs losses. KCP's timeout is the safety net for what the link had no room for, or this
// side for what overtook other packets.
//
// A stream has no goroutine; an idle one has no timer, sends nothing and takes 2 KiB: it has a kcp.KCP only while
// something is on its way. What wakes whom:
//
//  1. A write cuts segments, sends what the window has room for, and puts the conversation on the
//     governor's list, which looks at it every 20 ms while something is on its way.
//  2. The link's handler takes in packets: acknowledgements make room, wake a Write that waits for it
//     and send what waited; data goes to the stream's buffer and wakes a Read that waits.
//  3. A timer, armed by data that came, acknowledges what was not acknowledged by then.
//
// kcp-go has a global scheduler (kcp.SystemTimedSched), not used here, whose goroutines start with the
// program and never end.
//
// Errors: [StreamError] (a stream was reset or refused), [ErrTooManyStreams], [ErrHeaderTooLong],
// [ErrProtocol] (the peer broke the rules of the control conversation; the session ends).
// What fails because the stream or the session was closed unwraps to net.ErrClosed; deadlines give
// os.ErrDeadlineExceeded. docs/streams.md draws what goes over the wire.
package reliable

import (
	"log/slog"
	"time"
)

// A Link carries datagrams to one peer and back. They may be lost, repeated and reordered, but not
// forged: a Link authenticates.
type Link interface {
	// Send queues a copy of p on a flow. It never blocks, nor calls a handler; false says that it was dropped. A packet with
	// key 0 is sent once. One with another key, which names it within its flow, may be sent again by the
	// link until the peer has it; another Send of that key meanwhile may be dropped, which is no failure.
	Send(flow, key uint32, p []byte) bool

	// SendFresh is Send with key 0 for what is of no use when it is late: the link drops it then.
	SendFresh(flow uint32, p []byte) bool

	// Forget drops what is queued on a flow and ends the repair of what was sent on it.
	Forget(flow uint32)

	// Receive sets the handler of packets, which may use p for the duration of the call only. NewSession
	// calls it once; a session that has ended drops what still comes.
	Receive(func(p []byte))

	// MTU is the size of the largest packet in bytes. It may change.
	MTU() int

	// Window is how many bytes a flow should have in flight. It may change.
	Window(flow uint32) int

	// Pending is how many packets of a flow that have a key the peer is not known to have.
	Pending(flow uint32) int

	// RTT is the smoothed round trip, 0 if it is not known.
	RTT() time.Duration
}

// Config configures a Session. The zero value works on the side that is not the initiator.
type Config struct {
	// Initiator must be true on exactly one side.
	Initiator bool

	// MaxStreams bounds the streams that this side has open and, apart from them, those that the peer
	// has; default 8192. A stream counts until the peer has all of it or it was reset.
	MaxStreams int

	// MaxBuffer bounds the bytes that one stream holds for its reader, default 80 MiB and no less than
	// 16 KiB. The bound grows towards it with the path as long as the reader keeps up and the budget has room, and
	// shrinks again when the reader falls behind and reads on.
	MaxBuffer int

	// Budget bounds the memory of the session's streams together with that of others that have the same; nil is one of
	// its own.
	Budget *Budget

	// Logger may be nil. Nothing is logged per packet.
	Logger *slog.Logger
}

const (
	// MaxHeader bounds the header of a stream in bytes.
	MaxHeader = 1024

	maxReason = 256 // bytes of a reason that are sent

	defaultMaxStreams = 8192
	defaultMaxBuffer  = 80 << 20

	// initialCredit is how many bytes of a stream, header included, its sender may send before the
	// peer gives more. Part of the wire format.
	initialCredit = 16 << 10

	// backlog bounds the streams whose header is there and that nobody has accepted.
	backlog = 4096

	// lingerLimit is how long what was written before Close may take to reach the peer.
	lingerLimit = 5 * time.Minute

	// closeGrace is how long Session.Close waits for that, and for resets to get through.
	closeGrace = time.Second
)

func (c Config) withDefaults() Config {
	if c.MaxStreams <= 0 {
		c.MaxStreams = defaultMaxStreams
	}
	if c.MaxBuffer <= 0 {
		c.MaxBuffer = defaultMaxBuffer
	}
	c.MaxBuffer = max(c.MaxBuffer, initialCredit)
	if c.Budget == nil {
		c.Budget = NewBudget(0)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}
