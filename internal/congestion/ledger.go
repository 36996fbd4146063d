package congestion

import "time"

const (
	leastRecords = 1 << 10
	mostRecords  = 1 << 16 // a sender with more in flight forgets the oldest

	leastSample = time.Millisecond     // a shorter rate sample measures the scheduler of a local network
	leastRound  = 2 * time.Millisecond // likewise for a round trip
	pauseAfter  = 10 * time.Millisecond
)

// A Record is what the ledger knows of a sent packet.
type Record[L any] struct {
	Counter uint64
	SentAt  time.Duration
	Size    uint16 // bytes
	Load    L      // the caller's

	packets     uint64 // sent up to and with this one
	bytes       uint64
	delivered   uint64 // at the sampling point before this one left
	deliveredAt time.Duration
	cameAt      time.Duration // the same by the receiver's clock; 0 is unknown
	firstAt     time.Duration // when the packet was sent whose arrival made the sampling point
	limited     bool          // the sender had little to send
}

// A Report is what a receiver tells of the packets that ask for feedback.
type Report struct {
	Highest uint64        // highest counter that came
	Packets uint64        // how many came since the start, each counted once
	Bytes   uint64        // their size
	Delay   time.Duration // from the arrival of the highest to the sending of the report
	At      time.Duration // when the highest came, by the receiver's clock; 0 is unknown
	Buffer  int           // bytes of the receiver's socket buffer; 0 is unknown
}

// A Sample is what a controller learns from one report.
type Sample struct {
	Now       time.Duration
	RTT       time.Duration // of the highest counter; 0 if the report has no new one
	Forward   time.Duration // likewise, from sending to arrival, plus what the receiver's clock differs by; 0 is unknown
	Delivered float64       // bytes that are reported for the first time
	InFlight  float64       // bytes, this report counted
	Flew      float64       // bytes in flight before it
	Buffer    int           // bytes of the receiver's socket buffer; 0 is unknown
	Missing   uint64        // packets in all that were overtaken by the highest and did not arrive yet
	Limited   bool          // the packet left while the sender had little to send

	// A sample of the delivery rate: Bytes arrived within Took. Took is 0 if there is none.
	Bytes float64
	Took  time.Duration

	// The end of a round trip, and how many of its packets were sent and arrived.
	Round         bool
	Sent, Arrived uint64
}

// A ledger records what was sent and takes in what was reported. Rate samples follow
// draft-cheng-iccrg-delivery-rate-estimation-00, except that reports are cumulative and come at intervals, and
// that a sample spans a millisecond at least. Bytes and packets are those of packets that ask for feedback.
type ledger[L any] struct {
	ring                   []Record[L] // by counter
	sentPackets, sentBytes uint64
	last                   uint64 // counter of the last packet

	acked                     uint64 // highest counter reported
	ackedPackets, ackedBytes  uint64 // sent up to acked
	arrivedPackets, delivered uint64 // arrived; bytes
	forgotten                 uint64 // sent bytes that no longer count as in flight
	limited                   uint64 // counter up to which the sender, not the path, was the limit
	path                      struct {
		resetAt    time.Duration // what was sent before tells of another path
		mixedUntil time.Duration // what was sent before has that in its rate
	}
	snap struct { // the sampling point that packets sent now refer to
		bytes  uint64
		at     time.Duration
		cameAt time.Duration // by the receiver's clock; 0 after a pause
		sentAt time.Duration
	}
	round struct {
		end           uint64 // counter
		at            time.Duration
		sent, arrived uint64 // packets at its start
	}
}

// pause makes now the sampling point: what lies before is no part of a sample.
func (d *ledger[L]) pause(now time.Duration) {
	d.snap.bytes, d.snap.at, d.snap.cameAt, d.snap.sentAt = d.delivered, now, 0, now
}

// reset begins another path. What is in flight no longer counts.
func (d *ledger[L]) reset(now time.Duration) {
	d.forgotten, d.limited = d.sentBytes, d.last
	d.path.resetAt, d.path.mixedUntil = now, 0
	d.pause(now)
	d.round.end, d.round.at, d.round.sent, d.round.arrived = d.last, now, d.ackedPackets, d.arrivedPackets
}

func (d *ledger[L]) slot(counter uint64) int { return int(counter & uint64(len(d.ring)-1)) }

// at returns the record of a packet, valid until the next one is sent, or nil.
func (d *ledger[L]) at(counter uint64) *Record[L] {
	if d.ring == nil || counter == 0 {
		return nil
	}
	if r := &d.ring[d.slot(counter)]; r.Counter == counter {
		return r
	}
	return nil
}

// inFlight returns how many bytes were sent and neither overtaken by a report nor given up.
func (d *ledger[L]) inFlight() float64 {
	return float64(d.sentBytes - max(d.ackedBytes, d.forgotten))
}

// sent records a packet. It returns the record that had to make room.
func (d *ledger[L]) sent(counter uint64, size int, now time.Duration) (old Record[L]) {
	if d.sentBytes == max(d.ackedBytes, d.forgotten) && now-d.snap.at > pauseAfter {
		d.pause(now)
	}
	if d.ring == nil {
		d.ring = make([]Record[L], leastRecords)
	}
	wanted := max(d.acked, 1)
	for len(d.ring) < mostRecords && d.ring[d.slot(counter)].Counter >= wanted {
		small := d.ring
		d.ring = make([]Record[L], 2*len(small))
		for _, r := range small {
			if r.Counter != 0 {
				d.ring[d.slot(r.Counter)] = r
			}
		}
	}
	d.sentPackets++
	d.sentBytes += uint64(size)
	d.last = counter
	slot := &d.ring[d.slot(counter)]
	old = *slot
	*slot = Record[L]{
		Counter: counter, SentAt: now, Size: uint16(size), packets: d.sentPackets, bytes: d.sentBytes,
		delivered: d.snap.bytes, deliveredAt: d.snap.at, cameAt: d.snap.cameAt, firstAt: d.snap.sentAt, limited: d.limited > d.acked,
	}
	return old
}

// grow makes the packet that was sent last larger.
func (d *ledger[L]) grow(counter uint64, by int) {
	d.sentBytes += uint64(by)
	r := d.at(counter)
	r.bytes += uint64(by)
	r.Size += uint16(by)
}

// report takes in what the receiver told and says in s what follows. What cannot be true is refused, as is what is older than the last.
func (d *ledger[L]) report(f Report, now time.Duration, s *Sample) bool {
	r := d.at(f.Highest)
	if r == nil || f.Highest < d.acked || f.Packets < d.arrivedPackets || f.Bytes < d.delivered ||
		f.Packets > r.packets || f.Bytes > r.bytes {
		return false
	}
	*s = Sample{}
	s.Now, s.Buffer, s.Delivered, s.Limited = now, f.Buffer, float64(f.Bytes-d.delivered), r.limited
	s.Flew = d.inFlight()
	d.delivered, d.arrivedPackets = f.Bytes, f.Packets
	d.ackedPackets, d.ackedBytes = r.packets, r.bytes
	s.InFlight, s.Missing = d.inFlight(), d.lost()
	if f.Highest == d.acked {
		return true
	}
	d.acked = f.Highest
	if r.SentAt < d.path.resetAt {
		d.path.mixedUntil = now
		d.pause(now)
		return true
	}
	at := now - min(f.Delay, now-r.SentAt)
	s.RTT = max(at-r.SentAt, time.Microsecond)
	if f.At > 0 {
		s.Forward = f.At - r.SentAt
	}
	if at-d.snap.at >= leastSample {
		d.snap.bytes, d.snap.at, d.snap.cameAt, d.snap.sentAt = d.delivered, at, f.At, r.SentAt
	}
	took := at - r.deliveredAt
	if f.At > 0 && r.cameAt > 0 {
		took = f.At - r.cameAt // what reports take is no part of it
	}
	if took = max(took, r.SentAt-r.firstAt); took >= leastSample && r.SentAt >= d.path.mixedUntil {
		s.Took, s.Bytes = took, float64(d.delivered-min(r.delivered, d.delivered))
	}
	if d.acked >= d.round.end && now-d.round.at >= leastRound {
		s.Round = true
		s.Sent, s.Arrived = r.packets-min(d.round.sent, r.packets), d.arrivedPackets-d.round.arrived
		d.round.end, d.round.at = d.last, now
		d.round.sent, d.round.arrived = r.packets, d.arrivedPackets
	}
	return true
}

// lost returns how many packets were sent up to the highest that arrived, but did not arrive.
func (d *ledger[L]) lost() uint64 { return d.ackedPackets - min(d.arrivedPackets, d.ackedPackets) }
