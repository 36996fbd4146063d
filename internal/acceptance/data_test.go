//go:build unix

package acceptance

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"
)

// random yields bytes that look random and are the same for the same seed.
func random(seed byte, size int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), size)
}

// writeRandom makes a file and returns its SHA-256.
func writeRandom(t testing.TB, path string, size int64) [sha256.Size]byte {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, random(1, size)); err != nil {
		t.Fatal(err)
	}
	return sumFile(t, path)
}

func sumFile(t testing.TB, path string) [sha256.Size]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum, err := sumOf(f)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func sumOf(r io.Reader) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	_, err = io.Copy(h, r)
	return [sha256.Size]byte(h.Sum(nil)), err
}

// pattern is what the bulk tests send over and over: cheap to make and to compare, because both ends
// of the tunnel and the test share one machine. Its length is odd, so that a lost or doubled packet
// shows.
var pattern = func() []byte {
	b, err := io.ReadAll(random(2, 1<<20-1))
	if err != nil {
		panic(err)
	}
	return b
}()

// source sends size bytes of the pattern to whoever connects.
func source(size int64) func(net.Conn) {
	return func(c net.Conn) {
		for left := size; left > 0; {
			n, err := c.Write(pattern[:min(left, int64(len(pattern)))])
			if left -= int64(n); err != nil {
				return // the reader says what is missing
			}
		}
	}
}

// A transfer is what drain saw.
type transfer struct {
	took  time.Duration
	stall time.Duration // the longest time without a byte, the wait for the first one included
}

// drain reads size bytes of the pattern and the end behind them.
func drain(c net.Conn, size int64, limit time.Duration) (transfer, error) {
	var r transfer
	began := time.Now()
	_ = c.SetReadDeadline(began.Add(limit))
	buf := make([]byte, 256<<10)
	for got, last := int64(0), began; ; {
		n, err := c.Read(buf)
		now := time.Now()
		r.stall = max(r.stall, now.Sub(last))
		last = now
		for b := buf[:n]; len(b) > 0; {
			at := got % int64(len(pattern))
			part := b[:min(len(b), len(pattern)-int(at))]
			if !bytes.Equal(part, pattern[at:int(at)+len(part)]) {
				return r, fmt.Errorf("wrong data after %d bytes", got)
			}
			got, b = got+int64(len(part)), b[len(part):]
		}
		r.took = now.Sub(began)
		switch {
		case err == io.EOF && got == size:
			return r, nil
		case err != nil:
			return r, fmt.Errorf("after %d of %d bytes, %v: %w", got, size, r.took, err)
		}
	}
}

// An outcome is what a sink reports.
type outcome struct {
	transfer
	err error
}

// sink drains one connection; results has room for it.
func sink(size int64, limit time.Duration, results chan<- outcome) func(net.Conn) {
	return func(c net.Conn) {
		r, err := drain(c, size, limit)
		results <- outcome{r, err}
	}
}
