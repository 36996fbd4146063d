package tunnel

import (
	"context"
	"errors"
	"io"
)

// A LocalError says that this side's own input or output failed, not the peer or the path.
type LocalError struct {
	Op  string // "read input" or "write output"
	Err error
}

func (e *LocalError) Error() string { return e.Op + ": " + e.Err.Error() }
func (e *LocalError) Unwrap() error { return e.Err }

// An input marks errors of its Reader as local.
type input struct{ io.Reader }

func (r input) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &LocalError{"read input", err}
	}
	return n, err
}

// An output marks errors of its Writer as local.
type output struct{ io.Writer }

func (w output) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		err = &LocalError{"write output", err}
	}
	return n, err
}

// Stdio joins in and out to target, or to the peer's default if target is zero. It returns nil when
// the target's end of data came and all of it was written to out; a *RefusedError if the peer said no;
// a *LocalError if in or out failed; otherwise what failed, or the cause of ctx. The end of in ends the direction to
// the target alone. Stdio does not go on with in after the target's end, as ssh -W would: most targets have closed
// both ways then, which only a write could tell, and a person or a silent program would have to make it.
//
// What in gives is sent at once, before the peer has accepted. A Read of in may block for ever, as on
// a terminal, so Stdio does not wait for it: the goroutine that reads ends with that Read.
func Stdio(ctx context.Context, s Session, target Target, in io.Reader, out io.Writer) error {
	st, err := s.Open(ctx, headerTo(target).encode())
	if err != nil {
		return firstError(ctx, err, nil)
	}
	sending := make(chan error, 1) // one result, which may come too late
	decided := make(chan struct{})
	go func() {
		_, err := copyBytes(st, input{in})
		if err == nil {
			err = st.CloseWrite()
		}
		if err != nil {
			sending <- err
			var local *LocalError
			if !errors.As(err, &local) {
				<-decided // a refused stream may end before the refusal was read, which says more
			}
			_ = st.Reset(CodeReset) // ends the Read below
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = st.Reset(CodeCanceled) })
	defer stop()

	err = st.WaitAccepted(ctx)
	close(decided)
	if err == nil {
		_, err = copyBytes(output{out}, st)
	}
	if err == nil {
		return st.Close()
	}
	_ = st.Reset(CodeReset) // it may be what failed
	return firstError(ctx, err, sending)
}

// firstError says why a stream ended: because ctx did, because the peer refused it, because writing
// the output failed, because of what the sending goroutine met first, or because of err.
func firstError(ctx context.Context, err error, sending <-chan error) error {
	var refused *RefusedError
	var local *LocalError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &refused), errors.As(err, &local):
		return err
	}
	select {
	case first := <-sending:
		return first
	default:
		return err
	}
}
