package peer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/internal/handshake"
	"adit/internal/testtier"
	"adit/signal/rendezvous"
)

// roomy is a rendezvous whose limits of an address hold for a hundred peers behind one, as tests are.
func roomy(t *testing.T) string {
	t.Helper()
	server := rendezvous.New(rendezvous.Config{Limits: rendezvous.Limits{
		RequestsPerMinute: 1 << 20, RoomsPerMinute: 1 << 20, OffersPerMinute: 1 << 20, Polls: 1 << 12, Uploads: 1 << 12,
		OffersAtOnce: 1 << 12, BytesPerMinute: 1 << 30,
	}})
	web := httptest.NewServer(server.Handler())
	t.Cleanup(func() {
		web.CloseClientConnections()
		web.Close()
		server.Close()
	})
	return web.URL
}

// serve answers every stream of a session: one with the header "sink" is read to its end and answered with the
// hash of what came; another is left alone.
func serve(s *Session) {
	for {
		st, err := s.Streams().Accept(context.Background())
		if err != nil {
			s.Close()
			return
		}
		go func() {
			defer st.Close()
			if st.Accept() != nil || string(st.Header()) != "sink" {
				return
			}
			h := sha256.New()
			if _, err := io.Copy(h, st); err == nil {
				_, _ = st.Write(h.Sum(nil)) // a peer that is gone does not mind
				_ = st.CloseWrite()
			}
		}()
	}
}

// pour sends n bytes and returns an error unless the other side saw the same.
func pour(ctx context.Context, s *Session, n int, seed uint64) error {
	st, err := s.Streams().Open(ctx, []byte("sink"))
	if err != nil {
		return err
	}
	defer st.Close()
	stop := context.AfterFunc(ctx, func() { st.Reset(0) })
	defer stop()
	h := sha256.New()
	r := rand.NewChaCha8([32]byte{0: byte(seed), 1: byte(seed >> 8), 2: 1})
	if _, err := io.CopyN(io.MultiWriter(st, h), r, int64(n)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := st.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(st)
	if err != nil {
		return fmt.Errorf("read the hash: %w", err)
	}
	if string(got) != string(h.Sum(nil)) {
		return fmt.Errorf("the other side saw other bytes")
	}
	return nil
}

// heap is what is in use after a collection, stacks included.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// TestMachineRoom has a hundred peers at one listener, all in this process: each sends 10 MB (1 MB below the
// full tier, and from fewer peers) with the same hash on both sides, one floods, one stalls, one is a stranger. Both ends are counted
// in the memory.
func TestMachineRoom(t *testing.T) {
	peers, size := 30, 1_000_000
	switch {
	case testtier.IsFull():
		peers, size = 100, 10_000_000
	case !testtier.IsLong():
		peers = 10
	}
	url := roomy(t)
	home := handshake.NewKeyPair()
	known := map[[32]byte]string{}
	keys := make([]*handshake.KeyPair, peers)
	for i := range keys {
		keys[i] = handshake.NewKeyPair()
		known[keys[i].Public] = fmt.Sprint("peer", i)
	}
	before := heap()
	h := listen(t, home, known, nil, url)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var served sync.WaitGroup
	served.Go(func() {
		for {
			s, err := h.Accept(ctx)
			if err != nil {
				return
			}
			served.Go(func() { serve(s) })
		}
	})
	// Those who dial share sockets too, for the buffers of those are a process' and not a session's.
	b, err := newBase(Config{Loopback: true, Logger: discard}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.release()
	began := time.Now()
	sessions := make([]*Session, peers)
	var wg sync.WaitGroup
	var slowest atomic.Int64
	for i := range sessions {
		wg.Go(func() {
			cfg := to(keys[i], home, url)
			cfg.Loopback, cfg.base = true, b
			s, err := Dial(ctx, cfg)
			if err != nil {
				t.Errorf("peer %d: %v", i, err)
				return
			}
			sessions[i] = s
			slowest.Store(max(slowest.Load(), int64(time.Since(began))))
		})
	}
	stranger, enough := context.WithCancel(ctx)
	wg.Go(func() {
		cfg := to(handshake.NewKeyPair(), home, url)
		cfg.Loopback = true
		if _, err := Dial(stranger, cfg); err == nil {
			t.Error("a stranger got in")
		}
	})
	for h.Stats().Opened < uint64(peers) && ctx.Err() == nil {
		<-time.After(10 * time.Millisecond)
	}
	if t.Failed() {
		cancel()
	}
	enough()
	wg.Wait()
	if t.Failed() {
		return
	}
	idle := (heap() - before) / int64(peers)
	t.Logf("%d peers met within %v; idle, %d KiB each, both ends", peers, time.Duration(slowest.Load()).Round(time.Millisecond), idle>>10)
	if idle > 2<<20 {
		t.Errorf("an idle session takes %d KiB, want less than 1 MiB for each end", idle>>10)
	}

	// One stalls: it opens streams that nobody reads, and reads nothing itself. One floods: it sends for as long
	// as the others do.
	stalled, flooding := sessions[0], sessions[1]
	for range 20 {
		st, err := stalled.Streams().Open(ctx, []byte("other"))
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
	}
	flood, stop := context.WithCancel(ctx)
	var flooded sync.WaitGroup
	flooded.Go(func() {
		for flood.Err() == nil {
			_ = pour(flood, flooding, 100<<20, 1) // ended by flood
		}
	})
	began = time.Now()
	var mu sync.Mutex
	var times []time.Duration
	var peak atomic.Int64
	sampling, sampled := context.WithCancel(ctx)
	wg.Go(func() {
		for sleep(sampling, 500*time.Millisecond) {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), int64(m.HeapAlloc+m.StackInuse)))
		}
	})
	var pours sync.WaitGroup
	for i, s := range sessions[2:] {
		pours.Go(func() {
			if err := pour(ctx, s, size, uint64(i)+2); err != nil {
				t.Errorf("peer %d: %v", i+2, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, time.Since(began))
		})
	}
	pours.Wait()
	took := time.Since(began)
	stop()
	flooded.Wait()
	sampled()
	wg.Wait()
	slices.Sort(times)
	if len(times) > 0 {
		t.Logf("%d times %d bytes in %v (%.0f Mbit/s), first %v, median %v, last %v; at most %d KiB a peer, both ends and garbage",
			len(times), size, took.Round(time.Millisecond), float64(len(times))*float64(size)*8/took.Seconds()/1e6,
			times[0].Round(time.Millisecond), times[len(times)/2].Round(time.Millisecond), times[len(times)-1].Round(time.Millisecond),
			(peak.Load()-before)/int64(peers)>>10)
	}
	if got := (peak.Load() - before) / int64(peers); got > 20<<20 {
		t.Errorf("an active session takes %d KiB, want less than 10 MiB for each end", got>>10)
	}
	for _, s := range sessions {
		wg.Go(func() { s.Close() })
	}
	wg.Wait()
	h.Close()
	cancel()
	served.Wait()
}
