package reliable

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"
)

// A Session is the streams that two sides have over one link. Its methods may be called at any time
// by many goroutines.
type Session struct {
	link      Link
	cfg       Config
	account   account
	gov       *governor
	control   *control
	datagrams datagrams
	accepts   chan *Stream  // headers are there; when it is full, streams are refused
	closing   chan struct{} // closed first: nothing new
	done      chan struct{} // closed last: nothing works any more
	wg        sync.WaitGroup

	mu      sync.RWMutex
	streams map[uint32]*Stream // until they are released
	local   int                // streams that count against MaxStreams
	remote  int                // the same, of the peer
	next    uint32             // number of the next stream to open
	peerIDs idSet
	err     error         // why the session ended, or is about to
	emptied chan struct{} // closed when streams gets empty, if somebody waits
}

// NewSession starts a session over l and owns its handler from now on. Packets of the peer may have
// come before.
func NewSession(l Link, cfg Config) *Session {
	cfg = cfg.withDefaults()
	s := &Session{
		link:    l,
		cfg:     cfg,
		accepts: make(chan *Stream, min(backlog, cfg.MaxStreams)),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
		streams: make(map[uint32]*Stream),
	}
	s.account.budget = cfg.Budget
	s.next, s.peerIDs = 2, newIDSet(1)
	if cfg.Initiator {
		s.next, s.peerIDs = 1, newIDSet(2)
	}
	s.gov = newGovernor(s.done)
	s.control = newControl(s)
	s.wg.Go(s.gov.run)
	s.wg.Go(s.control.send)
	s.wg.Go(s.control.receive)
	l.Receive(s.deliver)
	return s
}

// Open opens a stream and returns without waiting for the peer; what is written travels with the
// header. The header is copied; it has at most MaxHeader bytes.
func (s *Session) Open(ctx context.Context, header []byte) (*Stream, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if len(header) > MaxHeader {
		return nil, ErrHeaderTooLong
	}
	s.mu.Lock()
	switch {
	case s.err != nil:
		defer s.mu.Unlock()
		return nil, s.err
	case s.local >= s.cfg.MaxStreams:
		s.mu.Unlock()
		return nil, ErrTooManyStreams
	case s.next > maxID:
		s.mu.Unlock()
		return nil, errExhausted
	}
	st := newStream(s, s.next, true)
	s.next += 2
	s.local++
	s.streams[st.id] = st
	s.mu.Unlock()

	prefix := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(header)), uint16(len(header)))
	if err := st.start(append(prefix, header...)); err != nil {
		return nil, err
	}
	return st, nil
}

// Accept returns the next stream that the peer opened. The caller must accept or refuse it, or close
// it, which refuses it. It returns ctx's cause, or the session's error when that has ended.
func (s *Session) Accept(ctx context.Context) (*Stream, error) {
	for {
		if isClosed(s.closing) {
			return nil, s.Err()
		}
		select {
		case st := <-s.accepts:
			if !isClosed(st.readStop) { // else it was reset while it waited here
				return st, nil
			}
		case <-s.closing:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// NumStreams returns how many streams are open, or closed and not yet with the peer in full.
func (s *Session) NumStreams() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.streams)
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns nil until the session ended, or Close was called; then an error that unwraps to
// net.ErrClosed and to the one given to CloseWithError.
func (s *Session) Err() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.err
}

// Close ends the session and waits for its goroutines. Streams that are open are reset and fail at
// once; what was written to streams, and refusals, get up to a second to reach the peer, less if the peer has them
// earlier.
func (s *Session) Close() error {
	if s.begin(net.ErrClosed) {
		for _, st := range s.all() {
			if !st.lingers() {
				_ = st.Reset(CodeClosed)
			}
		}
		s.drain()
	}
	s.finish()
	s.wg.Wait()
	return nil
}

// CloseWithError ends the session at once; err, if not nil, is the reason that calls return. It does
// not wait for goroutines and may be called from the link's handler.
func (s *Session) CloseWithError(err error) {
	if err == nil {
		err = net.ErrClosed
	}
	s.begin(err)
	s.finish()
}

// begin lets nothing new in and reports whether it was the first to.
func (s *Session) begin(cause error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false
	}
	s.err = &sessionError{cause}
	close(s.closing)
	return true
}

// drain waits for lingering streams, then for the peer to have read the control conversation.
func (s *Session) drain() {
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	s.mu.Lock()
	empty := make(chan struct{})
	if len(s.streams) == 0 {
		close(empty)
	} else {
		s.emptied = empty
	}
	s.mu.Unlock()
	select {
	case <-empty:
	case <-grace.C:
		return
	case <-s.done:
		return
	}
	acked := s.control.sync()
	grace.Reset(min(max(4*s.link.RTT(), closeGrace/10), closeGrace))
	select {
	case <-acked:
	case <-grace.C:
	case <-s.done:
	}
}

// finish ends what is left. Only the first call does something.
func (s *Session) finish() {
	s.mu.Lock()
	select {
	case <-s.done:
		s.mu.Unlock()
		return
	default:
		close(s.done)
	}
	err := s.err
	s.mu.Unlock()
	for _, st := range s.all() {
		st.fail(err)
	}
	s.control.conv.close()
	if !errors.Is(err, ErrProtocol) {
		s.cfg.Logger.Debug("session of streams ended", "err", err)
	} else {
		s.cfg.Logger.Warn("session of streams ended", "err", err)
	}
}

func (s *Session) all() []*Stream {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*Stream, 0, len(s.streams))
	for _, st := range s.streams {
		all = append(all, st)
	}
	return all
}

// deliver is the link's handler. Steady state allocates nothing.
func (s *Session) deliver(p []byte) {
	if isDatagram(p) {
		s.deliverDatagram(p)
		return
	}
	id, push, ok := conversationOf(p)
	if !ok || isClosed(s.done) {
		return
	}
	if id == 0 {
		s.control.conv.deliver(p)
		return
	}
	s.mu.RLock()
	st := s.streams[id]
	s.mu.RUnlock()
	if st == nil && push {
		st = s.opened(id)
	}
	if st != nil && st.conv.deliver(p) {
		st.came()
	}
}

// opened returns a new stream for a number that the peer has not used before, or nil. A number beyond
// MaxStreams is refused.
func (s *Session) opened(id uint32) *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.streams[id]; st != nil || !s.fromPeer(id) || !s.peerIDs.fresh(id) || s.err != nil {
		return st
	}
	if s.remote >= s.cfg.MaxStreams || !s.account.admits() {
		if s.control.refuse(id) {
			s.peerIDs.use(id)
		}
		return nil
	}
	s.peerIDs.use(id)
	s.remote++
	st := newStream(s, id, false)
	s.streams[st.id] = st
	return st
}

// fromPeer reports whether id is of those that the peer gives its streams.
func (s *Session) fromPeer(id uint32) bool { return id != 0 && (id&1 == 0) == s.cfg.Initiator }

// released takes a stream off that has ended for both sides. It counts on until its messages are out,
// so that opening and resetting streams cannot pile them up.
func (s *Session) released(st *Stream) {
	s.mu.Lock()
	delete(s.streams, st.id)
	if len(s.streams) == 0 && s.emptied != nil {
		close(s.emptied)
		s.emptied = nil
	}
	s.mu.Unlock()
	s.control.leave(st)
}

// uncount makes room for another stream of st's side.
func (s *Session) uncount(st *Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.opener {
		s.local--
	} else {
		s.remote--
	}
}
