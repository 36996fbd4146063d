// In package link: this file takes payloads apart and joins them, which has no exported name.

package link

import (
	"bytes"
	"testing"
	"time"
)

// fragments returns the plaintexts of the two halves of a payload.
func fragments(id uint32, p []byte) (first, second []byte) {
	n, m := split(len(p))
	first, second = make([]byte, fragmentHeader+n), make([]byte, fragmentHeader+m)
	putFragment(first, 0, id, p[:n])
	putFragment(second, 1, id, p[n:])
	return first, second
}

func payloadOf(n int, seed byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i)*7 + seed
	}
	return p
}

// take hands a plaintext to r.
func (r *reassembler) take(t *testing.T, b []byte, now time.Duration) []byte {
	t.Helper()
	part, id, half, ok := parseFragment(b)
	if !ok {
		t.Fatalf("fragment of %d bytes was refused", len(b))
	}
	return r.join(part, id, half, now)
}

func TestFragments(t *testing.T) {
	var r reassembler
	for _, n := range []int{2, 3, mtuBytes + 1, mtuBytes + 2, mostMTU - 1, mostMTU} {
		p := payloadOf(n, byte(n))
		a, b := fragments(uint32(n), p)
		if len(a) > mtuBytes || len(b) > len(a) {
			t.Fatalf("%d bytes became %d and %d", n, len(a), len(b))
		}
		if got := r.take(t, a, 0); len(got) != 0 {
			t.Errorf("one half was enough")
		}
		if got := r.take(t, a, 0); len(got) != 0 {
			t.Errorf("the same half twice was enough")
		}
		if got := r.take(t, b, 0); !bytes.Equal(got, p) {
			t.Errorf("%d bytes came as %d others", n, len(got))
		}
		r.take(t, b, 0)
		if got := r.take(t, a, 0); !bytes.Equal(got, p) {
			t.Errorf("%d bytes in reverse order came as %d others", n, len(got))
		}
	}
}

// TestFragmentsBounded: of more halves than there is room for the oldest are lost, and old ones anyway.
func TestFragmentsBounded(t *testing.T) {
	var r reassembler
	p := payloadOf(mostMTU, 0)
	for i := range mostPartials + 10 {
		a, _ := fragments(uint32(i), p)
		r.take(t, a, time.Duration(i))
	}
	for i := range mostPartials + 10 {
		// The halves that find nobody push out the next of the oldest ones, so ask from the newest on.
		i = mostPartials + 9 - i
		_, b := fragments(uint32(i), p)
		if got, want := len(r.take(t, b, 1000)) > 0, i >= 10; got != want {
			t.Errorf("payload %d: whole is %v, want %v", i, got, want)
		}
	}
	r = reassembler{}
	a, b := fragments(1, p)
	r.take(t, a, time.Second)
	if at := r.tick(2 * time.Second); at != time.Second+partialFor {
		t.Errorf("wants its tick at %v", at)
	}
	if got := r.take(t, b, time.Second+partialFor+1); len(got) != 0 {
		t.Error("a half lived for ever")
	}
	if at := r.tick(3 * partialFor); at != never || r.partials != nil {
		t.Error("the memory was kept")
	}
}

// TestFragmentsUnequal: two halves that cannot belong together are dropped.
func TestFragmentsUnequal(t *testing.T) {
	var r reassembler
	a, _ := fragments(1, payloadOf(1000, 0))
	_, b := fragments(1, payloadOf(1300, 0))
	r.take(t, a, 0)
	if got := r.take(t, b, 0); len(got) != 0 {
		t.Errorf("made %d bytes of them", len(got))
	}
}

func FuzzFragment(f *testing.F) {
	a, b := fragments(7, payloadOf(1300, 0))
	f.Add(a, b)
	f.Add([]byte{0, 0, 0, 0, 1, 9}, []byte{1, 0, 0, 0, 1, 9})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var r reassembler
		for i, p := range [][]byte{a, b, a, b} {
			part, id, half, ok := parseFragment(p)
			if !ok {
				continue
			}
			out := make([]byte, len(p))
			putFragment(out, part, id, half)
			if !bytes.Equal(out, p) {
				t.Fatalf("%x became %x", p, out)
			}
			if n := len(r.join(part, id, half, time.Duration(i))); n > 2*len(half)+1 {
				t.Fatalf("%d bytes of halves of %d", n, len(half))
			}
		}
	})
}
