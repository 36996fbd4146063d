//go:build unix

package control

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// home gives the test a runtime directory of its own; its path is short enough for a socket.
func home(t *testing.T) (dir string) {
	t.Helper()
	base, err := os.MkdirTemp("", "adit-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	t.Setenv("RUNTIME_DIRECTORY", "")
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(base, "run"))
	t.Setenv("XDG_STATE_HOME", filepath.Join(base, "state"))
	dir, err = Dir()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func listen(t *testing.T, dir string, h Handler) *Server {
	t.Helper()
	if h.Status == nil {
		h.Status = func() Status { return Status{PID: os.Getpid(), Command: "expose"} }
	}
	s, err := Listen(dir, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStatusAndStop(t *testing.T) {
	dir := home(t)
	if all, errs := Statuses(t.Context()); len(all)+len(errs) > 0 {
		t.Fatalf("with nothing running: %v, %v", all, errs)
	}
	stopped := make(chan struct{}, 1)
	since := time.Now().Add(-time.Hour)
	s := listen(t, dir, Handler{
		Status: func() Status {
			return Status{PID: 7, Command: "connect", Since: since, Sessions: []Session{{Peer: "home", Sent: 5}}}
		},
		Stop: func() { stopped <- struct{}{} },
	})
	younger := listen(t, dir, Handler{Status: func() Status { return Status{PID: 8, Since: since.Add(time.Minute)} }})
	if s.Path() == younger.Path() {
		t.Fatal("two servers at one socket")
	}
	all, errs := Statuses(t.Context())
	if len(all) != 2 || len(errs) > 0 || all[0].PID != 7 || all[1].PID != 8 || all[0].Sessions[0].Peer != "home" {
		t.Errorf("got %+v, %v", all, errs)
	}
	c, err := Open(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 { // many requests a connection
		if st, err := c.Status(t.Context()); err != nil || st.PID != 7 {
			t.Fatalf("got %+v, %v", st, err)
		}
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-stopped
	if info, err := os.Stat(s.Path()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v, want mode 0600", info, err)
	}
	s.Close()
	if _, err := os.Lstat(s.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestDial: bytes may be sent before the peer accepts, and each direction ends alone.
func TestDial(t *testing.T) {
	dir := home(t)
	listen(t, dir, Handler{}) // lends nothing
	listen(t, dir, Handler{
		Match: func(peer string) bool { return peer == "home" },
		Dial: func(ctx context.Context, c *Conn, peer, target string) {
			if target == "nowhere" {
				done := make(chan struct{})
				go func() { c.Close(); close(done) }() // the answer comes first all the same
				c.Refuse(&Refusal{Message: "no", Hint: "try", Code: 6})
				<-done
				return
			}
			first := make([]byte, 5)
			if _, err := io.ReadFull(c, first); err != nil {
				t.Error(err)
			}
			c.Accept()
			fmt.Fprintf(c, "%s %s ", target, first)
			rest, err := io.ReadAll(c)
			if err != nil {
				t.Error(err)
			}
			fmt.Fprintf(c, "end of %s", rest)
			c.CloseWrite()
			c.Close()
		},
	})
	if _, err := Dial(t.Context(), "elsewhere", "x:1"); !errors.Is(err, ErrNoMatch) {
		t.Errorf("another peer: %v", err)
	}
	s, err := Dial(t.Context(), "home", "localhost:22")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	io.WriteString(s, "early")
	if err := s.Wait(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(s, " and late")
	s.CloseWrite()
	got, err := io.ReadAll(s)
	if want := "localhost:22 early end of  and late"; string(got) != want || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	no, err := Dial(t.Context(), "home", "nowhere")
	if err != nil {
		t.Fatal(err)
	}
	defer no.Close()
	var refused *Refusal
	if err := no.Wait(); !errors.As(err, &refused) || *refused != (Refusal{"no", "try", 6}) {
		t.Errorf("got %v", err)
	}
}

// TestClose: a server that closes ends the streams it has lent.
func TestClose(t *testing.T) {
	dir := home(t)
	s := listen(t, dir, Handler{
		Match: func(string) bool { return true },
		Dial: func(ctx context.Context, c *Conn, _, _ string) {
			c.Accept()
			io.Copy(io.Discard, c)
			c.Close()
		},
	})
	st, err := Dial(t.Context(), "home", "x:1")
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if err := st.Wait(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if n, err := st.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read %d bytes from a closed server, and %v: nobody had ended the data", n, err)
	}
}

// TestHang: a process that does not answer holds up nobody for long, and is told of.
func TestHang(t *testing.T) {
	dir := home(t)
	listen(t, dir, Handler{Match: func(string) bool { return true }, Dial: func(_ context.Context, c *Conn, _, _ string) {
		c.Accept()
		c.Close()
	}})
	l, err := net.Listen("unix", filepath.Join(dir, "1.sock")) // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	all, errs := Statuses(t.Context())
	if len(all) != 1 || len(errs) != 1 || !strings.Contains(errs[0].Error(), "1.sock") {
		t.Errorf("got %v, %v", all, errs)
	}
	st, err := Dial(t.Context(), "home", "x:1")
	if err != nil {
		t.Fatal(err)
	}
	st.Close()
}

func TestStale(t *testing.T) {
	dir := home(t)
	if err := prepare(dir); err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(dir, "4711.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	alive := listen(t, dir, Handler{})
	if got := sockets(dir); len(got) != 1 || got[0] != alive.Path() {
		t.Errorf("got %v, want %s alone", got, alive.Path())
	}
}

func TestDirectory(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"open to others": func(t *testing.T, dir string) {
			if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chmod(dir, 0o750)); err != nil {
				t.Fatal(err)
			}
		},
		"a link": func(t *testing.T, dir string) {
			if err := errors.Join(os.MkdirAll(filepath.Dir(dir), 0o700), os.Symlink(t.TempDir(), dir)); err != nil {
				t.Fatal(err)
			}
		},
		"another's": func(t *testing.T, dir string) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a directory away")
			}
			if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chown(dir, 65534, 65534)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := home(t)
			spoil(t, dir)
			if s, err := Listen(dir, Handler{}); !errors.Is(err, ErrDir) {
				s.Close()
				t.Errorf("got %v, want %v", err, ErrDir)
			}
			if own(dir) {
				t.Error("a client would dial there")
			}
		})
	}
}

func TestDir(t *testing.T) {
	for _, c := range []struct{ service, runtime, state, want string }{
		{"/run/adit/home:/run/other", "/run/user/1", "/s", "/run/adit/home"},
		{"", "/run/user/1", "/s", "/run/user/1/adit"},
		{"", "relative", "/s", "/s/adit/run"},
		{"", "", "", "/home/me/.local/state/adit/run"},
	} {
		t.Setenv("RUNTIME_DIRECTORY", c.service)
		t.Setenv("XDG_RUNTIME_DIR", c.runtime)
		t.Setenv("XDG_STATE_HOME", c.state)
		t.Setenv("HOME", "/home/me")
		if got, err := Dir(); got != c.want || err != nil {
			t.Errorf("%+v: got %s, %v", c, got, err)
		}
	}
}

func TestNonsense(t *testing.T) {
	dir := home(t)
	s := listen(t, dir, Handler{})
	for _, line := range []string{"hello", `{}`, `{"request":"dial"}`, `{"request":"reboot"}`, `{"request":"status","x":1}`, `{"request":"status"} {}`} {
		c, err := Open(s.Path())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(c.c, line)
		var refused *Refusal
		if _, err := c.read(); !errors.As(err, &refused) {
			t.Errorf("%s: got %v, want a refusal", line, err)
		}
		c.Close()
	}
	c, err := Open(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.c.Write(make([]byte, 2*lineBytes))
	if _, err := c.read(); err == nil {
		t.Error("a line without an end was answered")
	}
}

func TestRates(t *testing.T) {
	began := time.Now()
	session := func(sent, received uint64) []Session {
		return []Session{{Since: began, Sent: sent, Received: received}}
	}
	before := Status{PID: 1, Now: began.Add(10 * time.Second), Sessions: session(1000, 0)}
	after := Status{PID: 1, Now: began.Add(12 * time.Second), Sessions: session(2000, 500)}
	after.Rates(&before)
	if s := after.Sessions[0]; s.SendRate != 4000 || s.RecvRate != 2000 {
		t.Errorf("got %v and %v bit/s, want 4000 and 2000", s.SendRate, s.RecvRate)
	}
	after.Rates(nil)
	if s := after.Sessions[0]; s.SendRate != 2000*8/12. {
		t.Errorf("since the beginning: %v bit/s", s.SendRate)
	}
}

// TestFrames: what is written comes out, in whatever pieces; what is not frames is an error.
func TestFrames(t *testing.T) {
	dir := home(t)
	listen(t, dir, Handler{
		Match: func(string) bool { return true },
		Dial: func(_ context.Context, c *Conn, _, _ string) {
			c.Accept()
			if _, err := io.Copy(c, c); err != nil {
				t.Error(err)
			}
			c.CloseWrite()
			c.Close()
		},
	})
	st, err := Dial(t.Context(), "home", "x:1")
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if err := st.Wait(); err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, 3<<20)
	for i := range sent {
		sent[i] = byte(i * i >> 8)
	}
	go func() {
		st.Write(sent)
		st.CloseWrite()
	}()
	got, err := io.ReadAll(st)
	if err != nil || string(got) != string(sent) {
		t.Errorf("%d bytes came back of %d, or others: %v", len(got), len(sent), err)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x03abc\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x09abc"))
	f.Add([]byte("\xff\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &framed{r: bufio.NewReaderSize(bytes.NewReader(b), 16)}
		got, err := io.ReadAll(r)
		if len(got) > len(b) || err == nil && !r.ended {
			t.Errorf("%d bytes of %d, %v", len(got), len(b), err)
		}
	})
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"request":"dial","peer":"home","target":"localhost:22"}`))
	f.Add([]byte(`{"request":"status"}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err == nil && r.Request != requestStatus && r.Request != requestStop && (r.Request != requestDial || r.Peer == "") {
			t.Errorf("took %+v", r)
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add([]byte(`{"status":{"pid":1,"sessions":[{"peer":"x"}]}}`))
	f.Add([]byte(`{"match":false}`))
	f.Fuzz(func(t *testing.T, b []byte) { parseReply(b) })
}
