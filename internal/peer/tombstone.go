package peer

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"adit/internal/identity"
	"adit/signal"
)

const (
	// tombstoneNumber is that of the letter on a tombstone, beyond all others of a session.
	tombstoneNumber = 1e15 - 2

	// tombstoneLife is how long there may be somebody who waits for a process that has died.
	tombstoneLife = 24 * time.Hour

	tombstoneBytes = 4 << 10
	mostTombstones = 1024
	buryFor        = 20 * time.Second // in all
)

// Tombstones are files that outlive the process, however it ends. For each session of this process there is one
// with a letter to the peer, sealed beforehand, that says that this process is gone. The process removes it with
// the session. If it dies, by kill -9 or with its machine, the next one of this machine delivers it: the peer need not
// wait for somebody who will not come back.
//
//	DIR/HOST-RANDOM.lock    locked by a process for as long as it lives
//	DIR/HOST-RANDOM/*.json  its tombstones
//
// Who reads a tombstone can end that one session, and no more: it holds no key. A process that sleeps, or is stopped, has
// its lock. Files of other hosts, where a directory is shared, are left alone. A file system that cannot lock, or
// be written to, has none: then the peer waits, as it would without. The methods of a nil Tombstones do nothing.
type Tombstones struct {
	dir string

	mu      sync.Mutex
	own     string // HOST-RANDOM; empty while there is none
	n       int    // of this process
	release func() // gives the lock back
}

// OpenTombstones returns those in a directory, which need not be there yet.
func OpenTombstones(dir string) *Tombstones { return &Tombstones{dir: dir} }

// A stone is what stands in a file.
type stone struct {
	URL    string `json:"url"` // of the rendezvous
	ID     []byte `json:"mailbox"`
	Side   int    `json:"side"`
	Letter []byte `json:"letter"`
}

// A tombstone is that of one session. The methods of a nil one do nothing. They wait for the disk.
type tombstone struct {
	of  *Tombstones
	log *slog.Logger

	mu   sync.Mutex
	path string // empty before the first letter
	gone bool   // removed, or there can be none
}

func hostMark() string {
	name, err := os.Hostname()
	if err != nil {
		name = "" // then all hosts without a name are one
	}
	h := sha256.Sum256([]byte(name))
	return hex.EncodeToString(h[:6]) + "-"
}

func randomName() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// raise makes a tombstone, without a letter yet; nil if there are none.
func (t *Tombstones) raise(log *slog.Logger) *tombstone {
	if t == nil {
		return nil
	}
	return &tombstone{of: t, log: log}
}

// place finds room for another.
func (t *Tombstones) place() (path string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n >= mostTombstones {
		return "", errors.New("there are too many sessions")
	}
	if t.n == 0 {
		if err := t.beginLocked(); err != nil {
			return "", err
		}
	}
	t.n++
	return filepath.Join(t.dir, t.own, randomName()+".json"), nil
}

// beginLocked makes this process' directory. The lock is there, and taken, before it.
func (t *Tombstones) beginLocked() error {
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return err
	}
	own := hostMark() + randomName()
	release, ok, err := identity.TryLock(filepath.Join(t.dir, own+".lock"))
	if err == nil && !ok {
		err = errors.New("another has the lock of a random name")
	}
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(t.dir, own), 0o700); err != nil {
		release()
		return err
	}
	t.own, t.release = own, release
	return nil
}

// write puts the letter of the moment on the stone, in the place of the one before.
func (s *tombstone) write(l *letters) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return
	}
	var err error
	if s.path == "" {
		s.path, err = s.of.place()
		s.gone = err != nil
	}
	var b []byte
	if err == nil {
		b, err = json.Marshal(stone{URL: l.client.URL, ID: l.id[:], Side: l.side, Letter: l.tombstone()})
	}
	if err == nil {
		next := s.path + ".new"
		if err = os.WriteFile(next, b, 0o600); err == nil {
			err = os.Rename(next, s.path)
		}
	}
	if err != nil {
		s.log.Info("no word is left should this process be killed", "err", err)
	}
}

// remove takes the tombstone away: the session has ended in this process' life.
func (s *tombstone) remove() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gone && s.path != "" {
		_ = os.Remove(s.path) // it may never have been written
		s.of.leave()
	}
	s.gone = true
}

// leave is the end of one of this process'.
func (t *Tombstones) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n--; t.n == 0 {
		t.clear(t.own, t.release)
		t.own, t.release = "", nil
	}
}

// clear removes a directory, gives its lock back and removes that too. What is still in it stays, and so does the lock's
// file.
func (t *Tombstones) clear(name string, release func()) {
	err := os.Remove(filepath.Join(t.dir, name))
	release()
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(filepath.Join(t.dir, name+".lock")) // a file too many does no harm
	}
}

// Bury delivers the letters of processes of this machine that have died, and removes them. It returns when that is
// done or ctx ends; what could not be delivered is tried again by the next process.
func (t *Tombstones) Bury(ctx context.Context, log *slog.Logger) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, buryFor)
	defer cancel()
	all, err := os.ReadDir(t.dir)
	if err != nil {
		return // there are none
	}
	mark := hostMark()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, d := range all {
		if !d.IsDir() || !strings.HasPrefix(d.Name(), mark) {
			continue
		}
		release, ok, err := identity.TryLock(filepath.Join(t.dir, d.Name()+".lock"))
		if err != nil || !ok {
			continue // its process lives
		}
		wg.Go(func() {
			t.buryAll(ctx, d.Name(), log)
			t.clear(d.Name(), release)
		})
	}
}

// buryAll delivers the letters of one process, a few at a time.
func (t *Tombstones) buryAll(ctx context.Context, name string, log *slog.Logger) {
	dir := filepath.Join(t.dir, name)
	files, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	free := make(chan struct{}, 8) // requests at once
	for _, f := range files {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return
		}
		wg.Go(func() {
			defer func() { <-free }()
			path := filepath.Join(dir, f.Name())
			if s, ok := readStone(path); ok {
				if err := s.deliver(ctx); err != nil {
					log.Info("a peer of a process that has died could not be told", "err", err)
					if ctx.Err() != nil {
						return // the next process may have more luck
					}
				} else {
					log.Info("told a peer that the process it waits for has died")
				}
			}
			_ = os.Remove(path) // a file too many is delivered twice, which does no harm
		})
	}
}

// readStone reads a file that is not too old and says what it should.
func readStone(path string) (s stone, ok bool) {
	f, err := os.Open(path)
	if err != nil {
		return s, false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || time.Since(info.ModTime()) > tombstoneLife {
		return s, false
	}
	b, err := io.ReadAll(io.LimitReader(f, tombstoneBytes+1))
	if err != nil || len(b) > tombstoneBytes || json.Unmarshal(b, &s) != nil || len(s.ID) != 16 {
		return s, false
	}
	return s, true
}

// deliver leaves the letter where the peer looks for it.
func (s stone) deliver(ctx context.Context) error {
	box, err := (&signal.Client{URL: s.URL}).Mailbox([16]byte(s.ID), s.Side)
	if err != nil {
		return err
	}
	defer box.Close()
	return box.Put(ctx, tombstoneNumber, s.Letter)
}
