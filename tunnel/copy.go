package tunnel

import (
	"errors"
	"io"
	"sync"
)

// A direction starts with a small buffer and gets a large one for as long as its reads fill it, so
// that many idle connections cost little and a bulk transfer few calls.
const (
	smallBytes = 8 << 10
	largeBytes = 128 << 10
)

var (
	smallBuffers = sync.Pool{New: func() any { return new([smallBytes]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeBytes]byte) }}
)

// copyBytes copies from r to w until r ends (nil) or either fails. It does not use io.Copy: ReadFrom
// and WriteTo of net.TCPConn allocate a buffer of their own where they cannot splice.
func copyBytes(w io.Writer, r io.Reader) (int64, error) {
	small := smallBuffers.Get().(*[smallBytes]byte)
	var large *[largeBytes]byte
	defer func() {
		smallBuffers.Put(small)
		if large != nil {
			largeBuffers.Put(large)
		}
	}()
	buf := small[:]
	var total int64
	for {
		n, err := r.Read(buf)
		if n > 0 {
			m, werr := w.Write(buf[:n])
			total += int64(m)
			if werr == nil && m < n {
				werr = io.ErrShortWrite
			}
			if werr != nil {
				return total, werr
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return total, nil
		case err != nil:
			return total, err
		case large == nil && n == smallBytes:
			large = largeBuffers.Get().(*[largeBytes]byte)
			buf = large[:]
		case large != nil && n < smallBytes/2:
			largeBuffers.Put(large)
			large, buf = nil, small[:]
		}
	}
}
