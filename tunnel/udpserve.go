package tunnel

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

var datagramBuffers = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// serveFlow forwards the datagrams of a flow that the peer opened to c and back, until the peer ends it or
// it has been silent. It owns st and c.
func serveFlow(ctx context.Context, st Stream, e StreamEvent, c *net.UDPConn, opts *Options) {
	ds, ok := st.(DatagramStream)
	if !ok {
		_ = c.Close() // never used
		refuse(st, e, errNoDatagrams, opts)
		return
	}
	ds.AcceptDatagrams()
	if err := ds.Accept(); err != nil {
		_ = c.Close()           // never used
		_ = st.Reset(CodeReset) // most likely the peer did
		opts.stream(ended(e, 0, 0, err))
		return
	}
	_ = c.SetReadBuffer(udpBuffer) // it is better, not necessary
	open := e
	open.State = StateOpen
	opts.stream(open)
	s := &silence{began: time.Now()}
	end := func() {
		_ = c.Close()  // ends what reads it
		_ = ds.Close() // the same
	}
	defer context.AfterFunc(ctx, end)()
	defer s.watch(serveSlack, end)()
	toTarget := func(p []byte) {
		s.in(len(p))
		_, _ = c.Write(p) // a loss; that nobody listens there is told by a later call
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for ds.NextDatagram(toTarget) == nil {
		}
	})
	wg.Go(func() {
		readDatagrams(c, func(p []byte) {
			s.out(len(p))
			ds.SendDatagram(p) // a loss if it does not
		})
		_ = ds.Close() // ends the others
	})
	err := readFrames(ds, toTarget)
	end()
	wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	opts.stream(ended(e, s.sent.Load(), s.received.Load(), err))
}

// readFrames hands over the datagrams that travel in a stream, each behind its size, until its end.
func readFrames(r io.Reader, use func(p []byte)) error {
	b := bufio.NewReaderSize(r, 512) // there are few, or none
	for {
		var size [2]byte
		if _, err := io.ReadFull(b, size[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		if n > maxDatagram {
			return ErrHeader
		}
		p := datagramBuffers.Get().(*[maxDatagram]byte)
		_, err := io.ReadFull(b, p[:n])
		if err == nil {
			use(p[:n])
		}
		datagramBuffers.Put(p)
		if err != nil {
			return err
		}
	}
}

// readDatagrams hands over what comes to c, which is connected, until it is closed. While nothing comes it holds no
// buffer, where the system can tell that something is there.
func readDatagrams(c *net.UDPConn, use func(p []byte)) {
	wait := waitReadable(c)
	for {
		if err := wait(); err != nil {
			return
		}
		p := datagramBuffers.Get().(*[maxDatagram]byte)
		n, err := c.Read(p[:])
		if err == nil {
			use(p[:n])
		}
		datagramBuffers.Put(p)
		if err != nil && !passing(err) {
			return
		}
	}
}

// passing reports whether an error says of one datagram that it did not arrive, and nothing of the next.
func passing(err error) bool {
	var sys *os.SyscallError
	return errors.As(err, &sys) && (errors.Is(sys.Err, syscall.ECONNREFUSED) || errors.Is(sys.Err, syscall.ECONNRESET) ||
		errors.Is(sys.Err, syscall.EHOSTUNREACH) || errors.Is(sys.Err, syscall.ENETUNREACH) || errors.Is(sys.Err, syscall.EMSGSIZE))
}
