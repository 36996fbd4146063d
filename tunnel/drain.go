package tunnel

// Drain stops listening and leaves the connections that are open alone: they go on until they end by
// themselves, or Close is called. Flows of datagrams end, because their socket does. It may be called
// again, and beside Close.
func (l *Listener) Drain() {
	for _, n := range l.listeners {
		_ = n.Close() // it may be closed already
	}
	for _, n := range l.sockets {
		_ = n.Close() // the same
	}
}
