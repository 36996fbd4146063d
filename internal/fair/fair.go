// Package fair decides which member of a full pool makes room for a newcomer.
//
// The members of a pool belong to addresses, and the addresses to networks:
//
//	pool ── network (an IPv4 address, or an IPv6 /48) ── address (an IPv4 address, or an IPv6 /56) ── members
//
// The network that holds the most makes room first, within it the address that holds the most, and of that address
// the member that was added or touched longest ago. A newcomer never displaces a member of a network that would then
// hold less than the newcomer's own. So a crowd at one address costs the others nothing: with room for n members,
// each of k networks can hold n/k of them, whatever the rest do.
//
// A Pool keeps no time and takes no lock. Its owner says how large it may become.
package fair

import (
	"container/heap"
	"container/list"
	"net/netip"
)

// Address returns what counts as one address: an IPv4 address, or the /56 of an IPv6 address, which is what one
// household gets. All invalid addresses, such as those of unix sockets, count as one.
func Address(a netip.Addr) netip.Prefix { return prefix(a, 56) }

// Network returns what counts as one network: an IPv4 address, or the /48 of an IPv6 address, which is what one site
// gets.
func Network(a netip.Addr) netip.Prefix { return prefix(a, 48) }

func prefix(a netip.Addr, bits6 int) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = bits6
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// A Pool is the members of a bounded resource. The zero value is empty. It is not safe for concurrent use.
type Pool[T any] struct {
	networks group[T]
	all      list.List // of *Member[T], the one added or touched last at the end
	weight   int       // of all members
}

// A Member is one holder of a share of a pool.
type Member[T any] struct {
	Value T

	weight int
	leaf   *node[T]
	own    *list.Element // in leaf.members
	all    *list.Element // in Pool.all
}

// A node is a network, or an address in one.
type node[T any] struct {
	prefix    netip.Prefix
	in        *group[T]
	weight    int // of everything below
	at        int // in in.heap
	addresses group[T]
	members   list.List // of an address
	parent    *node[T]  // of an address
}

// A group is nodes side by side, the heaviest first.
type group[T any] struct {
	byPrefix map[netip.Prefix]*node[T]
	heap     nodes[T]
}

type nodes[T any] []*node[T]

func (h nodes[T]) Len() int           { return len(h) }
func (h nodes[T]) Less(i, j int) bool { return h[i].weight > h[j].weight }
func (h nodes[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}
func (h *nodes[T]) Push(x any) {
	n := x.(*node[T])
	n.at = len(*h)
	*h = append(*h, n)
}
func (h *nodes[T]) Pop() any {
	old := *h
	n := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return n
}

func (g *group[T]) open(p netip.Prefix, parent *node[T]) *node[T] {
	if n := g.byPrefix[p]; n != nil {
		return n
	}
	if g.byPrefix == nil {
		g.byPrefix = make(map[netip.Prefix]*node[T])
	}
	n := &node[T]{prefix: p, in: g, parent: parent}
	g.byPrefix[p] = n
	heap.Push(&g.heap, n)
	return n
}

// add changes the weight of a node, and forgets a node that is empty.
func (n *node[T]) add(weight int, empty bool) {
	n.weight += weight
	if empty {
		heap.Remove(&n.in.heap, n.at)
		delete(n.in.byPrefix, n.prefix)
		return
	}
	heap.Fix(&n.in.heap, n.at)
}

// Add puts a member in. Its weight is what it takes of the resource, at least 1: bytes, say, or 1 for a connection.
func (p *Pool[T]) Add(from netip.Addr, weight int, v T) *Member[T] {
	network := p.networks.open(Network(from), nil)
	leaf := network.addresses.open(Address(from), network)
	m := &Member[T]{Value: v, leaf: leaf}
	m.own, m.all = leaf.members.PushBack(m), p.all.PushBack(m)
	p.Grow(m, max(weight, 1))
	return m
}

// Grow changes a member's weight.
func (p *Pool[T]) Grow(m *Member[T], by int) {
	p.weight += by
	m.weight += by
	m.leaf.add(by, false)
	m.leaf.parent.add(by, false)
}

// Remove takes a member out. It may be called more than once.
func (p *Pool[T]) Remove(m *Member[T]) {
	if m.own == nil {
		return
	}
	leaf, network := m.leaf, m.leaf.parent
	leaf.members.Remove(m.own)
	p.all.Remove(m.all)
	m.own, m.all = nil, nil
	p.weight -= m.weight
	leaf.add(-m.weight, leaf.members.Len() == 0)
	network.add(-m.weight, len(network.addresses.heap) == 0)
}

// Touch makes a member the last of its address to make room.
func (p *Pool[T]) Touch(m *Member[T]) {
	m.leaf.members.MoveToBack(m.own)
	p.all.MoveToBack(m.all)
}

// Len returns how many members there are.
func (p *Pool[T]) Len() int { return p.all.Len() }

// Weight returns what all members take together.
func (p *Pool[T]) Weight() int { return p.weight }

// Of returns how many members an address has.
func (p *Pool[T]) Of(a netip.Addr) int {
	network := p.networks.byPrefix[Network(a)]
	if network == nil {
		return 0
	}
	if leaf := network.addresses.byPrefix[Address(a)]; leaf != nil {
		return leaf.members.Len()
	}
	return 0
}

// WeightOf returns what the members of a network take together.
func (p *Pool[T]) WeightOf(a netip.Addr) int {
	if n := p.networks.byPrefix[Network(a)]; n != nil {
		return n.weight
	}
	return 0
}

// Victim returns the member that makes room for a newcomer of the given weight. own says that it belongs to the
// newcomer's own address: nobody holds more than that address would. It is nil if the newcomer holds nothing yet and
// everybody else holds no more than the newcomer asks for; Oldest is a choice then.
func (p *Pool[T]) Victim(newcomer netip.Addr, weight int) (victim *Member[T], own bool) {
	network := p.networks.heaviest(Network(newcomer), weight)
	if network == nil {
		return nil, false
	}
	if network.prefix != Network(newcomer) {
		leaf := network.addresses.heap[0]
		return leaf.members.Front().Value.(*Member[T]), false
	}
	leaf := network.addresses.heaviest(Address(newcomer), weight)
	if leaf == nil { // the newcomer's address holds nothing: within its network the heaviest makes room
		leaf = network.addresses.heap[0]
	}
	return leaf.members.Front().Value.(*Member[T]), leaf.prefix == Address(newcomer)
}

// Oldest returns the member that was added or touched longest ago, or nil.
func (p *Pool[T]) Oldest() *Member[T] {
	if e := p.all.Front(); e != nil {
		return e.Value.(*Member[T])
	}
	return nil
}

// OldestOf returns the member of an address that was added or touched longest ago, or nil.
func (p *Pool[T]) OldestOf(a netip.Addr) *Member[T] {
	network := p.networks.byPrefix[Network(a)]
	if network == nil {
		return nil
	}
	if leaf := network.addresses.byPrefix[Address(a)]; leaf != nil {
		return leaf.members.Front().Value.(*Member[T])
	}
	return nil
}

// From returns the address that a member belongs to.
func (m *Member[T]) From() netip.Prefix { return m.leaf.prefix }

// heaviest returns the node that makes room for a newcomer with a prefix: its own if that would hold the most, and nil
// if it would and has nothing yet.
func (g *group[T]) heaviest(p netip.Prefix, weight int) *node[T] {
	if len(g.heap) == 0 {
		return nil
	}
	most, own := g.heap[0], g.byPrefix[p]
	held := 0
	if own != nil {
		held = own.weight
	}
	if most.weight > held+weight {
		return most
	}
	return own
}
