package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// A mode is what the peer is to do with a stream.
type mode byte

const (
	source mode = 1 // send
	sink   mode = 2 // read and count
	echo   mode = 3 // answer each message with a report
)

const (
	// MaxDuration is the longest that a stream may be asked to work for.
	MaxDuration = 60 * time.Second

	// MaxParallel is how many streams may carry data at the same time.
	MaxParallel = 8

	maxBulkBytes = 128 << 30 // what 60 s at 17 Gbit/s are
	maxEchoBytes = 1 << 20

	requestBytes = 13
	messageBytes = 64
)

// ErrRequest is unwrapped by the errors of requests that make no sense.
var ErrRequest = errors.New("bad request to measure")

// A request is what the opener of a stream asks for, in its header:
//
//	 0        1                 5                                 13
//	+--------+-----------------+---------------------------------+
//	| mode   | milliseconds    | bytes                           |   big-endian
//	+--------+-----------------+---------------------------------+
//
// The stream ends with whichever comes first. Neither may be 0.
type request struct {
	mode     mode
	duration time.Duration // whole milliseconds, at most MaxDuration
	bytes    uint64        // at most what limit says
}

// limit returns how many bytes a stream of the mode may carry.
func (m mode) limit() uint64 {
	if m == echo {
		return maxEchoBytes
	}
	return maxBulkBytes
}

func (r request) encode() []byte {
	b := make([]byte, requestBytes)
	b[0] = byte(r.mode)
	binary.BigEndian.PutUint32(b[1:], uint32(r.duration.Milliseconds()))
	binary.BigEndian.PutUint64(b[5:], r.bytes)
	return b
}

func parseRequest(b []byte) (request, error) {
	if len(b) != requestBytes {
		return request{}, fmt.Errorf("%w: %d bytes, want %d", ErrRequest, len(b), requestBytes)
	}
	r := request{
		mode:     mode(b[0]),
		duration: time.Duration(binary.BigEndian.Uint32(b[1:])) * time.Millisecond,
		bytes:    binary.BigEndian.Uint64(b[5:]),
	}
	switch {
	case r.mode < source || r.mode > echo:
		return request{}, fmt.Errorf("%w: mode %d is not known here", ErrRequest, r.mode)
	case r.duration == 0 || r.duration > MaxDuration:
		return request{}, fmt.Errorf("%w: %v, at most %v is allowed", ErrRequest, r.duration, MaxDuration)
	case r.bytes == 0 || r.bytes > r.mode.limit():
		return request{}, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrRequest, r.bytes, r.mode.limit())
	}
	return r, nil
}

// Counters are what one side's half of a link has counted since it came up.
type Counters struct {
	Sent     uint64 // packets
	Lost     uint64 // of these, found lost
	Resent   uint64 // payloads that were sent again
	Spurious uint64 // packets found lost that came all the same

	PacketBytes int // the largest payload that a packet carries now
}

// A report answers one message of an echo stream. Both have 64 bytes; of the message only the first
// eight mean something.
//
//	 0                 8                 16                24
//	+-----------------+-----------------+-----------------+
//	| sequence number | microseconds    | bytes sunk      |   big-endian
//	+-----------------+-----------------+-----------------+
//	| packets sent    | lost            | sent again      |   of the reporter's half of the link
//	+-----------------+-----------------+-----------------+
//	| spurious losses | packet bytes    |
//	+-----------------+-----------------+
//
// The microseconds are on the reporter's clock since it began to serve, the bytes those that its sinks
// have read since: two reports tell a throughput that owes nothing to how long they travelled.
type report struct {
	seq   uint64
	clock time.Duration // whole microseconds
	sunk  uint64
	link  Counters
}

func (r *report) put(b *[messageBytes]byte) {
	for i, v := range []uint64{
		r.seq, uint64(r.clock.Microseconds()), r.sunk,
		r.link.Sent, r.link.Lost, r.link.Resent, r.link.Spurious, uint64(r.link.PacketBytes),
	} {
		binary.BigEndian.PutUint64(b[8*i:], v)
	}
}

// parseReport reads a peer's report. What would overflow is cut: it is shown and no more.
func parseReport(b *[messageBytes]byte) report {
	at := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	const most = 1 << 53 // microseconds: 285 years, which a Duration holds
	return report{
		seq: at(0), clock: time.Duration(min(at(1), most)) * time.Microsecond, sunk: at(2),
		link: Counters{Sent: at(3), Lost: at(4), Resent: at(5), Spurious: at(6), PacketBytes: int(min(at(7), 1<<16))},
	}
}
