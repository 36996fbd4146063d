package cmd

import (
	"os"
	"sync"
	"time"

	"adit/internal/identity"
	"adit/tunnel"

	"github.com/urfave/cli/v2"
)

// bookAge is how old what is known of the file of peers may be. Another process may have changed it,
// "adit peers add" for example.
const bookAge = time.Second

// A rulebook says who is known and what each peer may do, and keeps the gates of the sessions that are
// up to it: when the files are read again they change, and what runs stays. Any goroutine may use it.
type rulebook struct {
	u    *ui
	c    *cli.Context
	base func(configFile) (tunnel.Policy, error) // what the command line names, for peers without rules

	mu     sync.Mutex
	file   configFile
	peers  *identity.Peers
	others tunnel.Policy           // of base
	gates  map[*tunnel.Gate]string // the name; "" after a meeting by code
	stamp  fileStamp               // of the file of peers, when it was read
	looked time.Time               // when it was last looked at
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

// newRulebook reads the file of peers, for a command that serves them. What base returns holds for
// peers by code, and for what the rules of a known peer do not say.
func newRulebook(u *ui, c *cli.Context, base func(configFile) (tunnel.Policy, error)) (*rulebook, error) {
	r := &rulebook{u: u, c: c, base: base, gates: make(map[*tunnel.Gate]string)}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r, r.applyLocked(configOf(c))
}

// applyLocked puts what file and the file of peers say in force, or nothing of it.
func (r *rulebook) applyLocked(file configFile) error {
	path, err := identity.PeersFile()
	if err != nil {
		return err
	}
	stamp := stampOf(path)
	peers, err := peersWith(file)
	if err != nil {
		return err
	}
	others, err := r.base(file)
	if err != nil {
		return err
	}
	r.file, r.peers, r.others, r.stamp, r.looked = file, peers, others, stamp, time.Now()
	for g, name := range r.gates {
		p := r.policyLocked(name)
		g.Set(p)
	}
	return nil
}

// policyLocked returns what a session with the named peer may do. One that is known no more may do
// nothing.
func (r *rulebook) policyLocked(name string) tunnel.Policy {
	if name == "" {
		return r.others
	}
	p, known := r.peers.ByName(name)
	if !known {
		return tunnel.Policy{}
	}
	policy, err := policyOf(p, r.others)
	if err != nil {
		panic("cmd: " + err.Error()) // the rules were checked when they were read
	}
	return policy
}

// reload reads the config file and the file of peers again, and lets the gates follow. After an error
// everything is as it was.
func (r *rulebook) reload() error {
	file, err := loadConfig(r.u, r.c)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.applyLocked(file)
}

// replan reads the files again, and has f forward what they say now.
func (r *rulebook) replan(f *forwarder) error {
	if err := r.reload(); err != nil {
		return err
	}
	r.mu.Lock()
	file := r.file
	r.mu.Unlock()
	plan, err := planOf(r.c, file, peerName(r.c.Args().First()))
	if err != nil {
		return err
	}
	return f.change(plan)
}

// gate returns the gate of a session with the named peer, "" after a meeting by code. It follows the
// files until release is called, at the session's end.
func (r *rulebook) gate(name string) (g *tunnel.Gate, release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g = tunnel.NewGate(name, r.policyLocked(name), r.u.logger())
	r.gates[g] = name
	return g, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.gates, g)
	}
}

// byKey returns the peer with this key. It sees what another process wrote into the file of peers within
// a second. A file that is wrong then changes nothing.
func (r *rulebook) byKey(k identity.PublicKey) (identity.Peer, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refreshLocked()
	return r.peers.ByKey(k)
}

// offers returns the targets that a session with the named peer is told of, the default first.
func (r *rulebook) offers(name string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.policyLocked(name)
	var out []string
	for _, t := range p.Offers() {
		out = append(out, t.String())
	}
	return out
}

// words says what peers without rules of their own are offered.
func (r *rulebook) words() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return policyWords(&r.others)
}

func (r *rulebook) refreshLocked() {
	if time.Since(r.looked) < bookAge {
		return
	}
	r.looked = time.Now()
	path, err := identity.PeersFile()
	if err != nil || stampOf(path) == r.stamp {
		return
	}
	r.stamp = stampOf(path) // a file that is wrong is told of once
	if err := r.applyLocked(r.file); err != nil {
		r.u.say("the known peers stay as they were: %v", err)
	}
}
