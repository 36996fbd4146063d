package tunnel

import "context"

// benchTarget is what events call the target of a stream that measures the path.
const benchTarget = "bench"

// OpenBench opens a stream that the peer's Policy.Bench serves. The request has at most 64 bytes. As
// with Session.Open the peer has not accepted it yet.
func OpenBench(ctx context.Context, s Session, request []byte) (Stream, error) {
	return s.Open(ctx, header{kind: kindBench, request: string(request)}.encode())
}

// serveBench hands st to serve and reports what becomes of it.
func serveBench(ctx context.Context, st Stream, request []byte, serve func(context.Context, Stream, []byte), e StreamEvent, opts *Options) {
	told := &toldStream{Stream: st, event: e, opts: opts}
	serve(ctx, told, request)
	if told.open {
		opts.stream(ended(e, 0, 0, nil))
	}
}

// A toldStream reports whether it was accepted.
type toldStream struct {
	Stream
	event StreamEvent
	opts  *Options
	open  bool
}

func (s *toldStream) Accept() error {
	err := s.Stream.Accept()
	if s.open = err == nil; s.open {
		e := s.event
		e.State = StateOpen
		s.opts.stream(e)
	}
	return err
}

func (s *toldStream) Refuse(code uint32, reason string) error {
	refuse(s.Stream, s.event, &RefusedError{code, reason}, s.opts)
	return nil // told as well as could be
}
