package doctor

import (
	"bytes"
	"net/netip"
	"testing"
)

func TestRequest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ change, size, want int }{
		{-1, 0, 20}, {0, 0, 28}, {changeAddr | changePort, 0, 28}, {-1, 1472, 1472}, {-1, 1200, 1200}, {changePort, 1200, 1200},
	} {
		id := newID()
		b := request(id, c.change, c.size)
		got, r, ok := parse(b)
		if len(b) != c.want || !ok || got != id || r.kind != bindingRequest {
			t.Errorf("%+v: got %d bytes, %+v, %v", c, len(b), r, ok)
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	head := func(n byte) []byte {
		return append([]byte{1, 1, 0, n, 0x21, 0x12, 0xa4, 0x42}, "twelve bytes"...)
	}
	masked := []byte{0, 0x20, 0, 8, 0, 1, 0x32, 0x40, 192 ^ 0x21, 0 ^ 0x12, 2 ^ 0xa4, 1 ^ 0x42}
	other := []byte{0x80, 0x2c, 0, 8, 0, 1, 0x0d, 0x97, 192, 0, 2, 9}
	id, r, ok := parse(append(append(head(24), masked...), other...))
	if string(id[:]) != "twelve bytes" || !ok || r.mapped != netip.MustParseAddrPort("192.0.2.1:4946") || r.other != netip.MustParseAddrPort("192.0.2.9:3479") {
		t.Errorf("got %+v, %v", r, ok)
	}
	for name, b := range map[string][]byte{
		"empty": nil, "short": head(0)[:19], "cut": append(head(12), masked[:8]...),
		"attribute too long": append(head(4), 0, 0x20, 0, 8), "no cookie": append([]byte{1, 1, 0, 0}, make([]byte, 16)...),
		"data": bytes.Repeat([]byte{0x80}, 40),
	} {
		if _, _, ok := parse(b); ok {
			t.Errorf("%s was taken", name)
		}
	}
}

// FuzzParse: what comes in from the network may be anything.
func FuzzParse(f *testing.F) {
	f.Add(request(txid{1}, 6, 100))
	f.Add([]byte("\x01\x01\x00\x0c\x21\x12\xa4\x42twelve bytes\x00\x20\x00\x08\x00\x01\x32\x40\xe1\x12\xa6\x43"))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		_, r, ok := parse(b)
		if !bytes.Equal(b, before) {
			t.Fatal("the message was changed")
		}
		if !ok && (r.kind == bindingSuccess && len(b) < headerBytes) {
			t.Fatal("something was read from nothing")
		}
		if r.mapped.Addr().Is4In6() || r.other.Addr().Is4In6() {
			t.Fatal("an IPv4 address is not one")
		}
	})
}
