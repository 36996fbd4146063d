package link

const (
	leastPending = 16
	mostPending  = 1 << 16
)

// pending finds a flow's packets that have a key and were not reported yet, by that key: a ring with
// slots by the key's low bits. Keys that follow each other are what it is good at; where two meet in
// a ring of mostPending slots, the older one is not found any more, and its double is sent.
type pending struct {
	ring []*packet
	n    int // packets, those that are not found included
}

// has reports whether a packet of this key is pending.
func (p *pending) has(key uint32) bool {
	if p.ring == nil {
		return false
	}
	k := p.ring[p.slot(key)]
	return k != nil && k.key == key
}

func (p *pending) slot(key uint32) int { return int(key) & (len(p.ring) - 1) }

func (p *pending) add(k *packet) {
	if p.ring == nil {
		p.ring = make([]*packet, leastPending)
	}
	for len(p.ring) < mostPending {
		if old := p.ring[p.slot(k.key)]; old == nil || old.key == k.key {
			break
		}
		small := p.ring
		p.ring = make([]*packet, 2*len(small))
		for _, o := range small {
			if o != nil {
				p.ring[p.slot(o.key)] = o
			}
		}
	}
	p.ring[p.slot(k.key)] = k
	p.n++
}

func (p *pending) remove(k *packet) {
	if i := p.slot(k.key); p.ring[i] == k {
		p.ring[i] = nil
	}
	p.n--
}
