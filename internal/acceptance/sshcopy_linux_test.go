package acceptance

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/internal/netlab"
)

const (
	scpSize  = 200 << 20
	scpLimit = 24000 // kbit/s: 3 MB/s, as the tests' own copy
	scpSlow  = 2000  // a quarter of an hour for scpSize
	scpEvery = 20 * time.Millisecond
)

// copyBySSH is copyThrough with real programs, at both ends with the options that they have by themselves: scp
// copies a file of so many bytes, and ssh has a session on a terminal, in which each character comes back from cat.
// The limit is scp's, in kbit/s; 0 is none.
func (w *world) copyBySSH(left, right *netlab.Host, size int64, limit int, flags ...string) (c *copying, exposer, connecter *process) {
	w.t.Helper()
	c = newCopying(w.t)
	c.endsFor = 20 * time.Minute // the file is copied to its end
	if limit > 0 {
		c.more = max(int64(limit)*1000/8/6, 64<<10)
	}
	server := newSSHServer(w.t, left)
	exposer, code := w.expose(left, append(flags, fmt.Sprint(sshPort))...)
	connecter, port := w.forward(right, code, flags...)
	to := server.user + "@" + port.Addr().String()

	from, received := server.file("sent"), filepath.Join(w.t.TempDir(), "received")
	want := writeRandom(w.t, from, size)
	args := append([]string{"scp", "-q", "-P", fmt.Sprint(port.Port())}, server.options()...)
	if limit > 0 {
		args = append(args, "-l", fmt.Sprint(limit))
	}
	scp := start(w.t, right, "scp", append(args, from, to+":"+received))
	go func() {
		t := time.NewTicker(scpEvery)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				i, err := os.Stat(received)
				if err != nil {
					continue // it is not there at once
				}
				if n := int(i.Size() - c.received.n.Load()); n > 0 {
					c.received.add(n)
				}
			case <-scp.ended:
				c.sums <- [2][32]byte{want, sumOr(received)}
				return
			}
		}
	}()

	x := newTerminal(w.t)
	args = append([]string{"ssh", "-p", fmt.Sprint(port.Port())}, server.options()...)
	start(w.t, right, "ssh", append(args, "-t", to, "stty raw -echo; printf ready; exec cat"), x.attach(true), x.window())
	x.reads(w.t, "ready")
	go func() { c.typist <- c.typingAt(x) }()
	c.flows(patience)
	return c, exposer, connecter
}

// sumOr is sumFile for where the test cannot end; zeros if the file is not there.
func sumOr(path string) [32]byte {
	f, err := os.Open(path)
	if err != nil {
		return [32]byte{}
	}
	defer f.Close()
	sum, err := sumOf(f)
	if err != nil {
		return [32]byte{}
	}
	return sum
}

// reads waits until a text was printed at the terminal.
func (x *terminal) reads(t testing.TB, text string) {
	t.Helper()
	_ = x.keys.SetReadDeadline(time.Now().Add(patience))
	defer x.keys.SetReadDeadline(time.Time{})
	b := make([]byte, 256)
	for all := ""; ; {
		n, err := x.keys.Read(b)
		if all += string(b[:n]); strings.HasSuffix(all, text) {
			return
		}
		if err != nil {
			t.Fatalf("%q at the terminal, want %q: %v", all, text, err)
		}
	}
}

// typingAt types letters at a terminal, checks that each comes back once and in order, and ends the session of
// ssh there as people do.
func (c *copying) typingAt(x *terminal) error {
	read := make(chan error, 1)
	go func() {
		b := make([]byte, 256)
		for next := 0; ; {
			n, err := x.keys.Read(b)
			for _, got := range b[:n] {
				if got == '\r' {
					read <- nil
					return
				}
				if got != letter(next) {
					read <- errSpoilt
					return
				}
				next++
				c.echoed.add(1)
			}
			if err != nil {
				read <- err
				return
			}
		}
	}()
	t := time.NewTicker(typeEvery)
	defer t.Stop()
	for n := 0; ; n++ {
		select {
		case err := <-read:
			return err
		case <-c.stop:
			if _, err := io.WriteString(x.keys, "\r"); err != nil {
				return err
			}
			var err error
			select {
			case err = <-read:
			case <-time.After(patience):
				return os.ErrDeadlineExceeded
			}
			if err == nil {
				_, err = io.WriteString(x.keys, "~.")
			}
			return err
		case <-t.C:
		}
		if _, err := x.keys.Write([]byte{letter(n)}); err != nil {
			return err
		}
		c.typed.Add(1)
	}
}

func letter(n int) byte { return 'a' + byte(n%26) }
