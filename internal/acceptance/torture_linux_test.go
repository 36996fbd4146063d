package acceptance

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"adit/internal/testtier"
)

var (
	tortureStreams = flag.Int("torture", 0, "how many connections the torture of contents plays; 0 leaves it to the tier")
	tortureSeed    = flag.Uint64("torture-seed", 0, "what the torture plays follows from it; 0 is any")
)

// TestTorture plays random connections: both sides write random amounts and end them at random points, by a FIN, a close or
// a reset. First directly, which shows that the promise below is the kernel's, then through a pair of adit processes.
// reliable's TestTorture does the same in simulated time.
//
// What TCP promises to a reader that has not closed or reset the connection itself:
//
//  1. It reads what was written, from the first byte on, without a gap and nothing twice.
//  2. If the writer ended its direction and reads on to the end, all it wrote comes, and then the end.
//  3. If the writer reset the connection, or closed it with input unread, which makes its kernel reset it, then at
//     least all comes that the next kernel had acknowledged (SIOCOUTQ), and then a reset: a read fails, or a write
//     did before, in which case the read says end. Linux tells of a reset once.
//  4. If the writer closed with nothing unread, all comes and then the end; or, because something was sent to it
//     afterwards, what 3 says.
func TestTorture(t *testing.T) {
	testtier.Long(t)
	n := *tortureStreams
	switch {
	case n > 0:
	case testtier.IsFull():
		n = 10_000
	default:
		n = 300
	}
	seed := *tortureSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-torture %d -torture-seed %d", n, seed)
	l := newBareLab(t, nil)
	if !t.Run("direct", func(t *testing.T) {
		l.torture(t, seed, n, netip.MustParseAddrPort(l.at(toServer)))
	}) {
		t.Fatal("the promise is not what the kernel does")
	}
	exposer, code := l.w.expose(l.left, l.at(toServer))
	connecter, port := l.w.forward(l.right, code)
	before := []int{descriptors(t, exposer), descriptors(t, connecter)}
	t.Run("through adit", func(t *testing.T) {
		l.torture(t, seed, n, port)
	})
	for i, p := range []*process{exposer, connecter} {
		waitFor(t, func() bool { return descriptors(t, p) <= before[i]+2 }) // the runtime may have opened one
		t.Logf("%s: %d descriptors before, %d after; %d MB", p.label, before[i], descriptors(t, p), p.memory()>>20)
	}
	ends(connecter, exposer)
}

// descriptors counts those of a process.
func descriptors(t testing.TB, p *process) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// A tcpPart is what one side is to do.
type tcpPart struct {
	size, chunk int
	pause       time.Duration // between writes
	last        string        // when all is written: "finish", "close", "reset"
	stopAt      int           // after how many bytes it stops to read, or -1
	stop        string
	lag         time.Duration // before the first read
	buffer      int
}

func newTCPPart(r *rand.Rand) tcpPart {
	sometimes := func(of int, d time.Duration) time.Duration {
		if r.IntN(of) > 0 {
			return 0
		}
		return time.Duration(r.Int64N(int64(d))) + 1
	}
	p := tcpPart{
		size: r.IntN(1 << r.IntN(20)), pause: sometimes(3, 2*time.Millisecond),
		last: []string{"finish", "finish", "close", "reset"}[r.IntN(4)], stopAt: -1,
		lag: sometimes(3, 50*time.Millisecond), buffer: 1 + r.IntN(1<<r.IntN(17)),
	}
	p.chunk = 1 + p.size/(1+r.IntN(20))
	if r.IntN(4) == 0 {
		p.stopAt, p.stop = r.IntN(1<<r.IntN(20)), []string{"close", "reset"}[r.IntN(2)]
	}
	return p
}

// A tcpSide is one side and what became of it.
type tcpSide struct {
	tcpPart
	conn *net.TCPConn

	mu       sync.Mutex
	written  int
	finished bool // it has ended its direction and not left since
	left     bool // it has closed or reset the connection before it had read to the end
	sure     int  // of what it has written, acknowledged when it left
	mayEnd   bool // it left in a way that the other may see as an end
	gotten   int
	garbled  bool
	end      error
	writing  error
}

// do acts; reader says that its caller is the one that reads, so that what is unread stays so.
func (s *tcpSide) do(what string, reader bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left {
		return
	}
	if what == "finish" {
		s.finished = s.conn.CloseWrite() == nil
		return
	}
	s.left = true
	s.mayEnd = s.finished
	unread, queued := s.queues()
	s.sure = s.written - queued
	if what == "close" && (unread == 0 || !reader) {
		s.mayEnd = true
	}
	if what == "reset" {
		_ = s.conn.SetLinger(0) // it may be dead
	}
	_ = s.conn.Close() // the same
}

func (s *tcpSide) queues() (unread, queued int) {
	queued = s.written // unless the kernel says less
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return 0, queued
	}
	_ = raw.Control(func(fd uintptr) {
		if n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
			queued = n
		}
		unread, _ = unix.IoctlGetInt(int(fd), unix.SIOCINQ)
	})
	return unread, queued
}

func (s *tcpSide) write() {
	for at := 0; at < s.size; {
		n, err := s.conn.Write(patternAt(at, min(s.chunk, s.size-at)))
		at += n
		s.mu.Lock()
		s.written = at
		if err != nil && !s.left {
			s.writing = err
		}
		s.mu.Unlock()
		if err != nil {
			return
		}
		time.Sleep(s.pause)
	}
	s.do(s.last, false)
}

func (s *tcpSide) read() {
	time.Sleep(s.lag)
	b := make([]byte, s.buffer)
	for {
		room := len(b)
		if s.stopAt >= 0 {
			if room = min(room, s.stopAt-s.gotten); room == 0 {
				s.do(s.stop, true)
				return
			}
		}
		n, err := s.conn.Read(b[:room])
		s.garbled = s.garbled || string(b[:n]) != string(patternAt(s.gotten, n))
		s.gotten += n
		if err != nil {
			s.end = err
			return
		}
	}
}

// play returns when the side has done all it will.
func (s *tcpSide) play() {
	_ = s.conn.SetDeadline(time.Now().Add(playFor)) // it is open
	var both sync.WaitGroup
	both.Go(s.write)
	both.Go(s.read)
	both.Wait()
	_ = s.conn.Close() // it has read to the end, and written all it will
}

// broken says what of the promise to the reader does not hold, or nothing.
func broken(w, r *tcpSide) string {
	reset := errors.Is(r.end, syscall.ECONNRESET) || r.writing != nil
	facts := fmt.Sprintf("%d bytes came, %d were written, %d of them for sure; then %v, write %v", r.gotten, w.written, w.sure, r.end, r.writing)
	switch {
	case errors.Is(r.end, os.ErrDeadlineExceeded), errors.Is(w.writing, os.ErrDeadlineExceeded):
		return "it hangs: " + facts
	case r.garbled:
		return "other bytes than were written: " + facts
	case r.gotten > w.written:
		return "more than was written: " + facts
	case r.left:
		return ""
	case w.left && r.gotten < w.sure:
		return "bytes are lost: " + facts
	case w.left && !w.mayEnd && !reset:
		return "a reset looks like an end: " + facts
	case w.left && errors.Is(r.end, io.EOF) && !reset && r.gotten < w.written:
		return "bytes are lost before an end: " + facts
	case w.left:
		return ""
	case w.finished && (r.gotten < w.written || !errors.Is(r.end, io.EOF)):
		return "an end is not seen: " + facts
	}
	return ""
}

// torture plays n connections to an address, from which a server of the lab is reached.
func (l *endsLab) torture(t *testing.T, seed uint64, n int, to netip.AddrPort) {
	t.Helper()
	r := &route{client: l.right, server: l.left, dial: func(destination, bool) (program, error) { return l.dialTCP(l.right, to, false) }}
	began := time.Now()
	kinds := make(map[string]int)
	wrong := 0
	var bytes int64
	var mu sync.Mutex
	var players sync.WaitGroup
	turns := make(chan struct{}, 4*atOnce)
	for i := range n {
		turns <- struct{}{}
		players.Go(func() {
			defer func() { <-turns }()
			draw := rand.New(rand.NewPCG(seed, uint64(i)))
			c, s := &tcpSide{tcpPart: newTCPPart(draw)}, &tcpSide{tcpPart: newTCPPart(draw)}
			client, server, err := l.connect(r, false)
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				return
			}
			c.conn, s.conn = client.(*socketProgram).conn.(*net.TCPConn), server.(*socketProgram).conn.(*net.TCPConn)
			var both sync.WaitGroup
			both.Go(c.play)
			both.Go(s.play)
			both.Wait()
			mu.Lock()
			defer mu.Unlock()
			bytes += int64(c.gotten + s.gotten)
			for way, what := range []string{broken(c, s), broken(s, c)} {
				if what == "" {
					continue
				}
				kind, _, _ := strings.Cut(what, ":")
				kinds[kind]++
				if wrong++; wrong <= 5 {
					t.Errorf("connection %d, %s: %s\nclient %+v\nserver %+v", i, []string{"to the server", "to the client"}[way], what, c.tcpPart, s.tcpPart)
				}
			}
		})
	}
	players.Wait()
	t.Logf("%d connections, %d bytes in %v; wrong: %d directions %v", n, bytes, time.Since(began).Round(time.Millisecond), wrong, kinds)
}
