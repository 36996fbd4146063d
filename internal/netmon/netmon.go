// Package netmon tells when this machine's network changed, or when the machine slept.
//
//	routing socket ── something changed ──┐ 250 ms of quiet
//	every 10 s ───────────────────────────┴─> read addresses and default routes, compare ──> Changed
//	every 2 s ── all clocks, and how late it is ──────────────────────────────────────────> Resumed
//
// What the system says is only a hint to look: a snapshot that equals the last one is no change. Where
// there is no such hint (systems other than Linux and the BSDs, sandboxes) looking every ten seconds has to do.
package netmon

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	pollEvery  = 10 * time.Second
	clockEvery = 2 * time.Second
	quiet      = 250 * time.Millisecond // addresses and routes change one after the other
	quietMost  = time.Second            // whatever still changes
	jumpLeast  = 5 * time.Second        // of one clock against another, or of a tick against its time
)

// An Event says what happened.
type Event uint8

const (
	Changed Event = iota + 1 // other addresses or default routes than before
	Resumed                  // the machine slept, the process was stopped, or the clock was set forward
)

// String returns the event as a word.
func (e Event) String() string {
	if e == Resumed {
		return "resumed"
	}
	return "changed"
}

// A Monitor watches until it is closed.
type Monitor struct {
	log    *slog.Logger
	tell   func(Event)
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Open begins to watch. tell is called from one goroutine and must not call Close. A nil log is silent.
func Open(log *slog.Logger, tell func(Event)) *Monitor {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	m := &Monitor{log: log, tell: tell}
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(context.Background())
	hints := make(chan struct{}, 1) // one that waits says it all
	m.wg.Go(func() { watch(ctx, log, hints) })
	m.wg.Go(func() { m.run(ctx, hints, snapshot, readClocks) })
	return m
}

// Close ends the watch and waits for it.
func (m *Monitor) Close() error {
	m.cancel()
	m.wg.Wait()
	return nil
}

// run is the monitor's one state machine. look describes the network, read reads the clocks.
func (m *Monitor) run(ctx context.Context, hints <-chan struct{}, look func() string, read func() reading) {
	was := look()
	compare := func() {
		is := look()
		if is == was {
			return
		}
		m.log.Info("the network changed", "from", was, "to", is)
		was = is
		m.tell(Changed)
	}
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	ticks := time.NewTicker(clockEvery)
	defer ticks.Stop()
	clock := clock{read()}
	settle := time.NewTimer(time.Hour)
	settle.Stop()
	defer settle.Stop()
	var first time.Time // of the hints that wait; zero: none
	for {
		select {
		case <-ctx.Done():
			return
		case <-hints:
			now := time.Now()
			if first.IsZero() {
				first = now
			}
			settle.Reset(min(quiet, max(first.Add(quietMost).Sub(now), 0)))
		case <-settle.C:
			first = time.Time{}
			compare()
		case <-poll.C:
			compare()
		case <-ticks.C:
			if gap := clock.tick(read()); gap > 0 {
				m.log.Info("the machine slept, or the clock was set", "for", gap)
				m.tell(Resumed)
				compare()
			}
		}
	}
}

// snapshot describes the network as far as paths depend on it: the addresses of interfaces that are up,
// the address that packets to the internet leave from, and the default routes where they can be read.
func snapshot() string {
	var parts []string
	if list, err := net.Interfaces(); err == nil {
		for _, i := range list {
			if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
				continue
			}
			addrs, err := i.Addrs()
			if err != nil {
				continue
			}
			for _, a := range addrs {
				if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
					parts = append(parts, i.Name+"="+p.Addr().Unmap().String())
				}
			}
		}
	}
	slices.Sort(parts)
	for _, far := range [...]string{"192.0.2.1:9", "[2001:db8::1]:9"} { // RFC 5737, RFC 3849; nothing is sent
		network := "udp4"
		if far[0] == '[' {
			network = "udp6"
		}
		if c, err := net.Dial(network, far); err == nil {
			parts = append(parts, "source="+c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().String())
			c.Close()
		}
	}
	return strings.Join(append(parts, defaultRoutes()...), " ")
}
