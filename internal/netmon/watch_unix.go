//go:build unix && !aix && !solaris && !illumos

package netmon

import (
	"context"
	"log/slog"
	"os"
	"time"
)

// watchSocket puts a hint into hints whenever something comes out of a routing socket that tells is true of,
// until ctx is done. Where there is no such socket it returns.
func watchSocket(ctx context.Context, log *slog.Logger, hints chan<- struct{}, open func() (*os.File, error), tells func(b []byte) bool) {
	f, err := open()
	if err != nil {
		log.Debug("no routing socket", "err", err)
		return
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer func() {
		if stop() {
			f.Close()
		}
	}()
	b := make([]byte, 16<<10) // what does not fit is cut off: nobody looks further than at the type
	for ctx.Err() == nil {
		// An overrun (ENOBUFS) is a hint like any other, only that some of them were lost.
		n, err := f.Read(b)
		if err == nil && !tells(b[:n]) {
			continue
		}
		if err != nil && ctx.Err() == nil {
			log.Debug("routing socket", "err", err)
			pause := time.NewTimer(quiet)
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
			pause.Stop()
		}
		select {
		case hints <- struct{}{}:
		default:
		}
	}
}
