//go:build hostile

package link

// Types of packets, for Inject.
const (
	TypeData     = typeData
	TypeControl  = typeControl
	TypeFragment = typeFragment
)

// Inject seals a packet of that type with any plaintext, of at most 1,444 bytes, and sends it at once, past queues,
// pacing and repair. It is for the hostile peer of the tests. It fails when the link has ended.
func (l *Link) Inject(typ byte, plain []byte) error {
	l.mu.Lock()
	if l.err != nil {
		defer l.mu.Unlock()
		return l.err
	}
	l.seal.counter++
	s, counter := sealer{key: l.seal.key}, l.seal.counter
	p := make([]byte, headerBytes+len(plain)+tagBytes)
	putHeader(p, typ, l.seal.epoch, l.cfg.RemoteIndex, counter)
	l.mu.Unlock()
	copy(p[headerBytes:], plain)
	s.seal(p)
	return l.cfg.Socket.Send(p, len(p), l.Remote())
}
