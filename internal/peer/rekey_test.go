package peer

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/event"
	"adit/internal/handshake"
	"adit/internal/link"
	"adit/internal/simnet"
	"adit/internal/testtier"
)

// agreed returns both sides' results of a handshake, the initiator's first.
func agreed(t *testing.T) (a, b *handshake.Result) {
	t.Helper()
	i, err := handshake.NewInitiator(handshake.Config{Mode: handshake.ModePaste})
	if err != nil {
		t.Fatal(err)
	}
	r, err := handshake.NewResponder(handshake.Config{Mode: handshake.ModePaste})
	if err != nil {
		t.Fatal(err)
	}
	offer, err := i.Offer(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = r.Open(offer); err != nil {
		t.Fatal(err)
	}
	answer, b, err := r.Answer(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, a, err = i.Finish(answer); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// A recorder is a link that notes what is asked of it.
type recorder struct {
	sent  [][]byte
	keys  [2][32]byte // send, recv
	lead  bool
	times int
	err   error // of SendControl
}

func (r *recorder) SendControl(b []byte) error {
	if r.err != nil {
		return r.err
	}
	r.sent = append(r.sent, bytes.Clone(b))
	return nil
}

func (r *recorder) Rekey(send, recv [32]byte, lead bool) error {
	r.keys, r.lead = [2][32]byte{send, recv}, lead
	r.times++
	return nil
}

// take returns the one message that was sent.
func (r *recorder) take(t *testing.T) []byte {
	t.Helper()
	if len(r.sent) != 1 {
		t.Fatalf("%d messages sent, want 1", len(r.sent))
	}
	b := r.sent[0]
	r.sent = nil
	return b
}

func TestRekeyer(t *testing.T) {
	ka, kb := agreed(t)
	var la, lb recorder
	now := time.Now()
	post := func(r *handshake.Result) *letters { return newLetters(nil, r, r.Initiator) }
	a := &rekeyer{link: &la, letters: post(ka), log: slog.New(slog.DiscardHandler), keys: ka, due: now.Add(rekeyEvery)}
	b := &rekeyer{link: &lb, letters: post(kb), log: slog.New(slog.DiscardHandler), keys: kb, due: now.Add(rekeyEvery)}
	number := uint32(0)
	letter := func(from, to *rekeyer) {
		t.Helper()
		number++
		if o, ok := to.letters.open(from.letters.seal(offer{kind: controlBye, number: number})); !ok || o.number != number {
			t.Error("a letter does not open")
		}
	}
	letters := func() { letter(a, b); letter(b, a) }
	quiet := func(what string) {
		t.Helper()
		a.step(now, true)
		b.step(now, true)
		if len(la.sent)+len(lb.sent) > 0 {
			t.Errorf("%s: something was sent", what)
		}
	}
	quiet("nobody wants anything")
	if at := a.at(); !at.Equal(a.due) || !b.at().IsZero() {
		t.Errorf("due: leader %v, want %v; follower %v, want never", at, a.due, b.at())
	}
	for round := range 3 {
		stolen := [2][64]byte{}
		copy(stolen[0][:], append(a.letters.now.out[:], a.letters.now.in[:]...))
		if round == 2 {
			now = a.due // by time
		} else {
			now = now.Add(time.Hour)
			a.want()
			b.want() // which is not its business
		}
		a.step(now, false)
		if len(la.sent) > 0 {
			t.Fatal("began without a path")
		}
		la.err = link.ErrBusy
		a.step(now, true)
		la.err = nil
		a.step(now, true)
		if len(la.sent) > 0 {
			t.Fatal("asked a busy link again at once")
		}
		now = a.at()
		a.step(now, true)
		ask := la.take(t)
		quiet("waiting for the answer")
		now = now.Add(rekeyAgain)
		a.step(now, true)
		if again := la.take(t); !bytes.Equal(again, ask) {
			t.Error("it asked something else the second time")
		}
		letters()

		for name, bad := range map[string][]byte{
			"empty": nil, "cut": ask[:rekeyBytes-1], "long": append(bytes.Clone(ask), 1),
			"of another number": rekeyMessage(controlRekey, b.number+2, ask[5:]),
			"of the last":       rekeyMessage(controlRekey, b.number, ask[5:]),
			"forged":            rekeyMessage(controlRekey, b.number+1, make([]byte, handshake.RekeyLen)),
			"of another kind":   append([]byte{controlRekeyed}, ask[1:]...),
		} {
			b.heed(now, bad)
			a.heed(now, bad)
			if lb.times != round || b.next != nil || len(lb.sent) > 0 || la.times != round || len(la.sent) > 0 {
				t.Fatalf("a message %s was taken", name)
			}
		}
		b.turned(now) // there is nothing that could have turned
		lb.err = link.ErrBusy
		b.heed(now, ask)
		lb.err = nil
		letters()
		if lb.times != round+1 || lb.lead {
			t.Fatal("the follower is not ready, or leads")
		}
		b.heed(now, ask)
		now = b.at()
		b.step(now, true)
		reply := lb.take(t)
		b.heed(now, ask)
		quiet("the answer is there")
		letters()

		a.heed(now, rekeyMessage(controlRekeyed, a.number+1, make([]byte, handshake.RekeyLen)))
		if la.times != round {
			t.Fatal("a forged answer was taken")
		}
		a.heed(now, reply)
		letters()
		if la.times != round+1 || !la.lead || la.keys != [2][32]byte{lb.keys[1], lb.keys[0]} {
			t.Fatal("the keys of the two do not fit")
		}
		a.heed(now, reply)
		a.want()
		quiet("a path that moved again has to wait")
		b.turned(now)
		letters()
		b.heed(now, ask)
		a.turned(now)
		letters()
		b.turned(now)
		a.turned(now)
		quiet("too soon for the next")
		if a.number != uint32(round+1) || b.number != a.number || a.next != nil || b.next != nil {
			t.Fatalf("rekeyings: %d and %d, want %d", a.number, b.number, round+1)
		}
		a.wanted = false
		copy(stolen[1][:], append(a.letters.now.out[:], a.letters.now.in[:]...))
		if stolen[0] == stolen[1] {
			t.Error("letters are sealed as before")
		}
	}
}

// lines passes on messages of a log that are one of its kind.
type lines struct {
	slog.Handler
	what string
	seen chan struct{}
}

func (l lines) Enabled(context.Context, slog.Level) bool { return true }

func (l lines) Handle(_ context.Context, r slog.Record) error {
	if r.Message == l.what {
		select {
		case l.seen <- struct{}{}:
		default:
		}
	}
	return nil
}

// TestRekeyWithPath: a session that finds another path gets fresh keys on both sides, and goes on.
func TestRekeyWithPath(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	keyed := [2]chan struct{}{make(chan struct{}, 16), make(chan struct{}, 16)}
	log := func(i int) *slog.Logger {
		return slog.New(lines{slog.DiscardHandler, "fresh keys", keyed[i]})
	}
	url := meetingPlace(t)
	a := dial(t.Context(), Config{Role: Exposer, Signal: url, Loopback: true, Logger: log(0)})
	b := dial(t.Context(), Config{Role: Connecter, Signal: url, Code: a.event(t, event.Code).Code, Loopback: true, Logger: log(1)})
	sa, sb := a.session(t), b.session(t)
	defer sa.Close()
	defer sb.Close()
	exchange(t, sa, sb)
	for i, s := range []*Session{sa, sb, sa} {
		s.Recover()
		for j := range keyed {
			select {
			case <-keyed[j]:
			case <-time.After(20 * time.Second):
				t.Fatalf("search %d: no fresh keys on side %d", i, j)
			}
		}
		exchange(t, sa, sb)
		exchange(t, sb, sa)
	}
}

// TestRekeyOverLinks lets two rekeyers change the keys of two links again and again, over a path that loses, doubles
// and reorders, and is away at times, while both send: everything comes, and both end with the same keys.
func TestRekeyOverLinks(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { rekeyOverLinks(t, seed) })
		})
	}
}

// A keyside is one side of that: a roamer with nothing but the rekeying.
type keyside struct {
	link   *link.Link
	k      *rekeyer
	wake   chan struct{}
	mu     sync.Mutex
	up     bool
	rekeys [][]byte
	turned bool
	done   int
	got    map[uint32]bool
}

func (s *keyside) tell(f func()) {
	s.mu.Lock()
	f()
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *keyside) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got)
}

func (s *keyside) run(ctx context.Context) {
	t := time.NewTimer(0)
	for {
		s.mu.Lock()
		up, rekeys, turned := s.up, s.rekeys, s.turned
		s.rekeys, s.turned = nil, false
		s.mu.Unlock()
		now := time.Now()
		if turned {
			s.k.turned(now)
			s.mu.Lock()
			s.done = int(s.k.number)
			s.mu.Unlock()
			s.k.want()
		}
		for _, b := range rekeys {
			s.k.heed(now, b)
		}
		s.k.step(now, up)
		wait := time.Hour
		if at := s.k.at(); !at.IsZero() && up {
			wait = max(at.Sub(now), time.Millisecond)
		}
		t.Reset(wait)
		select {
		case <-t.C:
		case <-s.wake:
		case <-ctx.Done():
			return
		}
	}
}

func rekeyOverLinks(t *testing.T, seed uint64) {
	net := simnet.New(seed)
	defer net.Close()
	shape := simnet.Config{Rate: 1e6, Queue: 1 << 18, Delay: 30 * time.Millisecond, Jitter: 40 * time.Millisecond, Loss: 0.1, Double: 0.05}
	pipes := [2]*simnet.Pipe{net.Pipe(shape), net.Pipe(shape)}
	addrs := [2]netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:1000"), netip.MustParseAddrPort("198.51.100.2:2000")}
	var keys [2]*handshake.Result
	keys[0], keys[1] = agreed(t)
	var sides [2]*keyside
	var muxes [2]*link.Mux
	var index [2]uint32
	for i := range sides {
		muxes[i] = link.NewMux()
		var err error
		if index[i], err = muxes[i].Reserve(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range sides {
		s := &keyside{wake: make(chan struct{}, 1), up: true, got: make(map[uint32]bool)}
		sides[i] = s
		var err error
		s.link, err = muxes[i].Open(link.Config{
			Socket: net.Socket(addrs[i], pipes[i], muxes[i].Deliver), LocalIndex: index[i], RemoteIndex: index[1-i],
			SendKey: keys[i].Send, RecvKey: keys[i].Recv, AES: keys[i].Suite == handshake.AES256GCM, ReceiveBuffer: 1 << 20,
			OnControl: func(b []byte, _ netip.AddrPort) { s.tell(func() { s.rekeys = append(s.rekeys, bytes.Clone(b)) }) },
			OnState:   func(x link.State) { s.tell(func() { s.up = x == link.Up }) },
			OnRekey:   func() { s.tell(func() { s.turned = true }) },
		})
		if err != nil {
			t.Fatal(err)
		}
		s.link.Receive(func(b []byte) {
			s.mu.Lock()
			s.got[binary.BigEndian.Uint32(b)] = true
			s.mu.Unlock()
		})
		s.k = newRekeyer(s.link, nil, keys[i], slog.New(slog.DiscardHandler))
		if i == 0 {
			s.k.want()
		}
	}
	for i, s := range sides {
		if _, err := s.link.Probe(ctx, addrs[1-i]); err != nil {
			t.Fatal(err)
		}
	}
	const payloads = 12000
	for i, s := range sides {
		s.link.Use(addrs[1-i])
		wg.Go(func() { s.run(ctx) })
		wg.Go(func() {
			b := make([]byte, 200)
			for n := uint32(1); n <= payloads; {
				if binary.BigEndian.PutUint32(b, n); s.link.Pending(1) < 100 && s.link.Send(1, n, b) {
					n++
					continue
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	away := func(v float64) {
		for _, p := range pipes {
			p.Change(func(c *simnet.Config) { c.Loss = v })
		}
	}
	for range 8 {
		time.Sleep(20 * time.Second)
		away(1)
		time.Sleep(time.Duration(1+seed*3) * time.Second)
		away(0.1)
	}
	for deadline := time.Now().Add(10 * time.Minute); time.Now().Before(deadline) && sides[0].count()+sides[1].count() < 2*payloads; {
		time.Sleep(time.Second)
	}
	synctest.Wait()
	cancel()
	for i, s := range sides {
		s.mu.Lock()
		if len(s.got) != payloads {
			t.Errorf("side %d has %d payloads of %d", i, len(s.got), payloads)
		}
		if s.done < 20 {
			t.Errorf("side %d was rekeyed %d times, want 20 at least", i, s.done)
		}
		s.mu.Unlock()
		if st := s.link.Stats(); st.Rejected > st.ReceivedPackets/1000 || s.link.Err() != nil {
			t.Errorf("side %d: %d packets of %d did not open, %v", i, st.Rejected, st.ReceivedPackets, s.link.Err())
		}
		t.Logf("side %d: %d rekeyings, %d rejected of %d", i, s.done, s.link.Stats().Rejected, s.link.Stats().ReceivedPackets)
	}
	sides[0].link.Close("")
	sides[1].link.Close("")
	wg.Wait()
}
