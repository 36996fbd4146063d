package peer

import (
	"context"
	"errors"
	"sync"
)

// errNetwork is why a request ended that was made in a network that this machine has left.
var errNetwork = errors.New("the network changed")

// A fresh ends what was begun before the network changed: a request that waits there for half a minute would
// wait for nobody.
type fresh struct {
	mu    sync.Mutex
	epoch context.Context // until the next change
	end   context.CancelFunc
}

func newFresh() *fresh {
	f := &fresh{}
	f.epoch, f.end = context.WithCancel(context.Background())
	return f
}

// changed ends what is under way.
func (f *fresh) changed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end()
	f.epoch, f.end = context.WithCancel(context.Background())
}

// with returns a context that ends with ctx, with the next change or when it is cancelled.
func (f *fresh) with(ctx context.Context) (context.Context, context.CancelFunc) {
	f.mu.Lock()
	epoch := f.epoch
	f.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(epoch, func() { cancel(errNetwork) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}
