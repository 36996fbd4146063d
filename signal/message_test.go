package signal

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"
)

func TestMessage(t *testing.T) {
	for _, m := range []Message{
		{Kind: KindAbort},
		{Kind: KindPAKE, Body: []byte("share")},
		{Kind: KindOffer, Expires: inTime, Body: make([]byte, MaxMessage-messageHeaderBytes)},
		{Kind: 200, Body: []byte{0}},
	} {
		got, err := ParseMessage(m.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, m) {
			t.Errorf("got %+v, want %+v", got, m)
		}
	}
}

func TestMessageExpiry(t *testing.T) {
	for _, c := range []struct{ at, want time.Time }{
		{time.Time{}, time.Time{}},
		{inTime.Add(999 * time.Millisecond), inTime},
		{time.Unix(0, 0), time.Unix(1, 0)},
		{time.Unix(-9, 0), time.Unix(1, 0)},
		{time.Unix(1<<40, 0), time.Unix(1<<32-1, 0)},
	} {
		got, err := ParseMessage(Message{Kind: KindOffer, Expires: c.at}.Append(nil))
		if err != nil || !got.Expires.Equal(c.want) {
			t.Errorf("%v: got %v, %v, want %v", c.at, got.Expires, err, c.want)
		}
	}
}

func TestMessageRefuses(t *testing.T) {
	ok := Message{Kind: KindOffer}.Append(nil)
	for _, c := range []struct {
		name string
		b    []byte
	}{
		{"empty", nil},
		{"short", ok[:5]},
		{"other version", append([]byte{2}, ok[1:]...)},
		{"kind 0", append([]byte{1, 0}, ok[2:]...)},
	} {
		if m, err := ParseMessage(c.b); err == nil {
			t.Errorf("%s: got %+v, want an error", c.name, m)
		}
	}
	if _, err := ParseMessage(append(ok, make([]byte, MaxMessage)...)); !errors.Is(err, ErrTooLong) {
		t.Errorf("too long: got %v, want ErrTooLong", err)
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte{})
	f.Add(sampleMessage(KindOffer).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage(b)
		if err != nil {
			return
		}
		if again := m.Append(nil); !bytes.Equal(again, b) {
			t.Errorf("%x came back as %x", b, again)
		}
	})
}
