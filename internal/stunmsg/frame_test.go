package stunmsg

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestFrames(t *testing.T) {
	t.Parallel()
	const maxFrame = 2048
	want := []string{"", "a", "abcd", strings.Repeat("x", 1500)}
	var stream []byte
	for i, s := range want {
		stream = AppendChannelData(stream, MinChannel+uint16(i), []byte(s), true)
	}
	stream = append(stream, vectorRequest...)
	r := bufio.NewReader(bytes.NewReader(stream))
	buf := make([]byte, maxFrame)
	for i, s := range want {
		n, err := ReadFrame(r, buf)
		if err != nil {
			t.Fatal(err)
		}
		channel, data, ok := ChannelData(buf[:n])
		if !ok || channel != MinChannel+uint16(i) || string(data) != s {
			t.Fatalf("frame %d: channel %#x, %d bytes, %v", i, channel, len(data), ok)
		}
	}
	if n, err := ReadFrame(r, buf); err != nil || string(buf[:n]) != vectorRequest {
		t.Fatalf("STUN message: %x, %v", buf[:n], err)
	}
	if _, err := ReadFrame(r, buf); err != io.EOF {
		t.Errorf("at the end: %v, want EOF", err)
	}
	for _, bad := range [][]byte{{0x80, 0, 0, 0}, {0x40, 0, 0xff, 0xff}, {0, 1, 0xff, 0xfc}, {0, 1, 0, 3}, {4, 1, 0, 0}} {
		if _, err := ReadFrame(bufio.NewReader(bytes.NewReader(append(bad, make([]byte, 100)...))), buf); !errors.Is(err, ErrFrame) {
			t.Errorf("% x: %v, want ErrFrame", bad, err)
		}
	}
	// A datagram needs no padding, and one that is cut holds nothing.
	b := AppendChannelData(nil, MaxChannel, []byte("abc"), false)
	if channel, data, ok := ChannelData(b); len(b) != 7 || !ok || channel != MaxChannel || string(data) != "abc" {
		t.Errorf("% x: channel %#x, %q, %v", b, channel, data, ok)
	}
	if _, _, ok := ChannelData(b[:6]); ok {
		t.Error("ChannelData that is cut was taken")
	}
}

// FuzzFrames: a stream of anything ends, and each of its frames has the length that its head says.
func FuzzFrames(f *testing.F) {
	f.Add([]byte(vectorRequest + "\x40\x00\x00\x01x\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		buf := make([]byte, 100)
		for {
			n, err := ReadFrame(r, buf)
			if err != nil {
				return
			}
			if n < ChannelHeader || n%4 != 0 || n != FrameBytes(buf) {
				t.Fatalf("a frame of %d bytes: %x", n, buf[:n])
			}
			channel, data, ok := ChannelData(buf[:n])
			if !ok {
				continue
			}
			again := AppendChannelData(nil, channel, data, true)
			if len(again) != n || !bytes.Equal(again[:ChannelHeader+len(data)], buf[:ChannelHeader+len(data)]) {
				t.Fatalf("%x comes back as %x", buf[:n], again)
			}
		}
	})
}
