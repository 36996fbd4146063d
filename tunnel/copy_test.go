package tunnel

import (
	"bytes"
	"errors"
	"io"
	"math/rand"
	"net"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// scripted gives its chunks, one a Read as far as the buffer goes.
type scripted struct{ chunks [][]byte }

func (s *scripted) Read(b []byte) (int, error) {
	if len(s.chunks) == 0 {
		return 0, io.EOF
	}
	n := copy(b, s.chunks[0])
	if s.chunks[0] = s.chunks[0][n:]; len(s.chunks[0]) == 0 {
		s.chunks = s.chunks[1:]
	}
	return n, nil
}

func TestCopyBytes(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	var chunks [][]byte
	var want []byte
	for _, n := range []int{1, smallBytes, 5, smallBytes + 1, 10 * largeBytes, 3, 0, 2 * smallBytes, largeBytes, 1} {
		b := make([]byte, n)
		r.Read(b)
		chunks = append(chunks, b)
		want = append(want, b...)
	}
	var got bytes.Buffer
	n, err := copyBytes(&got, &scripted{chunks})
	if err != nil || n != int64(len(want)) || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("copied %d bytes, %v; want the same %d", n, err, len(want))
	}
	if n, err := copyBytes(&got, iotest.DataErrReader(bytes.NewReader(want))); err != nil || n != int64(len(want)) {
		t.Errorf("end with the last bytes: %d, %v; want %d", n, err, len(want))
	}
	if _, err := copyBytes(&got, iotest.TimeoutReader(bytes.NewReader(want))); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("%v, want %v", err, iotest.ErrTimeout)
	}
	if _, err := copyBytes(short{}, bytes.NewReader(want)); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("%v, want %v", err, io.ErrShortWrite)
	}
}

type short struct{}

func (short) Write(b []byte) (int, error) { return len(b) / 2, nil }

func TestCopyAllocates(t *testing.T) {
	data := make([]byte, 1<<20)
	src := bytes.NewReader(data)
	if n := testing.AllocsPerRun(20, func() {
		src.Reset(data)
		_, _ = copyBytes(discard{}, src) // TestCopyBytes checks it
	}); n > 1 { // the pools are emptied by a garbage collection now and then
		t.Errorf("%v allocations a copy, want 0", n)
	}
}

// A deaf connection takes nothing and says nothing until it is closed.
type deaf struct{ net.Conn }

func (deaf) CloseWrite() error { return nil }

// A target that takes nothing does not hold a stream that has failed; it has a while for what has arrived.
func TestJoinDeaf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newSessions(t)
		go func() {
			if st, err := a.Open(t.Context(), nil); err == nil {
				_, _ = st.Write([]byte("unheard"))
			}
		}()
		st, err := b.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c, far := net.Pipe()
		defer far.Close()
		done := make(chan error, 1)
		go func() {
			_, _, err := join(t.Context(), deaf{c}, st, nil)
			done <- err
		}()
		synctest.Wait()
		began := time.Now()
		a.Close()
		if err := <-done; err == nil || time.Since(began) != lastWrites {
			t.Errorf("%v after %v, want an error after %v", err, time.Since(began), lastWrites)
		}
	})
}

// discard has no ReadFrom.
type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func BenchmarkForward(b *testing.B) {
	target, conns := service(b, "tcp", "127.0.0.1:0", nil)
	x, y := newSessions(b)
	serving(b, y, offering(target), Options{})
	l := listening(b, x, "0", Options{})
	c := dialed(b, l.Addr())
	s := accepted(b, conns)
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, s, int64(len(buf))*int64(b.N))
		done <- err
	}()
	b.ResetTimer()
	for range b.N {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
