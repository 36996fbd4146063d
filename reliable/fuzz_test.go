// In package reliable: this file feeds parsers that have no exported name, and streams with what no peer of
// ours sends.

package reliable

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	kcp "github.com/xtaci/kcp-go/v5"
)

func segment(conv uint32, cmd byte, sn uint32, data string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, conv)
	b = append(b, cmd, 0, 0, 1)
	b = binary.LittleEndian.AppendUint32(b, 0) // ts
	b = binary.LittleEndian.AppendUint32(b, sn)
	b = binary.LittleEndian.AppendUint32(b, 0) // una
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func TestConversationOf(t *testing.T) {
	long := segment(1, kcp.IKCP_CMD_PUSH, 0, "x")
	binary.LittleEndian.PutUint32(long[20:], 1<<31)
	fragment := segment(1, kcp.IKCP_CMD_PUSH, 0, "x")
	fragment[5] = 1
	parity := segment(1, 0xf2, 0, "")
	for name, c := range map[string]struct {
		p        []byte
		conv     uint32
		push, ok bool
	}{
		"push":               {segment(3, kcp.IKCP_CMD_PUSH, 0, "x"), 3, true, true},
		"ack":                {segment(4, kcp.IKCP_CMD_ACK, 0, ""), 4, false, true},
		"ack and push":       {append(segment(4, kcp.IKCP_CMD_ACK, 0, ""), segment(4, kcp.IKCP_CMD_PUSH, 0, "x")...), 4, false, true},
		"two conversations":  {append(segment(4, kcp.IKCP_CMD_ACK, 0, ""), segment(6, kcp.IKCP_CMD_ACK, 0, "")...), 0, false, false},
		"nothing":            {nil, 0, false, false},
		"short":              {make([]byte, 23), 0, false, false},
		"rest":               {append(segment(4, kcp.IKCP_CMD_ACK, 0, ""), 0), 0, false, false},
		"length beyond int":  {long, 0, false, false},
		"fragment":           {fragment, 0, false, false},
		"error correction":   {parity, 0, false, false},
		"empty push":         {segment(3, kcp.IKCP_CMD_PUSH, 0, ""), 0, false, false},
		"larger than a read": {segment(3, kcp.IKCP_CMD_PUSH, 0, string(make([]byte, 1500))), 0, false, false},
	} {
		conv, push, ok := conversationOf(c.p)
		if conv != c.conv || ok != c.ok || ok && push != c.push {
			t.Errorf("%s: got %d, %v, %v, want %d, %v, %v", name, conv, push, ok, c.conv, c.push, c.ok)
		}
	}
}

// Packets of any content neither panic nor end a session, and a stream still works after them unless
// its own conversation was hit.
func FuzzPacket(f *testing.F) {
	f.Add(segment(2, kcp.IKCP_CMD_PUSH, 0, "\x00\x02hi"))
	f.Add(segment(2, kcp.IKCP_CMD_PUSH, 0, "\xff\xff"))
	f.Add(segment(1, kcp.IKCP_CMD_ACK, 1<<31, ""))
	f.Add(segment(8194, kcp.IKCP_CMD_WASK, 0, ""))
	f.Add(append(segment(4, kcp.IKCP_CMD_ACK, 0, ""), segment(4, kcp.IKCP_CMD_PUSH, 5, "x")...))
	s, _ := newSessions(f, new(wire), new(wire), Config{MaxStreams: 8})
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) >= 4 && binary.LittleEndian.Uint32(p) == 0 {
			return // the control conversation has a fuzz target of its own
		}
		s.deliver(p)
		if n := s.NumStreams(); n > 8 {
			t.Fatalf("got %d streams, want at most 8", n)
		}
		if s.Err() != nil {
			t.Fatalf("the session ended: %v", s.Err())
		}
		for _, st := range s.all() {
			_ = st.Reset(1)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := len(s.peerIDs.gaps); n > maxGaps {
			t.Fatalf("got %d gaps, want at most %d", n, maxGaps)
		}
	})
}

func FuzzMessage(f *testing.F) {
	for _, m := range []message{
		{kind: msgAccept, stream: 1}, {kind: msgFinAck, stream: 2}, {kind: msgStop, stream: 1 << 31},
		{kind: msgFin, stream: 3, value: 1 << 40}, {kind: msgCredit, stream: 3, value: 1},
		{kind: msgReset, stream: 5, value: 7, code: 4, reason: "not here"}, {kind: msgStop, stream: 3, code: 9}, {kind: msgSync, value: 9}, {kind: msgSyncAck},
	} {
		b := m.append(nil)
		if got, n, err := nextMessage(b); got != m || n != len(b) || err != nil {
			f.Fatalf("got %v, %d, %v; want %v, %d", got, n, err, m, len(b))
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, n, err := nextMessage(b)
		switch {
		case err != nil:
			if !errors.Is(err, ErrProtocol) {
				t.Fatalf("got %v, want one that wraps ErrProtocol", err)
			}
		case n == 0:
			if len(b) >= 2+maxMessageSize {
				t.Fatalf("%d bytes are not enough for a message", len(b))
			}
		case !m.kind.known():
			// It is skipped.
		default:
			if again := m.append(nil); !bytes.Equal(again, b[:n]) {
				t.Fatalf("got %x, want %x", again, b[:n])
			}
		}
	})
}

// Control messages of any content for a stream that exists neither panic nor make it grow.
func FuzzControl(f *testing.F) {
	f.Add(byte(msgFin), uint32(1), uint64(5), []byte("hello"))
	f.Add(byte(msgStop), uint32(1), uint64(0), []byte{})
	f.Add(byte(msgCredit), uint32(2), uint64(1)<<63, []byte{})
	f.Add(byte(msgReset), uint32(4), uint64(3), []byte("no"))
	s, peer := newSessions(f, new(wire), new(wire), Config{MaxStreams: 8})
	go func() {
		for {
			if _, err := peer.Accept(context.Background()); err != nil {
				return
			}
		}
	}()
	f.Fuzz(func(t *testing.T, k byte, id uint32, value uint64, written []byte) {
		var st *Stream
		waitFor(t, func() (ok bool) { // for the messages of the last ones to be out
			var err error
			if st, err = s.Open(t.Context(), nil); err != nil && !errors.Is(err, ErrTooManyStreams) {
				t.Fatal(err)
			}
			return err == nil
		})
		// The peer refuses now and then: it learns of a stream's end later than there is room for the next.
		var reset *StreamError
		if _, err := st.Write(written[:min(len(written), 1000)]); err != nil && (!errors.As(err, &reset) || reset.Code != CodeBusy) {
			t.Fatal(err)
		}
		m := message{kind: kind(k), stream: id, value: value}
		s.control.handle(m)
		m.stream = st.id
		s.control.handle(m)
		s.control.handle(m)
		_ = st.CloseWrite()
		_ = st.Close()
		_ = st.Reset(1)
		for _, st := range s.all() {
			_ = st.Reset(1)
			if !st.opener {
				st.expire() // the peer knows nothing of it
			}
		}
		waitFor(t, func() bool { return s.NumStreams() == 0 }) // one may be on its way out
	})
}

// A header that comes in pieces is the one that was sent.
func FuzzHeader(f *testing.F) {
	f.Add([]byte("\x00\x05helloworld"), 1)
	f.Add([]byte("\x00\x00"), 2)
	f.Add([]byte("\x04\x01"), 7)
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		step = max(1, step)
		var header []byte
		taken := 0
		for rest := b; len(rest) > 0; {
			n := min(step, len(rest))
			var ok bool
			var m int
			if header, m, ok = readHeader(header, rest[:n]); !ok {
				if size := int(binary.BigEndian.Uint16(b)); size <= MaxHeader {
					t.Fatalf("a header of %d bytes was refused", size)
				}
				return
			}
			taken += m
			rest = rest[n:]
		}
		want := len(b)
		if len(b) >= 2 {
			want = min(want, 2+int(binary.BigEndian.Uint16(b)))
		}
		if taken != want || !bytes.Equal(header, b[:want]) {
			t.Fatalf("got %x (%d taken), want %x", header, taken, b[:want])
		}
	})
}

func TestIDSet(t *testing.T) {
	s := newIDSet(2)
	for _, id := range []uint32{6, 2, 10, 4} {
		if !s.fresh(id) {
			t.Errorf("%d: got used, want fresh", id)
		}
		s.use(id)
		if s.fresh(id) {
			t.Errorf("%d: got fresh, want used", id)
		}
	}
	if want := map[uint32]struct{}{8: {}}; !reflect.DeepEqual(s.gaps, want) {
		t.Errorf("got gaps %v, want %v", s.gaps, want)
	}
	if s.fresh(12+2*maxGaps) || s.fresh(maxID+1) {
		t.Error("a number far ahead is fresh")
	}
	s.use(12 + 2*(maxGaps-1))
	if len(s.gaps) != maxGaps {
		t.Errorf("got %d gaps, want %d", len(s.gaps), maxGaps)
	}
	if next := s.next; !s.fresh(next) || s.fresh(next+2) {
		t.Error("with all gaps in use, the next number and no other must be fresh")
	}
}

func TestReceiveBuffer(t *testing.T) {
	want := data(300<<10, 7)
	var q receiveBuffer
	var got []byte
	buf := make([]byte, 7000)
	for in := want; len(in) > 0 || q.bytes > 0; {
		for range 5 {
			n := min(len(in), 1176)
			q.write(in[:n])
			in = in[n:]
		}
		got = append(got, buf[:q.read(buf)]...)
	}
	if !bytes.Equal(got, want) {
		t.Error("the bytes read differ from those written")
	}
	q.write([]byte("abcd"))
	if n := q.read(buf[:3]); string(buf[:n]) != "abc" {
		t.Errorf("got %q, want %q", buf[:n], "abc")
	}
	q.write([]byte("ef"))
	if n := q.read(buf); string(buf[:n]) != "def" || len(q.blocks) != 0 {
		t.Errorf("got %q and %d blocks, want %q and none", buf[:n], len(q.blocks), "def")
	}
	q.write(want)
	q.discard()
	if q.bytes != 0 || q.read(buf) != 0 {
		t.Error("there are bytes after discard")
	}
}
