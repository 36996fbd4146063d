package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// answerWait is how long a process may take to answer what it can answer at once. One that was stopped
// (SIGSTOP), or hangs, must not hold up others.
const answerWait = time.Second

// A Client is a connection to one process.
type Client struct {
	path string
	c    *net.UnixConn
	r    *bufio.Reader
}

// Open connects to the socket at path. A name that a dead process left is removed.
func Open(path string) (*Client, error) {
	c, err := net.DialTimeout("unix", path, answerWait)
	if err != nil {
		removeStale(path)
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	return &Client{path: path, c: c.(*net.UnixConn), r: bufio.NewReaderSize(c, lineBytes)}, nil
}

// removeStale removes a socket that nobody serves any more.
func removeStale(path string) {
	c, err := net.DialTimeout("unix", path, answerWait)
	if err == nil {
		_ = c.Close() // it was only to see whether somebody is there
		return
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		_ = os.Remove(path) // another client may have been quicker
	}
}

// Close ends the connection.
func (c *Client) Close() error { return c.c.Close() }

// Status asks what the process does.
func (c *Client) Status(ctx context.Context) (Status, error) {
	r, err := c.ask(ctx, request{Request: requestStatus})
	if err == nil && r.Status == nil {
		err = errors.New("it did not say")
	}
	if err != nil {
		return Status{}, fmt.Errorf("ask %s for its status: %w", filepath.Base(c.path), err)
	}
	return *r.Status, nil
}

// Stop asks the process to end.
func (c *Client) Stop(ctx context.Context) error {
	if _, err := c.ask(ctx, request{Request: requestStop}); err != nil {
		return fmt.Errorf("ask %s to stop: %w", filepath.Base(c.path), err)
	}
	return nil
}

// ask writes one request and reads the reply, within answerWait.
func (c *Client) ask(ctx context.Context, req request) (reply, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := writeLine(c.c, req); err != nil {
		return reply{}, err
	}
	_ = c.c.SetReadDeadline(time.Now().Add(answerWait)) // fails on a closed one only
	r, err := c.read()
	if ctx.Err() != nil {
		return r, context.Cause(ctx)
	}
	_ = c.c.SetReadDeadline(time.Time{})
	return r, err
}

// read reads one reply; an error in it is returned as a *Refusal.
func (c *Client) read() (reply, error) {
	var line []byte
	for {
		part, err := c.r.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) || len(line) > linesBytes {
			return reply{}, fmt.Errorf("read the reply: %w", err)
		}
	}
	return parseReply(line)
}

func parseReply(line []byte) (reply, error) {
	var r reply
	if err := json.Unmarshal(line, &r); err != nil {
		return reply{}, fmt.Errorf("the reply makes no sense here: %w", err)
	}
	return r, r.refusal()
}

// Statuses asks every process of this user, and for root those of services, what it does: the oldest
// first. Processes that do not answer are told of in errs.
func Statuses(ctx context.Context) (all []Status, errs []error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, path := range paths(dirs()) {
		wg.Go(func() {
			c, err := Open(path)
			if err != nil {
				return // it has ended
			}
			defer c.Close()
			s, err := c.Status(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			all = append(all, s)
		})
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b Status) int {
		if c := a.Since.Compare(b.Since); c != 0 {
			return c
		}
		return a.PID - b.PID
	})
	return all, errs
}

func paths(dirs []string) []string {
	var out []string
	for _, d := range dirs {
		out = append(out, sockets(d)...)
	}
	return out
}

// Dial looks for a process of this user that has a session with peer, and has it open a stream to
// target. ErrNoMatch says that there is none. The stream may be written to at once; Wait tells whether
// the other side accepted it.
func Dial(ctx context.Context, peer, target string) (*Stream, error) {
	for _, dir := range dirs() {
		if !own(dir) {
			continue // a service's session is not this user's
		}
		for _, path := range sockets(dir) {
			c, err := Open(path)
			if err != nil {
				continue // it has ended
			}
			r, err := c.ask(ctx, request{Request: requestDial, Peer: peer, Target: target})
			if err == nil && r.Match != nil && *r.Match {
				return &Stream{Conn: c.c, client: c, data: framed{c: c.c, r: c.r}}, nil
			}
			_ = c.Close() // it has no such session, or hangs
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
		}
	}
	return nil, ErrNoMatch
}

// A Stream is a stream that another process has opened for this one. Each direction ends alone; the end
// of the other process is an error.
type Stream struct {
	net.Conn // see Conn
	client   *Client
	data     framed
}

// Wait returns when the peer has accepted the stream, or a *Refusal. It must come before Read. Closing
// the stream unblocks it.
func (s *Stream) Wait() error {
	r, err := s.client.read()
	if err == nil && !r.OK {
		err = errors.New("the reply makes no sense here")
	}
	return err
}

// Read reads what the target sends.
func (s *Stream) Read(b []byte) (int, error) { return s.data.Read(b) }

// Write sends to the target; it may come before Wait.
func (s *Stream) Write(b []byte) (int, error) { return s.data.Write(b) }

// CloseWrite ends the direction to the target.
func (s *Stream) CloseWrite() error { return s.data.CloseWrite() }

// Close ends the stream.
func (s *Stream) Close() error { return s.client.Close() }

// Stop asks the process with that number to end; found says that there is one.
func Stop(ctx context.Context, pid int) (found bool, err error) {
	for _, path := range paths(dirs()) {
		c, err := Open(path)
		if err != nil {
			continue // it has ended
		}
		s, err := c.Status(ctx)
		if err == nil && s.PID == pid {
			err = c.Stop(ctx)
			_ = c.Close()
			return true, err
		}
		_ = c.Close()
	}
	return false, nil
}
