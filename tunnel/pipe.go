package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// ErrPipe is unwrapped by the errors of a pipe that the peer left, or spoke wrongly on.
var ErrPipe = errors.New("the pipe broke")

// A pipe stream carries frames both ways:
//
//	 0                   4
//	+-------------------+-------------------+
//	| n, big-endian     | n bytes of data   |   0 < n <= maxFrameBytes
//	+-------------------+-------------------+
//	| 0                 |    end: the sender's input has ended, no data follows
//	+-------------------+
//	| 2^32-1            |    taken: all of the other side's data, up to its end, was written out
//	+-------------------+
//
// The end of the stream alone would not do: a side that has sent everything and seen the peer's end
// does not know whether its own last bytes were written. When a side has the peer's end and the peer's
// taken it is done. The opener then ends the stream, the acceptor answers with the end of its own
// direction, and so neither takes the session down while the other still waits for a frame.
const (
	maxFrameBytes = 64 << 10
	frameHeader   = 4

	frameEnd   uint32 = 0
	frameTaken uint32 = 1<<32 - 1
)

// Pipe joins in and out to those of the peer's Pipe, over one stream that the side with opener set
// opens and the other waits for; streams of other kinds are refused meanwhile. It returns nil when in
// was read to its end and the peer has written all of it, and all of the peer's data is in out.
//
// A *RefusedError says that the peer runs no pipe. A *LocalError says that in or out failed; the peer
// is reset, and its error unwraps to ErrPipe. A Read of in may block for ever, as on a terminal, so
// Pipe does not wait for it when it fails: the goroutine that reads ends with that Read.
func Pipe(ctx context.Context, s Session, opener bool, in io.Reader, out io.Writer) error {
	if !opener {
		for {
			st, err := s.Accept(ctx)
			if err != nil {
				return firstError(ctx, err, nil)
			}
			h, err := parseHeader(st.Header())
			switch {
			case err != nil:
				refuse(st, StreamEvent{}, &RefusedError{CodeUsage, err.Error()}, &Options{})
			case h.kind != kindPipe:
				refuse(st, StreamEvent{}, &RefusedError{CodeRefused, "this side runs adit pipe and offers no target"}, &Options{})
			default:
				return pipe(ctx, st, false, in, out)
			}
		}
	}
	st, err := s.Open(ctx, header{kind: kindPipe}.encode())
	if err != nil {
		return firstError(ctx, err, nil)
	}
	return pipe(ctx, st, true, in, out)
}

// A piping is one side of a pipe.
type piping struct {
	st Stream

	mu      sync.Mutex // held for a Write, so that frames stay whole
	endSent bool       // guarded by mu
}

func pipe(ctx context.Context, st Stream, opener bool, in io.Reader, out io.Writer) error {
	stop := context.AfterFunc(ctx, func() { _ = st.Reset(CodeCanceled) })
	defer stop()
	p := &piping{st: st}
	sending := make(chan error, 1) // one result, which may come too late
	go func() {
		if err := p.send(input{in}); err != nil {
			sending <- err
			_ = st.Reset(CodeReset) // ends the Read below
		}
	}()
	err := p.receive(ctx, opener, output{out})
	if err == nil {
		p.part(opener)
		return st.Close()
	}
	_ = st.Reset(CodeReset) // it may be what failed
	return firstError(ctx, err, sending)
}

// send carries in to its end.
func (p *piping) send(in io.Reader) error {
	buf := largeBuffers.Get().(*[largeBytes]byte)
	defer largeBuffers.Put(buf)
	for {
		n, err := in.Read(buf[frameHeader : frameHeader+maxFrameBytes])
		if n > 0 {
			binary.BigEndian.PutUint32(buf[:], uint32(n))
			if err := p.write(buf[:frameHeader+n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return p.mark(frameEnd)
		}
		if err != nil {
			return err
		}
	}
}

func (p *piping) mark(frame uint32) error {
	return p.write(binary.BigEndian.AppendUint32(nil, frame))
}

// sentEnd reports whether the end of our input is on its way.
func (p *piping) sentEnd() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.endSent
}

func (p *piping) write(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if binary.BigEndian.Uint32(b) == frameEnd {
		p.endSent = true
	}
	if _, err := p.st.Write(b); err != nil {
		return fmt.Errorf("%w: %w", ErrPipe, err)
	}
	return nil
}

// receive writes the peer's data to out until the peer's end came and it has taken ours.
func (p *piping) receive(ctx context.Context, opener bool, out io.Writer) error {
	if opener {
		if err := p.st.WaitAccepted(ctx); err != nil {
			return broken(err)
		}
	} else if err := p.st.Accept(); err != nil {
		return broken(err)
	}
	buf := largeBuffers.Get().(*[largeBytes]byte)
	defer largeBuffers.Put(buf)
	var ended, taken bool
	for !ended || !taken {
		if _, err := io.ReadFull(p.st, buf[:frameHeader]); err != nil {
			return broken(err)
		}
		n := binary.BigEndian.Uint32(buf[:])
		switch {
		case n == frameTaken && !taken && p.sentEnd():
			taken = true
		case n == frameEnd && !ended:
			ended = true
			if err := p.mark(frameTaken); err != nil {
				return err
			}
		case n <= maxFrameBytes && !ended:
			if _, err := io.ReadFull(p.st, buf[:n]); err != nil {
				return broken(err)
			}
			if _, err := out.Write(buf[:n]); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: a frame of %d bytes makes no sense here", ErrPipe, n)
		}
	}
	return nil
}

// broken makes an error of the stream an ErrPipe, but for a refusal: there never was a pipe.
func broken(err error) error {
	var refused *RefusedError
	if errors.As(err, &refused) {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the peer ended it early", ErrPipe)
	}
	return fmt.Errorf("%w: %w", ErrPipe, err)
}

// part waits until both sides are known to be done. Whatever happens now, a reset or the end of the
// session, is as good as the end of the stream: all data is where it belongs.
func (p *piping) part(opener bool) {
	var one [1]byte
	if opener {
		_ = p.st.CloseWrite()
	}
	_, _ = p.st.Read(one[:])
	if !opener {
		_ = p.st.CloseWrite()
	}
}
