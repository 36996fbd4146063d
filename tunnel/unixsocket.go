package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// staleWait is how long whoever may still serve a socket that is in the way has to take a connection.
const staleWait = time.Second

// sunPathBytes is the room that this system has for the path of a unix socket and the zero behind it.
const sunPathBytes = len(syscall.RawSockaddrUnix{}.Path)

// checkSocket returns why this system can have no unix socket of that path or name, or nil.
func checkSocket(path string) error {
	isAbstract := strings.HasPrefix(path, abstract)
	switch {
	case isAbstract && runtime.GOOS != "linux" && runtime.GOOS != "android":
		return fmt.Errorf("%s: Linux alone has abstract sockets, name a path here", path)
	case len(path) >= sunPathBytes && !(isAbstract && len(path) == sunPathBytes):
		return fmt.Errorf("the path of a unix socket has %d bytes at most on this system, this one has %d: take a shorter one", sunPathBytes-1, len(path))
	}
	return nil
}

// listenUnix listens at path for this user alone. A socket there that nobody serves any more, left by
// a process that was killed, is replaced. An abstract socket has no mode: connections of other users are closed.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if err := checkSocket(path); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: private}
	if strings.HasPrefix(path, abstract) {
		l, err := lc.Listen(ctx, "unix", path)
		if err != nil {
			return nil, err
		}
		return ownListener{l}, nil
	}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil && stale(ctx, path) {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		l, err = lc.Listen(ctx, "unix", path)
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close() // the reason not to listen is reported
		return nil, err
	}
	return l, nil
}

// An ownListener accepts connections of this user, and of root, alone.
type ownListener struct{ net.Listener }

func (l ownListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || ownPeer(c) {
			return c, err
		}
		_ = c.Close() // it was never used
	}
}

// stale reports whether path is a socket whose owner is gone.
func stale(ctx context.Context, path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return false
	}
	d := net.Dialer{Timeout: staleWait}
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		_ = c.Close() // it was only to see whether somebody is there
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
