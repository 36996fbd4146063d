package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	// requestWait is how long a client may take over a line; between lines it may take for ever.
	requestWait = 5 * time.Second

	// maxClients is how many may be connected at once. Each stream of a dial is one.
	maxClients = 1024

	// names is how many sockets of one process number there may be: containers that share a directory
	// may have the same numbers.
	names = 16
)

// A Handler does what clients ask for. All of it may be called from many goroutines at once.
type Handler struct {
	// Status tells what the process does.
	Status func() Status

	// Stop begins to end the process, and returns at once.
	Stop func()

	// Match reports whether this process has, or is about to have, the session with that peer and lends
	// it to others. Nil lends none.
	Match func(peer string) bool

	// Dial joins c to target over that session, and returns when both directions have ended. It calls
	// c.Accept once the peer has accepted, or c.Refuse, and closes c.
	Dial func(ctx context.Context, c *Conn, peer, target string)
}

// A Server answers at one control socket.
type Server struct {
	h      Handler
	l      *net.UnixListener
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	slots  chan struct{} // capacity maxClients
}

// Listen opens this process's socket in dir, which is made if it is missing, and removes what dead
// processes left there. It fails with ErrDir if others could get at it, and with ErrUnsupported.
func Listen(dir string, h Handler) (*Server, error) {
	if err := prepare(dir); err != nil {
		return nil, err
	}
	for _, path := range sockets(dir) {
		removeStale(path)
	}
	var l *net.UnixListener
	var err error
	for n := 0; n < names; n++ {
		name := fmt.Sprint(os.Getpid())
		if n > 0 {
			name += fmt.Sprintf("-%d", n)
		}
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name+suffix), Net: "unix"})
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	if err := os.Chmod(l.Addr().String(), 0o600); err != nil {
		_ = l.Close() // the reason is reported
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	s := &Server{h: h, l: l, slots: make(chan struct{}, maxClients)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.accept)
	return s, nil
}

// Path returns the socket's name.
func (s *Server) Path() string { return s.l.Addr().String() }

// Close ends all connections, removes the socket and returns when nothing is left. It may be called
// again.
func (s *Server) Close() error {
	s.cancel()
	_ = s.l.Close() // it may be closed already; this removes the name too
	s.wg.Wait()
	return nil
}

func (s *Server) accept() {
	backoff := time.NewTimer(0)
	defer backoff.Stop()
	for {
		c, err := s.l.AcceptUnix()
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			backoff.Reset(100 * time.Millisecond) // too many open files, most likely
			select {
			case <-backoff.C:
			case <-s.ctx.Done():
			}
			continue
		}
		if uid, known := clientUID(c); known && uid != os.Geteuid() && uid != 0 {
			_ = c.Close() // it is not told why
			continue
		}
		select {
		case s.slots <- struct{}{}:
		default:
			_ = c.Close() // too many
			continue
		}
		s.wg.Go(func() {
			defer func() { <-s.slots }()
			defer c.Close()
			stop := context.AfterFunc(s.ctx, func() { _ = c.Close() }) // unblocks what reads or writes
			defer stop()
			s.serve(c)
		})
	}
}

// serve answers one client until it leaves.
func (s *Server) serve(c *net.UnixConn) {
	r := bufio.NewReaderSize(c, lineBytes)
	for {
		if _, err := r.Peek(1); err != nil {
			return
		}
		_ = c.SetReadDeadline(time.Now().Add(requestWait)) // fails on a closed one only
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		_ = c.SetReadDeadline(time.Time{})
		req, err := parseRequest(line)
		if err != nil {
			_ = s.answer(c, reply{Error: err.Error()}) // the end comes anyway
			return
		}
		switch req.Request {
		case requestStatus:
			st := s.h.Status()
			err = s.answer(c, reply{Status: &st})
		case requestStop:
			err = s.answer(c, reply{OK: true})
			s.h.Stop()
		case requestDial:
			match := s.h.Match != nil && s.h.Match(req.Peer)
			if err = s.answer(c, reply{Match: &match}); err == nil && match {
				s.h.Dial(s.ctx, &Conn{Conn: c, unix: c, data: framed{c: c, r: r}, decided: make(chan struct{})}, req.Peer, req.Target)
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// answer writes one line. A client that does not read loses its connection.
func (s *Server) answer(c net.Conn, r reply) error { return writeLine(c, r) }

func writeLine(c net.Conn, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write a control message: %w", err)
	}
	_ = c.SetWriteDeadline(time.Now().Add(requestWait)) // fails on a closed one only
	defer c.SetWriteDeadline(time.Time{})
	_, err = c.Write(append(b, '\n'))
	return err
}

// parseRequest reads one line. What it does not know is an error, so that nobody believes it was done.
func parseRequest(line []byte) (request, error) {
	var r request
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, fmt.Errorf("this request makes no sense here: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return r, errors.New("this request makes no sense here: one object a line")
	}
	switch {
	case r.Request == requestDial && r.Peer == "":
		return r, errors.New("dial needs the name of a peer")
	case r.Request == requestStatus, r.Request == requestStop, r.Request == requestDial:
		return r, nil
	}
	return r, fmt.Errorf("there is no request %.40q", r.Request)
}

// A Conn is the connection of a client that dials. It is decided by Accept or Refuse; until then what
// is written, and Close, wait, so that the answer comes first.
type Conn struct {
	net.Conn // no more of the socket's methods than these: net.Buffers would write to it beside the frames
	unix     *net.UnixConn
	data     framed
	once     sync.Once
	decided  chan struct{} // closed by Accept or Refuse
}

// Read reads what the client sends, also before Accept.
func (c *Conn) Read(b []byte) (int, error) { return c.data.Read(b) }

// Accept tells the client that the stream is open. What Write is given from now on reaches it.
func (c *Conn) Accept() error { return c.decide(reply{OK: true}) }

// Refuse tells the client why there is no stream. After Accept it does nothing.
func (c *Conn) Refuse(r *Refusal) error {
	return c.decide(reply{Error: r.Message, Hint: r.Hint, Code: r.Code})
}

func (c *Conn) decide(r reply) (err error) {
	c.once.Do(func() {
		err = writeLine(c.unix, r)
		close(c.decided)
	})
	return err
}

// Write waits for the decision.
func (c *Conn) Write(b []byte) (int, error) {
	<-c.decided
	return c.data.Write(b)
}

// CloseWrite ends the direction to the client, once that is decided.
func (c *Conn) CloseWrite() error {
	<-c.decided
	return c.data.CloseWrite()
}

// Close waits for the decision, which whoever dials brings about.
func (c *Conn) Close() error {
	<-c.decided
	return c.unix.Close()
}

// CloseRead ends the direction from the client: its writes fail from now on.
func (c *Conn) CloseRead() error { return c.unix.CloseRead() }

// SyscallConn returns the socket, for looks at its state; what is read and written goes through the Conn.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.unix.SyscallConn() }
