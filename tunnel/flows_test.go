package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/testtier"
	"adit/reliable"
)

// TestEndsBefore has which of two flows makes room.
func TestEndsBefore(t *testing.T) {
	const s = time.Second
	over := flowState{over: true, age: s, idle: s}
	asked := flowState{age: s, idle: s}                                                  // waits for its answer
	oneWay := flowState{age: 10 * answerWait, idle: s}                                   // has waited for too long
	answered := flowState{heard: true, age: 3 * s, idle: s, talking: 0}                  // a question and its answer
	talking := flowState{heard: true, age: 10 * answerWait, idle: s, talking: 9 * s * 9} // a long conversation
	idle := func(f flowState, d time.Duration) flowState { f.idle, f.age = d, f.age+d; return f }
	for _, test := range []struct {
		name        string
		first, last flowState
	}{
		{"one that is over before one that waits", over, asked},
		{"one that is over before one that was silent for longer", over, idle(answered, time.Hour)},
		{"one that is answered before one that waits", answered, asked},
		{"one that is answered just now before one that waits for long", idle(answered, 0), idle(asked, answerWait/2)},
		{"one way before one that waits", oneWay, asked},
		{"one way before a conversation", oneWay, talking},
		{"an answered question before a conversation", answered, talking},
		{"a conversation that has ended before one that waits", idle(talking, answerWait), asked},
		{"of two that wait the older", idle(asked, 2*s), asked},
		{"of two answered ones the one that is silent for longer", idle(answered, 2*s), answered},
		{"a live conversation that was silent for longer before one that waits", idle(talking, 2*s), asked},
		{"one that waits before a conversation that was silent for less", idle(asked, 2*s), talking},
	} {
		if !endsBefore(test.first, test.last) || endsBefore(test.last, test.first) {
			t.Errorf("%s: not so", test.name)
		}
	}
	if endsBefore(asked, asked) {
		t.Error("a flow makes room before itself")
	}
}

// Random flows over a small budget: it holds, the newest flow is never the one that makes room, and
// everything is given back.
func TestFlowBudgetAtRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range int64(10) {
			r := rand.New(rand.NewSource(seed))
			const most = 50
			b := NewFlowBudget(most * flowBytes)
			ctx, stop := context.WithCancel(t.Context())
			s := new(flowSession)
			tables := []*flows[int]{newFlows[int](ctx, s, &Options{Flows: b}), newFlows[int](ctx, s, &Options{Flows: b})}
			for k := range 1000 {
				table := tables[r.Intn(2)]
				f := table.open(k, header{}, StreamEvent{}, func([]byte) {})
				f.send(make([]byte, r.Intn(3000)))
				if r.Intn(3) > 0 {
					f.in(1) // it is answered
				}
				b.mu.Lock()
				if b.used > b.most || b.used < int64(len(b.flows))*flowBytes || b.flows[f] != struct{}{} {
					t.Errorf("seed %d: %d bytes in use for %d flows, %d are allowed", seed, b.used, len(b.flows), b.most)
				}
				n := len(b.flows)
				b.mu.Unlock()
				if n > most {
					t.Errorf("seed %d: %d flows, %d are allowed", seed, n, most)
				}
				time.Sleep(time.Duration(r.Intn(int(2 * time.Second))))
			}
			stop()
			for _, table := range tables {
				table.wg.Wait()
				if len(table.m) > 0 {
					t.Errorf("seed %d: %d flows are left in a table", seed, len(table.m))
				}
			}
			if b.used != 0 || len(b.flows) > 0 {
				t.Errorf("seed %d: %d bytes and %d flows are left", seed, b.used, len(b.flows))
			}
		}
	})
}

// Flows that wait for their answer survive any number of those that have it, of other listeners too, and the log says
// in one line that flows make room.
func TestWaitingFlowsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		opts := &Options{Flows: NewFlowBudget(100 * flowBytes), Logger: slog.New(slog.NewTextHandler(&log, nil))}
		ctx, stop := context.WithCancel(t.Context())
		s := new(flowSession)
		waiting, others := newFlows[int](ctx, s, opts), newFlows[int](ctx, s, opts)
		for k := range 60 {
			waiting.open(k, header{}, StreamEvent{}, func([]byte) {}).send([]byte("?"))
		}
		for k := range 1000 {
			f := others.open(k, header{}, StreamEvent{}, func([]byte) {})
			f.send([]byte("?"))
			f.in(1)
			time.Sleep(time.Millisecond)
		}
		for k := range 60 {
			if waiting.get(k) == nil {
				t.Errorf("flow %d, which waits, has made room", k)
			}
		}
		if others.get(999) == nil || others.get(0) != nil {
			t.Error("of the others the oldest have not made room")
		}
		time.Sleep(answerWait)
		for k := range 40 { // nobody waits any more
			others.open(1000+k, header{}, StreamEvent{}, func([]byte) {}).send([]byte("?"))
		}
		if lines := strings.Count(log.String(), "\n"); lines != 2 || !strings.Contains(log.String(), "ended=1 ") {
			t.Errorf("%d lines in the log, want two:\n%s", lines, &log)
		}
		stop()
		waiting.wg.Wait()
		others.wg.Wait()
	})
}

// A session whose sources are many ends flows of its own, not those of another session that has fewer.
func TestFlowsOfOtherSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := &Options{Flows: NewFlowBudget(100 * flowBytes)}
		ctx, stop := context.WithCancel(t.Context())
		few, many := newFlows[int](ctx, new(flowSession), opts), newFlows[int](ctx, new(flowSession), opts)
		for k := range 40 {
			f := few.open(k, header{}, StreamEvent{}, func([]byte) {})
			f.send([]byte("?"))
			f.in(1) // these would be the first to go
		}
		time.Sleep(answerWait / 2)
		for k := range 1000 {
			many.open(k, header{}, StreamEvent{}, func([]byte) {}).send([]byte("?"))
			time.Sleep(time.Millisecond)
		}
		for k := range 40 {
			if few.get(k) == nil {
				t.Errorf("flow %d of the session with few is gone", k)
			}
		}
		if many.get(999) == nil || many.get(939) != nil {
			t.Error("of the session with many not the oldest have made room")
		}
		stop()
		few.wg.Wait()
		many.wg.Wait()
		if n := len(opts.Flows.count); n > 0 {
			t.Errorf("%d sessions are counted at the end", n)
		}
	})
}

// manySources sends a question from each of n sources to addr, lets the target answer them all once it has them all,
// and counts the answers that come.
func manySources(t *testing.T, n int, addr string, target *net.UDPConn) (answers int) {
	t.Helper()
	questions := make(chan netip.AddrPort, n)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer target.Close()
	wg.Go(func() {
		var b [16]byte
		for {
			_, from, err := target.ReadFromUDPAddrPort(b[:])
			if err != nil {
				return
			}
			questions <- from
		}
	})
	sources := make([]net.Conn, n)
	var asked []netip.AddrPort
	const wave = 100 // no buffer of any socket overflows
	for i := range sources {
		c, err := net.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		sources[i] = c
		if _, err := c.Write(binary.BigEndian.AppendUint32(nil, uint32(i))); err != nil {
			t.Fatal(err)
		}
		for (i+1)%wave == 0 && len(asked) <= i {
			select {
			case from := <-questions:
				asked = append(asked, from)
			case <-time.After(patience):
				t.Fatalf("of %d questions %d came", i+1, len(asked))
			}
		}
	}
	for i, from := range asked {
		if _, err := target.WriteToUDPAddrPort([]byte("answer"), from); err != nil {
			t.Fatal(err)
		}
		if (i+1)%wave != 0 {
			continue
		}
		for _, c := range sources[i+1-wave : i+1] {
			var b [16]byte
			k, err := c.Read(b[:])
			if err == nil && string(b[:k]) == "answer" {
				answers++
			} else if !errors.Is(err, net.ErrClosed) {
				t.Logf("a source got %q, %v", b[:k], err)
			}
		}
	}
	return answers
}

// 1,000 sources that wait for their answers at the same time get them all; in the long tier it is 3,000.
func TestManySources(t *testing.T) {
	n := 1000
	if testtier.IsLong() {
		n = 3000
	}
	target, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	_ = target.SetReadBuffer(udpBuffer)
	x, y := reliableSessions(t)
	to, err := ParseTarget(target.LocalAddr().String() + "/udp")
	if err != nil {
		t.Fatal(err)
	}
	serving(t, Over(y), offering(to), Options{})
	l := listening(t, Over(x), "0:"+to.String(), Options{})
	if got := manySources(t, n, l.Addr().String(), target); got != n {
		t.Errorf("%d sources got an answer, want %d", got, n)
	}
}

// A flow that the peer ends is over here too.
func TestFlowEndedByPeer(t *testing.T) {
	x, y := reliableSessions(t)
	streams := make(chan *reliable.Stream, 1)
	go func() {
		if st, err := y.Accept(t.Context()); err == nil {
			_ = st.Accept()
			streams <- st
		}
	}()
	sink, seen := events()
	l := listening(t, Over(x), "0:localhost:53/udp", Options{OnStream: sink})
	c, err := net.Dial("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if e := next(t, seen); e.State != StateOpen {
		t.Fatalf("event %+v, want open", e)
	}
	_ = (<-streams).Close()
	if e := next(t, seen); e.State != StateClosed {
		t.Errorf("event %+v, want closed", e)
	}
}
