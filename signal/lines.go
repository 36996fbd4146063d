package signal

import (
	"io"
	"sync"
)

// maxLine bounds how much of a line is kept: in bytes.
const maxLine = 64 << 10

// A line is what one read gave: text without its newline, and err if it is the last.
type line struct {
	text string
	long bool // text is the first maxLine bytes; the rest comes as further lines
	err  error
}

// lines reads one line at a time, and only when it is wanted: what stands behind that line in the
// input is left for whoever reads on. A read that blocks stays, in one goroutine, until the input
// yields a line or ends; nothing else could end it without closing an input that is not ours.
type lines struct {
	in   io.Reader
	next chan line // 1: the reader never waits for a taker

	wg sync.WaitGroup // the read under way

	mu      sync.Mutex
	reading bool
}

func newLines(in io.Reader) *lines {
	return &lines{in: in, next: make(chan line, 1)}
}

// want has a line read, unless one is under way or waits in next.
func (l *lines) want() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.reading {
		l.reading = true
		l.wg.Go(func() { l.next <- readLine(l.in) })
	}
}

// taken says that a line was taken from next.
func (l *lines) taken() {
	l.mu.Lock()
	l.reading = false
	l.mu.Unlock()
}

// wait returns when no read is under way. The caller sees to it that none blocks or begins.
func (l *lines) wait() { l.wg.Wait() }

func readLine(in io.Reader) line {
	r, ok := in.(io.ByteReader)
	if !ok {
		r = byteReader{in}
	}
	var b []byte
	for len(b) < maxLine {
		c, err := r.ReadByte()
		if err != nil {
			return line{text: string(b), err: err}
		}
		if c == '\n' {
			return line{text: string(b)}
		}
		b = append(b, c)
	}
	return line{text: string(b), long: true}
}

// byteReader reads byte by byte what has no buffer of its own, so that nothing is read ahead.
type byteReader struct{ in io.Reader }

func (r byteReader) ReadByte() (byte, error) {
	var b [1]byte
	for range 100 {
		n, err := r.in.Read(b[:])
		if n == 1 {
			return b[0], nil // an error comes again with the next read
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}
