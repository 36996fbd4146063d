package control

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// A dialled connection carries frames in each direction, so that the end of data is one and that of
// the process at the other end is none:
//
//	0         4
//	+---------+----------------+
//	| length  | length bytes   |   big endian; at most frameBytes
//	+---------+----------------+
//	| 0       |                    the end of this direction
//	+---------+
const frameBytes = 1 << 20

// errCut is the end of a connection in front of the end of its data.
var errCut = fmt.Errorf("the other process ended, or gave the stream up: %w", io.ErrUnexpectedEOF)

// A framed is one end of such a connection. One goroutine may read and another write.
type framed struct {
	c *net.UnixConn

	r     *bufio.Reader // with left and ended owned by the reader
	left  int           // bytes of the frame that is being read
	ended bool

	head  [4]byte // with parts owned by the writer
	parts net.Buffers
	array [2][]byte
}

// Read returns io.EOF at the end that the other side's CloseWrite made.
func (f *framed) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for f.left == 0 {
		if f.ended {
			return 0, io.EOF
		}
		head, err := f.r.Peek(4)
		if err != nil {
			return 0, cut(err)
		}
		n := binary.BigEndian.Uint32(head)
		_, _ = f.r.Discard(4) // it is there
		if n > frameBytes {
			return 0, errors.New("a frame of a control connection is too large")
		}
		f.left, f.ended = int(n), n == 0
	}
	n, err := f.r.Read(b[:min(len(b), f.left)])
	f.left -= n
	if err != nil {
		err = cut(err)
	}
	return n, err
}

func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return errCut
	}
	return err
}

// Write sends b as frames.
func (f *framed) Write(b []byte) (int, error) {
	total := 0
	for len(b) > 0 {
		part := b[:min(len(b), frameBytes)]
		b = b[len(part):]
		binary.BigEndian.PutUint32(f.head[:], uint32(len(part)))
		f.array[0], f.array[1] = f.head[:], part
		f.parts = f.array[:]
		n, err := f.parts.WriteTo(f.c)
		total += max(int(n)-len(f.head), 0)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// CloseWrite tells the other side that no more comes.
func (f *framed) CloseWrite() error {
	var end [4]byte
	if _, err := f.c.Write(end[:]); err != nil {
		return err
	}
	return f.c.CloseWrite()
}
