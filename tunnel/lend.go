package tunnel

import (
	"context"
	"net"
)

// A HalfConn is a connection whose directions end alone.
type HalfConn interface {
	net.Conn

	// CloseWrite ends the outgoing direction; the other goes on.
	CloseWrite() error
}

// Join joins c, which is closed in the end, to target over s, and returns when both directions have
// ended, nil, or one failed. decided is called once, before anything is written to c: with nil when the
// peer has accepted the stream, else with why there is none, *RefusedError or another. What c gives is sent
// before that. While Open waits for a session it ends if c's other side leaves, which is seen if c is a syscall.Conn.
func Join(ctx context.Context, s Session, target Target, c HalfConn, decided func(error), opts Options) error {
	e := StreamEvent{Target: target.String()}
	st, err := (*waiting)(nil).open(ctx, s, headerTo(target).encode(), c)
	if err != nil {
		decided(err)
		abort(c)
		opts.stream(ended(e, 0, 0, err))
		return err
	}
	sent, received, err := join(ctx, c, st, func() error {
		err := st.WaitAccepted(ctx)
		decided(err)
		if err != nil {
			return err
		}
		open := e
		open.State = StateOpen
		opts.stream(open)
		return nil
	})
	opts.stream(ended(e, sent, received, err))
	return err
}
