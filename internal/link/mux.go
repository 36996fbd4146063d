package link

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"adit/internal/congestion"
)

// NewMux returns a Mux without links.
func NewMux() *Mux {
	m := &Mux{links: make(map[uint32]*Link)}
	m.batch.New = func() any { return new(batch) }
	return m
}

// Reserve returns a random receiver index that is free, and keeps it until Release, or until the
// link that uses it is closed. The index is not 0.
func (m *Mux) Reserve() (index uint32, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for range 1000 {
		var b [4]byte
		rand.Read(b[:]) // never fails: crypto/rand ends the program instead
		i := binary.BigEndian.Uint32(b[:]) & indexMask
		if _, used := m.links[i]; i != 0 && !used {
			m.links[i] = nil
			return i, nil
		}
	}
	return 0, fmt.Errorf("reserve one of %d receiver indexes, %d in use: %w", indexMask, len(m.links), ErrIndex)
}

// Release frees an index that no link uses.
func (m *Mux) Release(index uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.links[index] == nil {
		delete(m.links, index)
	}
}

// Open makes a link at the reserved index cfg.LocalIndex. The caller closes it, also after it ended
// by itself.
func (m *Mux) Open(cfg Config) (*Link, error) {
	if cfg.Socket == nil || cfg.RemoteIndex == 0 || cfg.RemoteIndex > indexMask {
		return nil, fmt.Errorf("open link to peer's receiver index %#x: %w", cfg.RemoteIndex, ErrIndex)
	}
	if cfg.DeadAfter <= 0 {
		cfg.DeadAfter = deadAfter
	}
	l := &Link{
		cfg: cfg, mux: m, start: time.Now(), log: cfg.Logger,
		wake: make(chan struct{}, 1), done: make(chan struct{}), stopped: make(chan struct{}),
		opener:  newOpener(cfg.RecvKey, cfg.AES),
		seal:    sealer{aes: cfg.AES, key: newEpochKey(cfg.SendKey, cfg.AES), packets: rekeyPackets},
		cc:      congestion.NewSender[*packet](nil),
		report:  report{every: congestion.FeedbackPackets(cfg.ReceiveBuffer)},
		demands: newDemands(),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	l.cfg.SendKey, l.cfg.RecvKey = [32]byte{}, [32]byte{} // only the epochs' keys, which are erased
	l.pmtu.reset(false, false, 0)
	l.resizeLocked()
	m.mu.Lock()
	if old, reserved := m.links[cfg.LocalIndex]; !reserved || old != nil {
		m.mu.Unlock()
		return nil, fmt.Errorf("open link at receiver index %#x: %w", cfg.LocalIndex, ErrIndex)
	}
	m.links[cfg.LocalIndex] = l
	m.mu.Unlock()
	go l.run()
	return l, nil
}

// remove frees a link's index.
func (m *Mux) remove(l *Link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.links[l.cfg.LocalIndex] == l {
		delete(m.links, l.cfg.LocalIndex)
	}
}

// Deliver takes in what a socket received: the datagrams of segment bytes each that b holds, of which
// the last may be shorter. They are decrypted in place, so b is garbage afterwards. Several
// goroutines may call it, one for each socket. The links' handlers run on the caller.
func (m *Mux) Deliver(b []byte, segment int, from netip.AddrPort) {
	if segment <= 0 {
		return
	}
	from = unmap(from)
	var l *Link
	var now time.Duration
	for len(b) > 0 {
		p := b[:min(segment, len(b))]
		b = b[len(p):]
		if !isPacket(p) {
			continue
		}
		if i := packetIndex(p); l == nil || l.cfg.LocalIndex != i {
			m.mu.RLock()
			next := m.links[i]
			m.mu.RUnlock()
			if next == nil {
				continue
			}
			if l != nil {
				l.received()
			}
			l = next
			now = l.now()
		}
		l.receive(p, from, now)
	}
	if l != nil {
		l.received()
	}
}
