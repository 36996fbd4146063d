package tunnel

import (
	"context"
	"errors"

	"adit/reliable"
)

// Over makes the streams of s a Session of this package.
func Over(s *reliable.Session) Session { return over{s} }

type over struct{ session *reliable.Session }

func (o over) Open(ctx context.Context, header []byte) (Stream, error) {
	st, err := o.session.Open(ctx, header)
	if err != nil {
		return nil, refusal(err) // the peer may be quicker than this call
	}
	return overStream{st}, nil
}

func (o over) Accept(ctx context.Context) (Stream, error) {
	st, err := o.session.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return overStream{st}, nil
}

type overStream struct{ *reliable.Stream }

func (s overStream) WaitAccepted(ctx context.Context) error {
	return refusal(s.Stream.WaitAccepted(ctx))
}

// refusal tells refusals from resets, by their codes.
func refusal(err error) error {
	var e *reliable.StreamError
	if errors.As(err, &e) && e.Remote && e.Code >= CodeRefused && e.Code < CodeReset {
		return &RefusedError{Code: e.Code, Reason: printable(e.Reason)}
	}
	return err
}
