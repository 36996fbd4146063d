package peer

import (
	"time"

	"adit/internal/portmap"
)

// remapLeast is between two times that the router is asked anew for a port.
const remapLeast = 5 * time.Second

// A mapper keeps a port of the router's, as a portmap.Mapper does.
type mapper interface {
	Tried() <-chan struct{}
	Renew()
	Close() error
}

// A mapping is what a base knows of the port that the router forwards. Guarded by base.mu.
type mapping struct {
	open   func() mapper // nil if the router is not to be asked; constant
	mapper mapper
	opened time.Time       // when mapper was
	now    portmap.Mapping // the zero Mapping if there is none
	again  bool            // mapper is on its way out: what it says does not count
}

// openMapper asks the router for a port by what open returns.
func (b *base) openMapper(open func() mapper) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mapping = mapping{open: open, mapper: open(), opened: time.Now()}
}

// portMapped is told of the public port that the router forwards to this side's.
func (b *base) portMapped(m portmap.Mapping) {
	if !m.Public() && !m.Unnamed() {
		b.cfg.Logger.Info("the router's own address is not public: it is behind another NAT", "protocol", m.Protocol, "external", m.External)
		return
	}
	b.mu.Lock()
	if b.mapping.again {
		b.mu.Unlock()
		return
	}
	b.mapping.now = m
	b.mu.Unlock()
	b.each(func(e *endpoint) { e.portMapped(m) })
}

// tellMapped tells e of the mapping, if there is one.
func (b *base) tellMapped(e *endpoint) {
	b.mu.Lock()
	m := b.mapping.now
	b.mu.Unlock()
	if m.External.IsValid() {
		e.portMapped(m)
	}
}

// remap forgets the mapping and asks the router that is there now for a port: at once, or as soon as remapLeast has
// passed since the last time.
func (b *base) remap() {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := &b.mapping
	m.now = portmap.Mapping{}
	if m.open == nil || b.users == 0 || m.again {
		return
	}
	m.again = true
	old, wait := m.mapper, time.Until(m.opened.Add(remapLeast))
	b.wg.Go(func() {
		if !sleep(b.ctx, wait) {
			return
		}
		// It may be the same router, and the same port: the old mapping goes before there is a new one.
		_ = old.Close() // it never fails
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.users > 0 {
			m.mapper, m.opened, m.again = m.open(), time.Now(), false
		}
	})
}

// renewMapping asks the router for the port again: no peer got through by it.
func (b *base) renewMapping() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m := &b.mapping; m.mapper != nil && !m.again {
		m.mapper.Renew()
	}
}

// tried returns what is closed when the router has had its chance; nil if it is not asked.
func (b *base) tried() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mapping.mapper == nil {
		return nil
	}
	return b.mapping.mapper.Tried()
}
