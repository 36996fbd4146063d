// Package rulebook says who is known to this machine and what each peer may do, while the files that say so change. It
// reads no flags and prints nothing: both are in its Config.
package rulebook

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"adit/internal/config"
	"adit/internal/identity"
	"adit/tunnel"
)

// bookAge is how old what is known of the file of peers may be. Another process may have changed it,
// "adit peers add" for example.
const bookAge = time.Second

// A Config says where the rules come from. All fields are wanted.
type Config struct {
	File   config.File                              // as it was read first
	Load   func() (config.File, error)              // reads the config file again
	Base   func(config.File) (tunnel.Policy, error) // what the command line names, for peers without rules
	Say    func(format string, args ...any)         // tells a person
	Logger *slog.Logger
}

// A Book says who is known and what each peer may do, and keeps the gates of the sessions that are
// up to it: when the files are read again they change, and what runs stays, but for the sessions of peers that are
// known no more. Any goroutine may use it.
type Book struct {
	cfg Config

	mu     sync.Mutex
	file   config.File
	peers  *identity.Peers
	others tunnel.Policy // of Base
	gates  map[*tunnel.Gate]*gated
	stamp  fileStamp // of the file of peers, when it was read
	looked time.Time // when it was last looked at
}

// A gated is a session that has a gate. Guarded by Book.mu.
type gated struct {
	name    string             // "" after a meeting by code: nobody can come to be unknown
	key     identity.PublicKey // zero where it does not matter which one the named peer has
	unknown func()             // called once, without mu, when the peer is known no more; may be nil
}

// A fileStamp tells one content of a file from another: files are replaced, never written in place.
type fileStamp struct {
	size     int64
	modified time.Time
}

func stampOf(path string) fileStamp {
	info, err := os.Stat(path)
	if err != nil {
		return fileStamp{} // one that is not there is as good as empty
	}
	return fileStamp{info.Size(), info.ModTime()}
}

// Open reads the file of peers, for a command that serves them. What Base returns holds for peers by code, and for what
// the rules of a known peer do not say.
func Open(cfg Config) (*Book, error) {
	r := &Book{cfg: cfg, gates: make(map[*tunnel.Gate]*gated)}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err := r.applyLocked(cfg.File, nil)
	return r, err
}

// applyLocked puts what file and the file of peers say in force, or nothing of it, which is also when check, if it is
// not nil, fails. It returns what is to be called without mu: it ends the sessions of peers that are known no more.
func (r *Book) applyLocked(file config.File, check func(config.File, *identity.Peers) error) (gone []func(), err error) {
	path, err := identity.PeersFile()
	if err != nil && !errors.Is(err, identity.ErrNoHome) {
		return nil, err
	}
	stamp := stampOf(path)
	peers, err := file.Known()
	if err != nil {
		return nil, err
	}
	others, err := r.cfg.Base(file)
	if err != nil {
		return nil, err
	}
	if check != nil {
		if err := check(file, peers); err != nil {
			return nil, err
		}
	}
	r.file, r.peers, r.others, r.stamp, r.looked = file, peers, others, stamp, time.Now()
	for g, s := range r.gates {
		if end := r.checkLocked(s); end != nil {
			gone = append(gone, end)
		}
		g.Set(r.policyLocked(s.name))
	}
	return gone, nil
}

// checkLocked follows a peer that has another name now, and returns what ends the session of one that is known no
// more, once.
func (r *Book) checkLocked(s *gated) (end func()) {
	if s.name == "" {
		return nil
	}
	p, known := r.peers.ByName(s.name)
	if !s.key.IsZero() {
		p, known = r.peers.ByKey(s.key)
	}
	if known {
		s.name = p.Name
		return nil
	}
	end, s.unknown = s.unknown, nil
	return end
}

// callAll calls all at once: each waits for a goodbye to be sent.
func callAll(list []func()) {
	var wg sync.WaitGroup
	for _, f := range list {
		wg.Go(f)
	}
	wg.Wait()
}

// policyLocked returns what a session with the named peer may do. One that is known no more may do
// nothing.
func (r *Book) policyLocked(name string) tunnel.Policy {
	if name == "" {
		return r.others
	}
	p, known := r.peers.ByName(name)
	if !known {
		return tunnel.Policy{}
	}
	policy, err := config.PolicyOf(p, r.others)
	if err != nil {
		panic("rulebook: " + err.Error()) // the rules were checked when they were read
	}
	return policy
}

// Reload reads the config file and the file of peers again, and lets the gates follow. After an error, of check too,
// everything is as it was. check may be nil; it is called with the lock held.
func (r *Book) Reload(check func(config.File, *identity.Peers) error) error {
	file, err := r.cfg.Load()
	if err != nil {
		return err
	}
	r.mu.Lock()
	gone, err := r.applyLocked(file, check)
	r.mu.Unlock()
	callAll(gone)
	return err
}

// Follow looks at the file of peers from time to time until ctx ends: a peer that another process removes does not
// keep its session.
func (r *Book) Follow(ctx context.Context) {
	t := time.NewTicker(bookAge)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		r.mu.Lock()
		gone := r.refreshLocked()
		r.mu.Unlock()
		callAll(gone)
	}
}

// See calls see with what is in force now, and with the lock held.
func (r *Book) See(see func(config.File, *identity.Peers) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return see(r.file, r.peers)
}

// FreeName returns name, or the first of name-2, name-3 and so on that nobody has.
func (r *Book) FreeName(name string) string {
	r.mu.Lock()
	r.looked = time.Time{} // the last one to be saved may be there since
	gone := r.refreshLocked()
	free := name
	for n := 2; ; n++ {
		if _, taken := r.peers.ByName(free); !taken {
			break
		}
		free = name + "-" + strconv.Itoa(n)
	}
	r.mu.Unlock()
	callAll(gone)
	return free
}

// Gate returns the gate of a session with the named peer, "" after a meeting by code. It follows the
// files until release is called, at the session's end. When nobody by that name, or with that key if it is not zero,
// is known any more, or yet, unknown is called, once, if it is not nil.
func (r *Book) Gate(name string, key identity.PublicKey, unknown func()) (g *tunnel.Gate, release func()) {
	s := &gated{name: name, key: key, unknown: unknown}
	r.mu.Lock()
	end := r.checkLocked(s)
	g = tunnel.NewGate(name, r.policyLocked(s.name), r.cfg.Logger)
	r.gates[g] = s
	r.mu.Unlock()
	if end != nil {
		end()
	}
	return g, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.gates, g)
	}
}

// ByKey returns the peer with this key. It sees what another process wrote into the file of peers: at once where the key
// is not known, for somebody may have added it just now, else within a second. A file that is wrong then changes nothing.
func (r *Book) ByKey(k identity.PublicKey) (identity.Peer, bool) {
	r.mu.Lock()
	if _, known := r.peers.ByKey(k); !known {
		r.looked = time.Time{} // a look costs less than the offer of a stranger did until here
	}
	gone := r.refreshLocked()
	p, ok := r.peers.ByKey(k)
	r.mu.Unlock()
	callAll(gone)
	return p, ok
}

// Offers returns the targets that a session with the named peer is told of, the default first.
func (r *Book) Offers(name string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.policyLocked(name)
	var out []string
	for _, t := range p.Offers() {
		out = append(out, t.String())
	}
	return out
}

// Words says what peers without rules of their own are offered.
func (r *Book) Words() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return words(&r.others)
}

// refreshLocked reads the file of peers if it has changed. What it returns is to be called as that of applyLocked.
func (r *Book) refreshLocked() (gone []func()) {
	if time.Since(r.looked) < bookAge {
		return nil
	}
	r.looked = time.Now()
	path, err := identity.PeersFile()
	if err != nil || stampOf(path) == r.stamp {
		return nil
	}
	r.stamp = stampOf(path) // a file that is wrong is told of once
	if gone, err = r.applyLocked(r.file, nil); err != nil {
		r.cfg.Say("the known peers stay as they were: %v", err)
	}
	return gone
}
