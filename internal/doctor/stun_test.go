package doctor

import (
	"net/netip"
	"testing"

	"adit/internal/stunmsg"
)

func TestRequest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ change, size, want int }{
		{-1, 0, 20}, {0, 0, 28}, {stunmsg.ChangeAddr | stunmsg.ChangePort, 0, 28}, {-1, 1472, 1472}, {-1, 1200, 1200}, {stunmsg.ChangePort, 1200, 1200},
	} {
		id := newID()
		b := request(id, c.change, c.size)
		got, r, ok := parse(b)
		if len(b) != c.want || !ok || got != id || r.kind != stunmsg.BindingRequest {
			t.Errorf("%+v: got %d bytes, %+v, %v", c, len(b), r, ok)
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	id := newID()
	b := stunmsg.AppendHeader(nil, stunmsg.BindingSuccess, id)
	b = stunmsg.AppendXORAddress(b, stunmsg.XORMappedAddress, netip.MustParseAddrPort("192.0.2.1:4946"), id)
	b = stunmsg.AppendAttr(b, stunmsg.OtherAddress, []byte{0, 1, 0x0d, 0x97, 192, 0, 2, 9})
	want := reply{kind: stunmsg.BindingSuccess, mapped: netip.MustParseAddrPort("192.0.2.1:4946"), other: netip.MustParseAddrPort("192.0.2.9:3479")}
	if got, r, ok := parse(stunmsg.Finish(b)); got != id || r != want || !ok {
		t.Errorf("got %+v, %v, want %+v", r, ok, want)
	}
	// An address that is none is as if the server had not said it.
	b = stunmsg.AppendAttr(b[:stunmsg.HeaderBytes], stunmsg.OtherAddress, []byte{0, 1, 0x0d})
	if _, r, ok := parse(stunmsg.Finish(b)); r != (reply{kind: stunmsg.BindingSuccess}) || !ok {
		t.Errorf("got %+v, %v, want no addresses", r, ok)
	}
	if _, _, ok := parse(b[:len(b)-4]); ok {
		t.Error("a message that is cut was taken")
	}
}
