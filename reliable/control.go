package reliable

import (
	"fmt"
	"sync"

	"golang.org/x/time/rate"
)

const (
	// maxRefusals bounds the refusals that wait to be sent. A packet beyond it is dropped; it comes again.
	maxRefusals = 1024

	// maxBatch is how many bytes of messages are handed to kcp at a time.
	maxBatch = 16 << 10

	// maxInbox bounds what waits for receive, which nothing blocks. More is refused and comes again.
	maxInbox = 1 << 20

	// A stream that ends makes a few messages that tell nothing new: what the two sides say may cross. So many at once,
	// and a second, are more than a machine ends streams.
	idleBurst = 20_000
	idleRate  = 10_000

	// A client that gives up resets its stream before it is accepted; one that scans ports does so often.
	abortBurst = 1000
	abortRate  = 100
)

// A control is the control conversation. What is to be said waits in a queue that no caller blocks
// on: each stream has a few messages at most in it and counts against MaxStreams until they are out.
type control struct {
	session *Session
	conv    *conversation
	wake    chan struct{} // capacity 1: it need not be told twice
	came    chan struct{} // capacity 1: there is something in the inbox

	inMu  sync.Mutex // after conversation.mu
	inbox []byte     // messages of the peer, at most maxInbox bytes

	idle   *rate.Limiter // messages that tell nothing new
	aborts *rate.Limiter // streams of the peer's that it resets before they are accepted

	mu       sync.Mutex
	queue    []queued
	refusals int
	syncAck  *uint64       // the peer waits for it; only the last one counts
	synced   chan struct{} // closed when the peer has answered our only sync
}

type queued struct {
	message
	of *Stream // nil for a refusal and what is about no stream
}

func newControl(s *Session) *control {
	c := &control{
		session: s,
		wake:    make(chan struct{}, 1),
		came:    make(chan struct{}, 1),
		synced:  make(chan struct{}),
		idle:    rate.NewLimiter(idleRate, idleBurst),
		aborts:  rate.NewLimiter(abortRate, abortBurst),
	}
	c.conv = newConversation(s.link, s.gov, &s.account, 0, c.take, nil)
	c.conv.reserved.Store(maxInbox) // nobody else's memory depends on how much there is of it
	return c
}

// take is the conversation's sink.
func (c *control) take(p []byte) bool {
	c.inMu.Lock()
	defer c.inMu.Unlock()
	if len(c.inbox)+len(p) > maxInbox {
		return false
	}
	c.inbox = append(c.inbox, p...)
	signal(c.came)
	return true
}

// say queues a message about st, which has not been released yet.
func (c *control) say(st *Stream, m message) {
	m.stream = st.id
	c.mu.Lock()
	st.unsent++
	c.queue = append(c.queue, queued{m, st})
	c.mu.Unlock()
	signal(c.wake)
}

// leave is called once for each stream that was released, when it has nothing more to say.
func (c *control) leave(st *Stream) {
	c.mu.Lock()
	st.left = true
	out := st.unsent == 0
	c.mu.Unlock()
	if out {
		c.session.uncount(st)
	}
}

// refuse queues the reset of a stream that is not to be, and reports whether there was room for it.
func (c *control) refuse(id uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refusals >= maxRefusals {
		return false
	}
	c.refusals++
	c.queue = append(c.queue,
		queued{message: message{kind: msgReset, stream: id, code: CodeBusy}},
		queued{message: message{kind: msgStop, stream: id, code: CodeBusy}})
	signal(c.wake)
	return true
}

// sync asks the peer to say when it has dealt with all that was said before. It is called once.
func (c *control) sync() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, queued{message: message{kind: msgSync}})
	signal(c.wake)
	return c.synced
}

// send runs until the session is done.
func (c *control) send() {
	var batch []byte
	var out []queued
	for {
		select {
		case <-c.session.done:
			return
		case <-c.wake:
		}
		for {
			batch, out = c.next(batch[:0], out[:0])
			if len(batch) == 0 {
				break
			}
			for rest := batch; ; {
				if rest = rest[c.conv.write(rest):]; len(rest) == 0 {
					break
				}
				select {
				case <-c.session.done:
					return
				case <-c.conv.room:
				}
			}
			c.sent(out)
		}
	}
}

// next moves the first messages of the queue to b in their wire form, and to out.
func (c *control) next(b []byte, out []queued) ([]byte, []queued) {
	c.mu.Lock()
	n := 0
	for n < len(c.queue) && n < maxBatch/(2+maxMessageSize) {
		n++
	}
	out = append(out, c.queue[:n]...)
	rest := copy(c.queue, c.queue[n:])
	clear(c.queue[rest:])
	c.queue = c.queue[:rest]
	if c.syncAck != nil {
		out = append(out, queued{message: message{kind: msgSyncAck, value: *c.syncAck}})
		c.syncAck = nil
	}
	c.mu.Unlock()
	for i := range out {
		if out[i].kind == msgCredit {
			out[i].value = out[i].of.takeCredit()
		}
		b = out[i].append(b)
	}
	return b, out
}

// sent counts messages that kcp has taken.
func (c *control) sent(out []queued) {
	for _, q := range out {
		c.mu.Lock()
		uncount := false
		switch {
		case q.of != nil:
			q.of.unsent--
			uncount = q.of.left && q.of.unsent == 0
		case q.kind == msgReset:
			c.refusals--
		}
		c.mu.Unlock()
		if uncount {
			c.session.uncount(q.of)
		}
	}
	clear(out)
}

// receive runs until the session is done. Nothing that it calls blocks.
func (c *control) receive() {
	var buf, spare []byte // buf begins with the first part of a message
	for {
		select {
		case <-c.session.done:
			return
		case <-c.came:
		}
		c.inMu.Lock()
		came := c.inbox
		c.inbox = spare[:0]
		c.inMu.Unlock()
		buf = append(buf, came...)
		if spare = came; cap(spare) > maxBatch {
			spare = nil
		}
		at := 0
		for {
			msg, size, err := nextMessage(buf[at:])
			if err != nil {
				c.session.CloseWithError(err)
				return
			}
			if size == 0 {
				break
			}
			at += size
			if !c.handle(msg) && !c.idle.Allow() {
				c.session.CloseWithError(fmt.Errorf("%w: a flood of control messages about nothing", ErrProtocol))
				return
			}
		}
		if buf = buf[:copy(buf, buf[at:])]; cap(buf) > 2*maxBatch {
			buf = append([]byte(nil), buf...)
		}
	}
}

// handle deals with a message and reports whether it had a purpose.
func (c *control) handle(m message) bool {
	switch m.kind {
	case msgSync:
		c.mu.Lock()
		c.syncAck = &m.value
		c.mu.Unlock()
		signal(c.wake)
		return false // a session has one
	case msgSyncAck:
		c.mu.Lock()
		defer c.mu.Unlock()
		if isClosed(c.synced) {
			return false
		}
		close(c.synced)
		return true
	}
	s := c.session
	s.mu.RLock()
	st := s.streams[m.stream]
	s.mu.RUnlock()
	if st == nil {
		switch {
		case m.kind == msgReset && m.value == 0: // nothing of it will come
			s.mu.Lock()
			if s.fromPeer(m.stream) && s.peerIDs.fresh(m.stream) {
				s.peerIDs.use(m.stream)
			}
			s.mu.Unlock()
		case m.kind == msgFin || m.kind == msgStop || m.kind == msgReset || m.kind == msgCredit: // it overtook the stream's first packet
			st = s.opened(m.stream)
		}
	}
	return st != nil && st.handle(m) // else it has ended here
}
