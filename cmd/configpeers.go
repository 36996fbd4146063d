package cmd

import (
	"errors"
	"fmt"
	"os"

	"adit/internal/identity"
	"adit/tunnel"

	"github.com/urfave/cli/v2"
)

// knownPeers returns the peers of the file that adit keeps, with what the config file says of them, or
// of others.
func knownPeers(c *cli.Context) (*identity.Peers, error) { return peersWith(configOf(c)) }

func peersWith(file configFile) (*identity.Peers, error) {
	path, err := identity.PeersFile()
	if err != nil {
		return nil, err
	}
	kept, err := identity.LoadPeers(path)
	if err != nil {
		return nil, err
	}
	for _, p := range kept.All() {
		if err := checkPeer(p); err != nil {
			return nil, &identity.FileError{Path: path, Message: fmt.Sprintf("[%s.%s]: %v", peersTable, p.Name, err)}
		}
	}
	if len(file.peers) == 0 {
		return kept, nil
	}
	if err := trusted(file.path); err != nil {
		return nil, err
	}
	merged, err := kept.Merge(file.peers)
	var e *identity.FileError
	if errors.As(err, &e) {
		e.Path = file.path
	}
	return merged, err
}

// trusted checks that others do not write the config file, where it says who may come in.
func trusted(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return usagef("check --config, or the file's permissions", "read the config file: %v", err)
	}
	defer f.Close()
	return identity.Trusted(f)
}

// policyOf returns the policy of a peer: what its rules say, and where they say nothing, base, which is
// what the command line named.
func policyOf(p identity.Peer, base tunnel.Policy) (tunnel.Policy, error) {
	policy := base
	for _, r := range []struct {
		key   string
		texts []string
		parse func([]string) ([]tunnel.Rule, error)
		to    *[]tunnel.Rule
	}{{"allow", p.Allow, tunnel.ParseOffers, &policy.Targets}, {"remote", p.Remote, tunnel.ParseRules, &policy.Remote}, {"dynamic", p.Dynamic, tunnel.ParseOffers, &policy.Dynamic}} {
		if r.texts == nil {
			continue
		}
		rules, err := r.parse(r.texts)
		if err != nil {
			return tunnel.Policy{}, fmt.Errorf("%s: %v", r.key, err)
		}
		*r.to = rules
	}
	if p.Local != nil {
		policy.NoLocal = !*p.Local
	}
	if p.Streams != nil {
		policy.MaxStreams = *p.Streams
	}
	return policy, nil
}

// checkForwards returns what is wrong with the forwards of an entry.
func checkForwards(e forwardEntry) error {
	_, err := parseForwarding(e.local, e.remote, e.dynamic)
	return err
}

// forwardsFor returns what the config file has "adit connect NAME" forward, as -L, -R and -D would.
func (f configFile) forwardsFor(peer string) (local, remote, dynamic []string) {
	for _, e := range f.forwards {
		if e.peer == peer {
			local, remote, dynamic = append(local, e.local...), append(remote, e.remote...), append(dynamic, e.dynamic...)
		}
	}
	return local, remote, dynamic
}
