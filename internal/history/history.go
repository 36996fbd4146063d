// Package history remembers, in a small file, by what kind of path a peer was reached from a network, so that
// the next meeting begins with what worked. It is a hint: a wrong one costs a second, and a lost one nothing.
//
// The file names nobody: an entry has a hash in the place of a peer and a network. But its salt is in the file too, so
// who finds it can try guesses: to who knows a peer it tells from which networks (of a /24 or /64) that was met. It
// holds [most] entries for [life]; of two processes that write at the same time one may lose what the other has
// written. A file that cannot be read counts as empty, one that cannot be written as kept.
package history

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	most      = 256
	life      = 7 * 24 * time.Hour
	fileBytes = 64 << 10 // a longer file is none of ours
	saltBytes = 16
)

// A Kind is a kind of path.
type Kind string

// The kinds of paths. The values stand in the file.
const (
	Direct Kind = "direct" // plain checks found it
	Burst  Kind = "burst"  // many ports at once did
	Relay  Kind = "relay"  // none was found but by a relay
)

// An Entry is what worked.
type Entry struct {
	Kind Kind `json:"kind"`
	// Stream says that this network let no UDP out: the relay was reached over TCP, TLS or HTTPS.
	Stream bool `json:"stream,omitempty"`
	// Carried says that it was HTTPS, by the rendezvous.
	Carried bool `json:"carried,omitempty"`
}

// A History is a file. Its methods may be called from any goroutine; those of a nil History remember nothing.
type History struct {
	path string
	now  func() time.Time
	mu   sync.Mutex // one reader or writer of this process at a time
}

// Open returns the history in a file, which need not be there yet, nor its directory.
func Open(path string) *History { return &History{path: path, now: time.Now} }

type file struct {
	Salt    []byte  `json:"salt"`
	Entries []entry `json:"entries"` // the newest last
}

type entry struct {
	ID string `json:"id"`
	At int64  `json:"at"` // Unix seconds, of the hour
	Entry
}

// Look returns what worked with a peer in a network not long ago. peer is what tells it from others; empty for
// anybody.
func (h *History) Look(peer, network string) (Entry, bool) {
	if h == nil || network == "" {
		return Entry{}, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.read()
	id := f.id(peer, network)
	for _, e := range f.Entries {
		if e.ID == id {
			return e.Entry, true
		}
	}
	return Entry{}, false
}

// Keep remembers what worked, in the place of what did before. The error is that of writing the file.
func (h *History) Keep(peer, network string, what Entry) error {
	if h == nil || network == "" {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.read()
	if len(f.Salt) != saltBytes {
		f = file{Salt: make([]byte, saltBytes)}
		rand.Read(f.Salt) // never fails
	}
	id := f.id(peer, network)
	hour := h.now().Truncate(time.Hour).Unix()
	if i := slices.IndexFunc(f.Entries, func(e entry) bool { return e.ID == id }); i >= 0 {
		if f.Entries[i].Entry == what && f.Entries[i].At == hour {
			return nil
		}
		f.Entries = slices.Delete(f.Entries, i, i+1)
	}
	f.Entries = append(f.Entries, entry{id, hour, what})
	f.Entries = f.Entries[max(0, len(f.Entries)-most):]
	return h.write(f)
}

// read returns what is in the file and is not too old.
func (h *History) read() (f file) {
	in, err := os.Open(h.path)
	if err != nil {
		return file{}
	}
	defer in.Close()
	b, err := io.ReadAll(io.LimitReader(in, fileBytes+1))
	if err != nil || len(b) > fileBytes || json.Unmarshal(b, &f) != nil || len(f.Salt) != saltBytes {
		return file{}
	}
	oldest, newest := h.now().Add(-life).Unix(), h.now().Add(time.Hour).Unix()
	f.Entries = slices.DeleteFunc(f.Entries, func(e entry) bool { return e.At < oldest || e.At > newest })
	slices.SortStableFunc(f.Entries, func(a, b entry) int { return cmp.Compare(a.At, b.At) })
	f.Entries = f.Entries[max(0, len(f.Entries)-most):]
	return f
}

// write replaces the file as a whole, readable by its owner alone.
func (h *History) write(f file) error {
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	dir := filepath.Dir(h.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	t, err := os.CreateTemp(dir, ".paths-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = t.Write(append(b, '\n'))
	if cerr := t.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(t.Name(), h.path)
	}
	if err != nil {
		_ = os.Remove(t.Name()) // the first error tells more
	}
	return err
}

// id is what stands for a peer in a network.
func (f *file) id(peer, network string) string {
	h := sha256.New()
	h.Write(f.Salt)
	_ = binary.Write(h, binary.BigEndian, uint32(len(peer))) // a hash takes all
	io.WriteString(h, peer)
	io.WriteString(h, network)
	return hex.EncodeToString(h.Sum(nil)[:12])
}
