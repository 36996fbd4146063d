package doctor

import (
	"net/netip"

	"adit/internal/stunmsg"
)

// request makes a binding request. change is what CHANGE-REQUEST asks for; below 0 it is left out. size is
// that of the whole message, which PADDING fills up; 0 for no padding.
func request(id stunmsg.ID, change, size int) []byte {
	b := stunmsg.AppendHeader(make([]byte, 0, max(size, stunmsg.HeaderBytes+8)), stunmsg.BindingRequest, id)
	if change >= 0 {
		b = stunmsg.AppendUint32(b, stunmsg.ChangeRequest, uint32(change))
	}
	if n := size - len(b) - 4; n > 0 {
		b = stunmsg.AppendAttr(b, stunmsg.Padding, make([]byte, n))
	}
	return stunmsg.Finish(b)
}

// A reply is a STUN message that came in, answer or not, and where from.
type reply struct {
	kind   uint16
	from   netip.AddrPort
	mapped netip.AddrPort // the sender's address as the server saw it; invalid if it does not say
	other  netip.AddrPort // its address for answers from elsewhere (RFC 5780 section 7.4); invalid if it has none
}

// parse reads a message. ok is false for what is not STUN, or not whole.
func parse(b []byte) (id stunmsg.ID, r reply, ok bool) {
	if r.kind, id, ok = stunmsg.Parse(b); !ok {
		return id, r, false
	}
	r.mapped, _ = stunmsg.Mapped(b, id) // invalid if there is none
	if v, there := stunmsg.Find(b, stunmsg.OtherAddress); there {
		if a, ok := stunmsg.Address(v); ok {
			r.other = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		}
	}
	return id, r, true
}
